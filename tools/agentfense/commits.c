// agentfense commit, rollback: what becomes of a sandbox's changes. See run.h.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/agentfense/progress.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "tools/common/json.h"

#include <inttypes.h>
#include <stdio.h>

// Connects and finds the sandbox that the first argument names.
static int open_named(const struct options *options, struct session *session, struct af_error *err)
{
    session->keep = true;
    if (session_open(session, options->socket ? options->socket : AF_SOCKET_DEFAULT, err) < 0)
        return -1;
    return rpc_find_view(session->client, options->args[0], &session->sandbox_id, err);
}

static void print_commit(const struct options *options, const Agentfense__V1__CommitResponse *reply)
{
    struct json json;
    if (!options->json) {
        printf("%" PRIu64 " changes committed, %" PRIu64 " of them in conflict with others\n",
               reply->entries, reply->conflicts);
        return;
    }
    json_init(&json, stdout);
    json_begin_object(&json, NULL);
    json_uint(&json, "changes", reply->entries);
    json_uint(&json, "conflicts", reply->conflicts);
    json_end(&json);
    json_finish(&json);
}

int command_commit(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    Agentfense__V1__CommitRequest request = AGENTFENSE__V1__COMMIT_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__CommitResponse *reply = NULL;
    int rc = open_named(options, &session, &err);
    request.sandbox_id = af_client_text(session.sandbox_id.text);
    if (options->refuse)
        request.conflict_policy = AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_REFUSE;
    struct progress_wait *wait = rc == 0 ? progress_wait_start("commit") : NULL;
    if (rc == 0)
        rc = rpc_unary(session.client, "/agentfense.v1.SandboxService/Commit", &request.base,
                       &agentfense__v1__commit_response__descriptor, &reply, &err);
    progress_wait_end(wait);
    if (rc == 0)
        print_commit(options, reply);
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}

int command_rollback(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    Agentfense__V1__RollbackRequest request = AGENTFENSE__V1__ROLLBACK_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *reply = NULL;
    int rc = open_named(options, &session, &err);
    request.sandbox_id = af_client_text(session.sandbox_id.text);
    if (rc == 0)
        rc = rpc_unary(session.client, "/agentfense.v1.SandboxService/Rollback", &request.base,
                       &agentfense__v1__sandbox_info__descriptor, &reply, &err);
    if (rc == 0)
        report_info(options, reply);
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}
