// The runner: sandboxes that are starting, running or stopping.
//
// Owns one struct run per such sandbox and one thread. exec's callbacks, which must not block,
// only queue an event; the thread does the store's part, calls the waiters, destroys what expired.
// Lock: runner->lock over table, events, runs; a leaf but for exec's own. Read next: runner.h.
#include "api/runner.h"

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

#define RUNNER_MAGIC 0x52554e52

enum run_state { RUN_STARTING, RUN_UP, RUN_STOPPING };

struct waiter {
    runner_done done;
    void *arg;
    struct waiter *next;
};

struct run {
    char id[AF_ID_TEXT_MAX];
    struct runner *runner;
    enum run_state state;
    bool destroy; // remove the record once stopped
    bool failed;  // the start failed: the status stays what it was
    struct box_plan plan;
    struct exec_box *box;  // NULL: none, as long as a lazy sandbox had no command
    bool lazy;             // started without a box
    struct waiter starter; // done NULL: none
    struct af_error start_error;
    struct waiter *enders; // those who wait for the stop or the removal
    UT_hash_handle hh;
};

enum event_kind { EVENT_STARTED, EVENT_STOPPED, EVENT_DIED };

struct event {
    enum event_kind kind;
    struct run *run;
    bool failed;
    struct af_error error;
    struct event *prev, *next;
};

struct runner {
    uint32_t magic;
    struct mux *mux;
    struct boxes *boxes;
    struct turns *turns;
    void (*destroyed)(void *arg, const char *id);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;    // monotonic clock
    pthread_cond_t drained; // the table became empty
    struct run *runs;       // by id
    struct event *events;
    int64_t next_expiry_ns; // wall clock, INT64_MAX: none
    bool closing;
};

// ---- events: exec's callbacks

static void push_event_locked(struct run *run, enum event_kind kind, const struct af_error *err)
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
    push_event_locked(run, kind, err);
    pthread_mutex_unlock(&run->runner->lock);
}

static void box_started(void *arg, const struct af_error *err)
{
    push_event(arg, EVENT_STARTED, err);
}

// A lazy sandbox's box: when it cannot start, that ends the sandbox as its death would.
static void lazy_box_started(void *arg, const struct af_error *err)
{
    if (err)
        push_event(arg, EVENT_DIED, err);
}

static void box_died(void *arg, const struct af_error *why)
{
    push_event(arg, EVENT_DIED, why);
}

static void box_stopped(void *arg)
{
    push_event(arg, EVENT_STOPPED, NULL);
}

// ---- the table, under the lock

static struct run *find_run(struct runner *runner, const char *id)
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

static bool add_ender(struct run *run, runner_done done, void *arg)
{
    struct waiter *waiter = malloc(sizeof *waiter);
    if (!waiter)
        return false;
    *waiter = (struct waiter){.done = done, .arg = arg};
    LL_APPEND(run->enders, waiter);
    return true;
}

static void stop_box(struct run *run)
{
    run->state = RUN_STOPPING;
    if (run->box)
        exec_box_stop(AF_TAKE_PTR(run->box), box_stopped, run);
    else
        push_event_locked(run, EVENT_STOPPED, NULL);
}

// Calls those who wait for the end of a run that is out of the table, and frees it.
static void end_run(struct run *run, const struct af_error *err)
{
    struct waiter *waiter, *next;
    LL_FOREACH_SAFE(run->enders, waiter, next)
    {
        waiter->done(waiter->arg, err);
        free(waiter);
    }
    if (run->starter.done)
        run->starter.done(run->starter.arg, &run->start_error);
    boxes_drop(&run->plan, NULL, NULL);
    free(run);
}

// ---- the thread

static void handle_started(struct run *run, struct event *event)
{
    struct runner *runner = run->runner;
    struct af_error error = event->error;
    if (!event->failed &&
        mux_sandbox_set_status(runner->mux, run->id, STORE_SANDBOX_RUNNING, &error) < 0)
        event->failed = true;
    pthread_mutex_lock(&runner->lock);
    struct waiter starter = run->starter;
    if (run->state == RUN_STARTING && event->failed) {
        run->failed = true;
        run->start_error = error;
        starter.done = NULL; // told when nothing is left of it, so that it may try again at once
        stop_box(run);
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
        stop_box(run);
    pthread_mutex_unlock(&runner->lock);
}

// Whether the record is to be removed; if not, the run leaves the table in the same moment, so
// that a destroy that comes later finds none and does its own work.
static bool leave_unless_destroyed(struct run *run, bool destroyed)
{
    struct runner *runner = run->runner;
    pthread_mutex_lock(&runner->lock);
    bool destroy = run->destroy && !destroyed;
    if (!destroy) {
        HASH_DEL(runner->runs, run);
        if (!runner->runs)
            pthread_cond_broadcast(&runner->drained);
    }
    pthread_mutex_unlock(&runner->lock);
    return destroy;
}

static void handle_stopped(struct run *run)
{
    struct runner *runner = run->runner;
    struct af_error error = {0};
    int rc = 0;
    mux_view_detach(runner->mux, run->id);
    pthread_mutex_lock(&runner->lock);
    bool keep_status = run->destroy || run->failed;
    pthread_mutex_unlock(&runner->lock);
    if (!keep_status) {
        turns_settle(runner->turns, run->id, false, &error);
        rc = mux_sandbox_set_status(runner->mux, run->id, STORE_SANDBOX_STOPPED, &error);
    }
    if (leave_unless_destroyed(run, false)) {
        rc = turns_settle(runner->turns, run->id, true, &error);
        if (rc < 0) // ABORTED: it is still there, and so are its changes
            mux_sandbox_set_status(runner->mux, run->id, STORE_SANDBOX_STOPPED,
                                   &(struct af_error){0});
        else if ((rc = mux_sandbox_destroy(runner->mux, run->id, &error)) == 0)
            runner->destroyed(runner->arg, run->id);
        leave_unless_destroyed(run, true);
    }
    if (rc < 0 && error.status != AF_NOT_FOUND) // gone already: somebody destroyed it twice
        af_log(AF_LOG_ERROR, "runner", "could not record the end of a sandbox",
               "sandbox=%s error=\"%s\"", run->id, error.text);
    end_run(run, rc < 0 ? &error : NULL);
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
            else
                handle_stopped(event->run);
            free(event);
            pthread_mutex_lock(&runner->lock);
        } else if (runner->closing && !runner->runs) {
            break;
        } else if (!runner->closing && runner->next_expiry_ns <= af_wall_ns()) {
            runner->next_expiry_ns = INT64_MAX;
            pthread_mutex_unlock(&runner->lock);
            expired_remove(runner->mux, runner);
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
    pthread_condattr_destroy(&attr);
    int rc = pthread_create(&runner->thread, NULL, runner_main, runner);
    if (rc != 0) {
        free(runner);
        return af_error_errno(err, rc, "cannot start the runner's thread");
    }
    *ret = runner;
    return 0;
}

static void close_locked(struct runner *runner)
{
    runner->closing = true;
    struct run *run, *next;
    HASH_ITER (hh, runner->runs, run, next) {
        if (run->state != RUN_STOPPING && (run->box || run->lazy))
            stop_box(run);
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
    pthread_cond_destroy(&runner->wake);
    pthread_cond_destroy(&runner->drained);
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
        [RUN_STOPPING] = "is being stopped; try again when it has",
    };
    return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s %s", run->id, words[run->state]);
}

// Enters the sandbox into the table as starting.
static int enter_start(struct runner *runner, const char *id, struct run **ret,
                       struct af_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&runner->lock);
    struct run *run = find_run(runner, id);
    if (run)
        rc = refuse_state(run, err);
    else if (runner->closing)
        rc = af_error_set(err, AF_UNAVAILABLE, "the server is stopping");
    else if (!(run = add_run(runner, id, RUN_STARTING)))
        rc = af_error_errno(err, ENOMEM, "cannot start sandbox %s", id);
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
        rc = boxes_start(runner->boxes, run->id, &run->plan, box_started, box_died, run, &run->box,
                         err);
    else
        run->lazy = true;
    if (run->lazy)
        push_event_locked(run, EVENT_STARTED, NULL);
    pthread_mutex_unlock(&runner->lock);
    return rc;
}

int runner_start(struct runner *runner, const char *id, runner_done done, void *arg,
                 struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    struct run *run;
    if (enter_start(runner, id, &run, err) < 0)
        return -1;
    run->starter = (struct waiter){.done = done, .arg = arg};
    int rc = boxes_plan(runner->boxes, id, &run->plan, err);
    if (rc == 0)
        rc = start_box(runner, run, err);
    if (rc < 0) {
        pthread_mutex_lock(&runner->lock);
        run->state = RUN_STOPPING;
        run->failed = true;
        run->starter.done = NULL;
        pthread_mutex_unlock(&runner->lock);
        if (!boxes_drop(&run->plan, box_stopped, run))
            handle_stopped(run);
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
    struct run *run = find_run(runner, id);
    if (!run)
        rc = af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running", id);
    else if (run->state != RUN_UP)
        rc = refuse_state(run, err);
    else if (!add_ender(run, done, arg))
        rc = af_error_errno(err, ENOMEM, "cannot stop sandbox %s", id);
    else
        stop_box(run);
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
    struct run *run = find_run(runner, id);
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
        else if (run->state != RUN_STOPPING && (run->box || run->lazy))
            stop_box(run);
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
        handle_stopped(idle);
    return 0;
}

static int refuse_idle(struct runner *runner, const char *id, struct af_error *err)
{
    if (mux_sandbox_get(runner->mux, id, sandbox_exists, NULL, err) < 0)
        return -1;
    return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running; start it first",
                        id);
}

// Whether the sandbox takes commands. A lazy one's box is started; NULL: that failed at once.
static bool find_up(struct runner *runner, const char *id, struct exec_box **ret_box,
                    struct af_error *err)
{
    struct run *run = find_run(runner, id);
    if (!run || run->state != RUN_UP)
        return false;
    if (!run->box && boxes_start(runner->boxes, id, &run->plan, lazy_box_started, box_died, run,
                                 &run->box, err) < 0)
        run->box = NULL;
    *ret_box = run->box;
    return true;
}

int runner_launch(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                  exec_command_done done, void *arg, struct exec_command **ret_command,
                  struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    pthread_mutex_lock(&runner->lock);
    struct exec_box *box = NULL;
    bool up = find_up(runner, id, &box, err);
    int rc = box ? exec_command_start(box, spec, done, arg, ret_command, err) : -1;
    pthread_mutex_unlock(&runner->lock);
    return up ? rc : refuse_idle(runner, id, err);
}

int runner_session(struct runner *runner, const char *id, const struct exec_session_spec *spec,
                   exec_session_ready ready, exec_session_closed closed, void *arg,
                   struct exec_session **ret_session, struct af_error *err)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    pthread_mutex_lock(&runner->lock);
    struct exec_box *box = NULL;
    bool up = find_up(runner, id, &box, err);
    int rc = box ? exec_session_start(box, spec, ready, closed, arg, ret_session, err) : -1;
    pthread_mutex_unlock(&runner->lock);
    return up ? rc : refuse_idle(runner, id, err);
}

bool runner_init(struct runner *runner, const char *id, pid_t *ret_pid, uid_t *ret_uid)
{
    AF_CHECK_MAGIC(runner, RUNNER_MAGIC);
    pthread_mutex_lock(&runner->lock);
    struct run *run = find_run(runner, id);
    bool up = run && run->state == RUN_UP && run->box && exec_box_init(run->box, ret_pid, ret_uid);
    pthread_mutex_unlock(&runner->lock);
    return up;
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
