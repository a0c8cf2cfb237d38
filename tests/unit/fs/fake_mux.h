// A small in-memory mux for tests of fs: implements mux/ops.h over a table of nodes.
//
// A header, so that it becomes part of exactly the test that includes it and never of the
// library that all tests link: its functions carry the real mux's names. The tree: the top
// directory (1), the sentinel (2), and whatever a test makes with fake_add. One mutex guards
// everything; a latch lets a test hold a slow operation for as long as it wants.
#ifndef AF_TESTS_FS_FAKE_MUX_H
#define AF_TESTS_FS_FAKE_MUX_H

#include "mux/base/clock.h"
#include "mux/locate.h"
#include "mux/mux.h"
#include "mux/nodeid.h"
#include "mux/ops.h"
#include "mux/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAKE_NODES   4096
#define FAKE_SLOT    7
#define FAKE_SANDBOX "sb_fake"
#define FAKE_TTL     (3600 * AF_NS_PER_SEC)

struct fake_node {
    bool used;
    bool stale; // its view is gone
    bool slow;  // operations on it are MUX_SLOW and then wait for the latch
    bool fixed; // its content never changes: for passthrough
    int open_error;
    uint64_t nodeid;
    uint64_t parent;
    char name[AF_NAME_MAX + 1];
    struct stat st;
    char *data; // content, or a symlink's target
    int fd;     // a blob instead, when >= 0
};

struct mux {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fake_node nodes[FAKE_NODES];
    unsigned count;
    bool latch_closed;
    unsigned waiting_at_latch;
    unsigned forgotten;
    unsigned kills; // MUX_SET_KILL_SUIDGID seen
    const struct mux_notifier *notifier;
    void *notifier_arg;
};

static struct mux fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct fake_node *fake_get(uint64_t nodeid)
{
    for (unsigned i = 0; i < fake.count; i++)
        if (fake.nodes[i].used && fake.nodes[i].nodeid == nodeid)
            return &fake.nodes[i];
    return NULL;
}

static struct fake_node *fake_child(uint64_t parent, const char *name)
{
    for (unsigned i = 0; i < fake.count; i++)
        if (fake.nodes[i].used && fake.nodes[i].parent == parent &&
            strcmp(fake.nodes[i].name, name) == 0)
            return &fake.nodes[i];
    return NULL;
}

static struct fake_node *fake_add_locked(uint64_t nodeid, uint64_t parent, const char *name,
                                         mode_t mode)
{
    unsigned i = 0;
    while (i < fake.count && fake.nodes[i].used)
        i++;
    if (i == FAKE_NODES)
        abort();
    if (i == fake.count)
        fake.count++;
    static uint64_t next_fid = 100;
    struct fake_node *node = &fake.nodes[i];
    memset(node, 0, sizeof *node);
    node->used = true;
    node->nodeid = nodeid ? nodeid : mux_nodeid_private(FAKE_SLOT, next_fid++);
    node->parent = parent;
    snprintf(node->name, sizeof node->name, "%s", name);
    node->fd = -1;
    node->st.st_ino = mux_nodeid_fid(node->nodeid);
    node->st.st_mode = mode;
    node->st.st_nlink = S_ISDIR(mode) ? 2 : 1;
    node->st.st_mtim = node->st.st_ctim = af_timespec_of_ns(af_wall_ns());
    node->st.st_blksize = 4096;
    return node;
}

// A node made by a test: a file with the given content (NULL: empty), or a directory.
static uint64_t fake_add(uint64_t parent, const char *name, mode_t mode, const char *content)
{
    pthread_mutex_lock(&fake.lock);
    struct fake_node *node = fake_add_locked(0, parent, name, mode);
    if (content) {
        node->data = strdup(content);
        node->st.st_size = (off_t)strlen(content);
    }
    uint64_t nodeid = node->nodeid;
    pthread_mutex_unlock(&fake.lock);
    return nodeid;
}

static void fake_reset(void)
{
    for (unsigned i = 0; i < fake.count; i++)
        free(fake.nodes[i].data);
    memset(fake.nodes, 0, sizeof fake.nodes);
    fake.count = fake.forgotten = fake.kills = 0;
    fake.latch_closed = false;
    fake_add_locked(MUX_NODEID_TOP, 0, "", S_IFDIR | 0755);
    fake_add_locked(MUX_NODEID_SENTINEL, MUX_NODEID_TOP, ".agentfense", S_IFREG | 0444);
}

// Looking at and changing a node behind the kernel's back.
#define FAKE_WITH(node, id, statement)                                                             \
    do {                                                                                           \
        pthread_mutex_lock(&fake.lock);                                                            \
        struct fake_node *node = fake_get(id);                                                     \
        statement;                                                                                 \
        pthread_mutex_unlock(&fake.lock);                                                          \
    } while (0)

static __attribute__((unused)) struct stat fake_stat(uint64_t nodeid)
{
    struct stat st;
    FAKE_WITH(node, nodeid, st = node->st);
    return st;
}

static __attribute__((unused)) uint64_t fake_add_slow(uint64_t parent, const char *name,
                                                      mode_t mode, const char *content)
{
    uint64_t nodeid = fake_add(parent, name, mode, content);
    FAKE_WITH(node, nodeid, node->slow = true);
    return nodeid;
}

static __attribute__((unused)) uint64_t fake_add_blob(uint64_t parent, const char *name, int fd,
                                                      off_t size)
{
    uint64_t nodeid = fake_add(parent, name, S_IFREG | 0644, NULL);
    FAKE_WITH(node, nodeid, (node->fd = fd, node->st.st_size = size));
    return nodeid;
}

static __attribute__((unused)) void fake_close_latch(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.latch_closed = true;
    pthread_mutex_unlock(&fake.lock);
}

static __attribute__((unused)) void fake_open_latch(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.latch_closed = false;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

// Waits until `count` operations wait at the latch.
static __attribute__((unused)) void fake_wait_at_latch(unsigned count)
{
    pthread_mutex_lock(&fake.lock);
    while (fake.waiting_at_latch < count)
        pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

// What a slow node makes of an operation: not on a worker; in the pool, behind the latch.
static int fake_pass_latch(const struct mux_ctx *ctx, const struct fake_node *node)
{
    if (!node->slow)
        return 0;
    if (!ctx->may_block)
        return MUX_SLOW;
    fake.waiting_at_latch++;
    pthread_cond_broadcast(&fake.changed);
    while (fake.latch_closed)
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake.waiting_at_latch--;
    return 0;
}

static void fake_fill(struct mux_entry *ret, const struct fake_node *node)
{
    *ret = (struct mux_entry){.nodeid = node->nodeid,
                              .generation = 1,
                              .st = node->st,
                              .entry_ttl_ns = FAKE_TTL,
                              .attr_ttl_ns = FAKE_TTL};
}

// Opens the function body of an operation on a node: found, not stale, past the latch.
#define FAKE_BEGIN(node, id)                                                                       \
    pthread_mutex_lock(&fake.lock);                                                                \
    struct fake_node *node = fake_get(id);                                                         \
    int rc = !node ? -ENOENT : node->stale ? -ESTALE : 0;                                          \
    if (rc == 0)                                                                                   \
        rc = fake_pass_latch(ctx, node);                                                           \
    if (rc == 0) {
#define FAKE_END                                                                                   \
    }                                                                                              \
    pthread_mutex_unlock(&fake.lock);                                                              \
    return rc;

void mux_fix_content(struct mux *mux)
{
    (void)mux;
}

void mux_set_notifier(struct mux *mux, const struct mux_notifier *notifier, void *arg)
{
    mux->notifier = notifier;
    mux->notifier_arg = arg;
}

int mux_lookup(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               struct mux_entry *ret)
{
    (void)mux;
    FAKE_BEGIN(dir, parent)
    struct fake_node *node = fake_child(parent, name);
    if (node)
        fake_fill(ret, node);
    else
        *ret = (struct mux_entry){.entry_ttl_ns = FAKE_TTL};
    FAKE_END
}

void mux_forgotten(struct mux *mux, uint64_t nodeid)
{
    (void)mux;
    (void)nodeid;
}

void mux_settle(struct mux *mux, uint64_t nodeid)
{
    (void)mux, (void)nodeid;
}

void mux_forget(struct mux *mux, uint64_t nodeid)
{
    (void)nodeid;
    pthread_mutex_lock(&mux->lock);
    mux->forgotten++;
    pthread_cond_broadcast(&mux->changed);
    pthread_mutex_unlock(&mux->lock);
}

int mux_getattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct stat *ret,
                int64_t *ret_ttl_ns)
{
    (void)mux;
    FAKE_BEGIN(node, nodeid)
    *ret = node->st;
    *ret_ttl_ns = FAKE_TTL;
    FAKE_END
}

static void fake_resize(struct fake_node *node, off_t size)
{
    char *data = realloc(node->data, (size_t)size + 1);
    if (!data)
        abort();
    if (size > node->st.st_size)
        memset(data + node->st.st_size, 0, (size_t)(size - node->st.st_size));
    node->data = data;
    node->st.st_size = size;
}

int mux_setattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
                const struct stat *attr, unsigned set, struct stat *ret, int64_t *ret_ttl_ns)
{
    FAKE_BEGIN(node, nodeid)
    if (set & MUX_SET_MODE)
        node->st.st_mode = (node->st.st_mode & S_IFMT) | (attr->st_mode & 07777);
    if (set & MUX_SET_SIZE)
        fake_resize(node, attr->st_size);
    if (set & MUX_SET_MTIME)
        node->st.st_mtim = attr->st_mtim;
    if (set & MUX_SET_KILL_SUIDGID) {
        mux->kills++;
        node->st.st_mode &= ~(mode_t)(S_ISUID | S_ISGID);
    }
    *ret = node->st;
    *ret_ttl_ns = FAKE_TTL;
    FAKE_END
}

int mux_readlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, char *buf)
{
    (void)mux;
    FAKE_BEGIN(node, nodeid)
    snprintf(buf, AF_SYMLINK_MAX + 1, "%s", node->data ? node->data : "");
    FAKE_END
}

static int fake_make(const struct mux_ctx *ctx, uint64_t parent, const char *name, mode_t mode,
                     const char *content, struct mux_entry *ret)
{
    FAKE_BEGIN(dir, parent)
    if (fake_child(parent, name)) {
        rc = -EEXIST;
    } else {
        struct fake_node *node = fake_add_locked(0, parent, name, mode);
        node->st.st_uid = ctx->uid;
        node->st.st_gid = ctx->gid;
        if (content) {
            node->data = strdup(content);
            node->st.st_size = (off_t)strlen(content);
        }
        fake_fill(ret, node);
    }
    FAKE_END
}

int mux_create(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               mode_t mode, struct mux_entry *ret)
{
    (void)mux;
    return fake_make(ctx, parent, name, S_IFREG | (mode & 07777), NULL, ret);
}

int mux_mknod(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret)
{
    (void)mux;
    return fake_make(ctx, parent, name, mode, NULL, ret);
}

int mux_mkdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret)
{
    (void)mux;
    return fake_make(ctx, parent, name, S_IFDIR | (mode & 07777), NULL, ret);
}

int mux_symlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
                const char *target, struct mux_entry *ret)
{
    (void)mux;
    return fake_make(ctx, parent, name, S_IFLNK | 0777, target, ret);
}

static int fake_remove(const struct mux_ctx *ctx, uint64_t parent, const char *name)
{
    FAKE_BEGIN(dir, parent)
    struct fake_node *node = fake_child(parent, name);
    if (!node) {
        rc = -ENOENT;
    } else {
        free(node->data);
        memset(node, 0, sizeof *node);
    }
    FAKE_END
}

int mux_unlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name)
{
    (void)mux;
    return fake_remove(ctx, parent, name);
}

int mux_rmdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name)
{
    (void)mux;
    return fake_remove(ctx, parent, name);
}

// What the fake has not got.
int mux_link(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t new_parent,
             const char *new_name, struct mux_entry *ret)
{
    (void)mux, (void)ctx, (void)nodeid, (void)new_parent, (void)new_name, (void)ret;
    return -EPERM;
}

int mux_setxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 const void *value, size_t size, int flags)
{
    (void)mux, (void)ctx, (void)nodeid, (void)name, (void)value, (void)size, (void)flags;
    return -EOPNOTSUPP;
}

int mux_getxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 void *buf, size_t size, size_t *ret_len)
{
    (void)mux, (void)ctx, (void)nodeid;
    const char *value = strcmp(name, "user.known") == 0 ? "value" : NULL;
    if (!value)
        return -ENODATA;
    *ret_len = strlen(value);
    if (size > 0 && size < *ret_len)
        return -ERANGE;
    if (size > 0)
        memcpy(buf, value, *ret_len);
    return 0;
}

int mux_listxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, void *buf,
                  size_t size, size_t *ret_len)
{
    (void)mux, (void)ctx, (void)nodeid, (void)buf, (void)size;
    *ret_len = 0;
    return 0;
}

int mux_removexattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name)
{
    (void)mux, (void)ctx, (void)nodeid, (void)name;
    return -ENODATA;
}

int mux_tmpfile(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, mode_t mode,
                struct mux_entry *ret)
{
    (void)mux, (void)ctx, (void)parent, (void)mode, (void)ret;
    return -EOPNOTSUPP;
}

int mux_fallocate(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, int mode,
                  off_t offset, off_t len)
{
    (void)mux, (void)ctx, (void)nodeid, (void)mode, (void)offset, (void)len;
    return -ENOSYS;
}

int mux_lseek(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, off_t offset, int whence,
              off_t *ret)
{
    (void)mux, (void)ctx, (void)nodeid, (void)offset, (void)whence, (void)ret;
    return -ENOSYS;
}

int mux_copy_range(struct mux *mux, const struct mux_ctx *ctx, uint64_t from, off_t from_offset,
                   uint64_t to, off_t to_offset, size_t size, size_t *ret)
{
    (void)mux, (void)ctx, (void)from, (void)from_offset, (void)to, (void)to_offset, (void)size;
    (void)ret;
    return -ENOSYS;
}

int mux_rename(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               uint64_t new_parent, const char *new_name, unsigned flags)
{
    (void)mux;
    FAKE_BEGIN(dir, parent)
    struct fake_node *node = fake_child(parent, name);
    struct fake_node *target = fake_child(new_parent, new_name);
    if (flags & ~(unsigned)RENAME_NOREPLACE) {
        rc = -EINVAL;
    } else if (!node) {
        rc = -ENOENT;
    } else if (target && (flags & RENAME_NOREPLACE)) {
        rc = -EEXIST;
    } else {
        if (target && target != node) {
            free(target->data);
            memset(target, 0, sizeof *target);
        }
        node->parent = new_parent;
        snprintf(node->name, sizeof node->name, "%s", new_name);
    }
    FAKE_END
}

int mux_read(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, size_t size, off_t offset,
             struct mux_read *ret)
{
    (void)mux;
    FAKE_BEGIN(node, nodeid)
    off_t left = node->st.st_size > offset ? node->st.st_size - offset : 0;
    *ret = (struct mux_read){.size = (off_t)size < left ? size : (size_t)left, .fd = -1};
    if (node->fd >= 0) {
        ret->fd = node->fd;
        ret->offset = offset;
    } else if (ret->size > 0) {
        ret->opaque[0] = malloc(ret->size); // a writer may move the node's own
        if (!ret->opaque[0])
            abort();
        memcpy(ret->opaque[0], node->data + offset, ret->size);
        ret->data = ret->opaque[0];
    }
    FAKE_END
}

void mux_read_done(struct mux *mux, struct mux_read *read)
{
    (void)mux;
    pthread_mutex_lock(&fake.lock); // a test that takes the lock later may close read->fd
    free(read->opaque[0]);
    read->opaque[0] = NULL;
    pthread_mutex_unlock(&fake.lock);
}

int mux_write(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const void *data,
              size_t size, off_t offset)
{
    (void)mux;
    if (mux_nodeid_is_shared(nodeid))
        return -EACCES;
    FAKE_BEGIN(node, nodeid)
    if (offset + (off_t)size > node->st.st_size)
        fake_resize(node, offset + (off_t)size);
    memcpy(node->data + offset, data, size);
    node->st.st_mode &= ~(mode_t)(S_ISUID | S_ISGID); // as mux does, whoever writes
    FAKE_END
}

int mux_fsync(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool datasync)
{
    (void)mux;
    (void)datasync;
    if (!ctx->may_block)
        return MUX_SLOW;
    FAKE_BEGIN(node, nodeid)
    FAKE_END
}

int mux_statfs(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct statvfs *ret)
{
    (void)mux;
    (void)ctx;
    (void)nodeid;
    *ret = (struct statvfs){.f_bsize = 4096,
                            .f_frsize = 4096,
                            .f_blocks = 1000,
                            .f_bfree = 500,
                            .f_bavail = 500,
                            .f_files = 100,
                            .f_ffree = 50,
                            .f_namemax = 255};
    return 0;
}

static int fake_list(uint64_t nodeid, uint64_t cookie, bool plus, mux_readdir_fn fn, void *arg)
{
    for (uint64_t at = cookie; at < fake.count + 2; at++) {
        struct mux_entry entry = {0};
        const char *name = at == 0 ? "." : "..";
        if (at < 2) {
            entry.st = fake_get(nodeid)->st;
        } else {
            const struct fake_node *node = &fake.nodes[at - 2];
            if (!node->used || node->parent != nodeid)
                continue;
            name = node->name;
            fake_fill(&entry, node);
            if (!plus)
                entry.nodeid = 0;
        }
        if (!fn(arg, name, strlen(name), at + 1, &entry))
            break;
    }
    return 0;
}

int mux_readdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t cookie,
                bool plus, mux_readdir_fn fn, void *arg)
{
    (void)mux;
    FAKE_BEGIN(node, nodeid)
    rc = fake_list(nodeid, cookie, plus, fn, arg);
    FAKE_END
}

#include "tests/unit/fs/fake_mux_locate.h"
#include "tests/unit/fs/fake_mux_open.h"

#endif
