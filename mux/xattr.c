// Extended attributes of files and directories: get, list, set, remove.
//
// That a file has none is in its node, so the usual answer costs a look at the cache: the kernel
// asks for security.capability at the first write after it has looked at a file's attributes (fs
// answers that one by its name alone). All attributes of a file are one value, which follows the
// record: a copy-up takes it along, a rename does not touch it, and a commit freezes it with its
// layer. They count in the view's quota.
// Reads: the view shared, one read transaction. Changes: exclusively, one transaction.
// Owns nothing. Errors: -errno. Read next: xattr_set.h, store/xattr.c.
#include "mux/attr.h"
#include "mux/record.h"
#include "mux/room.h"
#include "mux/top.h"
#include "mux/xattr_set.h"

#include <errno.h>
#include <linux/xattr.h>
#include <string.h>

static int check_name(const char *name)
{
    size_t len = strlen(name);
    if (strncmp(name, XATTR_USER_PREFIX, XATTR_USER_PREFIX_LEN) != 0)
        return -EOPNOTSUPP;
    if (len == XATTR_USER_PREFIX_LEN)
        return -EINVAL;
    return len > AF_NAME_MAX ? -ERANGE : 0;
}

static int check_readable(const struct mux_op *op, const struct mux_node *node)
{
    if (op && !mux_node_is_visible(op, node))
        return -ENOENT;
    return node->level >= RULES_READ ? 0 : -EACCES;
}

// ---- reading

int mux_xattr_load(struct store_txn *txn, const struct store_inode *inode,
                   struct mux_xattr_bytes *ret)
{
    *ret = (struct mux_xattr_bytes){0};
    if (inode->xattr_bytes == 0)
        return 0;
    int rc = store_xattr_get(txn, inode->xattr_layer, inode->fid, &ret->bytes, &ret->len);
    return rc == -ENOENT ? -EUCLEAN : rc;
}

// One reader, handed the set (NULL and 0 when there is none); its result is the caller's.
struct reader {
    const char *name; // NULL: the list of names
    char *buf;
    size_t size;
    size_t *ret_len;
};

static int answer(const struct reader *reader, const void *set, size_t len)
{
    if (!reader->name) {
        long used = mux_xattr_names(set, len, reader->buf, reader->size);
        if (used < 0)
            return (int)used;
        *reader->ret_len = (size_t)used;
        return 0;
    }
    struct mux_xattr found;
    int rc = mux_xattr_find(set, len, reader->name, strlen(reader->name), &found);
    if (rc < 0)
        return rc;
    if (reader->size > 0 && found.value_len > reader->size)
        return -ERANGE;
    if (reader->size > 0 && found.value_len > 0)
        memcpy(reader->buf, found.value, found.value_len);
    *reader->ret_len = found.value_len;
    return 0;
}

static int read_record(struct store_txn *txn, const struct store_inode *inode,
                       const struct reader *reader)
{
    struct mux_xattr_bytes set;
    int rc = mux_xattr_load(txn, inode, &set);
    return rc < 0 ? rc : answer(reader, set.bytes, set.len);
}

static int read_shared(struct mux *mux, uint64_t nodeid, const struct reader *reader)
{
    struct mux_node node;
    struct store_txn *txn;
    struct store_inode inode;
    int rc = mux_node_load_shared(mux, nodeid, &node);
    if (rc == 0)
        rc = check_readable(NULL, &node);
    if (rc < 0)
        return rc;
    if (node.xattr_bytes == 0)
        return answer(reader, NULL, 0);
    rc = store_look_begin(mux->store, 0, &txn);
    if (rc < 0)
        return rc;
    rc = store_version_get(txn, mux_nodeid_fid(nodeid), &inode);
    rc = rc == -ENOENT ? -ESTALE : rc < 0 ? rc : read_record(txn, &inode, reader);
    store_read_end(txn);
    return rc;
}

static int read_private(struct mux_op *op, uint64_t nodeid, const struct reader *reader)
{
    struct mux_node node;
    struct store_inode inode;
    int rc = mux_node_load(op, mux_op_fid(op, nodeid), &node);
    if (rc < 0)
        return rc;
    rc = check_readable(op, &node);
    mux_node_fini(op, &node);
    if (rc < 0)
        return rc;
    if (node.xattr_bytes == 0)
        return answer(reader, NULL, 0);
    rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_op_inode(op, node.fid, &inode, NULL);
    return rc == 0 ? read_record(op->txn, &inode, reader) : rc;
}

static int read_any(struct mux *mux, uint64_t nodeid, const struct reader *reader)
{
    struct mux_op op;
    if (mux_top_owns(nodeid))
        return answer(reader, NULL, 0);
    if (mux_nodeid_is_shared(nodeid))
        return read_shared(mux, nodeid, reader);
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    return mux_op_leave(&op, read_private(&op, nodeid, reader));
}

int mux_getxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 void *buf, size_t size, size_t *ret_len)
{
    (void)ctx;
    struct reader reader = {.name = name, .buf = buf, .size = size, .ret_len = ret_len};
    int rc = check_name(name);
    return rc < 0 ? rc : read_any(mux, nodeid, &reader);
}

int mux_listxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, void *buf,
                  size_t size, size_t *ret_len)
{
    (void)ctx;
    struct reader reader = {.buf = buf, .size = size, .ret_len = ret_len};
    return read_any(mux, nodeid, &reader);
}

// ---- changing

struct setter {
    const char *name;
    const void *value; // NULL: remove it
    size_t size;
    int flags;     // XATTR_CREATE, XATTR_REPLACE
    bool too_many; // set: -ENOSPC for the file's limit, which no freed disk would mend
};

static int check(const struct mux_op *op, const struct mux_node *node)
{
    if (!mux_node_is_visible(op, node))
        return -ENOENT;
    if (!S_ISREG(node->mode) && !S_ISDIR(node->mode))
        return -EPERM; // as everywhere for "user."
    return mux_node_is_writable(node) ? 0 : -EACCES;
}

static int check_flags(const struct setter *setter, const void *set, size_t len)
{
    struct mux_xattr found;
    int rc = mux_xattr_find(set, len, setter->name, strlen(setter->name), &found);
    if (rc < 0 && rc != -ENODATA)
        return rc;
    if (rc == 0 && (setter->flags & XATTR_CREATE))
        return -EEXIST;
    if (rc == -ENODATA && (!setter->value || (setter->flags & XATTR_REPLACE)))
        return -ENODATA;
    return 0;
}

static int change_set(struct mux_op *op, struct setter *setter, const struct store_inode *inode,
                      void **ret, size_t *ret_len)
{
    struct mux_xattr_bytes set;
    int rc = mux_xattr_load(op->txn, inode, &set);
    if (rc == 0)
        rc = check_flags(setter, set.bytes, set.len);
    if (rc == 0) {
        rc = mux_xattr_change(set.bytes, set.len, setter->name, strlen(setter->name), setter->value,
                              setter->size, ret, ret_len);
        setter->too_many = rc == -ENOSPC;
    }
    return rc;
}

static int change(struct mux_op *op, uint64_t fid, struct setter *setter)
{
    struct mux_record record;
    struct store_inode *inode = &record.inode;
    AF_CLEANUP_FREE void *set = NULL;
    size_t len = 0;
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_record_load_held(op, fid, &record);
    if (rc == 0)
        rc = change_set(op, setter, inode, &set, &len);
    if (rc < 0)
        return rc;
    uint64_t more = mux_record_growth(&record, S_ISREG(inode->mode) ? inode->size : 0);
    if (len > inode->xattr_bytes)
        more += len - inode->xattr_bytes;
    if (setter->value) // removing is never refused
        rc = mux_op_check_quota(op, more, record.index > 0 ? 1 : 0);
    if (rc == 0 && set)
        rc = store_xattr_put(op->txn, mux_op_delta(op), fid, set, len);
    if (rc < 0)
        return rc;
    inode->xattr_bytes = (uint32_t)len;
    inode->xattr_layer = mux_op_delta(op);
    inode->ctime_ns = op->now_ns;
    return mux_record_put(op, &record);
}

static int change_once(struct mux *mux, uint64_t nodeid, struct setter *setter)
{
    struct mux_op op;
    struct mux_node node;
    int rc = mux_op_enter_change(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0) {
        rc = check(&op, &node);
        if (rc == 0)
            rc = change(&op, node.fid, setter);
        mux_node_fini(&op, &node);
    }
    return mux_op_leave(&op, rc);
}

static int change_any(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
                      struct setter *setter)
{
    bool tried = false;
    int rc = check_name(setter->name);
    if (rc < 0)
        return rc;
    if (mux_top_owns(nodeid))
        return -EPERM;
    if (mux_nodeid_is_shared(nodeid))
        return -EACCES; // below write
    do {
        rc = change_once(mux, nodeid, setter);
    } while (!setter->too_many && mux_made_room(mux, ctx, nodeid, &rc, &tried));
    return rc;
}

int mux_setxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 const void *value, size_t size, int flags)
{
    struct setter setter = {.name = name, .value = value, .size = size, .flags = flags};
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if (size > AF_XATTR_VALUE_MAX)
        return -E2BIG;
    if (!value)
        setter.value = "";
    return change_any(mux, ctx, nodeid, &setter);
}

int mux_removexattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name)
{
    struct setter setter = {.name = name};
    return change_any(mux, ctx, nodeid, &setter);
}
