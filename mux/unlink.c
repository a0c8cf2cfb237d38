// Names that go: unlink, rmdir, and the last FORGET of what has no name any more.
//
// A name that a frozen layer has leaves a whiteout; a base directory made again has another fid,
// hence is empty (D4). What loses its last name stays in the delta with nlink 0, marked as an
// orphan, readable and writable by who has it open, until the kernel has forgotten its nodeid. A
// FORGET is only a hint: it may have been overtaken by a new lookup, before the name went, or be
// meant for a former user of the slot. So the kernel is asked whether it has the inode; once it has
// not, it cannot get it again, since no name leads there. Small ones are deleted some together.
// Forgetting anything else is free: no store access, and no more than one lock.
// Exclusive in the view, one transaction. Read next: names.h, record.h, docs/VIEWS.md (orphans).
#include "mux/kept.h"
#include "mux/names.h"
#include "mux/record.h"
#include "mux/remove.h"
#include "mux/top.h"

#include "mux/base/log.h"

#include <dirent.h>
#include <errno.h>

int mux_remove_name(struct mux_op *op, uint64_t dir, const struct mux_name *name)
{
    if (name->in_lower)
        return store_entry_put_whiteout(op->txn, mux_op_delta(op), dir, name->text, name->len);
    return store_entry_del(op->txn, mux_op_delta(op), dir, name->text, name->len);
}

static int remove_in(struct mux_op *op, const struct mux_node *dir, const struct mux_name *name)
{
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_remove_name(op, dir->fid, name);
    if (rc == 0)
        rc = mux_record_drop_link(op, name->fid, dir->fid, name->text, name->len);
    if (rc == 0)
        rc = mux_record_touch_dir(op, dir->fid);
    op->names_changed = true;
    return rc;
}

int mux_check_empty(struct mux_op *op, uint64_t dir)
{
    bool empty;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_resolve_dir_is_empty(op->txn, mux_op_layers(op), dir, &empty);
    if (rc < 0)
        return rc;
    return empty ? 0 : -ENOTEMPTY;
}

static int check(struct mux_op *op, const struct mux_name *name, bool want_dir)
{
    int rc = mux_name_check_removable(name);
    if (rc < 0)
        return rc;
    if (want_dir && name->type != DT_DIR)
        return -ENOTDIR;
    if (!want_dir && name->type == DT_DIR)
        return -EISDIR;
    return want_dir ? mux_check_empty(op, name->fid) : 0;
}

static int remove_one(struct mux *mux, uint64_t parent, const char *text, bool want_dir)
{
    struct mux_op op;
    struct mux_node dir;
    struct mux_name name;
    if (mux_top_owns(parent))
        return -EPERM;
    if (mux_nodeid_is_shared(parent))
        return -ENOTDIR;
    int rc = mux_op_enter_change(mux, parent, &op);
    if (rc < 0)
        return rc;
    rc = mux_dir_load(&op, parent, &dir);
    if (rc < 0)
        return mux_op_leave(&op, rc);
    rc = mux_name_resolve_change(&op, &dir, text, &name);
    if (rc == 0) {
        rc = check(&op, &name, want_dir);
        if (rc == 0)
            rc = remove_in(&op, &dir, &name);
        mux_name_fini(&op, &name);
    }
    mux_node_fini(&op, &dir);
    return mux_op_leave(&op, rc);
}

int mux_unlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name)
{
    (void)ctx;
    return remove_one(mux, parent, name, false);
}

int mux_rmdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name)
{
    (void)ctx;
    return remove_one(mux, parent, name, true);
}

// *ret: enum mux_orphan.
static bool is_held_orphan(const struct mux_op *op, uint64_t nodeid, uint64_t *ret)
{
    return op->view->n_orphans > 0 &&
           mux_fid_map_get(&op->view->orphans, mux_op_fid(op, nodeid), ret) &&
           *ret != MUX_ORPHAN_DEAD;
}

// Deletes what nobody can reach any more. Whatever happens, the list is empty afterwards: what
// could not be deleted is asked about again when room is needed, or goes with the view.
int mux_delete_dead(struct mux_op *op)
{
    struct mux_view *view = op->view;
    size_t count = view->n_dead;
    view->n_dead = 0;
    int rc = mux_op_write(op);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = store_orphan_del(op->txn, mux_op_delta(op), view->dead[i]);
        if (rc == 0)
            rc = store_inode_del(op->txn, mux_op_delta(op), view->dead[i]);
    }
    if (rc == 0)
        rc = mux_op_commit(op);
    for (size_t i = 0; rc < 0 && i < count; i++)
        mux_fid_map_put(&view->orphans, view->dead[i], MUX_ORPHAN_HELD); // in place: cannot fail
    for (size_t i = 0; rc == 0 && i < count; i++) {
        mux_fid_map_del(&view->orphans, view->dead[i]);
        view->n_orphans--;
        mux_node_cache_drop(op->mux->nodes, mux_view_nodeid(view, view->dead[i]));
    }
    return rc;
}

// Small ones wait for each other, unless somebody counts them.
static bool may_wait(const struct mux_view *view, enum mux_orphan held)
{
    return held == MUX_ORPHAN_HELD_SMALL && view->n_dead < MUX_DEAD_MAX && view->quota_bytes == 0 &&
           view->quota_inodes == 0;
}

void mux_forget(struct mux *mux, uint64_t nodeid)
{
    struct mux_op op;
    if (mux_nodeid_is_shared(nodeid))
        mux_kept_forget(mux, nodeid);
    if (mux_top_owns(nodeid) || mux_nodeid_is_shared(nodeid) ||
        mux_op_enter_inside(mux, nodeid, &op) < 0)
        return;
    uint64_t held;
    bool nameless =
        is_held_orphan(&op, nodeid, &held) || mux_gone_has(&op.view->gone, mux_op_fid(&op, nodeid));
    mux_op_leave(&op, 0);
    if (!nameless)
        return;
    if (mux->notifier && mux->notifier->confirm_forget)
        mux->notifier->confirm_forget(mux->notifier_arg, nodeid);
    else
        mux_forgotten(mux, nodeid);
}

void mux_forgotten(struct mux *mux, uint64_t nodeid)
{
    struct mux_op op;
    if (mux_nodeid_is_shared(nodeid))
        mux_kept_forgotten(mux, nodeid);
    if (mux_op_enter_exclusive(mux, nodeid, &op) < 0)
        return;
    uint64_t fid = mux_op_fid(&op, nodeid), held;
    if (mux_alias_is_doubled(&op.view->alias, fid)) { // it may have it by another number
        mux_op_leave(&op, 0);
        return;
    }
    int rc = mux_gone_forgotten(&op, fid);
    if (is_held_orphan(&op, nodeid, &held)) {
        mux_fid_map_put(&op.view->orphans, fid, MUX_ORPHAN_DEAD); // in place: cannot fail
        op.view->dead[op.view->n_dead++] = fid;
        if (!may_wait(op.view, (enum mux_orphan)held))
            rc = mux_delete_dead(&op);
    }
    rc = mux_op_leave(&op, rc);
    if (rc < 0)
        af_log(AF_LOG_WARN, "mux", "unlinked files could not be freed yet", "errno=%d", -rc);
}
