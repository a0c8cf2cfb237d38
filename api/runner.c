// The runner: sandboxes that are starting, running or stopping.
//
// Owns one struct run per such sandbox and the threads. exec's callbacks, which must not block,
// only queue an event; the runner's thread does the store's part of a start, calls the waiters,
// destroys what expired, and hands what has stopped to the threads for ends. Lock: runner->lock
// over table, events, runs; a leaf but for exec's own. Read next: runner_priv.h, runner_box.c,
// runner_end.c.
#include "api/runner_priv.h"

#include "api/expired.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define ENDERS 8 // slow ends that hold up nobody

// ---- events: exec's callbacks

void runner_push(struct run *run, enum event_kind kind, const struct af_error *err)
{
    struct runner *runner = run->runner;
    struct event *event = calloc(1, sizeof *event);
    if (!event) { // an event lost would leave a sandbox in between for ever
        af_log(AF_LOG_ERROR, "runner", "out of memory", "%s", "");
        abort();
    }
    event->kind = kind;
    event->run = run;
    if (err) {
        event->failed = true;
        event->error = *err;
    }
    DL_APPEND(runner->events, event);
    pthread_cond_signal(&runner->wake);
}

static void push_event(struct run *run, enum event_kind kind, const struct af_error *err)
{
    pthread_mutex_lock(&run->runner->lock);
    runner_push(run, kind, err);
    pthread_mutex_unlock(&run->runner->lock);
}

static void box_started(void *arg, const struct af_error *err)
{
    push_event(arg, EVENT_STARTED, err);
}

void runner_box_died(void *arg, const struct af_error *why)
{
    push_event(arg, EVENT_DIED, why);
}

// ---- the table, under the lock

struct run *runner_find(struct runner *runner, const char *id)
{
    struct run *run;
    HASH_FIND_STR(runner->runs, id, run);
    return run;
}

static struct run *add_run(struct runner *runner, const char *id, enum run_state state)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    snprintf(run->id, sizeof run->id, "%s", id);
    run->runner = runner;
    run->state = state;
    HASH_ADD_STR(runner->runs, id, run);
    return run;
}

static struct waiter *waiter_new(runner_done done, void *arg)
{
    struct waiter *waiter = malloc(sizeof *waiter);
    if (waiter)
        *waiter = (struct waiter){.done = done, .arg = arg};
    return waiter;
}

static bool add_ender(struct run *run, runner_done done, void *arg)
{
    struct waiter *waiter = waiter_new(done, arg);
    if (waiter)
        LL_APPEND(run->enders, waiter);
    return waiter != NULL;
}

static bool add_restarter(struct run *run, runner_done done, void *arg)
{
    struct waiter *waiter = waiter_new(done, arg);
    if (waiter)
        LL_APPEND(run->restarters, waiter);
    return waiter != NULL;
}

void runner_stop_box(struct run *run)
{
    run->state = RUN_STOPPING;
    if (run->box)
        exec_box_stop(AF_TAKE_PTR(run->box), runner_box_stopped, run);
    else if (run->parts == 0)
        runner_push(run, EVENT_STOPPED, NULL);
}

// ---- the thread

static void handle_started(struct run *run, struct event *event)
{
    struct runner *runner = run->runner;
    struct af_error error = event->error;
    if (!event->failed &&
        mux_sandbox_set_status(runner->mux, run->id, STORE_SANDBOX_RUNNING, &error) < 0)
        event->failed = true;
    if (event->failed)
        mux_view_blame_cut_off(runner->mux, run->id, &error);
    pthread_mutex_lock(&runner->lock);
    struct waiter starter = run->starter;
    if (run->state == RUN_STARTING && event->failed) {
        run->failed = true;
        run->start_error = error;
        starter.done = NULL; // told when nothing is left of it, so that it may try again at once
        runner_stop_box(run);
    } else {
        run->starter.done = NULL;
        if (run->state == RUN_STARTING)
            run->state = RUN_UP;
        else if (!event->failed) // destroyed while it started
            event->failed = af_error_set(&error, AF_CANCELLED, "destroyed while it started") < 0;
    }
    pthread_mutex_unlock(&runner->lock);
    if (starter.done)
        starter.done(starter.arg, event->failed ? &error : NULL);
}

static void handle_died(struct run *run, struct event *event)
{
    struct runner *runner = run->runner;
    af_log(AF_LOG_WARN, "runner", "a sandbox ended by itself", "sandbox=%s why=\"%s\"", run->id,
           event->error.text);
    pthread_mutex_lock(&runner->lock);
    if (run->state == RUN_UP)
        runner_stop_box(run);
    pthread_mutex_unlock(&runner->lock);
}

// Waits for an event or an expiry, with the lock held.
static void wait_for_work(struct runner *runner)
{
    if (runner->next_expiry_ns == INT64_MAX) {
        pthread_cond_wait(&runner->wake, &runner->lock);
        return;
    }
    int64_t left_ns = runner->next_expiry_ns - af_wall_ns();
    if (left_ns <= 0)
        return;
    struct timespec until = af_timespec_of_ns(af_monotonic_ns() + left_ns);
    pthread_cond_timedwait(&runner->wake, &runner->lock, &until);
}

static void *runner_main(void *arg)
{
    struct runner *runner = arg;
    struct expired_tried tried = {0};
    pthread_setname_np(pthread_self(), "runner");
    pthread_mutex_lock(&runner->lock);
    for (;;) {
        struct event *event = runner->events;
        if (event) {
            DL_DELETE(runner->events, event);
            pthread_mutex_unlock(&runner->lock);
            if (event->kind == EVENT_STARTED)
                handle_started(event->run, event);
            else if (event->kind == EVENT_DIED)
                handle_died(event->run, event);
            else // after every other event of the run
                net_pool_submit(&runner->enders, &event->run->item);
            free(event);
            pthread_mutex_lock(&runner->lock);
        } else if (runner->closing && !runner->runs) {
            break;
        } else if (!runner->closing && runner->next_expiry_ns <= af_wall_ns()) {
            runner->next_expiry_ns = INT64_MAX;
            pthread_mutex_unlock(&runner->lock);
            expired_remove(runner->mux, runner, &tried);
            pthread_mutex_lock(&runner->lock);
        } else {
            wait_for_work(runner);
        }
    }
    pthread_mutex_unlock(&runner->lock);
    return NULL;
}

// ---- life

int runner_new(const struct runner_options *options, struct runner **ret, struct af_error *err)
{
    struct runner *runner = calloc(1, sizeof *runner);
    if (!runner)
        return af_error_errno(err, ENOMEM, "runner");
    runner->magic = RUNNER_MAGIC;
    runner->mux = options->mux;
    runner->boxes = options->boxes;
    runner->turns = options->turns;
    runner->destroyed = options->destroyed;
    runner->arg = options->arg;
    runner->next_expiry_ns = 0; // look once at the start
    pthread_mutex_init(&runner->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&runner->wake, &attr);
    pthread_cond_init(&runner->drained, &attr);
    pthread_cond_init(&runner->woken, &attr);
    pthread_condattr_destroy(&attr);
    net_pool_init(&runner->enders, runner_end_item);
    int rc = -net_pool_start(&runner->enders, ENDERS);
    if (rc == 0)
        rc = pthread_create(&runner->thread, NULL, runner_main, runner);
    if (rc != 0) {
        net_pool_stop(&runner->enders);
        net_pool_fini(&runner->enders);
        free(runner);
        return af_error_errno(err, rc, "cannot start the runner's threads");
    }
    *ret = runner;
    return 0;
}

static void close_locked(struct runner *runner)
{
    runner->closing = true;
    struct run *run, *next;
    HASH_ITER (hh, runner->runs, run, next) {
        if (run->state != RUN_STOPPING && run->planned)
            runner_stop_box(run);
    }
    pthread_cond_signal(&runner->wake);
}

void runner_close(struct runner *runner)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    pthread_mutex_lock(&runner->lock);
    close_locked(runner);
    pthread_mutex_unlock(&runner->lock);
}

void runner_free(struct runner *runner)
{
    if (!runner)
        return;
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    pthread_mutex_lock(&runner->lock);
    close_locked(runner);
    while (runner->runs)
        pthread_cond_wait(&runner->drained, &runner->lock);
    pthread_cond_signal(&runner->wake);
    pthread_mutex_unlock(&runner->lock);
    pthread_join(runner->thread, NULL);
    net_pool_stop(&runner->enders); // the last may still be telling its waiters
    net_pool_fini(&runner->enders);
    pthread_cond_destroy(&runner->wake);
    pthread_cond_destroy(&runner->drained);
    pthread_cond_destroy(&runner->woken);
    pthread_mutex_destroy(&runner->lock);
    runner->magic = 0;
    free(runner);
}

// ---- the steps

static int sandbox_exists(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    (void)sandbox;
    return 0;
}

static int refuse_state(const struct run *run, struct af_error *err)
{
    static const char *const words[] = {
        [RUN_STARTING] = "is starting; wait until it runs",
        [RUN_UP] = "is running already",
        [RUN_STOPPING] = "is being stopped",
    };
    return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s %s", run->id, words[run->state]);
}

// Whether the run is at its end: also before its thread has heard of a box that has died, for a
// command that has may have told its caller to start the sandbox again.
static bool is_ending(const struct run *run)
{
    return run->state == RUN_STOPPING ||
           (run->state == RUN_UP && run->box && exec_box_is_ending(run->box));
}

// Enters the sandbox into the table as starting. *ret NULL: it will be started when it has stopped.
static int enter_start(struct runner *runner, const char *id, runner_done done, void *arg,
                       struct run **ret, struct af_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&runner->lock);
    struct run *run = runner_find(runner, id);
    if (runner->closing) {
        rc = af_error_set(err, AF_UNAVAILABLE, "the server is stopping");
    } else if (run && is_ending(run)) {
        if (!add_restarter(run, done, arg))
            rc = af_error_errno(err, ENOMEM, "cannot start sandbox %s", id);
        run = NULL;
    } else if (run) {
        rc = refuse_state(run, err);
    } else if (!(run = add_run(runner, id, RUN_STARTING))) {
        rc = af_error_errno(err, ENOMEM, "cannot start sandbox %s", id);
    }
    pthread_mutex_unlock(&runner->lock);
    *ret = run;
    return rc;
}

static int start_box(struct runner *runner, struct run *run, struct af_error *err)
{
    // Under the lock, so that run->box is set before any event of it is handled.
    pthread_mutex_lock(&runner->lock);
    int rc = 0;
    if (runner->closing)
        rc = af_error_set(err, AF_UNAVAILABLE, "the server is stopping");
    else if (run->state != RUN_STARTING)
        rc = af_error_set(err, AF_CANCELLED, "the sandbox was destroyed while starting");
    else if (!run->plan.lazy)
        rc = runner_box_start(run, box_started, err);
    else
        runner_push(run, EVENT_STARTED, NULL);
    run->planned = rc == 0;
    pthread_mutex_unlock(&runner->lock);
    return rc;
}

int runner_start(struct runner *runner, const char *id, runner_done done, void *arg,
                 struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    struct run *run;
    int rc = enter_start(runner, id, done, arg, &run, err);
    if (rc < 0 || !run)
        return rc;
    run->starter = (struct waiter){.done = done, .arg = arg};
    rc = boxes_plan(runner->boxes, id, &run->plan, err);
    if (rc == 0)
        rc = start_box(runner, run, err);
    if (rc < 0) {
        pthread_mutex_lock(&runner->lock);
        run->state = RUN_STOPPING;
        run->failed = true;
        run->starter.done = NULL;
        run->parts++;
        pthread_mutex_unlock(&runner->lock);
        if (!boxes_drop(&run->plan, runner_box_stopped, run))
            runner_end(run); // so that it may be tried again at once
        return -1;
    }
    return 0;
}

int runner_stop(struct runner *runner, const char *id, runner_done done, void *arg,
                struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    if (mux_sandbox_get(runner->mux, id, sandbox_exists, NULL, err) < 0)
        return -1;
    int rc = 0;
    pthread_mutex_lock(&runner->lock);
    struct run *run = runner_find(runner, id);
    if (!run)
        rc = af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running", id);
    else if (run->state != RUN_UP)
        rc = refuse_state(run, err);
    else if (!add_ender(run, done, arg))
        rc = af_error_errno(err, ENOMEM, "cannot stop sandbox %s", id);
    else
        runner_stop_box(run);
    pthread_mutex_unlock(&runner->lock);
    return rc;
}

// Marks a running sandbox for removal, or enters an idle one so that nobody can start it
// meanwhile. *ret_idle: the caller has to remove it.
static int enter_destroy(struct runner *runner, const char *id, runner_done done, void *arg,
                         struct run **ret_idle, struct af_error *err)
{
    int rc = 0;
    *ret_idle = NULL;
    pthread_mutex_lock(&runner->lock);
    struct run *run = runner_find(runner, id);
    bool idle = !run;
    if (idle)
        run = add_run(runner, id, RUN_STOPPING);
    if (!run || !add_ender(run, done, arg)) {
        rc = af_error_errno(err, ENOMEM, "cannot destroy sandbox %s", id);
        if (idle && run) {
            HASH_DEL(runner->runs, run);
            free(run);
        }
    } else {
        run->destroy = true;
        if (idle)
            *ret_idle = run;
        else if (run->state != RUN_STOPPING && run->planned)
            runner_stop_box(run);
        else
            run->state = RUN_STOPPING; // between attach and box start: start_box sees it
    }
    pthread_mutex_unlock(&runner->lock);
    return rc;
}

int runner_destroy(struct runner *runner, const char *id, runner_done done, void *arg,
                   struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    if (mux_sandbox_get(runner->mux, id, sandbox_exists, NULL, err) < 0)
        return -1;
    struct run *idle;
    if (enter_destroy(runner, id, done, arg, &idle, err) < 0)
        return -1;
    if (idle)
        net_pool_submit(&runner->enders, &idle->item);
    return 0;
}

struct turns *runner_turns(struct runner *runner)
{
    return runner->turns;
}

void runner_expect_expiry(struct runner *runner, int64_t expires_ns)
{
    pthread_mutex_lock(&runner->lock);
    if (expires_ns < runner->next_expiry_ns) {
        runner->next_expiry_ns = expires_ns;
        pthread_cond_signal(&runner->wake);
    }
    pthread_mutex_unlock(&runner->lock);
}

size_t runner_count(struct runner *runner)
{
    pthread_mutex_lock(&runner->lock);
    size_t count = HASH_COUNT(runner->runs);
    pthread_mutex_unlock(&runner->lock);
    return count;
}
