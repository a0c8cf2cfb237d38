// Paths to nodeids, then one operation each. Read next: view_writer.h.
#include "tests/unit/mux/view_writer.h"

#include "mux/ops.h"
#include "mux/view.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>

static struct mux_ctx ctx_of(const struct delta_writer *writer)
{
    uint64_t root;
    assert_true(mux_view_find(writer->fixture->mux, writer->sandbox.text, &root));
    uid_t uid = writer->fixture->mux->uid_base + mux_nodeid_slot(root);
    return (struct mux_ctx){.uid = uid, .gid = uid, .may_block = true};
}

// Walks to the last component. *ret_nodeid (may be NULL): what it names, 0 when absent.
static int walk(const struct delta_writer *writer, const char *path, uint64_t *ret_parent,
                char name[256], uint64_t *ret_nodeid)
{
    struct mux *mux = writer->fixture->mux;
    struct mux_ctx ctx = ctx_of(writer);
    uint64_t dir;
    assert_true(mux_view_find(mux, writer->sandbox.text, &dir));
    for (;;) {
        size_t n = strcspn(path, "/");
        struct mux_entry entry = {0};
        memcpy(name, path, n);
        name[n] = '\0';
        bool is_last = path[n] == '\0';
        if (is_last)
            *ret_parent = dir;
        if (is_last && !ret_nodeid)
            return 0;
        int rc = mux_lookup(mux, &ctx, dir, name, &entry);
        if (rc < 0)
            return rc;
        if (is_last) {
            *ret_nodeid = entry.nodeid;
            return 0;
        }
        if (entry.nodeid == 0)
            return -ENOENT;
        if (!S_ISDIR(entry.st.st_mode))
            return -ENOTDIR;
        dir = entry.nodeid;
        path += n + 1;
    }
}

int view_mkdir(struct delta_writer *writer, const char *path)
{
    struct mux_ctx ctx = ctx_of(writer);
    struct mux_entry entry;
    uint64_t parent;
    char name[256];
    int rc = walk(writer, path, &parent, name, NULL);
    return rc < 0 ? rc : mux_mkdir(writer->fixture->mux, &ctx, parent, name, 0755, &entry);
}

int view_symlink(struct delta_writer *writer, const char *path, const char *target)
{
    struct mux_ctx ctx = ctx_of(writer);
    struct mux_entry entry;
    uint64_t parent;
    char name[256];
    int rc = walk(writer, path, &parent, name, NULL);
    return rc < 0 ? rc : mux_symlink(writer->fixture->mux, &ctx, parent, name, target, &entry);
}

int view_write(struct delta_writer *writer, const char *path, const char *text)
{
    struct mux *mux = writer->fixture->mux;
    struct mux_ctx ctx = ctx_of(writer);
    struct mux_entry entry;
    uint64_t parent, nodeid;
    char name[256];
    int rc = walk(writer, path, &parent, name, &nodeid);
    if (rc == 0 && nodeid == 0) {
        rc = mux_create(mux, &ctx, parent, name, 0644, &entry);
        nodeid = rc == 0 ? entry.nodeid : 0;
    }
    struct stat attr = {.st_size = 0};
    int64_t ttl;
    if (rc == 0)
        rc = mux_setattr(mux, &ctx, nodeid, &attr, MUX_SET_SIZE, &attr, &ttl);
    return rc < 0 ? rc : mux_write(mux, &ctx, nodeid, text, strlen(text), 0);
}

int view_chmod(struct delta_writer *writer, const char *path, mode_t mode)
{
    struct mux_ctx ctx = ctx_of(writer);
    struct stat attr = {.st_mode = mode};
    uint64_t parent, nodeid;
    int64_t ttl;
    char name[256];
    int rc = walk(writer, path, &parent, name, &nodeid);
    if (rc == 0 && nodeid == 0)
        rc = -ENOENT;
    return rc < 0
               ? rc
               : mux_setattr(writer->fixture->mux, &ctx, nodeid, &attr, MUX_SET_MODE, &attr, &ttl);
}

int view_unlink(struct delta_writer *writer, const char *path)
{
    struct mux_ctx ctx = ctx_of(writer);
    uint64_t parent;
    char name[256];
    int rc = walk(writer, path, &parent, name, NULL);
    return rc < 0 ? rc : mux_unlink(writer->fixture->mux, &ctx, parent, name);
}

int view_rmdir(struct delta_writer *writer, const char *path)
{
    struct mux_ctx ctx = ctx_of(writer);
    uint64_t parent;
    char name[256];
    int rc = walk(writer, path, &parent, name, NULL);
    return rc < 0 ? rc : mux_rmdir(writer->fixture->mux, &ctx, parent, name);
}

static bool is_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

static int rename_with(struct delta_writer *writer, const char *from, const char *to,
                       unsigned flags)
{
    struct mux_ctx ctx = ctx_of(writer);
    uint64_t parent, new_parent;
    char name[256], new_name[256];
    // The kernel refuses these before it asks.
    if (is_below(to, from) || (flags && is_below(from, to)))
        return -EINVAL;
    int rc = walk(writer, from, &parent, name, NULL);
    if (rc == 0)
        rc = walk(writer, to, &new_parent, new_name, NULL);
    return rc < 0
               ? rc
               : mux_rename(writer->fixture->mux, &ctx, parent, name, new_parent, new_name, flags);
}

int view_rename(struct delta_writer *writer, const char *from, const char *to)
{
    return rename_with(writer, from, to, 0);
}

int view_exchange(struct delta_writer *writer, const char *a, const char *b)
{
    return rename_with(writer, a, b, RENAME_EXCHANGE);
}
