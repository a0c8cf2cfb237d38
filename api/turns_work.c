// What is done with a view before and after commands: the jobs, and the threads they run on.
//
// Owns the threads. A job of a gate is one at a time, for its state says so. Locks: none held while
// a job runs. Fails: see turns.c. Read next: mux/commit.h.
#include "api/turns_priv.h"

#include "api/sandbox_facts.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <utlist.h>

#define THREADS 4

static void run_item(struct net_pool_item *item)
{
    struct turns_job *job = (struct turns_job *)(void *)item;
    job->run(job);
}

int turns_new(const struct turns_options *options, struct turns **ret, struct af_error *err)
{
    struct turns *turns = calloc(1, sizeof *turns);
    if (!turns)
        return af_error_errno(err, ENOMEM, "turns");
    turns->options = *options;
    pthread_mutex_init(&turns->lock, NULL);
    net_pool_init(&turns->pool, run_item);
    int rc = net_pool_start(&turns->pool, THREADS);
    if (rc < 0) {
        net_pool_fini(&turns->pool);
        pthread_mutex_destroy(&turns->lock);
        free(turns);
        return af_error_errno(err, -rc, "cannot start the threads that commit views");
    }
    *ret = turns;
    return 0;
}

void turns_free(struct turns *turns)
{
    if (!turns)
        return;
    net_pool_stop(&turns->pool);
    net_pool_fini(&turns->pool);
    struct turn_gate *gate, *next;
    HASH_ITER (hh, turns->gates, gate, next) {
        HASH_DEL(turns->gates, gate);
        free(gate);
    }
    pthread_mutex_destroy(&turns->lock);
    free(turns);
}

static void submit(struct turns *turns, struct turns_job *job)
{
    net_pool_submit(&turns->pool, &job->item);
}

void turns_flush(struct turns *turns, const char *sandbox_id)
{
    turns->options.flush(turns->options.fs, sandbox_id);
}

// ---- what there is to do

int turns_look(struct turns *turns, const char *id, struct turn_need *ret)
{
    struct sandbox_options options;
    struct af_error ignored; // the command itself will say what is wrong with its sandbox
    *ret = (struct turn_need){0};
    if (sandbox_options_get(turns->options.mux, id, &options, &ignored) < 0)
        return -1;
    ret->on_exec = options.commit_policy == AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_EXEC;
    ret->on_destroy =
        options.commit_policy == AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_DESTROY;
    ret->conflicts =
        options.conflict_policy == AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_REFUSE
            ? MUX_CONFLICTS_REFUSED
            : MUX_LAST_WRITER_WINS;
    if (!ret->on_exec && !ret->on_destroy)
        return 0;
    return mux_commit_look(turns->options.mux, id, &ret->state, &ignored);
}

// ---- before

static struct turn_gate *gate_of(struct turns_job *job)
{
    return (struct turn_gate *)(void *)((char *)job - offsetof(struct turn_gate, job));
}

static void prepare(struct turns_job *job)
{
    struct turn_gate *gate = gate_of(job);
    struct turns *turns = gate->turns;
    struct mux_commit_result result = {0};
    struct turn_need need;
    struct af_error err;
    if (turns_look(turns, gate->id, &need) == 0 && need.on_exec && need.state.behind) {
        if (mux_rebase(turns->options.mux, gate->id, need.conflicts, &result, &err) < 0)
            af_log(AF_LOG_WARN, "turns", "a view could not be brought onto its codebase's head",
                   "sandbox=%s error=\"%s\"", gate->id, err.text);
        if (result.told)
            turns_flush(turns, gate->id);
    }
    turns_open(turns, gate);
}

void turns_submit_prepare(struct turns *turns, struct turn_gate *gate)
{
    gate->job.run = prepare;
    submit(turns, &gate->job);
}

// ---- after

// The command has done what it has done: its caller learns that others cannot see it.
static void fail_turn(struct turn *turn, const struct af_error *err)
{
    struct af_error error;
    if (turn->failed)
        return; // that says more
    af_error_set(&error, err->status,
                 "the command ended with exit code %d, but its changes could not be committed: %s",
                 turn->result.exit_code, err->text);
    turn->error = error;
    turn->failed = true;
}

static void push(struct turns_job *job)
{
    struct turn_gate *gate = gate_of(job);
    struct turns *turns = gate->turns;
    struct turn *pushers = AF_TAKE_PTR(gate->pushers), *turn;
    struct turn_need need;
    struct af_error err;
    if (turns_look(turns, gate->id, &need) == 0 && need.on_exec && need.state.changed &&
        mux_commit(turns->options.mux, gate->id, need.conflicts, NULL, &err) < 0) {
        af_log(AF_LOG_WARN, "turns", "a view's changes could not be pushed",
               "sandbox=%s error=\"%s\"", gate->id, err.text);
        LL_FOREACH (pushers, turn)
            fail_turn(turn, &err);
    }
    turns_pushed(turns, gate);
    turns_tell(pushers);
}

void turns_submit_push(struct turns *turns, struct turn_gate *gate, struct turn *pusher)
{
    if (pusher)
        LL_APPEND(gate->pushers, pusher);
    gate->job.run = push;
    submit(turns, &gate->job);
}

// ---- at the end

int turns_settle(struct turns *turns, const char *sandbox_id, bool destroyed, struct af_error *err)
{
    struct turn_need need;
    if (turns_look(turns, sandbox_id, &need) < 0 || !need.state.changed ||
        (need.on_destroy && !destroyed))
        return 0;
    int rc = mux_commit(turns->options.mux, sandbox_id, need.conflicts, NULL, err);
    if (rc < 0 && need.on_exec) { // its commands' files are pushed; this is of background processes
        af_log(AF_LOG_WARN, "turns", "what a sandbox wrote in the background was not pushed",
               "sandbox=%s error=\"%s\"", sandbox_id, err->text);
        rc = 0;
    }
    return rc;
}
