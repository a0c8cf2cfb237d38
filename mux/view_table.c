// Attached views: slots given and taken, and who has which.
//
// Owns the slots (for mux's life) and the views in them. Slots are handed out in the order they
// were freed (FIFO), so that a slot, and with it a host uid, rests as long as possible.
// Locks: `change` serialises attaching and detaching and is held for their whole length (rank:
// outside of everything here); `lock` guards the index by id (rank: view table). A slot's lock is
// taken inside both. Fails: see sandbox.h; nothing is half attached.
// Read next: view.h.
#include "mux/base/clock.h"
#include "mux/base/log.h"
#include "mux/host_call.h"
#include "mux/kept.h"
#include "mux/listings.h"
#include "mux/sandbox.h"
#include "mux/sandbox_priv.h"
#include "mux/view.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <uthash.h>

struct attached {
    char id[AF_ID_TEXT_MAX];
    uint32_t slot;
    uint64_t root_nodeid;
    UT_hash_handle hh;
};

struct mux_view_table {
    pthread_mutex_t change;
    pthread_rwlock_t lock;
    struct attached *by_id;    // under lock
    struct attached **by_slot; // under lock
    struct mux_slot *slots;    // 0 is never used
    uint32_t n_slots;          // numbers 1 .. n_slots
    _Atomic uint32_t n_ready;  // slots 1 .. n_ready have an initialised lock
    uint32_t *queue;           // free slots, a ring; under change
    uint32_t head, n_free;
    uint64_t next_epoch; // under change
    _Atomic uint64_t next_stamp;
};

int mux_view_table_new(struct mux *mux)
{
    uint32_t max = (1u << MUX_SLOT_BITS) - 1;
    struct mux_view_table *table = calloc(1, sizeof *table);
    if (!table)
        return -ENOMEM;
    mux->views = table;
    pthread_mutex_init(&table->change, NULL);
    pthread_rwlock_init(&table->lock, NULL);
    table->n_slots = mux->uid_count < max ? mux->uid_count : max;
    table->next_epoch = 1;
    table->next_stamp = 1;
    table->slots = calloc(table->n_slots + 1, sizeof *table->slots);
    table->by_slot = calloc(table->n_slots + 1, sizeof *table->by_slot);
    table->queue = calloc(table->n_slots + 1, sizeof *table->queue);
    if (table->slots && table->by_slot && table->queue)
        return 0;
    mux_view_table_free(mux);
    return -ENOMEM;
}

uint64_t mux_view_new_stamp(struct mux *mux)
{
    return atomic_fetch_add_explicit(&mux->views->next_stamp, 1, memory_order_relaxed);
}

struct mux_slot *mux_view_slot(struct mux *mux, uint32_t slot)
{
    if (slot == 0 || slot > atomic_load_explicit(&mux->views->n_ready, memory_order_acquire))
        return NULL;
    return &mux->views->slots[slot];
}

// Readers come in a stream; a mutation must not starve behind them.
static void init_slot_lock(struct mux_slot *slot)
{
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&slot->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
}

// A slot that was never used, else the one that is free for the longest time. 0: none.
static uint32_t take_slot(struct mux_view_table *table)
{
    uint32_t ready = atomic_load(&table->n_ready);
    if (ready < table->n_slots) {
        init_slot_lock(&table->slots[ready + 1]);
        atomic_store_explicit(&table->n_ready, ready + 1, memory_order_release);
        return ready + 1;
    }
    if (table->n_free == 0)
        return 0;
    uint32_t slot = table->queue[table->head];
    table->head = (table->head + 1) % (table->n_slots + 1);
    table->n_free--;
    return slot;
}

static void give_slot(struct mux_view_table *table, uint32_t slot)
{
    table->queue[(table->head + table->n_free) % (table->n_slots + 1)] = slot;
    table->n_free++;
}

static void free_view(struct mux_view *view)
{
    if (!view)
        return;
    rules_unref(view->rules);
    mux_layer_list_fini(&view->layers);
    mux_fid_map_fini(&view->orphans);
    mux_gone_fini(&view->gone);
    mux_alias_fini(&view->alias);
    view->magic = 0;
    free(view);
}

static int fill_view(struct mux *mux, struct store_txn *txn, const struct store_sandbox *sandbox,
                     struct mux_view *view, struct af_error *err)
{
    view->magic = MUX_VIEW_MAGIC;
    view->sandbox_id = sandbox->id;
    view->root_fid = sandbox->root_fid;
    view->access = sandbox->access;
    view->quota_bytes = sandbox->quota_bytes;
    view->quota_inodes = sandbox->quota_inodes;
    view->iops = sandbox->iops;
    view->bandwidth = sandbox->bandwidth;
    int rc = mux_layer_list_load(txn, sandbox->delta, sandbox->stack, &view->layers);
    struct store_inode root;
    struct store_layer delta = {0};
    if (rc == 0)
        rc = store_layer_get(txn, sandbox->delta, &delta);
    view->tree = mux_listings_tree(mux->listings, sandbox->stack);
    view->delta_is_empty = delta.inodes == 0; // each change leaves a record, if only a directory's
    if (rc == 0)
        rc = mux_resolve_inode(txn, mux_layer_list_all(&view->layers), view->root_fid, &root, NULL);
    if (rc < 0)
        return mux_fail(err, rc == -ENOENT ? -EUCLEAN : rc, "reading the sandbox's layers");
    return mux_compile_rules(sandbox->rules, sandbox->n_rules, &view->rules, err);
}

static int load_view(struct mux *mux, const char *id, struct mux_view **ret, struct af_error *err)
{
    struct mux_view *view = calloc(1, sizeof *view);
    struct store_txn *txn;
    struct store_sandbox sandbox;
    int rc = view ? store_read_begin(mux->store, &txn) : -ENOMEM;
    if (rc < 0) {
        free(view);
        return mux_fail(err, rc, "attaching the sandbox");
    }
    rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0) {
        rc = mux_fail_sandbox(err, rc, id);
    } else if (sandbox.access == STORE_ACCESS_CUT_OFF) {
        store_sandbox_free_rules(&sandbox);
        rc = mux_fail_cut_off(id, err);
    } else {
        rc = fill_view(mux, txn, &sandbox, view, err);
        store_sandbox_free_rules(&sandbox);
    }
    store_read_end(txn);
    if (rc < 0) {
        free_view(view);
        return rc;
    }
    *ret = view;
    return 0;
}

static struct attached *find_id(struct mux_view_table *table, const char *id)
{
    struct attached *found;
    HASH_FIND_STR(table->by_id, id, found);
    return found;
}

static void settle(struct mux *mux, struct mux_view *view, uint32_t slot)
{
    view->slot = slot;
    view->epoch = mux->views->next_epoch++;
    view->stamp = mux_view_new_stamp(mux);
    view->uid = mux->uid_base + slot;
    view->gid = (gid_t)view->uid;
}

// Makes the view reachable: first by nodeid, then by name, there instead of in the slot `from` (0:
// in none).
static void publish(struct mux *mux, struct mux_view *view, struct attached *entry, uint32_t from)
{
    struct mux_view_table *table = mux->views;
    struct mux_slot *slot = &table->slots[view->slot];
    pthread_rwlock_wrlock(&slot->lock);
    view->route = mux_route(view->slot, slot->turns++);
    view->home = slot;
    slot->view = view;
    uint64_t root_nodeid = mux_view_nodeid(view, view->root_fid);
    pthread_rwlock_unlock(&slot->lock);
    pthread_rwlock_wrlock(&table->lock);
    entry->slot = view->slot;
    entry->root_nodeid = root_nodeid;
    if (from)
        table->by_slot[from] = NULL;
    else
        HASH_ADD_STR(table->by_id, id, entry);
    table->by_slot[view->slot] = entry;
    pthread_rwlock_unlock(&table->lock);
}

static uint64_t in_force(uint64_t asked, uint64_t max)
{
    return max > 0 && (asked == 0 || asked > max) ? max : asked;
}

void mux_limit_in_force(const struct mux *mux, uint64_t *iops, uint64_t *bandwidth)
{
    *iops = in_force(*iops, mux->iops_max);
    *bandwidth = in_force(*bandwidth, mux->bandwidth_max);
}

void mux_view_tell_limit(struct mux *mux, const struct mux_view *view)
{
    uint64_t iops = view->iops, bandwidth = view->bandwidth;
    mux_limit_in_force(mux, &iops, &bandwidth);
    if (mux->notifier && mux->notifier->limited)
        mux->notifier->limited(mux->notifier_arg, view->slot, iops, bandwidth);
}

// Whoever follows a slot learns whose it is now, and what it may ask for: with the view held, for a
// change of that may be on its way.
static void tell_attached(struct mux *mux, struct mux_view *view)
{
    if (mux->notifier && mux->notifier->attached)
        mux->notifier->attached(mux->notifier_arg, view->slot, view->sandbox_id.text);
    pthread_rwlock_rdlock(&view->home->lock);
    if (view->iops > 0 || view->bandwidth > 0 || mux->iops_max > 0 || mux->bandwidth_max > 0)
        mux_view_tell_limit(mux, view);
    pthread_rwlock_unlock(&view->home->lock);
}

static int attach(struct mux *mux, const char *id, uint32_t reserved, struct mux_attachment *ret,
                  struct af_error *err)
{
    struct mux_view_table *table = mux->views;
    if (find_id(table, id)) // only changed under `change`
        return af_error_set(err, AF_FAILED_PRECONDITION, "the sandbox %s is attached already", id);
    struct attached *entry = calloc(1, sizeof *entry);
    struct mux_view *view = NULL;
    if (!entry)
        return mux_fail(err, -ENOMEM, "attaching the sandbox");
    if (load_view(mux, id, &view, err) < 0) {
        free(entry);
        return -1;
    }
    uint32_t slot = reserved ? reserved : take_slot(table);
    if (slot == 0) {
        free(entry);
        free_view(view);
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "all %" PRIu32 " slots are in use; stop a sandbox or give the daemon "
                            "a larger range of uids",
                            table->n_slots);
    }
    settle(mux, view, slot);
    strcpy(entry->id, view->sandbox_id.text);
    *ret = (struct mux_attachment){.slot = slot, .uid = view->uid, .gid = view->gid};
    mux_kept_start(mux, view->rules);
    publish(mux, view, entry, 0);
    tell_attached(mux, view);
    return 0;
}

int mux_view_attach_as(struct mux *mux, const char *id, uid_t uid, struct mux_attachment *ret,
                       struct af_error *err)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    pthread_mutex_lock(&mux->views->change);
    int rc = attach(mux, id, uid ? uid - mux->uid_base : 0, ret, err);
    pthread_mutex_unlock(&mux->views->change);
    return rc;
}

int mux_view_attach(struct mux *mux, const char *id, struct mux_attachment *ret,
                    struct af_error *err)
{
    return mux_view_attach_as(mux, id, 0, ret, err);
}

int mux_uid_reserve(struct mux *mux, uid_t *ret_uid, struct af_error *err)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    pthread_mutex_lock(&mux->views->change);
    uint32_t slot = take_slot(mux->views);
    pthread_mutex_unlock(&mux->views->change);
    if (slot == 0)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "all host uids are in use");
    *ret_uid = mux->uid_base + slot;
    return 0;
}

void mux_uid_release(struct mux *mux, uid_t uid)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    pthread_mutex_lock(&mux->views->change);
    give_slot(mux->views, uid - mux->uid_base);
    pthread_mutex_unlock(&mux->views->change);
}

// Nobody can open what has no name any more once its nodeids are stale.
static void reap(struct mux *mux, const struct mux_view *view)
{
    if (view->n_orphans == 0 && mux_gone_is_empty(&view->gone))
        return;
    struct store_txn *txn;
    uint64_t count;
    int rc = store_write_begin(mux->store, &txn);
    if (rc == 0) {
        rc = store_orphans_reap(txn, view->layers.ids[0], &count);
        if (rc == 0)
            rc = mux_gone_release(&view->gone, txn);
        if (rc == 0)
            rc = store_commit(txn);
        else
            store_abort(txn);
    }
    if (rc < 0) // mux_sandbox_recover will try again at the next start
        af_log(AF_LOG_WARN, "mux", "unlinked files could not be freed", "sandbox=%s errno=%d",
               view->sandbox_id.text, -rc);
}

static void detach(struct mux *mux, struct attached *entry)
{
    struct mux_view_table *table = mux->views;
    struct mux_slot *slot = &table->slots[entry->slot];
    pthread_rwlock_wrlock(&table->lock);
    HASH_DEL(table->by_id, entry);
    table->by_slot[entry->slot] = NULL;
    pthread_rwlock_unlock(&table->lock);
    pthread_rwlock_wrlock(&slot->lock); // waits for the operations under way
    struct mux_view *view = slot->view;
    slot->view = NULL;
    pthread_rwlock_unlock(&slot->lock);
    reap(mux, view);
    if (mux->notifier && mux->notifier->detached)
        mux->notifier->detached(mux->notifier_arg, entry->slot);
    give_slot(table, entry->slot);
    free_view(view);
    free(entry);
    if (!table->by_id)
        mux_kept_stop(mux);
}

void mux_view_detach(struct mux *mux, const char *id)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    struct mux_view_table *table = mux->views;
    pthread_mutex_lock(&table->change);
    struct attached *entry = find_id(table, id);
    if (entry)
        detach(mux, entry);
    pthread_mutex_unlock(&table->change);
    if (entry) // the kernel lets go of the whole tree
        mux_notify_inval_entry(mux, MUX_NODEID_TOP, id, strlen(id));
}

// ---- moving

bool mux_view_can_move(struct mux *mux, const char *id)
{
    uint64_t root;
    struct mux_op op;
    if (!mux_view_find(mux, id, &root) || mux_op_enter_inside(mux, root, &op) < 0)
        return false;
    bool can = !atomic_load(&op.view->shown);
    mux_op_leave(&op, 0);
    return can;
}

// Under `change`. False: somebody has seen it.
static bool move(struct mux *mux, struct attached *entry, uint32_t to)
{
    struct mux_view_table *table = mux->views;
    uint32_t from = entry->slot;
    struct mux_slot *slot = &table->slots[from];
    pthread_rwlock_wrlock(&slot->lock); // whoever is told of it now is told of a stale nodeid
    struct mux_view *view = slot->view;
    bool can = !atomic_load(&view->shown);
    if (can) {
        slot->view = NULL;
        settle(mux, view, to);
        publish(mux, view, entry, from);
    }
    pthread_rwlock_unlock(&slot->lock);
    if (!can)
        return false;
    if (mux->notifier && mux->notifier->detached)
        mux->notifier->detached(mux->notifier_arg, from);
    tell_attached(mux, view);
    give_slot(table, from);
    return true;
}

int mux_view_move(struct mux *mux, const char *id, uid_t uid, struct af_error *err)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    struct mux_view_table *table = mux->views;
    pthread_mutex_lock(&table->change);
    struct attached *entry = find_id(table, id);
    bool moved = entry && move(mux, entry, uid - mux->uid_base);
    pthread_mutex_unlock(&table->change);
    return moved ? 0
                 : af_error_set(err, AF_FAILED_PRECONDITION,
                                "the view of sandbox %s is not attached, or is in use", id);
}

void mux_view_hold(struct mux *mux, const char *sandbox_id, struct mux_hold *ret)
{
    struct mux_view_table *table = mux->views;
    uint64_t root;
    ret->mux = mux;
    for (;;) {
        if (mux_view_find(mux, sandbox_id, &root)) {
            if (mux_op_enter_exclusive(mux, root, &ret->op) == 0)
                return;
            continue; // detached in between
        }
        pthread_mutex_lock(&table->change);
        if (!find_id(table, sandbox_id)) {
            ret->op = (struct mux_op){.mux = mux};
            ret->attachments = table->next_epoch;
            return;
        }
        pthread_mutex_unlock(&table->change);
    }
}

void mux_view_release(struct mux_hold *hold)
{
    if (hold->op.view)
        mux_op_leave(&hold->op, 0);
    else
        pthread_mutex_unlock(&hold->mux->views->change);
}

void mux_view_table_free(struct mux *mux)
{
    struct mux_view_table *table = mux->views;
    if (!table)
        return;
    struct attached *entry, *next;
    HASH_ITER (hh, table->by_id, entry, next)
        detach(mux, entry);
    for (uint32_t i = 1; i <= table->n_ready; i++)
        pthread_rwlock_destroy(&table->slots[i].lock);
    pthread_rwlock_destroy(&table->lock);
    pthread_mutex_destroy(&table->change);
    free(table->slots);
    free(table->by_slot);
    free(table->queue);
    free(table);
    mux->views = NULL;
}

// ---- compaction

static bool has_run(const struct mux_layer_list *layers, const uint64_t *run, size_t count,
                    size_t *ret_at)
{
    for (size_t at = 1; at + count <= layers->count; at++) {
        if (memcmp(layers->ids + at, run, count * sizeof *run) == 0) {
            *ret_at = at;
            return true;
        }
    }
    return false;
}

// Whether the sandbox's stack is what the view goes by with `merged` in the place of the run.
static bool is_merged(const struct mux_layer_list *stored, const struct mux_layer_list *of_view,
                      size_t at, size_t count, uint64_t merged)
{
    size_t after = at + count, rest = of_view->count - after;
    return stored->count == of_view->count - count + 1 && stored->ids[at] == merged &&
           memcmp(stored->ids, of_view->ids, at * sizeof *stored->ids) == 0 &&
           memcmp(stored->ids + at + 1, of_view->ids + after, rest * sizeof *stored->ids) == 0;
}

// Under the view's lock, exclusively.
static void merge_layers(struct mux *mux, struct mux_view *view, const uint64_t *run, size_t count,
                         uint64_t merged)
{
    struct store_txn *txn;
    struct store_sandbox sandbox;
    AF_CLEANUP_LAYER_LIST struct mux_layer_list stored = {0};
    size_t at;
    if (!has_run(&view->layers, run, count, &at) || store_read_begin(mux->store, &txn) < 0)
        return;
    if (store_sandbox_get(txn, view->sandbox_id.text, &sandbox) == 0) {
        store_sandbox_free_rules(&sandbox);
        if (mux_layer_list_load(txn, sandbox.delta, sandbox.stack, &stored) == 0 &&
            is_merged(&stored, &view->layers, at, count, merged)) {
            struct mux_layer_list old = view->layers;
            view->layers = stored;
            stored = old;
        }
    }
    store_read_end(txn);
}

void mux_view_merge_layers(struct mux *mux, const uint64_t *run, size_t count, uint64_t merged)
{
    struct mux_view_table *table = mux->views;
    size_t at;
    // Who attaches now has read the stack before it was changed and is in its slot afterwards.
    pthread_mutex_lock(&table->change);
    for (uint32_t i = 1; i <= atomic_load(&table->n_ready); i++) {
        struct mux_slot *slot = &table->slots[i];
        pthread_rwlock_rdlock(&slot->lock);
        bool has = slot->view && has_run(&slot->view->layers, run, count, &at);
        pthread_rwlock_unlock(&slot->lock);
        if (!has)
            continue;
        pthread_rwlock_wrlock(&slot->lock);
        if (slot->view)
            merge_layers(mux, slot->view, run, count, merged);
        pthread_rwlock_unlock(&slot->lock);
    }
    pthread_mutex_unlock(&table->change);
}

uint64_t mux_view_table_count(struct mux *mux)
{
    pthread_rwlock_rdlock(&mux->views->lock);
    uint64_t count = HASH_COUNT(mux->views->by_id);
    pthread_rwlock_unlock(&mux->views->lock);
    return count;
}

bool mux_view_find(struct mux *mux, const char *sandbox_id, uint64_t *ret_root_nodeid)
{
    pthread_rwlock_rdlock(&mux->views->lock);
    struct attached *entry = find_id(mux->views, sandbox_id);
    if (entry)
        *ret_root_nodeid = entry->root_nodeid;
    pthread_rwlock_unlock(&mux->views->lock);
    return entry != NULL;
}

bool mux_view_uid(struct mux *mux, const char *id, uid_t *ret_uid)
{
    uint64_t root_nodeid;
    if (!mux_view_find(mux, id, &root_nodeid))
        return false;
    *ret_uid = mux->uid_base + mux_nodeid_slot(root_nodeid);
    return true;
}

bool mux_view_next(struct mux *mux, uint32_t *slot, struct af_id *ret_id, uint64_t *ret_root_nodeid)
{
    struct mux_view_table *table = mux->views;
    bool found = false;
    pthread_rwlock_rdlock(&table->lock);
    for (uint32_t i = *slot; !found && i <= atomic_load(&table->n_ready); i++) {
        struct attached *entry = table->by_slot[i];
        if (!entry)
            continue;
        strcpy(ret_id->text, entry->id);
        *ret_root_nodeid = entry->root_nodeid;
        *slot = i;
        found = true;
    }
    pthread_rwlock_unlock(&table->lock);
    return found;
}
