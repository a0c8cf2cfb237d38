// Writing bytes, and making them reach the disk. Read next: edit.h, body.c.
#include "mux/edit.h"
#include "mux/top.h"

#include <errno.h>
#include <unistd.h>

int mux_write(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const void *data,
              size_t size, off_t offset)
{
    if (offset < 0)
        return -EINVAL;
    if (size > (uint64_t)AF_FILE_SIZE_MAX || offset > AF_FILE_SIZE_MAX - (off_t)size)
        return -EFBIG;
    if (size == 0)
        return 0;
    struct mux_edit edit = {.data = data, .len = size, .offset = (uint64_t)offset};
    return mux_edit(mux, ctx, nodeid, &edit, NULL, NULL);
}

// The blob that holds the file's bytes, opened, or NULL: the database has them all.
static int open_content(struct mux *mux, uint64_t nodeid, struct store_blob **ret)
{
    struct mux_op op;
    struct mux_node node;
    *ret = NULL;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0 && node.blob != 0 && node.blob_owned && node.index == 0)
        rc = store_blob_open(mux->store, node.blob, ret);
    if (rc == 0)
        mux_node_fini(&op, &node);
    return mux_op_leave(&op, rc);
}

int mux_fsync(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool datasync)
{
    (void)datasync; // size and times are in the same record
    struct store_blob *blob = NULL;
    if (mux_top_owns(nodeid))
        return 0;
    if (!ctx->may_block)
        return MUX_SLOW;
    int rc = mux_nodeid_is_shared(nodeid) ? 0 : open_content(mux, nodeid, &blob);
    if (rc < 0)
        return rc;
    if (blob) {
        rc = fdatasync(store_blob_fd(blob)) < 0 ? -errno : 0;
        store_blob_release(blob);
    }
    return rc < 0 ? rc : store_sync(mux->store);
}
