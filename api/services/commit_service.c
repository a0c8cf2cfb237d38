// agentfense.v1.SandboxService: Commit, Rollback, Rebase, SetCommitPolicy.
//
// The first three wait for the store, the disk and the kernel on a job's thread, which then answers
// the call. Read next: mux/commit.h, api/turns.h.
#include "api/services/view_record.h"
#include "api/services/view_service.h"

#include "mux/base/cleanup.h"
#include "mux/commit.h"

#include <errno.h>
#include <stdlib.h>

struct request {
    struct job job;
    struct grpc_call *call; // a reference
    struct af_id id;
    Agentfense__V1__ConflictPolicy conflicts; // unspecified: the sandbox's
    int (*run)(struct request *request, struct af_error *err);
};

static void run_request(struct job *job, const atomic_bool *stop)
{
    struct request *request = (struct request *)job;
    struct af_error err;
    (void)stop; // what is asked for takes as long as it takes, a push above all
    if (request->run(request, &err) < 0)
        grpc_call_finish_error(request->call, &err);
    grpc_call_unref(request->call);
    free(request);
}

static void submit(struct grpc_call *call, ProtobufCBinaryData sandbox_id,
                   Agentfense__V1__ConflictPolicy conflicts,
                   int (*run)(struct request *request, struct af_error *err))
{
    struct af_error err;
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the request");
        return;
    }
    if (service_check_id("sb", sandbox_id, &request->id, &err) < 0 ||
        grpc_check_enum(&agentfense__v1__conflict_policy__descriptor, (int)conflicts,
                        "conflict_policy", &err) < 0) {
        grpc_call_finish_error(call, &err);
        free(request);
        return;
    }
    request->job.run = run_request;
    request->call = grpc_call_ref(call);
    request->conflicts = conflicts;
    request->run = run;
    jobs_submit(daemon_of(call)->jobs, &request->job);
}

static int conflicts_of(struct request *request, enum mux_conflicts *ret, struct af_error *err)
{
    struct sandbox_options options;
    if (sandbox_options_get(daemon_of(request->call)->mux, request->id.text, &options, err) < 0)
        return -1;
    Agentfense__V1__ConflictPolicy policy =
        request->conflicts ? request->conflicts : options.conflict_policy;
    *ret = policy == AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_REFUSE ? MUX_CONFLICTS_REFUSED
                                                                             : MUX_LAST_WRITER_WINS;
    return 0;
}

// ---- Commit

static int run_commit(struct request *request, struct af_error *err)
{
    struct daemon *daemon = daemon_of(request->call);
    Agentfense__V1__CommitResponse reply = AGENTFENSE__V1__COMMIT_RESPONSE__INIT;
    struct mux_commit_result result;
    enum mux_conflicts conflicts;
    if (conflicts_of(request, &conflicts, err) < 0 ||
        mux_commit_count(daemon->mux, request->id.text, &reply.entries, err) < 0 ||
        mux_commit(daemon->mux, request->id.text, conflicts, &result, err) < 0)
        return -1;
    int rc = store_sync(mux_store(daemon->mux));
    if (rc < 0)
        return af_error_errno(err, -rc, "committed, but not yet on the disk");
    if (result.told)
        fs_invalidate_flush(daemon->fs, request->id.text);
    reply.conflicts = result.conflicts;
    reply.merged = result.merged;
    grpc_call_reply(request->call, &reply.base);
    return 0;
}

static void commit(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__CommitRequest *request = (const void *)message;
    submit(call, request->sandbox_id, request->conflict_policy, run_commit);
}

// ---- Rebase

static int run_rebase(struct request *request, struct af_error *err)
{
    struct daemon *daemon = daemon_of(request->call);
    Agentfense__V1__RebaseResponse reply = AGENTFENSE__V1__REBASE_RESPONSE__INIT;
    struct mux_commit_result result;
    enum mux_conflicts conflicts;
    if (conflicts_of(request, &conflicts, err) < 0 ||
        mux_rebase(daemon->mux, request->id.text, conflicts, &result, err) < 0)
        return -1;
    if (result.told)
        fs_invalidate_flush(daemon->fs, request->id.text);
    reply.moved = result.changed;
    reply.conflicts = result.conflicts;
    grpc_call_reply(request->call, &reply.base);
    return 0;
}

static void rebase(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__RebaseRequest *request = (const void *)message;
    submit(call, request->sandbox_id, 0, run_rebase);
}

// ---- Rollback

static int run_rollback(struct request *request, struct af_error *err)
{
    struct daemon *daemon = daemon_of(request->call);
    bool told = false;
    if (!turns_enter_alone(daemon->turns, request->id.text))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "commands of sandbox %s are running: let them end, then roll back",
                            request->id.text);
    int rc = mux_rollback(daemon->mux, request->id.text, &told, err);
    if (told)
        fs_invalidate_flush(daemon->fs, request->id.text);
    turns_leave_alone(daemon->turns, request->id.text);
    if (rc == 0)
        view_reply_send(request->call, request->id.text);
    return rc;
}

static void rollback(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__RollbackRequest *request = (const void *)message;
    submit(call, request->sandbox_id, 0, run_rollback);
}

// ---- SetCommitPolicy

static void set_policies(void *arg, struct sandbox_options *options)
{
    const Agentfense__V1__SandboxOptions *wanted = arg;
    struct sandbox_options parsed;
    struct af_error checked; // by the handler
    if (sandbox_options_parse(wanted, &parsed, &checked) < 0)
        return;
    if (wanted->commit_policy)
        options->commit_policy = parsed.commit_policy;
    if (wanted->conflict_policy)
        options->conflict_policy = parsed.conflict_policy;
}

static void set_commit_policy(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SetCommitPolicyRequest *request = (const void *)message;
    Agentfense__V1__SandboxOptions wanted = AGENTFENSE__V1__SANDBOX_OPTIONS__INIT;
    struct sandbox_options parsed;
    struct af_error err;
    struct af_id id;
    wanted.commit_policy = request->commit_policy;
    wanted.conflict_policy = request->conflict_policy;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        sandbox_options_parse(&wanted, &parsed, &err) < 0 ||
        sandbox_options_change(daemon_of(call)->mux, id.text, set_policies, &wanted, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        view_reply_send(call, id.text);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.SandboxService", name, agentfense__v1__##type, handler)

const struct grpc_method commit_methods[] = {
    METHOD("Commit", commit_request, commit),
    METHOD("Rollback", rollback_request, rollback),
    METHOD("Rebase", rebase_request, rebase),
    METHOD("SetCommitPolicy", set_commit_policy_request, set_commit_policy),
};
const size_t commit_methods_count = AF_ARRAY_LEN(commit_methods);
