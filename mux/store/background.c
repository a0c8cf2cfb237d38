// The background thread: sync points by time and by amount, the collector, and waiting for it.
//
// Callers of store_sync make their sync point themselves; this thread makes the others, and with
// them syncs the data of all blobs that were written to. The collector pauses as long as its last
// step took, so that it never has more than half of the writer lock. Lock: sync.lock, not held
// while working. Read next: durability.c, gc.c.
#include "mux/store/store_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <errno.h>

static void wait_until(struct store *store, int64_t until_ns)
{
    struct timespec ts = af_timespec_of_ns(until_ns);
    pthread_cond_timedwait(&store->sync.wake, &store->sync.lock, &ts);
}

static bool is_stopping(struct store *store)
{
    pthread_mutex_lock(&store->sync.lock);
    bool stop = store->sync.stop;
    pthread_mutex_unlock(&store->sync.lock);
    return stop;
}

static void sync_and_unlink(struct store *store)
{
    int rc = store_sync_point(store, atomic_load(&store->last_txn));
    while (rc == 0 && !is_stopping(store)) {
        pthread_mutex_lock(&store->gc.lock);
        int unlinked = store_gc_unlink(store);
        pthread_mutex_unlock(&store->gc.lock);
        if (unlinked <= 0) {
            rc = unlinked;
            break;
        }
    }
    if (rc < 0)
        af_log(AF_LOG_ERROR, "store", "cannot sync or unlink", "errno=%d", -rc);
}

// Whether there is more to do.
static bool collect(struct store *store)
{
    uint64_t removed;
    pthread_mutex_lock(&store->gc.lock);
    int rc = store_gc_step(store, GC_RECORDS_PER_STEP, &removed);
    pthread_mutex_unlock(&store->gc.lock);
    if (rc < 0)
        af_log(AF_LOG_ERROR, "store", "cannot collect garbage", "errno=%d", -rc);
    return rc == 0 && removed > 0;
}

static void *background(void *arg)
{
    struct store *store = arg;
    pthread_setname_np(pthread_self(), "store");
    int64_t next_sync_ns = af_monotonic_ns() + store->sync.interval_ns;
    pthread_mutex_lock(&store->sync.lock);
    while (!store->sync.stop) {
        int64_t began_ns = af_monotonic_ns();
        bool dirty = atomic_load(&store->dirty_commits) > 0;
        bool broken = atomic_load(&store->sync.error) != 0;
        if (!broken && ((dirty && began_ns >= next_sync_ns) || store_sync_is_due(store))) {
            pthread_mutex_unlock(&store->sync.lock);
            sync_and_unlink(store);
            pthread_mutex_lock(&store->sync.lock);
            next_sync_ns = af_monotonic_ns() + store->sync.interval_ns;
        } else if (!broken && store->sync.gc_wanted) {
            store->sync.gc_wanted = false;
            pthread_mutex_unlock(&store->sync.lock);
            bool more = collect(store);
            pthread_mutex_lock(&store->sync.lock);
            int64_t now_ns = af_monotonic_ns();
            if (more && !store->sync.stop) {
                wait_until(store, now_ns + (now_ns - began_ns));
                store->sync.gc_wanted = true;
            }
        } else {
            // Nobody signals the first commit after a sync point: look again in time for it.
            wait_until(store, dirty && next_sync_ns > began_ns
                                  ? next_sync_ns
                                  : began_ns + store->sync.interval_ns);
        }
    }
    pthread_mutex_unlock(&store->sync.lock);
    return NULL;
}

void store_background_wake(struct store *store, bool garbage)
{
    pthread_mutex_lock(&store->sync.lock);
    store->sync.gc_wanted = store->sync.gc_wanted || garbage;
    pthread_cond_signal(&store->sync.wake);
    pthread_mutex_unlock(&store->sync.lock);
}

int store_background_start(struct store *store)
{
    store->sync.gc_wanted = true; // what the last run did not finish
    int rc = pthread_create(&store->sync.thread, NULL, background, store);
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
