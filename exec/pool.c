// The pool: boxes that were started ahead, without a view, and wait for a sandbox.
//
// A member is an ordinary box with a host uid of its own (fixed by its user namespace), so whoever
// takes one has to give its sandbox that uid. Members are started one at a time by the spawning
// lane, after every start that somebody waits for, and a moment after the last take: a refill
// does not slow the start that made room for it.
// A member that dies or cannot start is thrown away; its uid is kept for the next. After a failure
// nothing is started until the next take, so that a broken machine is not hammered.
// Owns: its members until they are taken. Locks: pool->lock (rank 1; posts are made under it, the
// owner's uid functions never). Fails: an empty pool gives nobody, and its log line says why.
// Read next: box.c (exec_box_adopt), launcher.c.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exec/engine_priv.h"
#include "exec/lane.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#define POOL_MAGIC   0xe8ec0006u
#define QUIET_NS     (3 * 1000000LL)  // after the last take the refill starts,
#define QUIET_MAX_NS (15 * 1000000LL) // or after the first one at the latest
#define POOL_ID      "pool"

struct exec_pool {
    unsigned magic;
    struct exec_engine *engine;
    struct exec_pool_options options;
    char *rootfs, *image;
    struct exec_post wake_post;
    struct exec_job fill_job;
    struct exec_timer timer; // event
    bool timer_reserved;     // event
    int64_t first_take_ns;   // event; 0: none since the last refill

    pthread_mutex_t lock;
    pthread_cond_t ended;
    // Under the lock.
    TAILQ_HEAD(, exec_box) ready;
    TAILQ_HEAD(, exec_box) starting;
    unsigned ready_count, alive; // alive: not yet taken, and not yet stopped
    bool waking;                 // wake_post is on its way
    bool filling;                // fill_job is on its way, or its member starts
    bool closing;
    uid_t *spare; // uids of members that are gone; room for those of all that are alive as well
    unsigned spare_count, spare_room;
};

// ---- members ----------------------------------------------------------------------------

// Under the lock: one more is alive, whose uid will need room once it is gone. Members that are
// taken and come back at once may be more than the pool holds.
static bool add_alive(struct exec_pool *pool)
{
    unsigned wanted = pool->spare_count + pool->alive + 1;
    if (wanted > pool->spare_room) {
        uid_t *grown = realloc(pool->spare, (size_t)2 * wanted * sizeof(*grown));
        if (!grown)
            return false;
        pool->spare = grown;
        pool->spare_room = 2 * wanted;
    }
    pool->alive++;
    return true;
}

static void on_member_stopped(void *arg)
{
    struct exec_box *box = arg;
    struct exec_pool *pool = box->pool;
    pthread_mutex_lock(&pool->lock);
    pool->spare[pool->spare_count++] = box->uid;
    pool->alive--;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
}

static void on_member_up(void *arg, const struct af_error *err)
{
    struct exec_box *box = arg;
    struct exec_pool *pool = box->pool;
    pthread_mutex_lock(&pool->lock);
    TAILQ_REMOVE(&pool->starting, box, pool_link);
    pool->filling = false;
    bool keep = !err && !pool->closing;
    if (keep) {
        TAILQ_INSERT_TAIL(&pool->ready, box, pool_link);
        box->pool_ready = true;
        pool->ready_count++;
    }
    bool closing = pool->closing;
    pthread_mutex_unlock(&pool->lock);
    if (keep)
        exec_pool_refill(pool);
    else if (!closing) // closing stops it itself
        exec_box_stop(box, on_member_stopped, box);
    if (err && !closing)
        af_log(AF_LOG_WARN, EXEC_AREA, "a sandbox could not be started ahead", "error=\"%s\"",
               err->text);
}

// Only of members that are up; one that was taken is its taker's.
static void on_member_died(void *arg, const struct af_error *why)
{
    struct exec_box *box = arg;
    struct exec_pool *pool = box->pool;
    pthread_mutex_lock(&pool->lock);
    bool ours = box->pool_ready;
    if (ours) {
        TAILQ_REMOVE(&pool->ready, box, pool_link);
        box->pool_ready = false;
        pool->ready_count--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!ours)
        return;
    af_log(AF_LOG_WARN, EXEC_AREA, "a sandbox that was started ahead has ended", "why=\"%s\"",
           why->text);
    exec_box_stop(box, on_member_stopped, box);
}

// ---- filling ----------------------------------------------------------------------------

// Under the lock: nobody will take what is started from now on.
static bool is_closing(struct exec_pool *pool)
{
    return pool->closing || atomic_load(&pool->engine->ending);
}

// lane: a uid that nobody has.
static int take_uid(struct exec_pool *pool, uid_t *ret)
{
    pthread_mutex_lock(&pool->lock);
    bool spare = pool->spare_count > 0;
    if (spare)
        *ret = pool->spare[--pool->spare_count];
    pthread_mutex_unlock(&pool->lock);
    return spare ? 0 : pool->options.uid_take(pool->options.arg, ret);
}

static void no_member(struct exec_pool *pool, const uid_t *uid)
{
    pthread_mutex_lock(&pool->lock);
    if (uid)
        pool->spare[pool->spare_count++] = *uid;
    pool->filling = false;
    pool->alive--;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
}

static void run_fill(struct exec_job *job)
{
    struct exec_pool *pool = EXEC_CONTAINER_OF(job, struct exec_pool, fill_job);
    uid_t uid;
    if (take_uid(pool, &uid) < 0) {
        no_member(pool, NULL);
        return;
    }
    const struct exec_box_spec spec = {.id = POOL_ID,
                                       .uid = uid,
                                       .gid = uid,
                                       .runtime = pool->options.runtime,
                                       .image = pool->image,
                                       .rootfs = pool->rootfs,
                                       .limits = pool->options.limits,
                                       .resources = pool->options.resources};
    struct exec_box *box = exec_box_new(pool->engine, &spec);
    if (!box) {
        no_member(pool, &uid);
        return;
    }
    box->pool = pool;
    box->done = on_member_up;
    box->died = on_member_died;
    box->arg = box;
    pthread_mutex_lock(&pool->lock);
    bool closing = is_closing(pool);
    if (!closing) {
        TAILQ_INSERT_TAIL(&pool->starting, box, pool_link);
        exec_box_launch(box);
    }
    pthread_mutex_unlock(&pool->lock);
    if (closing) {
        exec_box_free(box);
        no_member(pool, &uid);
    }
}

void exec_pool_refill(struct exec_pool *pool)
{
    AF_CHECK_MAGIC(pool, POOL_MAGIC);
    pthread_mutex_lock(&pool->lock);
    bool start = !is_closing(pool) && !pool->filling && pool->ready_count < pool->options.size &&
                 add_alive(pool);
    if (start)
        pool->filling = true;
    pthread_mutex_unlock(&pool->lock);
    if (start)
        exec_lane_queue(&pool->engine->lanes[EXEC_LANE_SPAWN], &pool->fill_job, run_fill, true);
}

static void on_quiet(struct exec_timer *timer)
{
    struct exec_pool *pool = EXEC_CONTAINER_OF(timer, struct exec_pool, timer);
    pool->first_take_ns = 0;
    exec_pool_refill(pool);
}

static void on_wake(struct exec_post *post)
{
    struct exec_pool *pool = EXEC_CONTAINER_OF(post, struct exec_pool, wake_post);
    struct exec_timers *timers = &pool->engine->timers;
    pthread_mutex_lock(&pool->lock);
    pool->waking = false;
    bool closing = pool->closing;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
    if (!pool->timer_reserved)
        pool->timer_reserved = exec_timers_reserve(timers) == 0;
    if (closing || !pool->timer_reserved)
        return;
    int64_t now_ns = af_monotonic_ns();
    if (!pool->first_take_ns)
        pool->first_take_ns = now_ns;
    int64_t at_ns = now_ns + QUIET_NS, last_ns = pool->first_take_ns + QUIET_MAX_NS;
    exec_timer_set(timers, &pool->timer, at_ns < last_ns ? at_ns : last_ns, on_quiet);
}

static void wake(struct exec_pool *pool)
{
    if (pool->waking || pool->closing)
        return;
    pool->waking = true;
    exec_post(pool->engine, &pool->wake_post, on_wake);
}

// ---- public -----------------------------------------------------------------------------

struct exec_box *exec_pool_take(struct exec_pool *pool, uid_t *ret_uid)
{
    if (!pool)
        return NULL;
    AF_CHECK_MAGIC(pool, POOL_MAGIC);
    pthread_mutex_lock(&pool->lock);
    struct exec_box *box = TAILQ_FIRST(&pool->ready);
    if (box) {
        TAILQ_REMOVE(&pool->ready, box, pool_link);
        box->pool_ready = false;
        pool->ready_count--;
        pool->alive--;
        *ret_uid = box->uid;
    }
    wake(pool);
    pthread_mutex_unlock(&pool->lock);
    return box;
}

// It may have died meanwhile, unheard: ending it is always right.
void exec_pool_return(struct exec_pool *pool, struct exec_box *box)
{
    pthread_mutex_lock(&pool->lock);
    bool ours = add_alive(pool);
    pthread_mutex_unlock(&pool->lock);
    // Without memory for it the uid is nobody's until the daemon ends.
    exec_box_stop(box, ours ? on_member_stopped : NULL, box);
}

unsigned exec_pool_count(struct exec_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    unsigned count = pool->ready_count;
    pthread_mutex_unlock(&pool->lock);
    return count;
}

int exec_pool_new(struct exec_engine *engine, const struct exec_pool_options *options,
                  struct exec_pool **ret_pool, struct af_error *err)
{
    struct exec_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return af_error_errno(err, ENOMEM, "cannot make the pool of sandboxes");
    pool->magic = POOL_MAGIC;
    pool->engine = engine;
    pool->options = *options;
    pool->rootfs = options->rootfs ? strdup(options->rootfs) : NULL;
    pool->image = options->image ? strdup(options->image) : NULL;
    if ((options->rootfs && !pool->rootfs) || (options->image && !pool->image)) {
        free(pool->rootfs);
        free(pool->image);
        free(pool);
        return af_error_errno(err, ENOMEM, "cannot make the pool of sandboxes");
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->ended, NULL);
    TAILQ_INIT(&pool->ready);
    TAILQ_INIT(&pool->starting);
    *ret_pool = pool;
    exec_pool_refill(pool);
    return 0;
}

static void on_timer_end(struct exec_post *post)
{
    struct exec_pool *pool = EXEC_CONTAINER_OF(post, struct exec_pool, wake_post);
    exec_timer_clear(&pool->engine->timers, &pool->timer);
    if (pool->timer_reserved)
        exec_timers_release(&pool->engine->timers);
    pthread_mutex_lock(&pool->lock);
    pool->waking = false;
    pthread_cond_signal(&pool->ended);
    pthread_mutex_unlock(&pool->lock);
}

void exec_pool_free(struct exec_pool *pool)
{
    if (!pool)
        return;
    AF_CHECK_MAGIC(pool, POOL_MAGIC);
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    struct exec_box *box;
    TAILQ_FOREACH(box, &pool->starting, pool_link)
    exec_box_stop(box, on_member_stopped, box);
    while ((box = TAILQ_FIRST(&pool->ready))) {
        TAILQ_REMOVE(&pool->ready, box, pool_link);
        box->pool_ready = false;
        exec_box_stop(box, on_member_stopped, box);
    }
    while (pool->alive > 0 || pool->waking)
        pthread_cond_wait(&pool->ended, &pool->lock);
    pool->waking = true;
    exec_post(pool->engine, &pool->wake_post, on_timer_end);
    while (pool->waking)
        pthread_cond_wait(&pool->ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->spare_count; i++)
        pool->options.uid_give(pool->options.arg, pool->spare[i]);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->ended);
    free(pool->spare);
    free(pool->rootfs);
    free(pool->image);
    pool->magic = 0;
    free(pool);
}
