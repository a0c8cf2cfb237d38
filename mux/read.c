// Reading: where the bytes are. Small content stays in the database's memory, with its transaction
// open, until mux_read_done; larger content is a blob that the caller reads by its descriptor.
//
// No lock is held after mux_read: what a read found is immutable or, for a file of the view's own,
// ordered by the kernel against that file's writes. -EACCES below read. Read next: ops.h, write.c.
#include "mux/names.h"
#include "mux/top.h"
#include "mux/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int check(const struct mux_node *node, off_t offset)
{
    if (S_ISDIR(node->mode))
        return -EISDIR;
    if (!S_ISREG(node->mode) || offset < 0)
        return -EINVAL;
    return node->level >= RULES_READ ? 0 : -EACCES;
}

static size_t clip(const struct mux_node *node, size_t size, off_t offset)
{
    if ((uint64_t)offset >= node->size)
        return 0;
    uint64_t left = node->size - (uint64_t)offset;
    return size < left ? size : (size_t)left;
}

static int read_blob(struct mux *mux, const struct mux_node *node, size_t size, off_t offset,
                     struct mux_read *ret)
{
    struct store_blob *blob;
    int rc = store_blob_open_sized(mux->store, node->blob, node->size, &blob);
    if (rc < 0)
        return rc;
    *ret = (struct mux_read){
        .size = size,
        .fd = store_blob_fd(blob),
        .offset = offset,
        .opaque = {NULL, blob},
    };
    return 0;
}

// Takes over the transaction when it succeeds. One that holds a lock ends here.
static int read_inline(struct store_txn *txn, const struct store_inode *inode, size_t size,
                       off_t offset, struct mux_read *ret)
{
    uint64_t end = (uint64_t)offset + size;
    if (inode->content != STORE_CONTENT_INLINE || end > inode->inline_len)
        return -EUCLEAN;
    const char *data = (const char *)inode->inline_data + offset;
    char *copy = NULL;
    if (!store_read_is_alone(txn)) {
        copy = malloc(size);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, data, size);
        store_read_end(txn);
    }
    *ret = (struct mux_read){
        .size = size,
        .data = copy ? copy : data,
        .fd = -1,
        .offset = offset,
        .opaque = {copy ? NULL : txn, NULL, copy},
    };
    return 0;
}

static int read_shared(struct mux *mux, uint64_t nodeid, size_t size, off_t offset,
                       struct mux_read *ret)
{
    struct mux_node node;
    int rc = mux_node_load_shared(mux, nodeid, &node);
    if (rc == 0)
        rc = check(&node, offset);
    if (rc < 0)
        return rc;
    size = clip(&node, size, offset);
    if (size == 0 || node.content == STORE_CONTENT_NONE) {
        *ret = (struct mux_read){.fd = -1};
        return 0;
    }
    if (node.content == STORE_CONTENT_BLOB) {
        rc = read_blob(mux, &node, size, offset, ret);
        return rc == -ENOENT ? -ESTALE : rc;
    }
    struct store_txn *txn;
    struct store_inode inode;
    rc = store_look_begin(mux->store, 0, &txn);
    if (rc < 0)
        return rc;
    rc = store_version_get(txn, mux_nodeid_fid(nodeid), &inode);
    if (rc == 0)
        rc = read_inline(txn, &inode, size, offset, ret);
    if (rc < 0)
        store_read_end(txn);
    return rc == -ENOENT ? -ESTALE : rc;
}

static int read_private(struct mux_op *op, uint64_t nodeid, size_t size, off_t offset,
                        struct mux_read *ret)
{
    struct mux_node node;
    struct store_inode inode;
    int rc = mux_node_load(op, mux_op_fid(op, nodeid), &node);
    if (rc < 0)
        return rc;
    rc = mux_node_is_visible(op, &node) ? check(&node, offset) : -ENOENT;
    mux_node_fini(op, &node);
    if (rc < 0)
        return rc;
    size = clip(&node, size, offset);
    if (size == 0 || node.content == STORE_CONTENT_NONE) {
        *ret = (struct mux_read){.fd = -1};
        return 0;
    }
    if (node.content == STORE_CONTENT_BLOB) {
        rc = read_blob(op->mux, &node, size, offset, ret);
        return rc == -ENOENT ? -EIO : rc;
    }
    rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_op_inode(op, node.fid, &inode, NULL);
    if (rc == 0)
        rc = read_inline(op->txn, &inode, size, offset, ret);
    if (rc == 0)
        op->txn = NULL; // ret has it now
    return rc;
}

int mux_read(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, size_t size, off_t offset,
             struct mux_read *ret)
{
    (void)ctx;
    struct mux_op op;
    if (mux_top_owns(nodeid))
        return mux_top_read(nodeid, size, offset, ret);
    if (mux_nodeid_is_shared(nodeid))
        return read_shared(mux, nodeid, size, offset, ret);
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    return mux_op_leave(&op, read_private(&op, nodeid, size, offset, ret));
}

void mux_read_done(struct mux *mux, struct mux_read *read)
{
    (void)mux;
    if (read->opaque[0])
        store_read_end(read->opaque[0]);
    if (read->opaque[1])
        store_blob_release(read->opaque[1]);
    free(read->opaque[2]);
    read->opaque[0] = read->opaque[1] = read->opaque[2] = NULL;
}
