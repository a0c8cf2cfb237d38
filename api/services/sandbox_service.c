// sandbox.v1.SandboxService: the life of sandboxes, and Exec (exec_service.c).
//
// Start, Stop and Destroy keep a reference to their call and end it from the runner's thread.
// Read next: api/runner.h, sandbox_record.h.
#include "api/services/exec_service.h"
#include "api/services/sandbox_record.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>

static void create_sandbox(struct grpc_call *call, const ProtobufCMessage *message)
{
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    struct sandbox_request request;
    if (sandbox_request_parse(daemon, (const void *)message, NULL, &request, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc = mux_sandbox_create(daemon->mux, &request.spec, &id, &err);
    if (rc == 0 && request.spec.expires_ns > 0)
        runner_expect_expiry(daemon->runner, request.spec.expires_ns);
    sandbox_request_fini(&request);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        sandbox_reply_send(call, id.text);
}

static void get_sandbox(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__GetSandboxRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        sandbox_reply_send(call, id.text);
}

// ---- the list

static void free_item(void *item)
{
    sandbox_reply_free(item);
}

static int collect_sandbox(void *arg, const struct store_sandbox *record)
{
    return service_list_add(arg, sandbox_reply_new(record), free_item);
}

static void send_sandbox_list(struct grpc_call *call, const struct service_list *list)
{
    struct af_error err;
    Sandbox__V1__ListSandboxesResponse reply = SANDBOX__V1__LIST_SANDBOXES_RESPONSE__INIT;
    AF_CLEANUP_FREE Sandbox__V1__Sandbox **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = (Sandbox__V1__Sandbox *)(uintptr_t)sandbox_reply_message(list->items[i]);
    reply.sandboxes = pointers;
    reply.n_sandboxes = list->count;
    if (list->more)
        reply.next_page_token = pointers[list->count - 1]->id;
    if (service_check_reply(&reply.base, "ask for pages with page_size", &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply.base);
}

static void list_sandboxes(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ListSandboxesRequest *request = (const void *)message;
    struct af_error err;
    struct af_id after, codebase = {.text = ""};
    if (service_check_page("sb", request->page_size, request->page_token, &after, &err) < 0 ||
        (request->codebase_id.len > 0 &&
         service_check_id("cb", request->codebase_id, &codebase, &err) < 0)) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct service_list list = {.page_size = (size_t)request->page_size};
    int rc = mux_sandbox_list(daemon_of(call)->mux, *codebase.text ? codebase.text : NULL,
                              *after.text ? after.text : NULL, collect_sandbox, &list, &err);
    if (rc == -ENOMEM)
        af_error_errno(&err, rc, "cannot list sandboxes");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_sandbox_list(call, &list);
    service_list_fini(&list, free_item);
}

// ---- steps that end on the runner's thread

struct step {
    struct grpc_call *call; // a reference
    struct af_id id;
};

typedef int (*step_fn)(struct runner *runner, const char *id, runner_done done, void *arg,
                       struct af_error *err);

// The step ended: the call is answered with the sandbox as it is now.
static void step_done(void *arg, const struct af_error *err)
{
    struct step *step = arg;
    if (err)
        grpc_call_finish_error(step->call, err);
    else
        sandbox_reply_send(step->call, step->id.text);
    grpc_call_unref(step->call);
    free(step);
}

static void destroyed(void *arg, const struct af_error *err)
{
    struct step *step = arg;
    Sandbox__V1__Empty reply = SANDBOX__V1__EMPTY__INIT;
    if (err)
        grpc_call_finish_error(step->call, err);
    else
        grpc_call_reply(step->call, &reply.base);
    grpc_call_unref(step->call);
    free(step);
}

static void take_step(struct grpc_call *call, ProtobufCBinaryData sandbox_id, step_fn fn,
                      runner_done done)
{
    struct af_error err;
    struct step *step = calloc(1, sizeof *step);
    if (!step) {
        af_error_errno(&err, ENOMEM, "cannot take the step");
        grpc_call_finish_error(call, &err);
        return;
    }
    step->call = grpc_call_ref(call);
    int rc = service_check_id("sb", sandbox_id, &step->id, &err);
    if (rc == 0)
        rc = fn(daemon_of(call)->runner, step->id.text, done, step, &err);
    if (rc < 0) {
        grpc_call_finish_error(call, &err);
        grpc_call_unref(step->call);
        free(step);
    }
}

static void start_sandbox(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__StartSandboxRequest *request = (const void *)message;
    take_step(call, request->sandbox_id, runner_start, step_done);
}

static void stop_sandbox(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__StopSandboxRequest *request = (const void *)message;
    take_step(call, request->sandbox_id, runner_stop, step_done);
}

static void destroy_sandbox(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__DestroySandboxRequest *request = (const void *)message;
    take_step(call, request->sandbox_id, runner_destroy, destroyed);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("sandbox.v1.SandboxService", name, sandbox__v1__##type, handler)

const struct grpc_method sandbox_methods[] = {
    METHOD("CreateSandbox", create_sandbox_request, create_sandbox),
    METHOD("GetSandbox", get_sandbox_request, get_sandbox),
    METHOD("ListSandboxes", list_sandboxes_request, list_sandboxes),
    METHOD("StartSandbox", start_sandbox_request, start_sandbox),
    METHOD("StopSandbox", stop_sandbox_request, stop_sandbox),
    METHOD("DestroySandbox", destroy_sandbox_request, destroy_sandbox),
    {
        .path = "/sandbox.v1.SandboxService/Exec",
        .kind = GRPC_UNARY,
        .request = &sandbox__v1__exec_request__descriptor,
        .on_message = exec_message,
        .on_cancel = exec_cancel,
        .on_free = exec_free,
        .free_is_quick = true,
    },
    {
        .path = "/sandbox.v1.SandboxService/ExecStream",
        .kind = GRPC_SERVER_STREAM,
        .request = &sandbox__v1__exec_request__descriptor,
        .on_message = exec_stream_message,
        .on_writable = exec_writable,
        .on_cancel = exec_cancel,
        .on_free = exec_free,
        .free_is_quick = true,
    },
};
const size_t sandbox_methods_count = AF_ARRAY_LEN(sandbox_methods);
