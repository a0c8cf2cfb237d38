// What runs in running sandboxes: their boxes, commands and sessions.
//
// A box may come and go while its sandbox is up: a lazy one's is started with its first command,
// and one in which nothing ran for exec.idle_end is ended and comes back with the next. What a
// launch and an idle end see of each other is ordered by the lock: a command is in its box before
// the lock is let go, and a box with one is not idle. Owns: nothing that the run does not. Lock:
// runner->lock, over calls of exec, which do not block. Errors: as exec's. Read next: boxes.h.
#include "api/runner_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/log.h"

// ---- boxes

static void part_gone(struct run *run)
{
    if (--run->parts == 0 && run->state == RUN_STOPPING)
        runner_push(run, EVENT_STOPPED, NULL);
}

void runner_box_stopped(void *arg)
{
    struct run *run = arg;
    struct runner *runner = run->runner;
    pthread_mutex_lock(&runner->lock);
    part_gone(run);
    pthread_mutex_unlock(&runner->lock);
}

// Nothing has run in the box for a while, unless something began just now.
static void box_idle(void *arg)
{
    struct run *run = arg;
    struct runner *runner = run->runner;
    pthread_mutex_lock(&runner->lock);
    if (run->state == RUN_UP && run->box && !exec_box_busy(run->box))
        exec_box_stop(AF_TAKE_PTR(run->box), runner_box_stopped, run);
    pthread_mutex_unlock(&runner->lock);
}

int runner_box_start(struct run *run, exec_box_done started, struct af_error *err)
{
    const struct box_callbacks callbacks = {
        .started = started, .died = runner_box_died, .idle = box_idle, .arg = run};
    if (boxes_start(run->runner->boxes, run->id, &run->plan, &callbacks, &run->box, err) < 0) {
        run->box = NULL;
        return -1;
    }
    run->parts++;
    return 0;
}

// A box that comes with a command: when it cannot start, that ends the sandbox as its death would.
static void late_box_started(void *arg, const struct af_error *err)
{
    if (err)
        runner_box_died(arg, err);
}

// ---- what runs in them

static int sandbox_exists(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    (void)sandbox;
    return 0;
}

static int refuse_idle(struct runner *runner, const char *id, struct af_error *err)
{
    if (mux_sandbox_get(runner->mux, id, sandbox_exists, NULL, err) < 0)
        return -1;
    return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running; start it first",
                        id);
}

// The first command of a lazy one: a look for a box in the pool, without the lock.
static void wake(struct run *run)
{
    struct runner *runner = run->runner;
    run->waking = true;
    run->parts++;
    pthread_mutex_unlock(&runner->lock);
    boxes_fetch(runner->boxes, run->id, &run->plan);
    pthread_mutex_lock(&runner->lock);
    run->waking = false;
    pthread_cond_broadcast(&runner->woken);
    // Stopped meanwhile: a box of the pool has to go first, for its uid is the view's.
    if (run->state == RUN_STOPPING && boxes_drop(&run->plan, runner_box_stopped, run))
        return;
    part_gone(run);
}

// Whether the sandbox takes commands. Its box is started when there is none; NULL: that failed at
// once. The lock may be let go meanwhile.
static bool find_up(struct runner *runner, const char *id, struct exec_box **ret_box,
                    struct af_error *err)
{
    struct run *run;
    while ((run = runner_find(runner, id)) && run->state == RUN_UP && !run->box) {
        if (run->waking) {
            pthread_cond_wait(&runner->woken, &runner->lock);
        } else if (run->plan.lazy) {
            wake(run);
        } else if (runner_box_start(run, late_box_started, err) < 0) {
            return true;
        }
    }
    if (!run || run->state != RUN_UP)
        return false;
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
    struct run *run = runner_find(runner, id);
    bool up = run && run->state == RUN_UP && run->box && exec_box_init(run->box, ret_pid, ret_uid);
    pthread_mutex_unlock(&runner->lock);
    return up;
}
