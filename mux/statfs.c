// Sizes: the view's quota where it has one, else the file system below the store.
// Shared lock, one read transaction. Read next: view.h.
#include "mux/room.h"
#include "mux/top.h"
#include "mux/view.h"

#include <errno.h>

#define BLOCK_BYTES 4096

static void set_size(uint64_t quota, uint64_t used, uint64_t unit, uint64_t below_free,
                     fsblkcnt_t *total, fsblkcnt_t *free)
{
    uint64_t left = used < quota ? quota - used : 0;
    *total = quota / unit;
    *free = (left < below_free ? left : below_free) / unit;
}

static int apply_quota(struct mux_op *op, uint64_t free_bytes, struct statvfs *ret)
{
    struct store_layer delta;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = store_layer_get(op->txn, mux_op_delta(op), &delta);
    if (rc < 0)
        return rc;
    if (op->view->quota_bytes != 0) {
        set_size(op->view->quota_bytes, delta.bytes, BLOCK_BYTES, free_bytes, &ret->f_blocks,
                 &ret->f_bfree);
        ret->f_bavail = ret->f_bfree;
    }
    if (op->view->quota_inodes != 0) {
        set_size(op->view->quota_inodes, delta.inodes, 1, UINT64_MAX, &ret->f_files, &ret->f_ffree);
        ret->f_favail = ret->f_ffree;
    }
    return 0;
}

// What was unlinked counts until the kernel is known to have let go of it; its FORGET may be on the
// way. Before a quota's use is told, the kernel is asked, as before EDQUOT. MUX_SLOW.
static int give_back(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid)
{
    struct mux_op op;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    const struct mux_view *view = op.view;
    bool may = view->n_orphans > 0 && (view->quota_bytes != 0 || view->quota_inodes != 0);
    mux_op_leave(&op, 0);
    bool tried = false;
    rc = -EDQUOT;
    for (int i = 0; may && i < 2 && mux_made_room(mux, ctx, nodeid, &rc, &tried); i++)
        ;
    return rc == MUX_SLOW ? rc : 0;
}

int mux_statfs(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct statvfs *ret)
{
    uint64_t total_bytes, free_bytes;
    int rc = store_statfs(mux->store, &total_bytes, &free_bytes);
    if (rc < 0)
        return rc;
    struct statvfs st = {
        .f_bsize = BLOCK_BYTES,
        .f_frsize = BLOCK_BYTES,
        .f_blocks = total_bytes / BLOCK_BYTES,
        .f_bfree = free_bytes / BLOCK_BYTES,
        .f_bavail = free_bytes / BLOCK_BYTES,
        // Inodes are records: what bounds them is space.
        .f_files = total_bytes / BLOCK_BYTES,
        .f_ffree = free_bytes / BLOCK_BYTES,
        .f_favail = free_bytes / BLOCK_BYTES,
        .f_namemax = AF_NAME_MAX,
    };
    if (!mux_top_owns(nodeid) && !mux_nodeid_is_shared(nodeid)) {
        struct mux_op op;
        rc = give_back(mux, ctx, nodeid);
        if (rc == 0)
            rc = mux_op_enter(mux, nodeid, &op);
        if (rc != 0)
            return rc;
        rc = mux_op_leave(&op, apply_quota(&op, free_bytes, &st));
    }
    if (rc == 0)
        *ret = st;
    return rc;
}
