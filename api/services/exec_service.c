// Commands: sandbox.v1 Exec and ExecStream, and agentfense.v1 ExecService.Run with raw bytes.
//
// A call owns its command from on_message to on_free and holds a reference to itself while the
// command runs; the command's end, on exec's thread, ends the call. A cancelled call kills its
// command.
// A stream sends what it is given until the call is full, and goes on when its client has read.
// Read next: session_service.c, exec/exec.h.
#include "api/services/exec_service.h"

#include "api/services/command.h"
#include "api/services/common.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Both streams together, with the numbers around them, must stay below AF_MESSAGE_MAX.
#define STREAM_REPLY_MAX (AF_MESSAGE_MAX / 2 - 65536)

// ---- a call and its command

struct exec_state *exec_state_new(struct grpc_call *call)
{
    struct exec_state *state = calloc(1, sizeof *state);
    if (!state) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the command");
        return NULL;
    }
    grpc_call_set_data(call, state);
    grpc_call_ref(call);
    return state;
}

void exec_state_refuse(struct grpc_call *call, const struct af_error *err)
{
    grpc_call_finish_error(call, err);
    grpc_call_unref(call);
}

// Starts the command; `done` gets the call, referenced.
static void start_command(struct grpc_call *call, ProtobufCBinaryData sandbox_id,
                          struct service_command *command, exec_command_done done)
{
    struct af_error err;
    struct af_id id;
    struct exec_state *state = exec_state_new(call);
    if (!state)
        return;
    int rc = service_check_id("sb", sandbox_id, &id, &err);
    if (rc == 0)
        rc = runner_command(daemon_of(call)->runner, id.text, &command->spec, done, call,
                            &state->command, &err);
    if (rc < 0)
        exec_state_refuse(call, &err);
}

void exec_cancel(struct grpc_call *call)
{
    const struct exec_state *state = grpc_call_data(call);
    if (state && state->command)
        exec_command_cancel(state->command);
    if (state && state->turn)
        exec_turn_cancel(state->turn);
}

void exec_writable(struct grpc_call *call)
{
    const struct exec_state *state = grpc_call_data(call);
    if (state && state->command)
        exec_command_resume(state->command);
    if (state && state->turn)
        exec_turn_resume(state->turn);
}

void exec_free(struct grpc_call *call)
{
    struct exec_state *state = grpc_call_data(call);
    exec_command_unref(state->command);
    exec_turn_unref(state->turn);
    free(state);
}

// The part of a text that fits in an error sentence, from its end.
static const char *tail(const struct exec_output *output, size_t max)
{
    return output->len > max ? output->bytes + output->len - max : output->bytes;
}

static void finish_timeout(struct grpc_call *call, const struct exec_result *result)
{
    struct af_error err;
    const struct exec_state *state = grpc_call_data(call);
    const char *fate = state->turn ? " and the session is closed" : "";
    double seconds = (double)result->duration_ns / (double)AF_NS_PER_SEC;
    if (result->out.len + result->err.len > 0)
        af_error_set(&err, AF_DEADLINE_EXCEEDED,
                     "the command and everything it started were killed after %.3f s%s; stdout "
                     "ended in \"%s\", stderr in \"%s\"",
                     seconds, fate, tail(&result->out, 160), tail(&result->err, 160));
    else
        af_error_set(&err, AF_DEADLINE_EXCEEDED,
                     "the command and everything it started were killed after %.3f s%s", seconds,
                     fate);
    grpc_call_finish_error(call, &err);
}

// Whether the command ended with a result; else the call is over.
static bool ended_well(struct grpc_call *call, const struct af_error *err,
                       const struct exec_result *result)
{
    if (err)
        grpc_call_finish_error(call, err);
    else if (result->timed_out)
        finish_timeout(call, result);
    else
        return true;
    return false;
}

// ---- sandbox.v1 Exec

// Said at the end of stderr, for clients that know nothing of trailers.
#define OUT_OF_MEMORY_TEXT                                                                         \
    "\n[out of memory: the sandbox reached its memory limit while the command "                    \
    "ran; " EXEC_MEMORY_ADVICE "]\n"

// A stream as a proto3 string: valid UTF-8, bounded, and saying so when it was cut.
static char *reply_text(const struct exec_output *output, const char *note,
                        ProtobufCBinaryData *ret)
{
    char *text = malloc(3 * output->len + 128 + strlen(note));
    if (!text)
        return NULL;
    size_t len = af_text_replace_invalid_utf8(output->bytes, output->len, text);
    bool cut = output->truncated;
    if (len > STREAM_REPLY_MAX) {
        cut = true;
        len = STREAM_REPLY_MAX;
        while (((unsigned char)text[len] & 0xC0) == 0x80) // not in the middle of a character
            len--;
    }
    if (cut)
        len += (size_t)sprintf(text + len, "\n[output truncated: %" PRIu64 " bytes in all]\n",
                               output->total_bytes);
    len = (size_t)(stpcpy(text + len, note) - text);
    *ret = service_bytes(text, len);
    return text;
}

static void trail_memory(struct grpc_call *call, const struct exec_result *result)
{
    if (result->out_of_memory)
        grpc_call_trailer(call, "agentfense-out-of-memory", "1");
}

void exec_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct grpc_call *call = arg;
    if (ended_well(call, err, result)) {
        Sandbox__V1__ExecResult reply = SANDBOX__V1__EXEC_RESULT__INIT;
        Google__Protobuf__Duration duration;
        AF_CLEANUP_FREE char *out = reply_text(&result->out, "", &reply.stdout);
        const char *note = result->out_of_memory ? OUT_OF_MEMORY_TEXT : "";
        AF_CLEANUP_FREE char *errors = reply_text(&result->err, note, &reply.stderr);
        trail_memory(call, result);
        service_set_duration(&duration, result->duration_ns);
        reply.duration = &duration;
        reply.exit_code = result->exit_code;
        if (out && errors)
            grpc_call_reply(call, &reply.base);
        else
            grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the output");
    }
    grpc_call_unref(call);
}

static void take_exec(struct grpc_call *call, const ProtobufCMessage *message,
                      exec_command_output on_output, exec_command_done done)
{
    const Sandbox__V1__ExecRequest *request = (const void *)message;
    struct af_error err;
    struct service_command command;
    if (service_command_init(&command, request->n_env, 0, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if (service_command_shell(&command, request->command, &err) < 0 ||
        service_command_common(daemon_of(call), &command, request->stdin, request->workdir,
                               request->timeout, &err) < 0) {
        grpc_call_finish_error(call, &err);
    } else {
        for (size_t i = 0; i < request->n_env; i++)
            service_command_env(&command, request->env[i]->key, request->env[i]->value);
        command.spec.on_output = on_output;
        start_command(call, request->sandbox_id, &command, done);
    }
    service_command_fini(&command);
}

void exec_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    take_exec(call, message, NULL, exec_done);
}

// ---- sandbox.v1 ExecStream

bool exec_stream_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct grpc_call *call = arg;
    Sandbox__V1__ExecOutput output = SANDBOX__V1__EXEC_OUTPUT__INIT;
    output.type = kind == EXEC_OUTPUT_STDERR
                      ? SANDBOX__V1__EXEC_OUTPUT__OUTPUT_TYPE__OUTPUT_TYPE_STDERR
                      : SANDBOX__V1__EXEC_OUTPUT__OUTPUT_TYPE__OUTPUT_TYPE_STDOUT;
    output.data = service_bytes(bytes, len);
    enum grpc_sent sent = grpc_call_send(call, &output.base);
    if (sent == GRPC_GONE)
        exec_cancel(call); // also when the call was ended for what it had queued
    return sent != GRPC_SENT_FULL;
}

void exec_stream_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct grpc_call *call = arg;
    if (ended_well(call, err, result)) {
        char number[16];
        snprintf(number, sizeof number, "%d", result->exit_code);
        grpc_call_trailer(call, "agentfense-exit-code", number);
        snprintf(number, sizeof number, "%d", result->signal);
        grpc_call_trailer(call, "agentfense-signal", number);
        trail_memory(call, result);
        grpc_call_finish(call, AF_OK, NULL);
    }
    grpc_call_unref(call);
}

void exec_stream_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    take_exec(call, message, exec_stream_output, exec_stream_done);
}

// ---- agentfense.v1 ExecService.Run

static void run_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct grpc_call *call = arg;
    if (ended_well(call, err, result)) {
        Agentfense__V1__RunResponse reply = AGENTFENSE__V1__RUN_RESPONSE__INIT;
        Google__Protobuf__Duration duration;
        service_set_duration(&duration, result->duration_ns);
        reply.stdout = service_bytes(result->out.bytes, result->out.len);
        reply.stderr = service_bytes(result->err.bytes, result->err.len);
        reply.exit_code = result->exit_code;
        reply.signal = result->signal;
        reply.duration = &duration;
        reply.stdout_truncated = result->out.truncated;
        reply.stderr_truncated = result->err.truncated;
        trail_memory(call, result);
        grpc_call_reply(call, &reply.base);
    }
    grpc_call_unref(call);
}

static void run_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__RunRequest *request = (const void *)message;
    struct af_error err;
    struct service_command command;
    if (service_command_init(&command, request->n_env, request->n_argv, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if (service_command_choose(&command, request->n_argv, request->argv, request->command, false,
                               &err) < 0 ||
        service_command_common(daemon_of(call), &command, request->stdin, request->workdir,
                               request->timeout, &err) < 0) {
        grpc_call_finish_error(call, &err);
    } else {
        for (size_t i = 0; i < request->n_env; i++)
            service_command_env(&command, request->env[i]->key, request->env[i]->value);
        start_command(call, request->sandbox_id, &command, run_done);
    }
    service_command_fini(&command);
}

const struct grpc_method exec_methods[] = {
    {
        .path = "/agentfense.v1.ExecService/Run",
        .kind = GRPC_UNARY,
        .request = &agentfense__v1__run_request__descriptor,
        .on_message = run_message,
        .on_cancel = exec_cancel,
        .on_free = exec_free,
        .free_is_quick = true,
    },
};
const size_t exec_methods_count = AF_ARRAY_LEN(exec_methods);
