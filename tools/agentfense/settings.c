// agentfense set, rebase: changes of a sandbox that lives. See run.h.
//
// Each kind is one call, in this order: lifetime, commit policy, quota, limits; the first that
// fails ends it, and what came before stays. Owns the connection.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "tools/common/json.h"

#include <inttypes.h>
#include <stdio.h>

#define SERVICE "/agentfense.v1.SandboxService/"

static int change(struct session *session, const char *method, const ProtobufCMessage *request,
                  struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *reply = NULL;
    return rpc_unary(session->client, method, request, &agentfense__v1__sandbox_info__descriptor,
                     &reply, err);
}

static int set_expiry(struct session *session, const struct creation *to, struct af_error *err)
{
    Agentfense__V1__SetExpiryRequest request = AGENTFENSE__V1__SET_EXPIRY_REQUEST__INIT;
    Google__Protobuf__Duration in = GOOGLE__PROTOBUF__DURATION__INIT;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    in.seconds = to->expires_in_ns / AF_NS_PER_SEC;
    if (to->expires_in_ns != CREATION_NEVER)
        request.expires_in = &in;
    return change(session, SERVICE "SetExpiry", &request.base, err);
}

// The two policies come together: what is not given stays.
static int set_policies(struct session *session, const struct creation *to,
                        const Agentfense__V1__SandboxOptions *now, struct af_error *err)
{
    Agentfense__V1__SetCommitPolicyRequest request =
        AGENTFENSE__V1__SET_COMMIT_POLICY_REQUEST__INIT;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    request.commit_policy = to->commit_policy ? to->commit_policy : now->commit_policy;
    request.conflict_policy = to->conflicts ? to->conflicts : now->conflict_policy;
    return change(session, SERVICE "SetCommitPolicy", &request.base, err);
}

static int set_quota(struct session *session, const struct creation *to,
                     const Agentfense__V1__SandboxOptions *now, struct af_error *err)
{
    Agentfense__V1__SetQuotaRequest request = AGENTFENSE__V1__SET_QUOTA_REQUEST__INIT;
    Agentfense__V1__Quota quota = AGENTFENSE__V1__QUOTA__INIT;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    request.quota = &quota;
    quota.bytes = to->quota_bytes ? to->quota_bytes : now->quota ? now->quota->bytes : 0;
    quota.inodes = to->quota_inodes ? to->quota_inodes : now->quota ? now->quota->inodes : 0;
    return change(session, SERVICE "SetQuota", &request.base, err);
}

static uint64_t rate(int64_t wanted, uint64_t now)
{
    return wanted == 0 ? now : wanted == CREATION_NONE ? 0 : (uint64_t)wanted;
}

static int set_io_limit(struct session *session, const struct creation *to,
                        const Agentfense__V1__SandboxOptions *now, struct af_error *err)
{
    Agentfense__V1__SetIoLimitRequest request = AGENTFENSE__V1__SET_IO_LIMIT_REQUEST__INIT;
    Agentfense__V1__IoLimit limit = AGENTFENSE__V1__IO_LIMIT__INIT;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    request.io_limit = &limit;
    limit.iops = rate(to->iops, now->io_limit ? now->io_limit->iops : 0);
    limit.bandwidth = rate(to->bandwidth, now->io_limit ? now->io_limit->bandwidth : 0);
    return change(session, SERVICE "SetIoLimit", &request.base, err);
}

static int get(struct session *session, Agentfense__V1__SandboxInfo **ret, struct af_error *err)
{
    Agentfense__V1__GetRequest request = AGENTFENSE__V1__GET_REQUEST__INIT;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    return rpc_unary(session->client, SERVICE "Get", &request.base,
                     &agentfense__v1__sandbox_info__descriptor, ret, err);
}

static int set_all(struct session *session, const struct creation *to, struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *info = NULL;
    if (get(session, &info, err) < 0)
        return -1;
    if (!info->options)
        return af_error_set(err, AF_INTERNAL, "the daemon's answer has no options");
    if (to->expires_in_ns != 0 && set_expiry(session, to, err) < 0)
        return -1;
    if ((to->commit_policy || to->conflicts) && set_policies(session, to, info->options, err) < 0)
        return -1;
    if ((to->quota_bytes || to->quota_inodes) && set_quota(session, to, info->options, err) < 0)
        return -1;
    if ((to->iops || to->bandwidth) && set_io_limit(session, to, info->options, err) < 0)
        return -1;
    return 0;
}

// Connects and finds the sandbox that the first argument names.
static int open_named(const struct options *options, struct session *session, struct af_error *err)
{
    session->keep = true;
    if (session_open(session, options_socket(options), err) < 0)
        return -1;
    return rpc_find_view(session->client, options->args[0], &session->sandbox_id, err);
}

int command_set(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *after = NULL;
    int rc = open_named(options, &session, &err);
    if (rc == 0)
        rc = set_all(&session, &options->creation, &err);
    if (rc == 0 && options->json && (rc = get(&session, &after, &err)) == 0)
        report_info(options, after);
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}

static void print_rebase(const struct options *options, const Agentfense__V1__RebaseResponse *reply)
{
    struct json json;
    if (!options->json) {
        puts(reply->moved ? "brought onto the codebase's present state"
                          : "on the codebase's present state already");
        return;
    }
    json_init(&json, stdout);
    json_begin_object(&json, NULL);
    json_bool(&json, "moved", reply->moved);
    json_uint(&json, "conflicts", reply->conflicts);
    json_end(&json);
    json_finish(&json);
}

int command_rebase(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    Agentfense__V1__RebaseRequest request = AGENTFENSE__V1__REBASE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__RebaseResponse *reply = NULL;
    int rc = open_named(options, &session, &err);
    request.sandbox_id = af_client_text(session.sandbox_id.text);
    if (rc == 0)
        rc = rpc_unary(session.client, SERVICE "Rebase", &request.base,
                       &agentfense__v1__rebase_response__descriptor, &reply, &err);
    if (rc == 0)
        print_rebase(options, reply);
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}
