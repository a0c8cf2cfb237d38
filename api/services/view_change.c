// agentfense.v1.SandboxService: changes of a sandbox that may be running.
//
// What mux has to tell the kernel, and ending processes, waits on a job's thread, which then
// answers the call. A call that is cancelled meanwhile changes nothing about that: the change is in
// force since the handler has returned. Read next: mux/view_change.h, exec/holders.h, api/jobs.h.
#include "api/services/view_record.h"
#include "api/services/view_service.h"

#include "exec/holders.h"
#include "mux/base/clock.h"
#include "mux/view_change.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct change {
    struct job job;
    struct grpc_call *call; // a reference
    struct af_id id;
    struct mux_revoke *revoke; // or NULL
    bool end_holders;
    void (*answer)(struct change *change);
    uint32_t processes_ended;
};

// ---- on the job's thread

static bool forbids(void *arg, uint64_t ino)
{
    struct change *change = arg;
    struct af_error err;
    bool permits = true;
    if (mux_view_permits(daemon_of(change->call)->mux, change->id.text, ino, &permits, &err) < 0)
        return false; // not running any more
    return !permits;
}

static int end_holders(struct change *change, struct af_error *err)
{
    struct daemon *daemon = daemon_of(change->call);
    struct statx st;
    struct exec_holders_spec spec = {.forbids = forbids, .arg = change};
    if (!runner_init(daemon->runner, change->id.text, &spec.init, &spec.uid))
        return 0;
    if (statx(AT_FDCWD, daemon->config.mount, AT_STATX_DONT_SYNC, STATX_INO, &st) < 0)
        return af_error_errno(err, errno, "cannot look for processes that hold files open");
    spec.dev_major = st.stx_dev_major;
    spec.dev_minor = st.stx_dev_minor;
    return exec_end_holders(&spec, &change->processes_ended, err);
}

static void run_change(struct job *job, const atomic_bool *stop)
{
    struct change *change = (struct change *)job;
    struct af_error err;
    int rc = mux_revoke_run(change->revoke, stop);
    if (rc < 0)
        rc = af_error_errno(&err, -rc,
                            "the change is in force, but the kernel may still answer from what it "
                            "remembers of sandbox %s; stop it to be sure",
                            change->id.text);
    if (rc == 0) {
        fs_invalidate_flush(daemon_of(change->call)->fs, change->id.text);
        if (change->end_holders)
            rc = end_holders(change, &err);
    }
    if (rc < 0)
        grpc_call_finish_error(change->call, &err);
    else
        change->answer(change);
    grpc_call_unref(change->call);
    free(change);
}

// ---- in the handlers

static struct change *change_new(struct grpc_call *call, ProtobufCBinaryData sandbox_id,
                                 void (*answer)(struct change *change), struct af_error *err)
{
    struct change *change = calloc(1, sizeof *change);
    if (!change) {
        af_error_errno(err, ENOMEM, "cannot change the sandbox");
        return NULL;
    }
    if (service_check_id("sb", sandbox_id, &change->id, err) < 0) {
        free(change);
        return NULL;
    }
    change->job.run = run_change;
    change->call = grpc_call_ref(call);
    change->answer = answer;
    return change;
}

// The view has changed, or has not: rc.
static void finish(struct change *change, int rc, const struct af_error *err)
{
    if (rc == 0 && (change->revoke || change->end_holders)) {
        jobs_submit(daemon_of(change->call)->jobs, &change->job);
        return;
    }
    if (rc < 0)
        grpc_call_finish_error(change->call, err);
    else
        change->answer(change);
    grpc_call_unref(change->call);
    free(change);
}

static void answer_info(struct change *change)
{
    view_reply_send(change->call, change->id.text);
}

static void answer_permissions(struct change *change)
{
    struct af_error err;
    Agentfense__V1__UpdatePermissionsResponse reply =
        AGENTFENSE__V1__UPDATE_PERMISSIONS_RESPONSE__INIT;
    struct view_reply *info = view_reply_read(daemon_of(change->call), change->id.text, &err);
    if (!info) {
        grpc_call_finish_error(change->call, &err);
        return;
    }
    reply.sandbox = view_reply_message(info);
    reply.processes_ended = change->processes_ended;
    grpc_call_reply(change->call, &reply.base);
    view_reply_free(info);
}

void view_update_permissions(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__UpdatePermissionsRequest *request = (const void *)message;
    struct af_error err;
    struct store_rule *rules = NULL;
    struct change *change = change_new(call, request->sandbox_id, answer_permissions, &err);
    if (!change) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc = sandbox_rules_parse(request->permissions, request->n_permissions, &rules, &err);
    if (rc == 0)
        rc = mux_view_set_rules(daemon_of(call)->mux, change->id.text, rules,
                                request->n_permissions, &change->revoke, &err);
    free(rules);
    change->end_holders = request->end_holders;
    finish(change, rc, &err);
}

void view_set_access(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SetAccessRequest *request = (const void *)message;
    struct af_error err;
    struct change *change = change_new(call, request->sandbox_id, answer_info, &err);
    if (!change) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc =
        grpc_check_enum(&agentfense__v1__access__descriptor, (int)request->access, "access", &err);
    if (rc == 0 && request->access == AGENTFENSE__V1__ACCESS__ACCESS_UNSPECIFIED)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT,
                          "access is required: ACCESS_NORMAL, ACCESS_READ_ONLY or ACCESS_CUT_OFF");
    if (rc == 0)
        rc = mux_view_set_access(daemon_of(call)->mux, change->id.text,
                                 (enum store_sandbox_access)request->access, &change->revoke, &err);
    finish(change, rc, &err);
}

void view_set_quota(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SetQuotaRequest *request = (const void *)message;
    uint64_t bytes = request->quota ? request->quota->bytes : 0;
    uint64_t inodes = request->quota ? request->quota->inodes : 0;
    struct af_error err;
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        mux_view_set_quota(daemon_of(call)->mux, id.text, bytes, inodes, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        view_reply_send(call, id.text);
}

void view_set_io_limit(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SetIoLimitRequest *request = (const void *)message;
    const Agentfense__V1__IoLimit *limit = request->io_limit;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        sandbox_io_limit_check(daemon, limit, &err) < 0 ||
        mux_view_set_limit(daemon->mux, id.text, limit ? limit->iops : 0,
                           limit ? limit->bandwidth : 0, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        view_reply_send(call, id.text);
}

// ---- expiry

static int put_expiry(void *arg, struct store_sandbox *sandbox, struct af_error *err)
{
    (void)err;
    sandbox->expires_ns = *(const int64_t *)arg;
    return 0;
}

void view_set_expiry(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SetExpiryRequest *request = (const void *)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    int64_t in_ns, expires_ns = 0;
    int rc = service_check_id("sb", request->sandbox_id, &id, &err);
    if (rc == 0)
        rc = service_duration_ns("expires_in", request->expires_in, 0, &in_ns, &err);
    if (rc == 0 && request->expires_in && in_ns == 0)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT,
                          "expires_in must lie in the future; leave it out for never");
    if (rc == 0 && request->expires_in)
        expires_ns = af_wall_ns() + in_ns;
    if (rc == 0)
        rc = mux_sandbox_change(daemon->mux, id.text, put_expiry, &expires_ns, &err);
    if (rc < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if (expires_ns > 0)
        runner_expect_expiry(daemon->runner, expires_ns);
    view_reply_send(call, id.text);
}
