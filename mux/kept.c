// Kept versions: asking the kernel, and letting go. Read next: kept.h, mux/store/kept.c.
#include "mux/kept.h"

#include "mux/base/log.h"
#include "mux/compact.h"
#include "mux/fid_map.h"
#include "mux/node.h"
#include "mux/nodeid.h"
#include "mux/view.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define BATCH 256

// A version's value: whether the kernel has been asked; then how many nodeids of it may be open, of
// those asked about in one round; before that the turn it was kept in.
#define ASKED       1u
#define VALUE_BIT   1u
#define ROUND_SHIFT 32u

struct mux_kept {
    pthread_mutex_t asking, lock;
    struct mux_fid_map versions;
    struct mux_fid_map open; // nodeids of those asked about that the kernel may have -> the round
    _Atomic size_t count;
    uint32_t round;      // counts versions asked about
    uint64_t turn;       // counts; a change of a view belongs to the turn it began in
    unsigned running[2]; // such changes, by their turn modulo 2; never of more than two turns
};

int mux_kept_new(struct mux *mux)
{
    mux->kept = calloc(1, sizeof *mux->kept);
    if (!mux->kept)
        return -ENOMEM;
    pthread_mutex_init(&mux->kept->asking, NULL);
    pthread_mutex_init(&mux->kept->lock, NULL);
    return 0;
}

void mux_kept_free(struct mux *mux)
{
    if (!mux->kept)
        return;
    mux_fid_map_fini(&mux->kept->versions);
    mux_fid_map_fini(&mux->kept->open);
    pthread_mutex_destroy(&mux->kept->lock);
    pthread_mutex_destroy(&mux->kept->asking);
    free(mux->kept);
    mux->kept = NULL;
}

// Before a commit of the store, under its writer lock. What is kept again, for it was in a frozen
// layer once more meanwhile, is asked about again: somebody may have looked it up there.
static void note(void *arg, const uint64_t *versions, size_t count)
{
    struct mux *mux = arg;
    struct mux_kept *kept = mux->kept;
    pthread_mutex_lock(&kept->lock);
    for (size_t i = 0; i < count; i++) {
        bool known = mux_fid_map_get(&kept->versions, versions[i], NULL);
        // For want of memory it stays until no view is attached.
        if (mux_fid_map_put(&kept->versions, versions[i], kept->turn << VALUE_BIT) == 0 && !known)
            kept->count++;
    }
    pthread_mutex_unlock(&kept->lock);
    mux_compact_wake(mux);
}

void mux_kept_start(struct mux *mux, struct rules *rules)
{
    rules_state root = rules_root(rules);
    if (rules_below_min(rules, root) != RULES_WRITE)
        store_kept_listen(mux->store, note, mux);
    rules_state_release(rules, root);
}

void mux_kept_stop(struct mux *mux)
{
    struct mux_kept *kept = mux->kept;
    store_kept_listen(mux->store, NULL, NULL);
    pthread_mutex_lock(&kept->lock);
    mux_fid_map_fini(&kept->versions);
    mux_fid_map_fini(&kept->open);
    kept->count = 0;
    pthread_mutex_unlock(&kept->lock);
    int rc = store_kept_drop_all(mux->store);
    if (rc < 0) // the next start will
        af_log(AF_LOG_WARN, "mux", "replaced files could not be freed", "errno=%d", -rc);
}

// ---- when to ask

uint64_t mux_kept_begin_change(struct mux *mux)
{
    struct mux_kept *kept = mux->kept;
    pthread_mutex_lock(&kept->lock);
    uint64_t turn = kept->turn;
    kept->running[turn & 1]++;
    pthread_mutex_unlock(&kept->lock);
    return turn;
}

void mux_kept_end_change(struct mux *mux, uint64_t turn)
{
    pthread_mutex_lock(&mux->kept->lock);
    mux->kept->running[turn & 1]--;
    pthread_mutex_unlock(&mux->kept->lock);
}

// A turn ends when no change of the one before is under way: so all that began no later than some
// turn have ended two turns later. Under the lock.
static void advance(struct mux_kept *kept)
{
    for (int i = 0; i < 2 && kept->running[(kept->turn + 1) & 1] == 0; i++)
        kept->turn++;
}

static bool may_ask(const struct mux_kept *kept, uint64_t value)
{
    return !(value & ASKED) && (value >> VALUE_BIT) + 2 <= kept->turn;
}

static bool has_nobody(uint64_t value)
{
    return (uint32_t)value == ASKED;
}

// In an operation, or with kept.asking held: the notifier stays.
static void ask(struct mux *mux, uint64_t nodeid)
{
    if (mux->notifier && mux->notifier->confirm_forget)
        mux->notifier->confirm_forget(mux->notifier_arg, nodeid);
}

void mux_kept_pause_asking(struct mux *mux)
{
    pthread_mutex_lock(&mux->kept->asking);
}

void mux_kept_resume_asking(struct mux *mux)
{
    pthread_mutex_unlock(&mux->kept->asking);
}

// ---- what the kernel says

static bool is_asked_about(struct mux *mux, uint64_t nodeid)
{
    struct mux_kept *kept = mux->kept;
    uint64_t value = 0;
    if (atomic_load_explicit(&kept->count, memory_order_relaxed) == 0)
        return false;
    pthread_mutex_lock(&kept->lock);
    mux_fid_map_get(&kept->versions, mux_nodeid_fid(nodeid), &value);
    pthread_mutex_unlock(&kept->lock);
    return value & ASKED;
}

void mux_kept_forget(struct mux *mux, uint64_t nodeid)
{
    if (!is_asked_about(mux, nodeid))
        return; // it will be
    if (mux->notifier)
        ask(mux, nodeid);
    else // nobody to ask: a FORGET is believed
        mux_kept_forgotten(mux, nodeid);
}

void mux_kept_forgotten(struct mux *mux, uint64_t nodeid)
{
    struct mux_kept *kept = mux->kept;
    uint64_t version = mux_nodeid_fid(nodeid), value, round;
    bool nobody = false;
    pthread_mutex_lock(&kept->lock);
    if (mux_fid_map_get(&kept->open, nodeid, &round)) {
        mux_fid_map_del(&kept->open, nodeid);
        if (mux_fid_map_get(&kept->versions, version, &value) && (value & ASKED) &&
            value >> ROUND_SHIFT == round) {
            value -= 1u << VALUE_BIT;
            nobody = has_nobody(value);
            mux_fid_map_put(&kept->versions, version, value); // in place: cannot fail
        }
    }
    pthread_mutex_unlock(&kept->lock);
    mux_node_cache_drop(mux->nodes, nodeid);
    if (nobody)
        mux_compact_wake(mux);
}

// ---- letting go

struct round {
    uint64_t ask[BATCH], drop[BATCH];
    size_t n_ask, n_drop;
    bool waits; // for changes under way
};

// Up to a batch of each kind, from *position on. False: that was all.
static bool gather(struct mux_kept *kept, size_t *position, struct round *ret)
{
    uint64_t version, value;
    bool found = false;
    *ret = (struct round){0};
    pthread_mutex_lock(&kept->lock);
    advance(kept);
    while (ret->n_ask < BATCH && ret->n_drop < BATCH &&
           (found = mux_fid_map_next(&kept->versions, position, &version, &value))) {
        if (has_nobody(value))
            ret->drop[ret->n_drop++] = version;
        else if (may_ask(kept, value))
            ret->ask[ret->n_ask++] = version;
        else if (!(value & ASKED))
            ret->waits = true;
    }
    pthread_mutex_unlock(&kept->lock);
    return found;
}

// The numbers beside a version in its nodeids: the classes or, where nothing is shared, the routes
// of the views. No view that comes later can get one.
static int list_places(struct mux *mux, uint32_t **ret, size_t *ret_count)
{
    size_t count = 0, room = 2;
    uint32_t slot = 1;
    uint64_t root;
    struct af_id id;
    if (mux->no_sharing)
        room = mux_view_table_count(mux) + 16;
    uint32_t *places = calloc(room, sizeof *places);
    if (!places)
        return -ENOMEM;
    if (!mux->no_sharing) {
        places[count++] = MUX_CLASS_READ;
        places[count++] = MUX_CLASS_VIEW;
    }
    while (mux->no_sharing && mux_view_next(mux, &slot, &id, &root)) {
        if (count == room) {
            free(places);
            return -EAGAIN; // they come in numbers: next time
        }
        places[count++] = mux_nodeid_route(root);
        slot++;
    }
    *ret = places;
    *ret_count = count;
    return 0;
}

// Notes what is asked about before it is asked. *ret_may: it may be, still.
static int note_open(struct mux_kept *kept, uint64_t version, const uint32_t *places, size_t count,
                     bool *ret_may)
{
    uint64_t value;
    int rc = 0;
    pthread_mutex_lock(&kept->lock);
    uint64_t round = ++kept->round;
    *ret_may = mux_fid_map_get(&kept->versions, version, &value) && may_ask(kept, value);
    for (size_t i = 0; *ret_may && rc == 0 && i < count; i++)
        rc = mux_fid_map_put(&kept->open, mux_nodeid_pinned(places[i], version), round);
    for (size_t i = 0; rc < 0 && i < count; i++)
        mux_fid_map_del(&kept->open, mux_nodeid_pinned(places[i], version));
    if (rc == 0 && *ret_may) // in place: cannot fail
        mux_fid_map_put(&kept->versions, version,
                        round << ROUND_SHIFT | (uint64_t)count << VALUE_BIT | ASKED);
    pthread_mutex_unlock(&kept->lock);
    return rc;
}

static int ask_about(struct mux *mux, const struct round *round)
{
    AF_CLEANUP_FREE uint32_t *places = NULL;
    size_t count = 0;
    int rc = round->n_ask > 0 ? list_places(mux, &places, &count) : 0;
    for (size_t i = 0; rc == 0 && i < round->n_ask; i++) {
        bool may;
        rc = note_open(mux->kept, round->ask[i], places, count, &may);
        mux_kept_pause_asking(mux);
        for (size_t k = 0; rc == 0 && may && k < count; k++)
            ask(mux, mux_nodeid_pinned(places[k], round->ask[i]));
        mux_kept_resume_asking(mux);
    }
    return rc;
}

// Of those, what still nobody has. Under the store's writer lock, which whoever keeps one has, too.
static size_t of_nobody(struct mux_kept *kept, const struct round *round, uint64_t ret[BATCH])
{
    uint64_t value;
    size_t count = 0;
    pthread_mutex_lock(&kept->lock);
    for (size_t i = 0; i < round->n_drop; i++)
        if (mux_fid_map_get(&kept->versions, round->drop[i], &value) && has_nobody(value))
            ret[count++] = round->drop[i];
    pthread_mutex_unlock(&kept->lock);
    return count;
}

static int drop(struct mux *mux, const struct round *round)
{
    struct mux_kept *kept = mux->kept;
    struct store_txn *txn;
    uint64_t versions[BATCH], value;
    if (round->n_drop == 0)
        return 0;
    int rc = store_write_begin(mux->store, &txn);
    if (rc < 0)
        return rc;
    size_t count = of_nobody(kept, round, versions);
    rc = store_kept_drop(txn, versions, count);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&kept->lock);
    for (size_t i = 0; i < count; i++) {
        if (!mux_fid_map_get(&kept->versions, versions[i], &value) || !has_nobody(value))
            continue; // kept again since
        mux_fid_map_del(&kept->versions, versions[i]);
        kept->count--;
    }
    if (kept->count == 0) {
        mux_fid_map_fini(&kept->versions);
        mux_fid_map_fini(&kept->open);
    }
    pthread_mutex_unlock(&kept->lock);
    return 0;
}

int mux_kept_sweep(struct mux *mux, bool *ret_more)
{
    struct round round;
    size_t position = 0;
    bool more = true;
    int rc = 0;
    *ret_more = false;
    if (atomic_load_explicit(&mux->kept->count, memory_order_relaxed) == 0)
        return 0;
    while (rc == 0 && more) {
        more = gather(mux->kept, &position, &round);
        *ret_more |= round.waits;
        rc = ask_about(mux, &round);
        if (rc == -EAGAIN) {
            *ret_more = true;
            rc = 0;
        }
        if (rc == 0)
            rc = drop(mux, &round);
    }
    return rc;
}
