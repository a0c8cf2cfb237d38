// agentfense.v1.ProcessService: the table of methods, and those that answer at once.
//
// Start keeps a reference to its call until the process runs or could not; WriteStdin until exec
// has written. Owns: nothing beyond its calls. Locks: none. Fails: with the call's status.
// Read next: process_run.c, process_attach.c, api/processes.h.
#include "api/services/process_service.h"

#include "api/services/exec_service.h"
#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define LISTED_BYTES_MAX 4096 // of a command in a list

// ---- requests ---------------------------------------------------------------------------

int process_window_take(const Agentfense__V1__Terminal *terminal, struct exec_window *ret,
                        struct af_error *err)
{
    if (terminal->rows > UINT16_MAX || terminal->columns > UINT16_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a terminal has at most %u rows and columns, not %" PRIu32
                            " and %" PRIu32,
                            UINT16_MAX, terminal->rows, terminal->columns);
    *ret = (struct exec_window){(uint16_t)terminal->rows, (uint16_t)terminal->columns};
    return 0;
}

int process_of(struct grpc_call *call, ProtobufCBinaryData field, struct process **ret,
               struct af_error *err)
{
    struct af_id id;
    if (service_check_id("proc", field, &id, err) < 0)
        return -1;
    return processes_find(daemon_of(call)->processes, id.text, ret, err);
}

static int take_fields(struct grpc_call *call, const Agentfense__V1__ProcessSpec *spec,
                       struct service_command *command, struct exec_window *window,
                       struct af_error *err)
{
    struct daemon *daemon = daemon_of(call);
    const ProtobufCBinaryData no_stdin = {0};
    if (service_command_choose(command, spec->n_argv, spec->argv, spec->command, true, err) < 0 ||
        exec_check_bytes("workdir", spec->workdir, err) < 0 ||
        service_command_common(daemon, command, no_stdin, spec->workdir, spec->timeout, err) < 0)
        return -1;
    if (!spec->timeout)
        command->spec.timeout_ns = daemon->config.exec.timeout_max_ns;
    for (size_t i = 0; i < spec->n_env; i++)
        service_command_env(command, spec->env[i]->key, spec->env[i]->value);
    command->spec.stdin_open = spec->stdin;
    if (!spec->terminal)
        return 0;
    command->spec.terminal = window;
    return process_window_take(spec->terminal, window, err);
}

int process_spec_take(struct grpc_call *call, const Agentfense__V1__ProcessSpec *spec,
                      struct service_command *command, struct exec_window *window,
                      struct af_id *ret_sandbox, struct af_error *err)
{
    if (!spec)
        return af_error_set(err, AF_INVALID_ARGUMENT, "spec is required");
    if (service_check_id("sb", spec->sandbox_id, ret_sandbox, err) < 0 ||
        service_command_init(command, spec->n_env, spec->n_argv, err) < 0)
        return -1;
    if (take_fields(call, spec, command, window, err) == 0)
        return 0;
    service_command_fini(command);
    return -1;
}

// ---- Start ------------------------------------------------------------------------------

struct start {
    struct grpc_call *call; // NULL once answered
};

static void launched(void *arg, const struct process_info *info)
{
    struct start *start = arg;
    process_record_reply(start->call, process_record_new(info));
    grpc_call_unref(AF_TAKE_PTR(start->call));
}

static void ended(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct start *start = arg;
    struct af_error never;
    (void)result;
    if (start->call) { // it has never run
        af_error_set(&never, AF_DEADLINE_EXCEEDED, "the process did not start in its time");
        grpc_call_finish_error(start->call, err ? err : &never);
        grpc_call_unref(start->call);
    }
    free(start);
}

static void start_process(struct grpc_call *call, const ProtobufCMessage *message)
{
    static const struct process_hooks hooks = {.launched = launched, .ended = ended};
    const Agentfense__V1__StartProcessRequest *request = (const void *)message;
    struct service_command command;
    struct exec_window window;
    struct af_error err;
    struct af_id sandbox;
    if (process_spec_take(call, request->spec, &command, &window, &sandbox, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct process *process = NULL;
    struct start *start = malloc(sizeof *start);
    if (start) {
        start->call = grpc_call_ref(call);
        if (processes_start(daemon_of(call)->processes, sandbox.text, &command.spec, &hooks, start,
                            &process, &err) < 0) {
            grpc_call_finish_error(call, &err);
            grpc_call_unref(call);
            free(start);
        }
        process_unref(process);
    } else {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the process");
    }
    service_command_fini(&command);
}

// ---- Get and List -----------------------------------------------------------------------

static void reply_process(struct grpc_call *call, struct process *process)
{
    struct process_record *record = NULL;
    process_look(process, process_record_take, &record);
    process_record_reply(call, record);
}

// Of a request about one process: rc says whether it did what was asked. Takes the reference.
static void answer(struct grpc_call *call, int rc, struct process *process,
                   const struct af_error *err)
{
    if (rc < 0)
        grpc_call_finish_error(call, err);
    else
        reply_process(call, process);
    process_unref(process);
}

static void get_process(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ProcessRequest *request = (const void *)message;
    struct af_error err;
    struct process *process = NULL;
    int rc = process_of(call, request->process_id, &process, &err);
    answer(call, rc, process, &err);
}

static int collect(void *arg, const struct process_info *info)
{
    struct process_record *record = process_record_new(info);
    if (record) // so that all of a sandbox fit into one reply
        process_record_cut(record, LISTED_BYTES_MAX);
    return service_list_add(arg, record, process_record_free);
}

static int sandbox_exists(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    (void)sandbox;
    return 0;
}

static void send_list(struct grpc_call *call, const struct service_list *list)
{
    Agentfense__V1__ListProcessesResponse reply = AGENTFENSE__V1__LIST_PROCESSES_RESPONSE__INIT;
    struct af_error err;
    AF_CLEANUP_FREE Agentfense__V1__Process **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = process_record_message(list->items[i]);
    reply.processes = pointers;
    reply.n_processes = list->count;
    if (service_check_reply(&reply.base, "ask for one sandbox", &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply.base);
}

static void list_processes(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ListProcessesRequest *request = (const void *)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    struct af_id id;
    bool all = request->sandbox_id.len == 0;
    if (!all && (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
                 mux_sandbox_get(daemon->mux, id.text, sandbox_exists, NULL, &err) < 0)) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct service_list list = {.page_size = 0};
    if (processes_list(daemon->processes, all ? NULL : id.text, collect, &list) < 0)
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
    else
        send_list(call, &list);
    service_list_fini(&list, process_record_free);
}

// ---- WriteStdin, Resize, Signal, CloseOutput --------------------------------------------

static void written(void *arg, const struct af_error *err)
{
    struct grpc_call *call = arg;
    Agentfense__V1__WriteStdinResponse reply = AGENTFENSE__V1__WRITE_STDIN_RESPONSE__INIT;
    if (err)
        grpc_call_finish_error(call, err);
    else
        grpc_call_reply(call, &reply.base);
    grpc_call_unref(call);
}

static int is_background(void *arg, const struct process_info *info)
{
    (void)arg;
    return info->background;
}

static void write_stdin(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__WriteStdinRequest *request = (const void *)message;
    struct af_error err;
    struct process *process = NULL;
    int rc = process_of(call, request->process_id, &process, &err);
    if (rc == 0 && !process_look(process, is_background, NULL))
        rc = af_error_set(&err, AF_FAILED_PRECONDITION,
                          "the stdin of a foreground process belongs to the call that runs it");
    if (rc == 0) {
        grpc_call_ref(call);
        rc = process_write(process, request->data.data, request->data.len, request->eof, written,
                           call, &err);
        if (rc < 0)
            grpc_call_unref(call);
    }
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    process_unref(process);
}

static void resize_process(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ResizeProcessRequest *request = (const void *)message;
    const Agentfense__V1__Terminal standard = AGENTFENSE__V1__TERMINAL__INIT;
    struct af_error err;
    struct process *process = NULL;
    struct exec_window window;
    int rc = process_window_take(request->size ? request->size : &standard, &window, &err);
    if (rc == 0)
        rc = process_of(call, request->process_id, &process, &err);
    if (rc == 0)
        rc = process_resize(process, &window, &err);
    answer(call, rc, process, &err);
}

static void signal_process(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__SignalProcessRequest *request = (const void *)message;
    struct af_error err;
    struct process *process = NULL;
    int rc = process_of(call, request->process_id, &process, &err);
    if (rc == 0)
        rc = process_signal(process, request->signal, request->all, &err);
    answer(call, rc, process, &err);
}

static void close_output(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__CloseOutputRequest *request = (const void *)message;
    struct af_error err;
    struct process *process = NULL;
    int rc = process_of(call, request->process_id, &process, &err);
    if (rc == 0)
        rc = process_close_output(process, request->stdout, request->stderr, &err);
    answer(call, rc, process, &err);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.ProcessService", name, agentfense__v1__##type, handler)

const struct grpc_method process_methods[] = {
    METHOD("Start", start_process_request, start_process),
    METHOD("List", list_processes_request, list_processes),
    METHOD("Get", process_request, get_process),
    METHOD("WriteStdin", write_stdin_request, write_stdin),
    METHOD("Resize", resize_process_request, resize_process),
    METHOD("Signal", signal_process_request, signal_process),
    METHOD("CloseOutput", close_output_request, close_output),
    {
        .path = "/agentfense.v1.ProcessService/Run",
        .kind = GRPC_BIDI_STREAM,
        .request = &agentfense__v1__process_input__descriptor,
        .on_message = process_run_message,
        .on_end = process_run_end,
        .on_writable = process_run_writable,
        .on_cancel = process_run_cancel,
        .on_free = process_run_free,
    },
    {
        .path = "/agentfense.v1.ProcessService/Attach",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__attach_process_request__descriptor,
        .on_message = process_attach_message,
        .on_writable = process_attach_writable,
        .on_cancel = process_reader_stop,
        .on_free = process_reader_free,
    },
    {
        .path = "/agentfense.v1.ProcessService/Wait",
        .kind = GRPC_UNARY,
        .request = &agentfense__v1__process_request__descriptor,
        .on_message = process_wait_message,
        .on_writable = process_wait_writable,
        .on_cancel = process_reader_stop,
        .on_free = process_reader_free,
    },
};
const size_t process_methods_count = AF_ARRAY_LEN(process_methods);
