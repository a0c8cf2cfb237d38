// Compaction: which stacks are looked at, the merges under way, and who is told.
//
// A commit that makes a deep stack wakes the thread. It looks at the newest stack of each line of
// stacks (an older one is part of a newer one; what they share is merged for both), plans a merge
// (compact_plan.c) and works on the lightest of the merges under way, one transaction at a time, so
// that a base of a million files that is being merged keeps no small layers from being merged above
// it. A finished merge is put in place in the store, then in the views that are attached, each
// under its lock; only then are the old layers let go. In between a view goes by the old layers,
// which tell the same. After a slice of a millisecond or so the thread pauses: as long as it
// worked, or longer while others want the writer, but not while a stack grows faster than it works;
// at MUX_STACK_SOFT_MAX layers whoever adds one more does slices of the work first. An error (a
// full disk) ends the merge; it is tried again later. Owns the thread, the merges, the ids of the
// stacks still to be looked at. Locks: `turn` is held for one slice (rank: outside of the view
// table); `lock` guards what wakes and stops the thread (a leaf). Read next: compact_plan.h,
// mux/store/merge.c.
#include "mux/compact.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"
#include "mux/compact_plan.h"
#include "mux/fid_map.h"
#include "mux/kept.h"
#include "mux/layer_list.h"
#include "mux/parts.h"
#include "mux/view.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define JOBS_MAX     16
#define STEP_RECORDS 128
#define SLICE_NS     (AF_NS_PER_SEC / 1000) // after which no further transaction of a merge is begun
#define STACKS_MAX   65536 // noted at once; beyond, the oldest wait until they are noted again
#define WEIGHTS_MAX  65536
#define RETRY_NS     (5 * AF_NS_PER_SEC)
#define HELD_NS      (AF_NS_PER_SEC / 200)
#define PAUSE_MIN_NS (AF_NS_PER_SEC / 5000)
#define PAUSE_MAX_NS (AF_NS_PER_SEC / 20)
#define BUSY_FACTOR  4 // times its own work that the thread pauses while others want to write

struct job {
    struct store_merge *merge; // NULL: free
    uint64_t run[MUX_COMPACT_MAX];
    size_t count;
    uint64_t weight;
    bool done;   // everything is written: to be put in place
    bool ending; // in place, or given up: to be let go
};

struct mux_compact {
    struct mux *mux;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t turn;
    struct job jobs[JOBS_MAX];        // under turn
    uint64_t *stacks;                 // to be looked at, oldest first; under turn
    size_t n_stacks, stacks_capacity; // under turn
    bool missed;                      // there are others: look through the records; under turn
    struct mux_fid_map weights;       // of frozen layers, never changing; under turn
    bool behind;                      // a stack is longer than two merges take; under turn
    unsigned holds;                   // of those who go by lists of layers; under turn
    int64_t retry_ns;                 // after an error nothing is begun before; under turn

    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool woken, stop; // under lock
};

// ---- the stacks to look at

static int note_stack(struct mux_compact *compact, uint64_t stack)
{
    if (compact->n_stacks == STACKS_MAX)
        return 0;
    if (compact->n_stacks == compact->stacks_capacity) {
        size_t capacity = compact->stacks_capacity ? compact->stacks_capacity * 2 : 64;
        uint64_t *stacks = realloc(compact->stacks, capacity * sizeof *stacks);
        if (!stacks)
            return -ENOMEM;
        compact->stacks = stacks;
        compact->stacks_capacity = capacity;
    }
    compact->stacks[compact->n_stacks++] = stack;
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// Once at the start, and when more were made than noted: the newest ones.
static int scan_stacks(struct mux_compact *compact)
{
    uint64_t ids[256], before = UINT64_MAX;
    size_t count;
    int rc;
    do {
        rc = store_deep_scan(compact->mux->store, before, ids, AF_ARRAY_LEN(ids), &count);
        for (size_t i = 0; rc == 0 && i < count; i++)
            rc = note_stack(compact, ids[i]);
        if (count > 0)
            before = ids[count - 1];
    } while (rc == 0 && count > 0 && compact->n_stacks < STACKS_MAX);
    return rc;
}

static int gather_stacks(struct mux_compact *compact)
{
    uint64_t ids[STORE_DEEP_MAX];
    bool missed;
    size_t count = store_deep_take(compact->mux->store, ids, &missed);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = note_stack(compact, ids[i]);
    if (rc == 0 && (missed || compact->missed)) {
        compact->missed = false;
        rc = scan_stacks(compact);
    }
    if (compact->n_stacks == 0)
        return rc;
    qsort(compact->stacks, compact->n_stacks, sizeof *compact->stacks, compare_ids);
    size_t unique = 0;
    for (size_t i = 0; i < compact->n_stacks; i++)
        if (unique == 0 || compact->stacks[unique - 1] != compact->stacks[i])
            compact->stacks[unique++] = compact->stacks[i];
    compact->n_stacks = unique;
    return rc;
}

// ---- planning

static bool is_busy(const struct mux_compact *compact, uint64_t layer)
{
    for (size_t i = 0; i < JOBS_MAX; i++)
        for (size_t j = 0; compact->jobs[i].merge && j < compact->jobs[i].count; j++)
            if (compact->jobs[i].run[j] == layer)
                return true;
    return false;
}

static int weigh(struct mux_compact *compact, struct store_txn *txn, uint64_t layer, uint64_t *ret)
{
    if (mux_fid_map_get(&compact->weights, layer, ret))
        return 0;
    int rc = store_layer_weight(txn, layer, ret);
    if (rc == 0 && compact->weights.used >= WEIGHTS_MAX)
        mux_fid_map_fini(&compact->weights); // it fills again with those that are still there
    return rc < 0 ? rc : mux_fid_map_put(&compact->weights, layer, *ret);
}

struct plan {
    bool found, waits; // waits: for a merge under way
    bool is_bottom;
    uint64_t run[MUX_COMPACT_MAX];
    size_t count;
    uint64_t weight;
};

// Plans for what is above the first layer that a merge under way has.
static int plan_stack(struct mux_compact *compact, struct store_txn *txn,
                      const struct mux_layer_list *layers, struct plan *ret)
{
    size_t n = 0, at, count;
    AF_CLEANUP_FREE uint64_t *weights = calloc(layers->count + 1, sizeof *weights);
    if (!weights)
        return -ENOMEM;
    while (n < layers->count && !is_busy(compact, layers->ids[n])) {
        // The top one may still take in what its only view pushes (push.c).
        int rc = n == 0 ? store_layer_weight(txn, layers->ids[n], &weights[n])
                        : weigh(compact, txn, layers->ids[n], &weights[n]);
        if (rc < 0)
            return rc;
        n++;
    }
    *ret = (struct plan){.waits = n < layers->count};
    if (!mux_compact_plan(weights, n, &at, &count))
        return 0;
    ret->found = true;
    ret->count = count;
    compact->behind = compact->behind || n > 2UL * MUX_COMPACT_MAX;
    ret->is_bottom = at + count == layers->count;
    memcpy(ret->run, layers->ids + at, count * sizeof *ret->run);
    for (size_t i = at; i < at + count; i++)
        ret->weight += weights[i];
    return 0;
}

static struct job *free_job(struct mux_compact *compact)
{
    for (size_t i = 0; i < JOBS_MAX; i++)
        if (!compact->jobs[i].merge)
            return &compact->jobs[i];
    return NULL;
}

static int begin_job(struct mux_compact *compact, struct job *job, const struct plan *plan)
{
    int rc = store_merge_begin(compact->mux->store, plan->run, plan->count, plan->is_bottom,
                               &job->merge);
    if (rc < 0) {
        job->merge = NULL;
        return rc;
    }
    job->count = plan->count;
    job->weight = plan->weight;
    job->done = job->ending = false;
    memcpy(job->run, plan->run, plan->count * sizeof *plan->run);
    return 0;
}

// Looks at one stack. *ret_keep: it is to be looked at again.
static int look_at(struct mux_compact *compact, uint64_t stack, struct mux_fid_map *seen,
                   bool *ret_keep)
{
    struct store_txn *txn;
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    struct plan plan = {0};
    uint64_t newer;
    *ret_keep = false;
    int rc = store_read_begin(compact->mux->store, &txn);
    if (rc < 0)
        return rc;
    rc = mux_layer_list_load(txn, 0, stack, &layers);
    bool is_old = rc == 0 && layers.count > 0 && mux_fid_map_get(seen, layers.ids[0], &newer);
    if (rc == 0 && !is_old)
        rc = plan_stack(compact, txn, &layers, &plan);
    store_read_end(txn);
    if (rc < 0 || is_old)
        return rc == -ENOENT ? 0 : rc;
    for (size_t i = 0; rc == 0 && i < layers.count; i++)
        rc = mux_fid_map_put(seen, layers.ids[i], 1);
    struct job *job = free_job(compact);
    *ret_keep = plan.found || plan.waits;
    if (rc == 0 && plan.found && job)
        rc = begin_job(compact, job, &plan);
    if (rc == -ENOENT) // its layers are gone since it was planned, or live again
        *ret_keep = false;
    return rc == -ENOENT ? 0 : rc;
}

// Looks at the stacks that were noted, newest first, and begins merges.
static int look(struct mux_compact *compact)
{
    AF_CLEANUP_FID_MAP struct mux_fid_map seen = {0};
    int rc = gather_stacks(compact);
    compact->behind = false;
    if (compact->n_stacks == 0)
        return rc;
    size_t kept = compact->n_stacks;
    for (size_t i = compact->n_stacks; rc == 0 && i-- > 0;) {
        bool keep;
        rc = look_at(compact, compact->stacks[i], &seen, &keep);
        if (keep || rc < 0)
            compact->stacks[--kept] = compact->stacks[i];
        if (rc < 0) { // those not looked at stay
            size_t rest = compact->n_stacks - kept;
            memmove(compact->stacks + i, compact->stacks + kept, rest * sizeof *compact->stacks);
            compact->n_stacks = i + rest;
            return rc;
        }
    }
    compact->n_stacks -= kept;
    memmove(compact->stacks, compact->stacks + kept, compact->n_stacks * sizeof *compact->stacks);
    return rc;
}

// ---- working

static struct job *lightest_job(struct mux_compact *compact)
{
    struct job *best = NULL;
    for (size_t i = 0; i < JOBS_MAX; i++) {
        struct job *job = &compact->jobs[i];
        if (job->merge && (!best || job->weight < best->weight))
            best = job;
    }
    return best;
}

static int put_in_place(struct mux_compact *compact, struct job *job)
{
    size_t stacks;
    int rc;
    do
        rc = store_merge_swap(job->merge, &stacks);
    while (rc == 0 && stacks > 0);
    if (rc < 0)
        return rc;
    mux_view_merge_layers(compact->mux, job->run, job->count, store_merge_layer(job->merge));
    rc = mux_parts_note(compact->mux, job->run, job->count, store_merge_layer(job->merge));
    if (rc < 0) // it costs time, no more: whoever is behind looks through the whole layer
        af_log(AF_LOG_WARN, "mux", "the parts of a merged layer are forgotten", "errno=%d", -rc);
    mux_count(&compact->mux->counters.merges);
    job->ending = true;
    return 0;
}

static int end_job(struct mux_compact *compact, struct job *job)
{
    int rc = store_merge_end(job->merge);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < job->count; i++)
        mux_fid_map_del(&compact->weights, job->run[i]);
    store_merge_free(job->merge);
    job->merge = NULL;
    return 0;
}

static int work_on(struct mux_compact *compact, struct job *job)
{
    int rc = 0;
    int64_t until_ns = af_monotonic_ns() + SLICE_NS;
    if (!job->done && !store_merge_is_wanted(job->merge))
        job->ending = true;
    while (rc == 0 && !job->done && !job->ending && af_monotonic_ns() < until_ns)
        rc = store_merge_step(job->merge, STEP_RECORDS, &job->done);
    if (rc == 0 && job->done && !job->ending && compact->holds == 0)
        rc = put_in_place(compact, job);
    if (rc < 0) { // some stacks may have the new layer already: their views must, too
        af_log(AF_LOG_WARN, "mux", "cannot merge layers; it will be tried again", "errno=%d", -rc);
        mux_view_merge_layers(compact->mux, job->run, job->count, store_merge_layer(job->merge));
        job->ending = true;
    }
    if (!job->ending)
        return 0;
    int ended = end_job(compact, job);
    return rc < 0 ? rc : ended;
}

static int slice(struct mux_compact *compact, bool *ret_more)
{
    int rc = 0;
    if (af_monotonic_ns() >= compact->retry_ns)
        rc = look(compact);
    struct job *job = lightest_job(compact);
    if (rc == 0 && job)
        rc = work_on(compact, job);
    if (rc < 0)
        compact->retry_ns = af_monotonic_ns() + RETRY_NS;
    *ret_more = rc == 0 && (job || compact->n_stacks > 0);
    return rc == 0 && !*ret_more ? mux_parts_sweep(compact->mux) : rc;
}

static void wake(void *arg)
{
    struct mux_compact *compact = arg;
    pthread_mutex_lock(&compact->lock);
    compact->woken = true;
    pthread_cond_signal(&compact->wake);
    pthread_mutex_unlock(&compact->lock);
}

void mux_compact_wake(struct mux *mux)
{
    if (mux->compact)
        wake(mux->compact);
}

static void pause_until(struct mux_compact *compact, int64_t until_ns)
{
    struct timespec ts = af_timespec_of_ns(until_ns);
    pthread_cond_timedwait(&compact->wake, &compact->lock, &ts);
}

int mux_compact_step(struct mux *mux, bool *ret_more)
{
    struct mux_compact *compact = mux->compact;
    pthread_mutex_lock(&compact->turn);
    int rc = slice(compact, ret_more);
    pthread_mutex_unlock(&compact->turn);
    return rc;
}

int mux_compact_relieve(struct mux *mux, bool *ret_more)
{
    struct mux_compact *compact = mux->compact;
    pthread_mutex_lock(&compact->turn);
    compact->retry_ns = 0;
    int rc = slice(compact, ret_more);
    bool held = compact->holds > 0;
    pthread_mutex_unlock(&compact->turn);
    if (rc == 0 && held) { // what is merged waits for others
        pthread_mutex_lock(&compact->lock);
        pause_until(compact, af_monotonic_ns() + HELD_NS);
        pthread_mutex_unlock(&compact->lock);
    }
    return rc;
}

void mux_compact_hold(struct mux *mux)
{
    pthread_mutex_lock(&mux->compact->turn);
    mux->compact->holds++;
    pthread_mutex_unlock(&mux->compact->turn);
}

void mux_compact_release(struct mux *mux)
{
    pthread_mutex_lock(&mux->compact->turn);
    mux->compact->holds--;
    pthread_mutex_unlock(&mux->compact->turn);
    wake(mux->compact);
}

int mux_compact_drain(struct mux *mux)
{
    bool more = true;
    int rc = 0;
    while (rc == 0 && more)
        rc = mux_compact_relieve(mux, &more);
    return rc < 0 ? rc : mux_kept_sweep(mux, &more);
}

// ---- the thread

static void *run(void *arg)
{
    struct mux_compact *compact = arg;
    pthread_setname_np(pthread_self(), "compact");
    pthread_mutex_lock(&compact->lock);
    while (!compact->stop) {
        bool more;
        compact->woken = false;
        pthread_mutex_unlock(&compact->lock);
        int64_t began_ns = af_monotonic_ns();
        pthread_mutex_lock(&compact->turn);
        int rc = slice(compact, &more);
        bool behind = compact->behind;
        pthread_mutex_unlock(&compact->turn);
        bool unasked = false;
        if (rc == 0)
            rc = mux_kept_sweep(compact->mux, &unasked);
        more = more || unasked;
        int64_t now_ns = af_monotonic_ns(), pause_ns = now_ns - began_ns;
        if (behind)
            pause_ns = 0;
        else if (store_has_writers(compact->mux->store))
            pause_ns *= BUSY_FACTOR;
        pause_ns = pause_ns < PAUSE_MIN_NS ? PAUSE_MIN_NS : pause_ns;
        pause_ns = pause_ns > PAUSE_MAX_NS ? PAUSE_MAX_NS : pause_ns;
        pthread_mutex_lock(&compact->lock);
        int64_t until_ns = now_ns + (rc < 0 ? RETRY_NS : pause_ns);
        // What wakes is looked at after the pause: many commits are one look.
        while (!compact->stop && (rc < 0 || more || compact->woken) && af_monotonic_ns() < until_ns)
            pause_until(compact, until_ns);
        while (!compact->stop && rc == 0 && !more && !compact->woken)
            pthread_cond_wait(&compact->wake, &compact->lock);
    }
    pthread_mutex_unlock(&compact->lock);
    return NULL;
}

int mux_compact_start(struct mux *mux, bool with_thread)
{
    struct mux_compact *compact = calloc(1, sizeof *compact);
    if (!compact)
        return -ENOMEM;
    compact->mux = mux;
    compact->missed = true; // what the last run did not finish
    pthread_mutex_init(&compact->turn, NULL);
    pthread_mutex_init(&compact->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&compact->wake, &attr);
    pthread_condattr_destroy(&attr);
    mux->compact = compact;
    if (!with_thread)
        return 0;
    store_deep_listen(mux->store, wake, compact);
    int rc = pthread_create(&compact->thread, NULL, run, compact);
    compact->has_thread = rc == 0;
    return -rc;
}

void mux_compact_stop(struct mux *mux)
{
    struct mux_compact *compact = mux->compact;
    if (!compact)
        return;
    store_deep_listen(mux->store, NULL, NULL);
    store_kept_listen(mux->store, NULL, NULL);
    if (compact->has_thread) {
        pthread_mutex_lock(&compact->lock);
        compact->stop = true;
        pthread_cond_signal(&compact->wake);
        pthread_mutex_unlock(&compact->lock);
        pthread_join(compact->thread, NULL);
    }
    for (size_t i = 0; i < JOBS_MAX; i++) {
        struct job *job = &compact->jobs[i];
        if (job->merge && end_job(compact, job) < 0)
            store_merge_free(job->merge); // the next start ends it
    }
    pthread_cond_destroy(&compact->wake);
    pthread_mutex_destroy(&compact->lock);
    pthread_mutex_destroy(&compact->turn);
    mux_fid_map_fini(&compact->weights);
    free(compact->stacks);
    free(compact);
    mux->compact = NULL;
}
