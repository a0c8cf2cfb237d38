// The ends of runs: what a sandbox leaves behind is pushed, its status is recorded or its record
// removed, and those who wait are told.
//
// A push may take long. So this has threads of its own: a slow end holds up neither starts nor the
// ends of others, as long as there are fewer slow ones than threads.
// Owns: a run, from its last event on. Lock: runner->lock for moments. Fails: in the callbacks.
// Read next: runner.c, turns.h.
#include "api/runner_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#include <stddef.h>
#include <stdlib.h>
#include <utlist.h>

static void start_again(struct runner *runner, const char *id, struct waiter *waiter)
{
    struct af_error error;
    if (runner_start(runner, id, waiter->done, waiter->arg, &error) < 0)
        waiter->done(waiter->arg, &error);
    free(waiter);
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
    LL_FOREACH_SAFE(run->restarters, waiter, next)
    start_again(run->runner, run->id, waiter);
    boxes_drop(&run->plan, NULL, NULL);
    free(run);
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

void runner_end(struct run *run)
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

void runner_end_item(struct net_pool_item *item)
{
    runner_end((struct run *)(void *)((char *)item - offsetof(struct run, item)));
}
