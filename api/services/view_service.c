// agentfense.v1.SandboxService: Create, Get, and the method table.
//
// A sandbox that was to be started in the same call and could not be is destroyed again: the call
// made it or did not. Read next: view_batch.c, view_change.c, view_list.c.
#include "api/services/view_service.h"

#include "api/services/view_record.h"
#include "mux/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>

struct creation {
    struct grpc_call *call; // a reference
    struct af_id id;
};

static void destroyed_again(void *arg, const struct af_error *err)
{
    (void)arg;
    (void)err; // the caller has been told already what went wrong first
}

static void started(void *arg, const struct af_error *err)
{
    struct creation *creation = arg;
    struct runner *runner = daemon_of(creation->call)->runner;
    struct af_error ignored;
    if (err) {
        grpc_call_finish_error(creation->call, err);
        runner_destroy(runner, creation->id.text, destroyed_again, NULL, &ignored);
    } else {
        view_reply_send(creation->call, creation->id.text);
    }
    grpc_call_unref(creation->call);
    free(creation);
}

static void start(struct grpc_call *call, const struct af_id *id)
{
    struct af_error err;
    struct creation *creation = calloc(1, sizeof *creation);
    if (!creation) {
        af_error_errno(&err, ENOMEM, "cannot start sandbox %s", id->text);
        grpc_call_finish_error(call, &err);
        runner_destroy(daemon_of(call)->runner, id->text, destroyed_again, NULL, &err);
        return;
    }
    creation->call = grpc_call_ref(call);
    creation->id = *id;
    if (runner_start(daemon_of(call)->runner, id->text, started, creation, &err) < 0)
        started(creation, &err);
}

static void create(struct grpc_call *call, const ProtobufCMessage *message)
{
    static const Sandbox__V1__CreateSandboxRequest nothing =
        SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    const Agentfense__V1__CreateRequest *wanted = (const void *)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    struct sandbox_request request;
    if (sandbox_request_parse(daemon, wanted->sandbox ? wanted->sandbox : &nothing, wanted->options,
                              &request, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc = mux_sandbox_create(daemon->mux, &request.spec, &id, &err);
    if (rc == 0 && request.spec.expires_ns > 0)
        runner_expect_expiry(daemon->runner, request.spec.expires_ns);
    sandbox_request_fini(&request);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else if (wanted->start)
        start(call, &id);
    else
        view_reply_send(call, id.text);
}

static void get(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__GetRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        view_reply_send(call, id.text);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.SandboxService", name, agentfense__v1__##type, handler)

const struct grpc_method view_methods[] = {
    METHOD("Create", create_request, create),
    METHOD("BatchCreate", batch_create_request, view_batch_create),
    METHOD("BatchDestroy", batch_destroy_request, view_batch_destroy),
    METHOD("Get", get_request, get),
    METHOD("UpdatePermissions", update_permissions_request, view_update_permissions),
    METHOD("SetQuota", set_quota_request, view_set_quota),
    METHOD("SetIoLimit", set_io_limit_request, view_set_io_limit),
    METHOD("SetAccess", set_access_request, view_set_access),
    METHOD("SetExpiry", set_expiry_request, view_set_expiry),
    {
        .path = "/agentfense.v1.SandboxService/List",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__list_request__descriptor,
        .on_message = view_list,
        .on_writable = view_list_writable,
        .on_free = view_list_free,
    },
};
const size_t view_methods_count = AF_ARRAY_LEN(view_methods);
