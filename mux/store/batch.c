// Batches: small changes that share one LMDB transaction.
//
// A transaction of its own costs a small change some ten copied pages, each written with a system
// call of its own; in a batch most of its pages have been copied before. The change is acknowledged
// once its journal record is written (journal.c), and the batch is committed when it is large, old,
// or in somebody's way: whoever wants a transaction of his own, a sync point, a reader of what
// pends.
//
// LMDB's writer lock belongs to the thread that begins a transaction, so one thread, the owner,
// begins and commits the batches; the changes between are made by whoever has batch.lock. That lock
// is the writer lock of the whole store: a transaction of one's own is made under it, too.
// A change that fails half way is taken back by doing the others again, from the journal's copy in
// memory. So is a commit that fails: its changes stay readable, and new ones get its error until it
// has worked. A batch is opened after some changes in a row, so that a lone change wakes nobody.
// Owns the thread. Lock: batch.lock, waited on with `wake` and `turned`. Read next: txn.c.
#include "mux/store/store_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS         (10 * 1000000LL) // the owner looks this often at an open batch
#define AGE_NS          (50 * 1000000LL) // closes it then
#define IDLE_MAX        5                // or when it was found empty this often
#define BUSY_CHANGES    8                // a batch of as many is followed by another
#define PATH_PAGES      4                // of one record, at most, nearly always
#define LEAF_PAGES      2                // of one record: a leaf, and another when it is split
#define BATCH_PAGES_MIN 64

#ifdef __SANITIZE_THREAD__
// The owner has LMDB's lock while it waits for batch.lock, all others take them the other way
// round: but they take LMDB's only when no batch is open, so when the owner does not have it.
const char *__tsan_default_suppressions(void); // NOLINT: the name is the sanitizer's
const char *__tsan_default_suppressions(void)
{
    return "deadlock:liblmdb\n";
}
#endif

// One store at a time is locked by a thread.
static _Thread_local struct {
    const struct store *store;
    unsigned depth;
} held;

static bool is_open(const struct store_batch *batch)
{
    return batch->mdb || batch->redo.used > 0;
}

bool store_batch_is_mine(const struct store *store)
{
    return held.store == store;
}

static void lock_it(struct store *store)
{
    pthread_mutex_lock(&store->batch.lock);
    held.store = store;
    held.depth = 1;
}

static void unlock_it(struct store *store)
{
    held.store = NULL;
    held.depth = 0;
    pthread_mutex_unlock(&store->batch.lock);
}

// ---- the owner, under the lock

static int begin_mdb(struct store *store)
{
    return store_errno(mdb_txn_begin(store->env, NULL, 0, &store->batch.mdb));
}

// LMDB frees a transaction's cursors with it.
static int commit_mdb(struct store_batch *batch)
{
    MDB_txn *mdb = batch->mdb;
    batch->mdb = NULL;
    memset(batch->cursors, 0, sizeof batch->cursors);
    return store_errno(mdb_txn_commit(mdb));
}

static void abort_mdb(struct store_batch *batch)
{
    if (batch->mdb)
        mdb_txn_abort(batch->mdb);
    batch->mdb = NULL;
    memset(batch->cursors, 0, sizeof batch->cursors);
}

static void forget_changes(struct store_batch *batch)
{
    batch->redo.used = batch->redo.begun = 0;
    batch->redo.number = 0;
    batch->changes = batch->puts = 0;
    atomic_store(&batch->pending, 0);
}

// The changes so far in a new transaction; the old one, if any, is gone.
static int do_again(struct store *store)
{
    struct store_batch *batch = &store->batch;
    abort_mdb(batch);
    int rc = begin_mdb(store);
    if (rc == 0)
        rc = store_redo_apply(store, batch->mdb, &batch->redo);
    if (rc == 0)
        return 0;
    abort_mdb(batch);
    af_log(AF_LOG_ERROR, "store", "changes wait in the journal", "errno=%d", -rc);
    return rc;
}

// How many records can be put or deleted in the new batch with as many pages. Each may take the
// whole path to it; but no page is taken twice, so all together take the branches once.
static unsigned puts_of_pages(struct store *store, uint64_t pages)
{
    uint64_t branches = BATCH_PAGES_MIN, puts = pages / PATH_PAGES;
    for (int i = 0; i < STORE_DBI_COUNT; i++) {
        MDB_stat stat;
        int rc = mdb_stat(store->batch.mdb, store->dbi[i], &stat);
        branches += rc == 0 ? stat.ms_branch_pages : pages;
    }
    if (pages > branches && (pages - branches) / LEAF_PAGES > puts)
        puts = (pages - branches) / LEAF_PAGES;
    return puts < STORE_BATCH_PUTS_MAX ? (unsigned)puts : STORE_BATCH_PUTS_MAX;
}

// The disk is not asked: somebody may wait for the lock.
static void open_batch(struct store *store)
{
    struct store_batch *batch = &store->batch;
    uint64_t pages = store_room_left(store) / store->page_bytes;
    if (atomic_load(&store->full) || pages < BATCH_PAGES_MIN || store_journal_open(store) < 0 ||
        begin_mdb(store) < 0)
        return; // changes go on one by one
    batch->puts_max = puts_of_pages(store, pages);
    batch->base = mdb_txn_id(batch->mdb) - 1;
    batch->wanted = false;
    batch->wants_room = true; // for the next one
    batch->error = 0;
    batch->idle = 0;
    forget_changes(batch);
    int64_t now_ns = af_monotonic_ns();
    batch->due_ns = now_ns + LOOK_NS;
    batch->old_ns = now_ns + AGE_NS;
}

static int commit_batch(struct store *store)
{
    struct store_batch *batch = &store->batch;
    int rc = batch->mdb ? 0 : do_again(store);
    if (rc < 0)
        return rc;
    uint64_t id = mdb_txn_id(batch->mdb);
    rc = commit_mdb(batch);
    if (rc == 0) {
        // First: store_sync looks at what pends, then at the last commit.
        store_note_commit(store, id);
        forget_changes(batch);
        batch->wants_room = true;
        return 0;
    }
    af_log(AF_LOG_ERROR, "store", "cannot commit changes; they are tried again", "errno=%d", -rc);
    if (rc == -ENOSPC)
        atomic_store(&store->full, true);
    do_again(store);
    return rc;
}

static void close_batch(struct store *store)
{
    struct store_batch *batch = &store->batch;
    unsigned changes = batch->changes;
    if (batch->redo.used > 0) {
        batch->error = commit_batch(store);
    } else {
        abort_mdb(batch);
        batch->error = 0;
    }
    batch->wanted = batch->error == 0 && changes >= BUSY_CHANGES;
    if (!batch->wanted)
        batch->streak = 0;
}

static bool is_due(struct store_batch *batch)
{
    int64_t now_ns = af_monotonic_ns();
    if (now_ns < batch->due_ns)
        return false;
    batch->due_ns = now_ns + LOOK_NS;
    return batch->redo.used > 0 ? now_ns >= batch->old_ns : ++batch->idle >= IDLE_MAX;
}

static bool may_open(const struct store_batch *batch)
{
    return batch->wanted && !is_open(batch) && batch->alone == 0 && !batch->stop;
}

// Whether there was something to do.
static bool take_turn(struct store *store)
{
    struct store_batch *batch = &store->batch;
    if (batch->broken) {
        do_again(store);
        batch->broken = false;
        batch->closing = batch->closing && is_open(batch); // it may be gone with its only change
    } else if (is_open(batch) && (batch->closing || batch->stop || is_due(batch))) {
        close_batch(store);
        batch->closing = false;
        if (may_open(batch)) // at once: a change that comes between costs as much as ten in a batch
            open_batch(store);
    } else if (may_open(batch)) {
        open_batch(store);
        batch->wanted = false; // if it cannot be, changes go on one by one
    } else {
        return false;
    }
    batch->turns++;
    pthread_cond_broadcast(&batch->turned);
    return true;
}

static void *own_batches(void *arg)
{
    struct store *store = arg;
    struct store_batch *batch = &store->batch;
    pthread_setname_np(pthread_self(), "store-batch");
    lock_it(store);
    for (;;) {
        bool worked = take_turn(store);
        if (batch->wants_room) { // the disk is asked without the lock
            batch->wants_room = false;
            unlock_it(store);
            store_reserve_space(store);
            store_make_room(store); // so that open_batch finds it
            lock_it(store);
        }
        if (batch->stop && (!is_open(batch) || batch->error != 0))
            break;
        if (worked)
            continue;
        struct timespec due = af_timespec_of_ns(batch->due_ns);
        if (is_open(batch))
            pthread_cond_timedwait(&batch->wake, &batch->lock, &due);
        else
            pthread_cond_wait(&batch->wake, &batch->lock);
    }
    abort_mdb(batch); // its changes are in the journal
    batch->running = false;
    pthread_cond_broadcast(&batch->turned);
    unlock_it(store);
    return NULL;
}

// ---- everybody else

// Lets the owner do what was asked for, and waits until he has. The lock is free meanwhile.
static void await_turn(struct store_batch *batch)
{
    uint64_t turns = batch->turns;
    pthread_cond_signal(&batch->wake);
    while (batch->running && batch->turns == turns)
        pthread_cond_wait(&batch->turned, &batch->lock);
}

// Has the open batch committed; the lock is free meanwhile, and another one may be open afterwards.
static int ask_to_close(struct store_batch *batch)
{
    if (!batch->running)
        return -EIO;
    batch->closing = true;
    await_turn(batch);
    return is_open(batch) ? batch->error : 0;
}

static void wait_while_busy(struct store_batch *batch)
{
    while (batch->running && (batch->closing || batch->broken))
        pthread_cond_wait(&batch->turned, &batch->lock);
}

int store_writer_lock(struct store *store)
{
    struct store_batch *batch = &store->batch;
    lock_it(store);
    batch->alone++; // nor is another one opened
    int rc = 0;
    while (rc == 0 && is_open(batch))
        rc = ask_to_close(batch);
    batch->alone--;
    batch->streak = 0;
    if (rc < 0)
        unlock_it(store);
    return rc;
}

void store_writer_unlock(struct store *store)
{
    unlock_it(store);
}

int store_batch_flush(struct store *store)
{
    struct store_batch *batch = &store->batch;
    int rc = 0;
    lock_it(store);
    uint64_t pending = atomic_load(&batch->pending);
    while (rc == 0 && pending != 0 && atomic_load(&batch->pending) == pending)
        rc = ask_to_close(batch);
    unlock_it(store);
    return rc;
}

// Changes that come close to one another are worth a batch.
static void count_lone(struct store_batch *batch)
{
    int64_t now_ns = af_monotonic_ns();
    batch->streak = now_ns - batch->last_change_ns < LOOK_NS ? batch->streak + 1 : 1;
    batch->last_change_ns = now_ns;
    if (batch->streak < batch->after || !batch->running)
        return;
    batch->wanted = true;
    pthread_cond_signal(&batch->wake);
}

static bool can_join(const struct store_batch *batch)
{
    return batch->mdb && batch->error == 0 && batch->puts < batch->puts_max &&
           batch->redo.used < STORE_REDO_JOIN_MAX;
}

int store_batch_join(struct store *store, MDB_txn **ret)
{
    struct store_batch *batch = &store->batch;
    lock_it(store);
    wait_while_busy(batch);
    int rc = 0;
    while (rc == 0 && is_open(batch) && !can_join(batch))
        rc = ask_to_close(batch);
    if (rc == 0 && batch->mdb)
        rc = store_redo_begin(&batch->redo);
    else if (rc == 0)
        count_lone(batch);
    if (rc < 0)
        unlock_it(store);
    else
        *ret = batch->mdb;
    return rc;
}

int store_batch_note_put(struct store *store, int dbi, MDB_val key, const MDB_val *old,
                         MDB_val value)
{
    store->batch.puts += 1 + (unsigned)(value.mv_size / store->page_bytes);
    return store_redo_put(&store->batch.redo, dbi, key, old, value);
}

int store_batch_note_del(struct store *store, int dbi, MDB_val key)
{
    store->batch.puts++;
    return store_redo_del(&store->batch.redo, dbi, key);
}

int store_batch_leave(struct store *store, bool changed, bool undo)
{
    struct store_batch *batch = &store->batch;
    int rc = changed && !undo ? store_journal_write(store) : 0;
    if (changed && !undo && rc == 0) {
        batch->changes++;
        atomic_store(&batch->pending, mdb_txn_id(batch->mdb));
    } else {
        batch->redo.used = batch->redo.begun;
    }
    if (changed && (undo || rc < 0)) {
        batch->broken = true;
        while (batch->running && batch->broken)
            await_turn(batch);
    }
    unlock_it(store);
    return rc;
}

int store_batch_look(struct store *store, uint64_t changed_in, MDB_txn **ret)
{
    struct store_batch *batch = &store->batch;
    uint64_t pending = atomic_load(&batch->pending);
    *ret = NULL;
    if (pending == 0 || pending != changed_in)
        return 0;
    if (held.store == store) {
        held.depth++;
        *ret = batch->mdb;
        return 0;
    }
    lock_it(store);
    wait_while_busy(batch);
    int rc = 0;
    if (is_open(batch) && !batch->mdb)
        rc = ask_to_close(batch);
    if (rc == 0 && atomic_load(&batch->pending) != 0)
        *ret = batch->mdb;
    else
        unlock_it(store);
    return rc;
}

void store_batch_look_end(struct store *store)
{
    if (--held.depth == 0)
        unlock_it(store);
}

int store_batch_start(struct store *store)
{
    store->batch.running = true;
    int rc = pthread_create(&store->batch.owner, NULL, own_batches, store);
    if (rc != 0)
        store->batch.running = false;
    return -rc;
}

void store_batch_stop(struct store *store)
{
    struct store_batch *batch = &store->batch;
    pthread_mutex_lock(&batch->lock);
    bool started = batch->running;
    batch->stop = true;
    pthread_cond_signal(&batch->wake);
    pthread_mutex_unlock(&batch->lock);
    if (started)
        pthread_join(batch->owner, NULL);
}

void store_batch_fini(struct store *store)
{
    struct store_batch *batch = &store->batch;
    abort_mdb(batch); // of a replay that nobody commits
    free(batch->redo.bytes);
    if (batch->journal_fd >= 0)
        close(batch->journal_fd);
}
