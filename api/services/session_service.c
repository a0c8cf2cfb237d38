// sandbox.v1.SandboxService: sessions.
//
// A session's command is a call with a turn (exec_service.h); the rest answers from the table
// (api/sessions.h). Create and Destroy keep a reference to their call until exec has spoken.
// Owns: nothing beyond its calls. Locks: none. Fails: with the call's status.
// Read next: api/sessions.h, exec_service.c.
#include "api/services/exec_service.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- a session as a message

struct record {
    Sandbox__V1__Session message;
    Google__Protobuf__Timestamp created, closed;
    char *texts[3];
};

static void record_free(void *item)
{
    struct record *record = item;
    for (size_t i = 0; i < AF_ARRAY_LEN(record->texts); i++)
        free(record->texts[i]);
    free(record);
}

static struct record *record_new(const struct session_info *info)
{
    struct record *record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    sandbox__v1__session__init(&record->message);
    const char *const texts[] = {info->id, info->sandbox_id, info->shell};
    ProtobufCBinaryData *const fields[] = {&record->message.id, &record->message.sandbox_id,
                                           &record->message.shell};
    for (size_t i = 0; i < AF_ARRAY_LEN(texts); i++) {
        record->texts[i] = strdup(texts[i]);
        if (!record->texts[i]) {
            record_free(record);
            return NULL;
        }
        *fields[i] = grpc_text(record->texts[i]);
    }
    service_set_timestamp(&record->created, info->created_ns);
    record->message.created_at = &record->created;
    record->message.status = SANDBOX__V1__SESSION_STATUS__SESSION_STATUS_ACTIVE;
    if (info->closed) {
        record->message.status = SANDBOX__V1__SESSION_STATUS__SESSION_STATUS_CLOSED;
        service_set_timestamp(&record->closed, info->closed_ns);
        record->message.closed_at = &record->closed;
    }
    return record;
}

// Answers with the session and frees the record, which may be NULL.
static void reply_record(struct grpc_call *call, struct record *record)
{
    if (!record) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    grpc_call_reply(call, &record->message.base);
    record_free(record);
}

static int collect_record(void *arg, const struct session_info *info)
{
    return service_list_add(arg, record_new(info), record_free);
}

// ---- create and destroy

static void closed_unseen(void *arg, const struct af_error *err)
{
    (void)arg;
    (void)err;
}

static void created(void *arg, const struct af_error *err, const struct session_info *info)
{
    struct grpc_call *call = arg;
    struct af_error ignored;
    if (err)
        grpc_call_finish_error(call, err);
    else if (grpc_call_is_over(call)) // nobody would ever learn its id
        sessions_close(daemon_of(call)->sessions, info->id, closed_unseen, NULL, &ignored);
    else
        reply_record(call, record_new(info));
    grpc_call_unref(call);
}

static int parse_env(const Sandbox__V1__CreateSessionRequest *request, struct exec_env *env,
                     char **texts, struct af_error *err)
{
    for (size_t i = 0; i < request->n_env; i++) {
        const Sandbox__V1__CreateSessionRequest__EnvEntry *entry = request->env[i];
        if (exec_check_bytes("a variable's name", entry->key, err) < 0 ||
            exec_check_bytes("a variable's value", entry->value, err) < 0)
            return -1;
        env[i].name = texts[2 * i] = grpc_text_dup(entry->key);
        env[i].value = texts[2 * i + 1] = grpc_text_dup(entry->value);
    }
    return 0;
}

static int start_session(struct grpc_call *call, const Sandbox__V1__CreateSessionRequest *request,
                         struct exec_env *env, char **texts, struct af_error *err)
{
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, err) < 0 ||
        service_check_text("shell", request->shell, AF_PATH_MAX, false, err) < 0 ||
        parse_env(request, env, texts, err) < 0)
        return -1;
    AF_CLEANUP_FREE char *shell = grpc_text_dup(request->shell);
    const struct exec_session_spec spec = {.shell = shell, .env = env, .env_count = request->n_env};
    grpc_call_ref(call);
    int rc = sessions_create(daemon_of(call)->sessions, id.text, &spec, created, call, err);
    if (rc < 0)
        grpc_call_unref(call);
    return rc;
}

static void create_session(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__CreateSessionRequest *request = (const void *)message;
    struct af_error err;
    if (request->n_env > AF_ENV_MAX) {
        grpc_call_finish(call, AF_INVALID_ARGUMENT,
                         "%zu environment variables; at most %d are allowed", request->n_env,
                         AF_ENV_MAX);
        return;
    }
    AF_CLEANUP_FREE struct exec_env *env = calloc(request->n_env + 1, sizeof *env);
    AF_CLEANUP_FREE char **texts = calloc(2 * request->n_env + 1, sizeof *texts);
    if (!env || !texts) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the session");
        return;
    }
    if (start_session(call, request, env, texts, &err) < 0)
        grpc_call_finish_error(call, &err);
    for (size_t i = 0; i < 2 * request->n_env; i++)
        free(texts[i]);
}

static void destroyed(void *arg, const struct af_error *err)
{
    struct grpc_call *call = arg;
    Sandbox__V1__Empty reply = SANDBOX__V1__EMPTY__INIT;
    if (err)
        grpc_call_finish_error(call, err);
    else
        grpc_call_reply(call, &reply.base);
    grpc_call_unref(call);
}

static void destroy_session(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__DestroySessionRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    int rc = service_check_id("sess", request->session_id, &id, &err);
    if (rc == 0) {
        grpc_call_ref(call);
        rc = sessions_close(daemon_of(call)->sessions, id.text, destroyed, call, &err);
        if (rc < 0)
            grpc_call_unref(call);
    }
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

// ---- get and list

static int take_record(void *arg, const struct session_info *info)
{
    *(struct record **)arg = record_new(info);
    return 0;
}

static void get_session(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__GetSessionRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct record *record = NULL;
    if (service_check_id("sess", request->session_id, &id, &err) < 0 ||
        sessions_get(daemon_of(call)->sessions, id.text, take_record, &record, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        reply_record(call, record);
}

static int sandbox_exists(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    (void)sandbox;
    return 0;
}

static void send_list(struct grpc_call *call, const struct service_list *list)
{
    Sandbox__V1__ListSessionsResponse reply = SANDBOX__V1__LIST_SESSIONS_RESPONSE__INIT;
    AF_CLEANUP_FREE Sandbox__V1__Session **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = &((struct record *)list->items[i])->message;
    reply.sessions = pointers;
    reply.n_sessions = list->count;
    grpc_call_reply(call, &reply.base);
}

static void list_sessions(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ListSessionsRequest *request = (const void *)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        mux_sandbox_get(daemon->mux, id.text, sandbox_exists, NULL, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct service_list list = {.page_size = 0};
    if (sessions_list(daemon->sessions, id.text, collect_record, &list) < 0)
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
    else
        send_list(call, &list);
    service_list_fini(&list, record_free);
}

// ---- commands

static void run_turn(struct grpc_call *call, const ProtobufCMessage *message,
                     exec_command_output on_output, exec_command_done done)
{
    const Sandbox__V1__SessionExecRequest *request = (const void *)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    struct exec_turn_spec spec = {.output_bytes_max = daemon->config.exec.output_bytes,
                                  .on_output = on_output};
    if (service_check_id("sess", request->session_id, &id, &err) < 0 ||
        service_check_text("command", request->command, AF_COMMAND_MAX, true, &err) < 0 ||
        exec_check_timeout(daemon, request->timeout, &spec.timeout_ns, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct exec_state *state = exec_state_new(call);
    if (!state)
        return;
    AF_CLEANUP_FREE char *line = grpc_text_dup(request->command);
    spec.line = line;
    if (sessions_run(daemon->sessions, id.text, &spec, done, call, &state->turn, &err) < 0)
        exec_state_refuse(call, &err);
}

static void session_exec(struct grpc_call *call, const ProtobufCMessage *message)
{
    run_turn(call, message, NULL, exec_done);
}

static void session_exec_stream(struct grpc_call *call, const ProtobufCMessage *message)
{
    run_turn(call, message, exec_stream_output, exec_stream_done);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("sandbox.v1.SandboxService", name, sandbox__v1__##type, handler)

const struct grpc_method session_methods[] = {
    METHOD("CreateSession", create_session_request, create_session),
    METHOD("GetSession", get_session_request, get_session),
    METHOD("ListSessions", list_sessions_request, list_sessions),
    METHOD("DestroySession", destroy_session_request, destroy_session),
    {
        .path = "/sandbox.v1.SandboxService/SessionExec",
        .kind = GRPC_UNARY,
        .request = &sandbox__v1__session_exec_request__descriptor,
        .on_message = session_exec,
        .on_cancel = exec_cancel,
        .on_free = exec_free,
        .free_is_quick = true,
    },
    {
        .path = "/sandbox.v1.SandboxService/SessionExecStream",
        .kind = GRPC_SERVER_STREAM,
        .request = &sandbox__v1__session_exec_request__descriptor,
        .on_message = session_exec_stream,
        .on_writable = exec_writable,
        .on_cancel = exec_cancel,
        .on_free = exec_free,
        .free_is_quick = true,
    },
};
const size_t session_methods_count = AF_ARRAY_LEN(session_methods);
