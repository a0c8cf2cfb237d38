// What has lost its names: pinned, asked about, copied, let go. Read next: gone.h, commit.c.
#include "mux/gone.h"

#include "mux/base/log.h"
#include "mux/changes.h"
#include "mux/inode_copy.h"
#include "mux/view.h"

#include <errno.h>
#include <stdlib.h>

#define BATCH    128  // records copied in one transaction, under the view's lock
#define LOOK_MAX 1024 // of what lost its names, looked at under it at once

struct mux_past {
    struct mux_past *next;
    uint64_t number;
    uint64_t pin;
    struct mux_layer_list layers; // top first
    uint64_t *fids;               // that lost their names with it
    size_t n_fids, settled;       // of these, from the first on: copied, or nobody has them
};

bool mux_gone_has(const struct mux_gone *gone, uint64_t fid)
{
    return mux_fid_map_get(&gone->fids, fid, NULL);
}

bool mux_gone_past(const struct mux_gone *gone, uint64_t fid, struct mux_layers *ret)
{
    uint64_t number = 0;
    mux_fid_map_get(&gone->fids, fid, &number);
    for (const struct mux_past *past = gone->pasts; number != 0 && past; past = past->next) {
        if (past->number != number)
            continue;
        *ret = mux_layer_list_all(&past->layers);
        return true;
    }
    return false;
}

enum rules_level mux_gone_ceiling(const struct mux_gone *gone, uint64_t fid)
{
    uint64_t ceiling = RULES_WRITE;
    mux_fid_map_get(&gone->ceilings, fid, &ceiling);
    return (enum rules_level)ceiling;
}

static int get_from(const struct mux_gone *gone, uint64_t number, struct store_txn *txn,
                    uint64_t fid, struct store_inode *ret)
{
    if (number == 0)
        return store_inode_get(txn, gone->layer, fid, ret);
    for (const struct mux_past *past = gone->pasts; past; past = past->next)
        if (past->number == number)
            return mux_resolve_inode(txn, mux_layer_list_all(&past->layers), fid, ret, NULL);
    return -ENOENT;
}

int mux_gone_get(const struct mux_gone *gone, struct store_txn *txn, uint64_t fid,
                 struct store_inode *ret)
{
    uint64_t number;
    if (!mux_fid_map_get(&gone->fids, fid, &number))
        return -ENOENT;
    return get_from(gone, number, txn, fid, ret);
}

// ---- names go

static void free_past(struct mux_past *past)
{
    if (!past)
        return;
    mux_layer_list_fini(&past->layers);
    free(past->fids);
    free(past);
}

static int new_past(struct store_txn *txn, struct mux_layers layers,
                    const struct mux_changes *changes, uint64_t number, struct mux_past **ret)
{
    struct mux_past *past = calloc(1, sizeof *past);
    uint64_t *ids = calloc(layers.count + 1, sizeof *ids);
    uint64_t *fids = calloc(changes->n_gone, sizeof *fids);
    if (!past || !ids || !fids) {
        free(past);
        free(ids);
        free(fids);
        return -ENOMEM;
    }
    memcpy(ids, layers.ids, layers.count * sizeof *ids);
    memcpy(fids, changes->gone, changes->n_gone * sizeof *fids);
    *past = (struct mux_past){.number = number,
                              .layers = {.ids = ids, .count = layers.count},
                              .fids = fids,
                              .n_fids = changes->n_gone};
    int rc = store_layers_pin(txn, ids, layers.count, &past->pin);
    if (rc < 0)
        free_past(past);
    else
        *ret = past;
    return rc;
}

// Those that have a name again need no record of their own any more.
static int drop_named(struct mux_gone *gone, struct store_txn *txn,
                      const struct mux_changes *changes)
{
    uint64_t fid, value, number;
    size_t position = 0;
    int rc = 0;
    while (rc == 0 && mux_fid_map_next(&changes->named, &position, &fid, &value))
        if (mux_fid_map_get(&gone->fids, fid, &number) && number == 0)
            rc = store_inode_del(txn, gone->layer, fid);
    return rc;
}

int mux_gone_prepare(struct mux_gone *gone, struct store_txn *txn, struct mux_layers before,
                     bool keeps_delta, const struct mux_changes *changes, struct mux_past **ret)
{
    *ret = NULL;
    int rc = drop_named(gone, txn, changes);
    if (rc < 0 || changes->n_gone == 0)
        return rc;
    if (keeps_delta)
        before = (struct mux_layers){.ids = before.ids + 1, .count = before.count - 1};
    rc = new_past(txn, before, changes, gone->last + 1, ret);
    for (size_t i = 0; rc == 0 && i < changes->n_gone; i++)
        rc = mux_fid_map_put(&gone->fids, changes->gone[i], gone->last + 1);
    if (rc < 0) {
        mux_gone_drop(gone, changes, *ret);
        *ret = NULL;
    }
    return rc;
}

void mux_gone_drop(struct mux_gone *gone, const struct mux_changes *changes, struct mux_past *past)
{
    if (!past)
        return;
    for (size_t i = 0; i < changes->n_gone; i++)
        mux_gone_remove(gone, changes->gone[i]);
    free_past(past);
}

void mux_gone_publish(struct mux_gone *gone, const struct mux_changes *changes,
                      struct mux_past *past)
{
    uint64_t fid, value;
    size_t position = 0;
    while (mux_fid_map_next(&changes->named, &position, &fid, &value))
        mux_gone_remove(gone, fid);
    if (!past)
        return;
    struct mux_past **last = &gone->pasts;
    while (*last)
        last = &(*last)->next;
    *last = past;
    gone->last = past->number;
}

// ---- asking, and keeping what the kernel has

void mux_gone_ask(struct mux *mux, uint32_t route, const struct mux_changes *changes)
{
    const struct mux_notifier *notifier = mux->notifier;
    bool asks = notifier && notifier->confirm_forget && notifier->settle;
    if (changes->n_gone == 0)
        return;
    uint64_t nodeid = 0;
    for (size_t i = 0; i < changes->n_gone; i++) {
        nodeid = mux_view_shown_by(mux, route, changes->gone[i]);
        if (asks)
            notifier->confirm_forget(mux->notifier_arg, nodeid);
    }
    if (asks)
        notifier->settle(mux->notifier_arg, nodeid);
    else
        mux_settle(mux, nodeid); // nobody to ask: all may be open
}

// Up to a batch of those that only the past has, from *at on, which moves behind what was looked
// at.
static size_t of_past(const struct mux_gone *gone, const struct mux_past *past, size_t *at,
                      uint64_t fids[BATCH])
{
    uint64_t number;
    size_t count = 0, end = past->n_fids;
    if (end - *at > LOOK_MAX)
        end = *at + LOOK_MAX;
    for (; *at < end && count < BATCH; ++*at)
        if (mux_fid_map_get(&gone->fids, past->fids[*at], &number) && number == past->number)
            fids[count++] = past->fids[*at];
    return count;
}

static int keep(struct store_txn *txn, const struct mux_past *past, uint64_t fid, uint64_t layer)
{
    struct store_inode inode;
    struct mux_inode_copy copy;
    int rc = mux_resolve_inode(txn, mux_layer_list_all(&past->layers), fid, &inode, NULL);
    if (rc == 0)
        rc = mux_inode_copy(&inode, &copy);
    if (rc == 0)
        rc = store_inode_put(txn, layer, &copy.inode);
    return rc == -ENOENT ? -EUCLEAN : rc;
}

// Before the layers that know their names are let go. All of them are of one past.
static int note_levels(struct mux_op *op, const uint64_t *fids, size_t count)
{
    int rc = 0;
    op->past_stamp = mux_view_new_stamp(op->mux); // what one finds on its way up serves the next
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct mux_node node;
        enum rules_level level = RULES_NONE;
        rc = mux_node_load(op, fids[i], &node);
        if (rc == 0) {
            level = (enum rules_level)node.level;
            mux_node_fini(op, &node);
        }
        if (rc == 0 || rc == -ESTALE)
            rc = mux_fid_map_put(&op->view->gone.ceilings, fids[i], level);
    }
    return rc;
}

// Copies a batch, or lets go of the past when there is no more.
static int settle_some(struct mux_op *op, struct mux_gone *gone, struct mux_past *past)
{
    uint64_t fids[BATCH], layer = gone->layer;
    size_t at = past->settled, count = of_past(gone, past, &at, fids);
    atomic_fetch_add_explicit(&op->mux->counters.settled, at - past->settled, memory_order_relaxed);
    mux_count(&op->mux->counters.settle_steps);
    if (count == 0 && at < past->n_fids) {
        past->settled = at;
        return 0;
    }
    int rc = note_levels(op, fids, count);
    if (rc == 0)
        rc = mux_op_write(op);
    if (rc == 0 && count == 0)
        rc = store_layers_unpin(op->txn, past->pin);
    if (rc == 0 && count > 0 && layer == 0)
        rc = store_layer_new_pending(op->txn, &layer);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = keep(op->txn, past, fids[i], layer);
    if (rc == 0)
        rc = mux_op_commit(op);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        mux_fid_map_put(&gone->fids, fids[i], 0); // in place: cannot fail
    gone->layer = layer;
    past->settled = at;
    if (count == 0) {
        gone->pasts = past->next;
        free_past(past);
    }
    return 0;
}

void mux_settle(struct mux *mux, uint64_t nodeid)
{
    bool more = true;
    int rc = 0;
    while (rc == 0 && more) { // the view is let go after each transaction
        struct mux_op op;
        if (mux_op_enter_exclusive(mux, nodeid, &op) < 0)
            return;
        struct mux_gone *gone = &op.view->gone;
        more = gone->pasts != NULL;
        if (more)
            rc = settle_some(&op, gone, gone->pasts);
        rc = mux_op_leave(&op, rc);
    }
    if (rc < 0) // the layers stay pinned until the next time, or the view is detached
        af_log(AF_LOG_WARN, "mux", "layers of the past could not be let go yet", "errno=%d", -rc);
}

// ---- what ends

int mux_gone_adopt(const struct mux_gone *gone, struct store_txn *txn, uint64_t fid)
{
    uint64_t number;
    bool here = mux_fid_map_get(&gone->fids, fid, &number) && number == 0;
    return here ? store_inode_del(txn, gone->layer, fid) : 0;
}

int mux_gone_forgotten(struct mux_op *op, uint64_t fid)
{
    struct mux_gone *gone = &op->view->gone;
    uint64_t number;
    if (!mux_fid_map_get(&gone->fids, fid, &number))
        return 0;
    int rc = number == 0 ? mux_op_write(op) : 0;
    if (rc == 0 && number == 0)
        rc = store_inode_del(op->txn, gone->layer, fid);
    if (rc == 0 && number == 0)
        rc = mux_op_commit(op);
    if (rc < 0)
        return rc;
    mux_gone_remove(gone, fid);
    mux_node_cache_drop(op->mux->nodes, mux_view_nodeid(op->view, fid));
    return 0;
}

bool mux_gone_is_empty(const struct mux_gone *gone)
{
    return gone->layer == 0 && !gone->pasts;
}

int mux_gone_release(const struct mux_gone *gone, struct store_txn *txn)
{
    int rc = gone->layer != 0 ? store_layer_unref(txn, gone->layer) : 0;
    for (const struct mux_past *past = gone->pasts; rc == 0 && past; past = past->next)
        rc = store_layers_unpin(txn, past->pin);
    return rc;
}

void mux_gone_fini(struct mux_gone *gone)
{
    while (gone->pasts) {
        struct mux_past *next = gone->pasts->next;
        free_past(gone->pasts);
        gone->pasts = next;
    }
    mux_fid_map_fini(&gone->fids);
    mux_fid_map_fini(&gone->ceilings);
}
