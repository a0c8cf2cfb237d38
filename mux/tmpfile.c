// Files without a name: O_TMPFILE.
//
// Such a file is born as an orphan (unlink.c): in the delta, counted by the quota, readable and
// writable by who has it open, gone at the kernel's FORGET or when the view is detached. mux_link
// may give it a name, and the rules of that name then hold. Here no name is known yet, so the
// directory need only be one in which, or below which, something may be written.
// Exclusive in the view, one transaction. Owns nothing. Read next: link.c, unlink.c.
#include "mux/attr.h"
#include "mux/names.h"
#include "mux/record.h"
#include "mux/room.h"
#include "mux/top.h"

#include <errno.h>
#include <sys/stat.h>

static int check(const struct mux_op *op, const struct mux_node *dir)
{
    if (dir->nlink == 0)
        return -ENOENT;
    if (dir->level == RULES_WRITE || rules_below_max(op->view->rules, dir->state) == RULES_WRITE)
        return 0;
    return -EACCES;
}

static int record(struct mux_op *op, const struct mux_node *dir, mode_t mode, struct mux_node *ret)
{
    struct store_inode inode = {
        .mode = S_IFREG | (mode & 07777),
        .nlink = 1,
        .atime_ns = op->now_ns,
        .mtime_ns = op->now_ns,
        .ctime_ns = op->now_ns,
        .btime_ns = op->now_ns,
        .parent = dir->fid,
    };
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_op_check_quota(op, 0, 1);
    if (rc == 0)
        rc = store_new_id(op->mux->store, &inode.fid);
    if (rc == 0)
        rc = store_new_id(op->mux->store, &inode.version);
    if (rc == 0) // as a file first: an orphan's record would be let in on a full disk
        rc = store_inode_put(op->txn, mux_op_delta(op), &inode);
    inode.nlink = 0;
    if (rc == 0)
        rc = store_inode_put(op->txn, mux_op_delta(op), &inode);
    if (rc == 0)
        rc = store_orphan_put(op->txn, mux_op_delta(op), inode.fid);
    if (rc < 0)
        return rc;
    mux_node_of_inode(mux_view_nodeid(op->view, inode.fid), &inode, 0, ret);
    op->orphans[op->n_orphans++] = inode.fid;
    return 0;
}

static int make_once(struct mux *mux, uint64_t parent, mode_t mode, struct mux_entry *ret)
{
    struct mux_op op;
    struct mux_node dir, node;
    int rc = mux_op_enter_change(mux, parent, &op);
    if (rc < 0)
        return rc;
    rc = mux_dir_load(&op, parent, &dir);
    if (rc == 0) {
        rc = check(&op, &dir);
        if (rc == 0)
            rc = record(&op, &dir, mode, &node);
        if (rc == 0)
            rc = mux_op_commit(&op);
        if (rc == 0)
            mux_entry_fill(&op, &node, ret);
        mux_node_fini(&op, &dir);
    }
    return mux_op_leave(&op, rc);
}

int mux_tmpfile(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, mode_t mode,
                struct mux_entry *ret)
{
    bool tried = false;
    int rc;
    if (mux_top_owns(parent))
        return -EPERM;
    if (mux_nodeid_is_shared(parent))
        return -ENOTDIR;
    do {
        rc = make_once(mux, parent, mode, ret);
    } while (mux_made_room(mux, ctx, parent, &rc, &tried));
    return rc;
}
