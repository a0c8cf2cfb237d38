// The background thread: sync points, the collector, and those who wait for either.
//
// A sync point is made when somebody asks (store_sync), every interval while there are unsynced
// commits, and after so many of them that the pinned reader would make the file grow. Lock:
// sync.lock, not held while working. Read next: durability.c, gc.c.
#include "mux/store/store_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <errno.h>

#define SYNC_EVERY_COMMITS  5000
#define GC_RECORDS_PER_STEP 512
#define POLL_NS             (INT64_C(50) * 1000000)

static void wait_until(struct store *store, int64_t until_ns)
{
    struct timespec ts = af_timespec_of_ns(until_ns);
    pthread_cond_timedwait(&store->sync.wake, &store->sync.lock, &ts);
}

// One round of work without the lock. Returns whether the collector has more to do.
static bool work(struct store *store, bool sync, int *ret_sync_rc)
{
    uint64_t removed = 0;
    int unlinked = 0;
    *ret_sync_rc = sync ? store_sync_point(store) : 0;
    if (*ret_sync_rc < 0)
        af_log(AF_LOG_ERROR, "store", "cannot sync", "errno=%d", -*ret_sync_rc);
    if (sync && *ret_sync_rc == 0)
        unlinked = store_gc_unlink(store);
    int rc = store_gc_step(store, GC_RECORDS_PER_STEP, &removed);
    if (rc < 0 || unlinked < 0)
        af_log(AF_LOG_ERROR, "store", "cannot collect garbage", "errno=%d",
               rc < 0 ? -rc : -unlinked);
    pthread_mutex_lock(&store->sync.lock);
    store->sync.gc_removed += removed;
    pthread_mutex_unlock(&store->sync.lock);
    return rc == 0 && removed > 0;
}

static void *background(void *arg)
{
    struct store *store = arg;
    pthread_setname_np(pthread_self(), "store");
    int64_t next_sync_ns = af_monotonic_ns() + store->sync.interval_ns;
    pthread_mutex_lock(&store->sync.lock);
    while (!store->sync.stop) {
        uint64_t ticket = store->sync.wanted;
        uint64_t dirty = atomic_load(&store->dirty_commits);
        bool due = dirty > 0 && af_monotonic_ns() >= next_sync_ns;
        bool sync = ticket > store->sync.finished || due || dirty > SYNC_EVERY_COMMITS ||
                    (dirty > 0 && store_has_outgrown(store));
        if (!sync && !store->sync.gc_wanted) {
            int64_t now = af_monotonic_ns();
            wait_until(store, dirty > 0 ? now + POLL_NS : now + store->sync.interval_ns);
            continue;
        }
        store->sync.gc_wanted = false;
        store->sync.gc_idle = false;
        pthread_mutex_unlock(&store->sync.lock);
        int sync_rc;
        bool more = work(store, sync, &sync_rc);
        if (sync)
            next_sync_ns = af_monotonic_ns() + store->sync.interval_ns;
        pthread_mutex_lock(&store->sync.lock);
        if (sync) {
            store->sync.finished = ticket;
            store->sync.last_rc = sync_rc;
        }
        store->sync.gc_wanted = store->sync.gc_wanted || more;
        store->sync.gc_idle = !store->sync.gc_wanted;
        pthread_cond_broadcast(&store->sync.done);
    }
    pthread_mutex_unlock(&store->sync.lock);
    return NULL;
}

int store_sync(struct store *store)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    pthread_mutex_lock(&store->sync.lock);
    // A sync point under way may have begun before the caller's commit: wait for the one after it.
    uint64_t ticket = ++store->sync.wanted;
    pthread_cond_signal(&store->sync.wake);
    while (store->sync.finished < ticket)
        pthread_cond_wait(&store->sync.done, &store->sync.lock);
    int rc = store->sync.last_rc;
    pthread_mutex_unlock(&store->sync.lock);
    return rc;
}

void store_background_wake(struct store *store)
{
    pthread_mutex_lock(&store->sync.lock);
    pthread_cond_signal(&store->sync.wake);
    pthread_mutex_unlock(&store->sync.lock);
}

void store_gc_wake(struct store *store)
{
    pthread_mutex_lock(&store->sync.lock);
    store->sync.gc_wanted = true;
    pthread_cond_signal(&store->sync.wake);
    pthread_mutex_unlock(&store->sync.lock);
}

int store_gc_drain(struct store *store, uint64_t *ret_records)
{
    pthread_mutex_lock(&store->sync.lock);
    uint64_t before = store->sync.gc_removed;
    store->sync.gc_wanted = true;
    store->sync.gc_idle = false;
    pthread_cond_signal(&store->sync.wake);
    while (!store->sync.gc_idle)
        pthread_cond_wait(&store->sync.done, &store->sync.lock);
    *ret_records = store->sync.gc_removed - before;
    pthread_mutex_unlock(&store->sync.lock);
    int rc = store_sync(store); // makes the dropped blobs' records durable; then their files go
    return rc < 0 ? rc : store_sync(store);
}

// Layers of imports that a crash interrupted.
static int drop_pending(struct store *store)
{
    for (;;) {
        struct store_txn *txn;
        int rc = store_write_begin(store, &txn);
        if (rc < 0)
            return rc;
        MDB_cursor *cursor;
        MDB_val key, value;
        struct key_id id = {0};
        rc = store_errno(mdb_cursor_open(txn->mdb, store->dbi[STORE_DBI_PENDING], &cursor));
        if (rc == 0) {
            rc = store_errno(mdb_cursor_get(cursor, &key, &value, MDB_FIRST));
            if (rc == 0 && key.mv_size == sizeof id)
                memcpy(&id, key.mv_data, sizeof id);
            mdb_cursor_close(cursor);
        }
        if (rc == 0)
            rc = store_layer_adopt(txn, be64toh(id.be));
        if (rc == 0)
            rc = store_layer_unref(txn, be64toh(id.be));
        if (rc < 0) {
            store_abort(txn);
            return rc == -ENOENT ? 0 : rc;
        }
        rc = store_commit(txn);
        if (rc < 0)
            return rc;
    }
}

int store_background_start(struct store *store)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&store->sync.wake, &attr);
    pthread_cond_init(&store->sync.done, &attr);
    pthread_condattr_destroy(&attr);
    int rc = drop_pending(store);
    if (rc < 0)
        return rc;
    store->sync.gc_wanted = true; // what the last run did not finish
    rc = pthread_create(&store->sync.thread, NULL, background, store);
    store->sync.running = rc == 0;
    return -rc;
}

void store_background_stop(struct store *store)
{
    if (!store->sync.running)
        return;
    pthread_mutex_lock(&store->sync.lock);
    store->sync.stop = true;
    pthread_cond_signal(&store->sync.wake);
    pthread_mutex_unlock(&store->sync.lock);
    pthread_join(store->sync.thread, NULL);
    store->sync.running = false;
}
