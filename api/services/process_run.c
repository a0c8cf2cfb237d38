// ProcessService.Run: a foreground process as a call in both directions.
//
// The call owns the process: cancelled, it kills everything. Output pauses the process while the
// client does not read; stdin holds the client while the process does not read: so many bytes are
// handed to exec, then the call is held until they are written. What comes behind held stdin
// (a signal, a resize) waits with it; the other methods of the service reach the process at once.
// Owns: struct run, the call's data. Lock: run->lock, a leaf but for the call's.
// Fails: with the call's status. Read next: process_service.c, api/processes.h.
#include "api/services/process_service.h"

#include "mux/base/cleanup.h"

#include <pthread.h>
#include <stdlib.h>

#define HELD_FROM_BYTES  (256u << 10) // of stdin that exec has not written yet
#define HELD_UNTIL_BYTES (128u << 10)

struct run {
    struct process *process; // a reference; set by the first message
    bool stdin_open, eof;    // the handlers'
    pthread_mutex_t lock;
    size_t unwritten_bytes;
    bool held;
};

// Bytes of stdin under way; holds the call.
struct unwritten {
    struct grpc_call *call;
    size_t len;
};

// ---- what the process says --------------------------------------------------------------

static bool send_output(struct grpc_call *call, Agentfense__V1__ProcessOutput *output)
{
    enum grpc_sent sent = grpc_call_send(call, &output->base);
    const struct run *run = grpc_call_data(call);
    if (sent == GRPC_GONE)
        process_cancel(run->process); // also when the call was ended for what it had queued
    return sent != GRPC_SENT_FULL;
}

static void launched(void *arg, const struct process_info *info)
{
    struct grpc_call *call = arg;
    Agentfense__V1__ProcessOutput output = AGENTFENSE__V1__PROCESS_OUTPUT__INIT;
    struct process_record *record = process_record_new(info);
    if (!record) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the process");
        const struct run *run = grpc_call_data(call);
        process_cancel(run->process);
        return;
    }
    output.output_case = AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STARTED;
    output.started = process_record_message(record);
    send_output(call, &output);
    process_record_free(record);
}

static bool on_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    Agentfense__V1__ProcessOutput output = AGENTFENSE__V1__PROCESS_OUTPUT__INIT;
    output.output_case = kind == EXEC_OUTPUT_STDERR ? AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDERR
                                                    : AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDOUT;
    *(kind == EXEC_OUTPUT_STDERR ? &output.stderr : &output.stdout) = service_bytes(bytes, len);
    return send_output(arg, &output);
}

static int send_exit(void *arg, const struct process_info *info)
{
    struct grpc_call *call = arg;
    Agentfense__V1__ProcessOutput output = AGENTFENSE__V1__PROCESS_OUTPUT__INIT;
    Agentfense__V1__ProcessExit exit;
    Google__Protobuf__Duration duration;
    process_end_fill(info->end, &exit, &duration);
    output.output_case = AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_EXIT;
    output.exit = &exit;
    grpc_call_send(call, &output.base);
    return 0;
}

static void ended(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct grpc_call *call = arg;
    const struct run *run = grpc_call_data(call);
    (void)result;
    if (err) {
        grpc_call_finish_error(call, err);
    } else {
        process_look(run->process, send_exit, call);
        grpc_call_finish(call, AF_OK, NULL);
    }
    grpc_call_unref(call);
}

// ---- what the client says ---------------------------------------------------------------

// Ends the call for what its client did; the process goes with it.
static void refuse(struct grpc_call *call, const struct af_error *err)
{
    const struct run *run = grpc_call_data(call);
    grpc_call_finish_error(call, err);
    if (run && run->process)
        process_cancel(run->process);
}

static void refuse_text(struct grpc_call *call, const char *text)
{
    struct af_error err;
    af_error_set(&err, AF_INVALID_ARGUMENT, "%s", text);
    refuse(call, &err);
}

static void start(struct grpc_call *call, const Agentfense__V1__ProcessSpec *spec)
{
    static const struct process_hooks hooks = {launched, on_output, ended};
    struct service_command command;
    struct exec_window window;
    struct af_error err;
    struct af_id sandbox;
    if (process_spec_take(call, spec, &command, &window, &sandbox, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct run *run = calloc(1, sizeof *run);
    if (run) {
        pthread_mutex_init(&run->lock, NULL);
        run->stdin_open = spec->stdin;
        grpc_call_set_data(call, run);
        grpc_call_ref(call); // until the end
        if (processes_start(daemon_of(call)->processes, sandbox.text, &command.spec, &hooks, call,
                            &run->process, &err) < 0) {
            grpc_call_finish_error(call, &err);
            grpc_call_unref(call);
        }
    } else {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the process");
    }
    service_command_fini(&command);
}

static void written(void *arg, const struct af_error *err)
{
    struct unwritten *unwritten = arg;
    struct run *run = grpc_call_data(unwritten->call);
    (void)err; // a process that does not read its stdin is no failure of the call
    pthread_mutex_lock(&run->lock);
    run->unwritten_bytes -= unwritten->len;
    bool release = run->held && run->unwritten_bytes < HELD_UNTIL_BYTES;
    if (release) {
        run->held = false;
        grpc_call_release(unwritten->call);
    }
    pthread_mutex_unlock(&run->lock);
    grpc_call_unref(unwritten->call);
    free(unwritten);
}

static void write_stdin(struct grpc_call *call, ProtobufCBinaryData bytes, bool eof)
{
    struct run *run = grpc_call_data(call);
    struct af_error err;
    if (bytes.len == 0 && !eof)
        return;
    struct unwritten *unwritten = malloc(sizeof *unwritten);
    if (!unwritten) {
        af_error_set(&err, AF_RESOURCE_EXHAUSTED, "no memory for stdin");
        refuse(call, &err);
        return;
    }
    *unwritten = (struct unwritten){grpc_call_ref(call), bytes.len};
    pthread_mutex_lock(&run->lock);
    run->unwritten_bytes += bytes.len;
    if (run->unwritten_bytes >= HELD_FROM_BYTES && !run->held) {
        run->held = true;
        grpc_call_hold(call);
    }
    pthread_mutex_unlock(&run->lock);
    run->eof |= eof;
    if (process_write(run->process, bytes.data, bytes.len, eof, written, unwritten, &err) == 0)
        return;
    written(unwritten, NULL);
    if (err.status != AF_FAILED_PRECONDITION) // it has ended: `ended` says how
        refuse(call, &err);
}

static void take_stdin(struct grpc_call *call, ProtobufCBinaryData bytes, bool eof)
{
    const struct run *run = grpc_call_data(call);
    if (!run->stdin_open)
        refuse_text(call, "stdin is closed: start the process with stdin set");
    else if (run->eof)
        refuse_text(call, "stdin after its eof");
    else
        write_stdin(call, bytes, eof);
}

static void take_control(struct grpc_call *call, const Agentfense__V1__ProcessInput *input)
{
    const struct run *run = grpc_call_data(call);
    struct exec_window window;
    struct af_error err;
    int rc;
    if (input->input_case == AGENTFENSE__V1__PROCESS_INPUT__INPUT_SIGNAL)
        rc = process_signal(run->process, input->signal, false, &err);
    else
        rc = process_window_take(input->resize, &window, &err) < 0
                 ? -1
                 : process_resize(run->process, &window, &err);
    // A process that has ended meanwhile is nobody's fault; one without a terminal is.
    if (rc < 0 && err.status == AF_INVALID_ARGUMENT)
        refuse(call, &err);
}

void process_run_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ProcessInput *input = (const void *)message;
    const struct run *run = grpc_call_data(call);
    bool first = !run, starts = input->input_case == AGENTFENSE__V1__PROCESS_INPUT__INPUT_START;
    if (first != starts) {
        refuse_text(call, first ? "the first message of Run must be start"
                                : "a process can be started once: start is the first message");
        return;
    }
    switch (input->input_case) {
    case AGENTFENSE__V1__PROCESS_INPUT__INPUT_START:
        start(call, input->start);
        break;
    case AGENTFENSE__V1__PROCESS_INPUT__INPUT_STDIN:
        take_stdin(call, input->stdin, false);
        break;
    case AGENTFENSE__V1__PROCESS_INPUT__INPUT_EOF:
        if (input->eof)
            take_stdin(call, (ProtobufCBinaryData){0}, true);
        break;
    case AGENTFENSE__V1__PROCESS_INPUT__INPUT_RESIZE:
    case AGENTFENSE__V1__PROCESS_INPUT__INPUT_SIGNAL:
        take_control(call, input);
        break;
    default: // of a newer client
        break;
    }
}

// The client says no more: that ends an open stdin.
void process_run_end(struct grpc_call *call)
{
    const struct run *run = grpc_call_data(call);
    if (!run)
        grpc_call_finish(call, AF_INVALID_ARGUMENT, "the first message of Run must be start");
    else if (run->process && run->stdin_open && !run->eof)
        write_stdin(call, (ProtobufCBinaryData){0}, true);
}

void process_run_writable(struct grpc_call *call)
{
    const struct run *run = grpc_call_data(call);
    if (run && run->process)
        process_resume(run->process);
}

void process_run_cancel(struct grpc_call *call)
{
    const struct run *run = grpc_call_data(call);
    if (run && run->process)
        process_cancel(run->process);
}

void process_run_free(struct grpc_call *call)
{
    struct run *run = grpc_call_data(call);
    process_unref(run->process);
    pthread_mutex_destroy(&run->lock);
    free(run);
}
