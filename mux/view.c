// The frame of an operation: lock, transaction, commit, publish. Read next: view.h.
#include "mux/view.h"

#include "mux/base/clock.h"
#include "mux/sandbox.h"

#include <errno.h>

// The view's word on an operation of the sandbox, whatever the rules say.
static int check_access(const struct mux_view *view, bool change)
{
    if (view->access == STORE_ACCESS_NORMAL)
        return 0;
    if (view->access == STORE_ACCESS_READ_ONLY)
        return change ? -EROFS : 0;
    return -EACCES;
}

static int enter(struct mux *mux, uint64_t nodeid, bool exclusive, bool inside, struct mux_op *op)
{
    struct mux_slot *slot =
        mux_nodeid_is_shared(nodeid) ? NULL : mux_view_slot(mux, mux_nodeid_slot(nodeid));
    if (!slot)
        return -ESTALE;
    if (exclusive)
        pthread_rwlock_wrlock(&slot->lock);
    else
        pthread_rwlock_rdlock(&slot->lock);
    int rc = slot->view && slot->view->route == mux_nodeid_route(nodeid) ? 0 : -ESTALE;
    if (rc == 0 && !inside)
        rc = check_access(slot->view, exclusive);
    if (rc < 0) {
        pthread_rwlock_unlock(&slot->lock);
        return rc;
    }
    AF_CHECK_MAGIC(slot->view, MUX_VIEW_MAGIC);
    op->mux = mux;
    op->view = slot->view;
    op->txn = NULL;
    op->exclusive = exclusive;
    op->writing = op->names_changed = op->states_changed = op->dir_moved = false;
    op->now_ns = exclusive ? af_wall_ns() : 0;
    op->n_touched = op->n_orphans = 0;
    op->created = NULL;
    op->named = op->past_stamp = 0;
    return 0;
}

int mux_op_enter(struct mux *mux, uint64_t nodeid, struct mux_op *op)
{
    return enter(mux, nodeid, false, false, op);
}

int mux_op_enter_change(struct mux *mux, uint64_t nodeid, struct mux_op *op)
{
    return enter(mux, nodeid, true, false, op);
}

int mux_op_enter_inside(struct mux *mux, uint64_t nodeid, struct mux_op *op)
{
    return enter(mux, nodeid, false, true, op);
}

int mux_op_enter_exclusive(struct mux *mux, uint64_t nodeid, struct mux_op *op)
{
    return enter(mux, nodeid, true, true, op);
}

uint64_t mux_view_shown_by(struct mux *mux, uint32_t route, uint64_t fid)
{
    struct mux_op op;
    uint64_t nodeid = mux_nodeid_private(route, fid);
    if (mux_op_enter_inside(mux, nodeid, &op) < 0)
        return nodeid;
    nodeid = mux_view_shown(op.view, fid);
    mux_op_leave(&op, 0);
    return nodeid;
}

int mux_op_read(struct mux_op *op)
{
    return op->txn ? 0 : store_look_begin(op->mux->store, op->view->changed_in, &op->txn);
}

int mux_op_inode(struct mux_op *op, uint64_t fid, struct store_inode *ret, size_t *ret_index)
{
    const struct mux_gone *gone = &op->view->gone;
    if (!mux_gone_has(gone, fid))
        return mux_resolve_inode(op->txn, mux_op_layers(op), fid, ret, ret_index);
    if (ret_index)
        *ret_index = op->view->layers.count;
    return mux_gone_get(gone, op->txn, fid, ret);
}

static void end_txn(struct mux_op *op)
{
    if (op->txn && op->writing)
        store_abort(op->txn);
    else if (op->txn)
        store_read_end(op->txn);
    op->txn = NULL;
    op->writing = false;
}

int mux_op_read_alone(struct mux_op *op)
{
    if (op->txn && !op->writing && store_read_is_alone(op->txn))
        return 0;
    mux_op_end_read(op);
    return store_read_begin(op->mux->store, &op->txn);
}

void mux_op_end_read(struct mux_op *op)
{
    if (!op->writing)
        end_txn(op);
}

int mux_op_write(struct mux_op *op)
{
    if (op->writing)
        return 0;
    end_txn(op);
    int rc = store_change_begin(op->mux->store, &op->txn);
    if (rc < 0)
        op->txn = NULL;
    op->writing = rc == 0;
    op->view->delta_is_empty = false;
    return rc;
}

static enum mux_orphan held_as(const struct mux_node *node)
{
    return node->size <= MUX_DEAD_BYTES_MAX ? MUX_ORPHAN_HELD_SMALL : MUX_ORPHAN_HELD;
}

// What an operation touched that has no name.
static void note_orphan(struct mux_view *view, const struct mux_node *node)
{
    uint64_t value;
    if (mux_fid_map_get(&view->orphans, node->fid, &value) && value != MUX_ORPHAN_DEAD)
        mux_fid_map_put(&view->orphans, node->fid, held_as(node)); // in place: cannot fail
}

// The change is durable against a crash: now whoever asks next must see it.
static void publish(struct mux_op *op)
{
    struct mux_view *view = op->view;
    view->changes++;
    for (unsigned i = 0; i < op->n_touched; i++)
        mux_node_cache_update(op->mux->nodes, &op->touched[i]);
    if (op->created)
        mux_node_cache_put(op->mux->nodes, view->rules, op->created);
    for (unsigned i = 0; i < op->n_orphans; i++) {
        // For want of memory the orphan stays until the view is detached.
        // A new one is empty; what any other holds is noted below.
        if (mux_fid_map_put(&view->orphans, op->orphans[i], MUX_ORPHAN_HELD_SMALL) == 0)
            view->n_orphans++;
        mux_gone_remove(&view->gone, op->orphans[i]);
        // As an orphan it has another level and no state.
        mux_node_cache_drop(op->mux->nodes, mux_view_nodeid(view, op->orphans[i]));
    }
    for (unsigned i = 0; i < op->n_touched; i++)
        if (op->touched[i].nlink == 0)
            note_orphan(view, &op->touched[i]);
    if (op->named && mux_fid_map_get(&view->orphans, op->named, NULL)) {
        mux_fid_map_del(&view->orphans, op->named);
        view->n_orphans--;
    }
    if (op->names_changed)
        view->names_seq++;
    if (op->dir_moved)
        view->moves_seq++;
    if (op->states_changed)
        view->stamp = mux_view_new_stamp(op->mux);
}

int mux_op_commit(struct mux_op *op)
{
    uint64_t changed_in = store_change_id(op->txn);
    int rc = store_commit(op->txn);
    op->txn = NULL;
    op->writing = false;
    if (rc == 0) {
        op->view->changed_in = changed_in;
        publish(op);
    }
    return rc;
}

int mux_op_leave(struct mux_op *op, int rc)
{
    if (rc == 0 && op->writing)
        rc = mux_op_commit(op);
    end_txn(op);
    pthread_rwlock_unlock(&op->view->home->lock);
    return rc;
}

int mux_op_check_quota(struct mux_op *op, uint64_t more_bytes, uint64_t more_inodes)
{
    const struct mux_view *view = op->view;
    if ((view->quota_bytes == 0 || more_bytes == 0) &&
        (view->quota_inodes == 0 || more_inodes == 0))
        return 0;
    struct store_layer delta;
    int rc = store_layer_get(op->txn, mux_op_delta(op), &delta);
    if (rc < 0)
        return rc;
    if (view->quota_bytes != 0 && more_bytes != 0 &&
        (delta.bytes >= view->quota_bytes || more_bytes > view->quota_bytes - delta.bytes))
        return -EDQUOT;
    if (view->quota_inodes != 0 && more_inodes != 0 &&
        (delta.inodes >= view->quota_inodes || more_inodes > view->quota_inodes - delta.inodes))
        return -EDQUOT;
    return 0;
}

int mux_op_check_within_quota(struct mux_op *op, uint64_t fewer_bytes)
{
    const struct mux_view *view = op->view;
    struct store_layer delta;
    if (view->quota_bytes == 0)
        return 0;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = store_layer_get(op->txn, mux_op_delta(op), &delta);
    if (rc < 0)
        return rc;
    return delta.bytes > fewer_bytes && delta.bytes - fewer_bytes > view->quota_bytes ? -EDQUOT : 0;
}

int mux_fail_cut_off(const char *id, struct af_error *err)
{
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "the sandbox %s is cut off from its files; give it back its access first",
                        id);
}

bool mux_view_blame_cut_off(struct mux *mux, const char *id, struct af_error *err)
{
    uint64_t root;
    if (!mux_view_find(mux, id, &root))
        return false;
    struct mux_slot *slot = mux_view_slot(mux, mux_nodeid_slot(root));
    if (!slot || pthread_rwlock_tryrdlock(&slot->lock) != 0)
        return false;
    const struct mux_view *view = slot->view;
    bool cut_off =
        view && view->route == mux_nodeid_route(root) && view->access == STORE_ACCESS_CUT_OFF;
    pthread_rwlock_unlock(&slot->lock);
    return cut_off && mux_fail_cut_off(id, err) < 0;
}
