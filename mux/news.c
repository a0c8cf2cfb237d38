// Who watches which codebase, and the turns of those who change one. See news.h, news_priv.h.
//
// The list of watched codebases changes under the gate alone, held exclusively; a change holds it
// shared from before its transaction until it has been told. So a listener that has come is told
// every change that is committed afterwards, and one that has gone is not called any more.
// Owns the list; borrows the listeners.
#include "mux/news_priv.h"

#include "mux/base/clock.h"
#include "mux/host_call.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct mux_news_watched {
    struct af_id codebase_id;
    pthread_mutex_t order;
    LIST_HEAD(, mux_listener) listeners; // at least one
    LIST_ENTRY(mux_news_watched) link;
};

struct mux_news {
    pthread_rwlock_t gate;
    LIST_HEAD(, mux_news_watched) watched;
    unsigned listeners;
};

int mux_news_new(struct mux *mux)
{
    struct mux_news *news = calloc(1, sizeof *news);
    pthread_rwlockattr_t attr;
    if (!news)
        return -ENOMEM;
    // Changes come one after the other: a listener would wait for ever for a moment without one.
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&news->gate, &attr);
    pthread_rwlockattr_destroy(&attr);
    LIST_INIT(&news->watched);
    mux->news = news;
    return 0;
}

void mux_news_free(struct mux *mux)
{
    if (!mux->news)
        return;
    pthread_rwlock_destroy(&mux->news->gate);
    free(mux->news);
    mux->news = NULL;
}

// ---- listeners

static struct mux_news_watched *find(struct mux_news *news, const char *codebase_id)
{
    struct mux_news_watched *watched;
    LIST_FOREACH(watched, &news->watched, link)
    if (strcmp(watched->codebase_id.text, codebase_id) == 0)
        return watched;
    return NULL;
}

static int add_locked(struct mux_news *news, struct mux_listener *listener, struct af_error *err)
{
    if (news->listeners >= AF_WATCHERS_MAX)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%d clients watch codebases already, more cannot; end one of them",
                            AF_WATCHERS_MAX);
    struct mux_news_watched *watched = find(news, listener->codebase_id.text);
    if (!watched) {
        watched = calloc(1, sizeof *watched);
        if (!watched)
            return af_error_errno(err, ENOMEM, "cannot watch");
        watched->codebase_id = listener->codebase_id;
        pthread_mutex_init(&watched->order, NULL);
        LIST_INIT(&watched->listeners);
        LIST_INSERT_HEAD(&news->watched, watched, link);
    }
    LIST_INSERT_HEAD(&watched->listeners, listener, link);
    news->listeners++;
    return 0;
}

int mux_listen(struct mux *mux, struct mux_listener *listener, struct af_error *err)
{
    struct store_codebase codebase;
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    if (mux_check_codebase_id(listener->codebase_id.text, err) < 0)
        return -1;
    pthread_rwlock_wrlock(&mux->news->gate);
    int rc = add_locked(mux->news, listener, err);
    pthread_rwlock_unlock(&mux->news->gate);
    if (rc < 0)
        return -1;
    // Looked for afterwards: its end is not missed.
    if (mux_codebase_get(mux, listener->codebase_id.text, &codebase, err) == 0)
        return 0;
    mux_unlisten(mux, listener);
    return -1;
}

void mux_unlisten(struct mux *mux, struct mux_listener *listener)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    pthread_rwlock_wrlock(&mux->news->gate);
    struct mux_news_watched *watched = find(mux->news, listener->codebase_id.text);
    LIST_REMOVE(listener, link);
    mux->news->listeners--;
    if (LIST_EMPTY(&watched->listeners)) {
        LIST_REMOVE(watched, link);
        pthread_mutex_destroy(&watched->order);
        free(watched);
    }
    pthread_rwlock_unlock(&mux->news->gate);
}

// ---- turns

static void begin(struct mux *mux, struct mux_news_turn *ret)
{
    *ret = (struct mux_news_turn){.mux = mux};
    pthread_rwlock_rdlock(&mux->news->gate);
}

static void take_order(struct mux_news_turn *turn, const char *codebase_id)
{
    turn->watched = find(turn->mux->news, codebase_id);
    if (turn->watched)
        pthread_mutex_lock(&turn->watched->order);
}

void mux_news_begin(struct mux *mux, const char *codebase_id, struct mux_news_turn *ret)
{
    begin(mux, ret);
    take_order(ret, codebase_id);
}

void mux_news_begin_commit(struct mux *mux, const char *sandbox_id, struct mux_news_turn *ret)
{
    struct store_txn *txn;
    struct store_sandbox sandbox;
    begin(mux, ret);
    ret->sandbox_id = sandbox_id;
    if (LIST_EMPTY(&mux->news->watched) || store_read_begin(mux->store, &txn) < 0)
        return; // a store that cannot be read is not written either
    int rc = store_sandbox_get(txn, sandbox_id, &sandbox);
    if (rc == 0)
        store_sandbox_free_rules(&sandbox);
    store_read_end(txn);
    if (rc == 0)
        take_order(ret, sandbox.codebase_id.text);
}

static uint64_t count_of(struct store_txn *txn, uint64_t layer)
{
    struct store_layer found;
    return store_layer_get(txn, layer, &found) == 0 && found.inodes > 0 ? found.inodes : 1;
}

void mux_news_gather(struct mux_news_turn *turn, struct store_txn *txn, struct mux_layers layers,
                     uint64_t root_fid)
{
    if (!turn->watched || turn->diff || turn->lost > 0)
        return;
    if (mux_diff_gather(txn, layers, root_fid, &turn->diff) < 0)
        turn->lost = count_of(txn, layers.ids[0]);
}

struct mux_diff *mux_news_gather_early(struct mux *mux, const char *codebase_id,
                                       struct store_txn *txn, struct mux_layers layers,
                                       uint64_t root_fid, uint64_t *ret_lost)
{
    struct mux_diff *diff = NULL;
    pthread_rwlock_rdlock(&mux->news->gate);
    bool wanted = find(mux->news, codebase_id) != NULL;
    pthread_rwlock_unlock(&mux->news->gate);
    *ret_lost = 0;
    if (wanted && mux_diff_gather(txn, layers, root_fid, &diff) < 0) {
        *ret_lost = count_of(txn, layers.ids[0]);
        diff = NULL;
    }
    return diff;
}

void mux_news_tell(const struct mux_news_turn *turn, const struct mux_diff_entry *entry)
{
    const struct mux_listener *listener;
    const struct mux_news_item item = {
        .entry = entry, .sandbox_id = turn->sandbox_id, .at_ns = af_wall_ns()};
    if (!turn->watched)
        return;
    LIST_FOREACH(listener, &turn->watched->listeners, link)
    listener->changed(listener->arg, &item);
}

static int tell_entry(void *turn, const struct mux_diff_entry *entry)
{
    mux_news_tell(turn, entry);
    return 0;
}

void mux_news_tell_deleted(const struct mux_news_turn *turn)
{
    const struct mux_listener *listener;
    if (!turn->watched)
        return;
    LIST_FOREACH(listener, &turn->watched->listeners, link)
    listener->deleted(listener->arg);
}

static void tell_lost(const struct mux_news_turn *turn)
{
    const struct mux_listener *listener;
    LIST_FOREACH(listener, &turn->watched->listeners, link)
    listener->lost(listener->arg, turn->lost);
}

void mux_news_end(struct mux_news_turn *turn, bool done)
{
    if (!turn->mux)
        return;
    if (done && turn->watched && turn->diff)
        mux_diff_each(turn->diff, tell_entry, turn);
    else if (done && turn->watched && turn->lost > 0)
        tell_lost(turn);
    if (turn->watched)
        pthread_mutex_unlock(&turn->watched->order);
    pthread_rwlock_unlock(&turn->mux->news->gate);
    mux_diff_free(turn->diff);
    *turn = (struct mux_news_turn){0};
}
