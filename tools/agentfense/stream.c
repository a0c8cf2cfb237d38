// A process and the tool's own streams: see stream.h.
//
// One loop waits for the connection, for stdin while the process can take some, and for the size of
// the terminal. Of stdin no more is read than one message that is on its way.
// Owns: the call, and with it the process. Read next: api/client/client.h, terminal.h.
#include "tools/agentfense/stream.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/terminal.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SERVICE     "/agentfense.v1.ProcessService/"
#define STDIN_BYTES (32u << 10)
#define KEY_DETACH1 0x10 // Ctrl-P
#define KEY_DETACH2 0x11 // Ctrl-Q

struct stream {
    struct af_client *client;
    struct af_client_call *call;  // Run or Attach
    struct af_client_call *write; // WriteStdin under way; of an Attach
    const char *process_id;       // NULL: Run
    char *run_id;                 // of a Run, once it has started
    bool terminal;
    bool input;              // stdin goes to the process, and has not ended
    bool detach_half;        // Ctrl-P has been typed
    bool out_gone, err_gone; // nobody reads it any more
    bool json;               // output and end as objects, one a line
    int resize_fd;
    struct outcome *outcome;
    bool has_exit;
};

// ---- the specification ------------------------------------------------------------------

static void set_env(struct stream_spec *spec, size_t at, const char *name, size_t name_len,
                    const char *value)
{
    Agentfense__V1__ProcessSpec__EnvEntry *entry = &spec->env[at];
    agentfense__v1__process_spec__env_entry__init(entry);
    entry->key = (ProtobufCBinaryData){.data = (uint8_t *)name, .len = name_len};
    entry->value = af_client_text(value);
    spec->env_pointers[at] = entry;
}

void stream_spec_init(struct stream_spec *spec, const struct options *options,
                      const char *sandbox_id)
{
    memset(spec, 0, sizeof *spec);
    agentfense__v1__process_spec__init(&spec->spec);
    size_t argc = (size_t)options->argc, n_env = options->n_env;
    spec->argv = tool_alloc((argc + 1) * sizeof *spec->argv);
    spec->env = tool_alloc((n_env + 1) * sizeof *spec->env);
    spec->env_pointers = tool_alloc((n_env + 1) * sizeof(void *));
    for (size_t i = 0; i < argc; i++)
        spec->argv[i] = af_client_text(options->argv[i]);
    const char *term = options->terminal ? getenv("TERM") : NULL;
    if (term && *term) // first: --env decides
        set_env(spec, spec->spec.n_env++, "TERM", 4, term);
    for (size_t i = 0; i < n_env; i++) {
        const char *equals = strchr(options->env[i], '=');
        set_env(spec, spec->spec.n_env++, options->env[i], (size_t)(equals - options->env[i]),
                equals + 1);
    }
    spec->spec.sandbox_id = af_client_text(sandbox_id);
    spec->spec.argv = spec->argv;
    spec->spec.n_argv = argc;
    spec->spec.env = spec->env_pointers;
    spec->spec.workdir = af_client_text(options->workdir);
    google__protobuf__duration__init(&spec->timeout);
    spec->timeout.seconds = options->timeout_ns / AF_NS_PER_SEC;
    spec->timeout.nanos = (int32_t)(options->timeout_ns % AF_NS_PER_SEC);
    if (options->timeout_ns > 0)
        spec->spec.timeout = &spec->timeout;
    agentfense__v1__terminal__init(&spec->terminal);
    if (!options->terminal)
        return;
    terminal_size(&spec->terminal.rows, &spec->terminal.columns);
    spec->spec.terminal = &spec->terminal;
}

void stream_spec_fini(struct stream_spec *spec)
{
    free(spec->argv);
    free(spec->env);
    free(spec->env_pointers);
}

// ---- output -----------------------------------------------------------------------------

// 0, or an errno value; EINTR: the tool is to end.
static int write_all(int fd, ProtobufCBinaryData bytes)
{
    for (size_t done = 0; done < bytes.len;) {
        ssize_t wrote = write(fd, bytes.data + done, bytes.len - done);
        if (wrote < 0 && errno == EAGAIN) { // somebody else's descriptor: made non-blocking
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, -1);
        } else if (wrote < 0 && (errno != EINTR || interrupt_signal())) {
            return errno;
        }
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    return 0;
}

static int send_input(struct stream *stream, Agentfense__V1__ProcessInput *input,
                      struct af_error *err)
{
    return af_client_call_try_send(stream->call, &input->base, false, err);
}

// Nobody reads these outputs of the process any more: it hears that from the kernel, as it would at
// home, and at once, whatever stdin waits for it.
static int close_output(const struct stream *stream, bool out, bool err_output,
                        struct af_error *err)
{
    Agentfense__V1__CloseOutputRequest request = AGENTFENSE__V1__CLOSE_OUTPUT_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__Process *reply = NULL;
    if (!stream->run_id) // it has not run
        return 0;
    request.process_id = af_client_text(stream->run_id);
    request.stdout = out;
    request.stderr = err_output;
    int rc = rpc_unary(stream->client, SERVICE "CloseOutput", &request.base,
                       &agentfense__v1__process__descriptor, &reply, err);
    bool over = rc < 0 && (err->status == AF_FAILED_PRECONDITION || err->status == AF_NOT_FOUND);
    return over ? 0 : rc;
}

// Output could not be written. A reader that has gone is the process's business; anything else is
// loss, and ends it.
static int lose_output(struct stream *stream, bool out, bool err_output, int errnum,
                       struct af_error *err)
{
    stream->out_gone |= out;
    stream->err_gone |= err_output;
    if (errnum == EINTR)
        return 0;
    if (errnum != EPIPE)
        return af_error_errno(err, errnum, "cannot write the output");
    if (!stream->process_id && !stream->terminal)
        return close_output(stream, out, err_output, err);
    return out ? af_error_set(err, AF_CANCELLED, "nobody reads the output any more") : 0;
}

static int put_output(struct stream *stream, bool out, ProtobufCBinaryData bytes,
                      struct af_error *err)
{
    if (out ? stream->out_gone : stream->err_gone)
        return 0;
    int failed = write_all(out ? STDOUT_FILENO : STDERR_FILENO, bytes);
    return failed ? lose_output(stream, out, !out, failed, err) : 0;
}

void stream_outcome(const Agentfense__V1__ProcessExit *exit, struct outcome *ret)
{
    ret->exit_code = exit->exit_code & 0xFF;
    ret->timed_out = exit->timed_out;
    if (exit->timed_out)
        fprintf(stderr,
                "agentfense: the command and everything it started were killed after %.3f s\n",
                exit->duration ? (double)exit->duration->seconds +
                                     (double)exit->duration->nanos / (double)AF_NS_PER_SEC
                               : 0.0);
    if (exit->out_of_memory)
        fputs("agentfense: the sandbox's memory limit was reached, and something was killed; files "
              "in /tmp, /dev/shm and the home directory count, and go when it is stopped\n",
              stderr);
    if (exit->error.len > 0)
        fprintf(stderr, "agentfense: %.*s\n", (int)exit->error.len, (const char *)exit->error.data);
}

// --json: a piece of output, or the end. 0, or an errno value.
static int print_json(const Agentfense__V1__ProcessOutput *output)
{
    struct json json;
    AF_CLEANUP_FREE char *line = NULL;
    size_t len;
    FILE *file = open_memstream(&line, &len);
    if (!file)
        return errno;
    json_init(&json, file);
    json.one_line = true;
    json_begin_object(&json, NULL);
    switch (output->output_case) {
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDOUT:
        json_text(&json, "stream", "stdout");
        json_bytes(&json, "data", output->stdout.data, output->stdout.len);
        break;
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDERR:
        json_text(&json, "stream", "stderr");
        json_bytes(&json, "data", output->stderr.data, output->stderr.len);
        break;
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_SKIPPED:
        json_uint(&json, "skipped", output->skipped);
        break;
    default:
        report_exit(&json, output->exit);
        break;
    }
    json_end(&json);
    json_finish(&json);
    bool failed = ferror(file);
    if (fclose(file) != 0 || failed)
        return ENOMEM;
    return write_all(STDOUT_FILENO, (ProtobufCBinaryData){.data = (uint8_t *)line, .len = len});
}

static int take_reply_json(struct stream *stream, const Agentfense__V1__ProcessOutput *output,
                           struct af_error *err)
{
    if (output->output_case == AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STARTED ||
        output->output_case == AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT__NOT_SET)
        return 0;
    if (output->output_case == AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_EXIT) {
        stream_outcome(output->exit, stream->outcome);
        stream->has_exit = true;
    }
    int failed = stream->out_gone ? 0 : print_json(output);
    return failed ? lose_output(stream, true, true, failed, err) : 0;
}

static int take_reply(struct stream *stream, const Agentfense__V1__ProcessOutput *output,
                      struct af_error *err)
{
    if (output->output_case == AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STARTED && !stream->run_id)
        stream->run_id = tool_copy(output->started->id.data, output->started->id.len);
    if (stream->json)
        return take_reply_json(stream, output, err);
    switch (output->output_case) {
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDOUT:
        return put_output(stream, true, output->stdout, err);
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDERR:
        return put_output(stream, false, output->stderr, err);
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_SKIPPED:
        fprintf(stderr, "agentfense: %llu bytes of output before this are no longer kept\n",
                (unsigned long long)output->skipped);
        break;
    case AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_EXIT:
        terminal_restore();
        stream_outcome(output->exit, stream->outcome);
        stream->has_exit = true;
        break;
    default:
        break;
    }
    return 0;
}

// ---- input ------------------------------------------------------------------------------

static int send_stdin(struct stream *stream, const uint8_t *bytes, size_t len, struct af_error *err)
{
    ProtobufCBinaryData data = {.data = (uint8_t *)bytes, .len = len};
    if (len == 0)
        stream->input = false;
    if (!stream->process_id) {
        Agentfense__V1__ProcessInput input = AGENTFENSE__V1__PROCESS_INPUT__INIT;
        input.input_case = len ? AGENTFENSE__V1__PROCESS_INPUT__INPUT_STDIN
                               : AGENTFENSE__V1__PROCESS_INPUT__INPUT_EOF;
        if (len)
            input.stdin = data;
        else
            input.eof = true;
        return send_input(stream, &input, err);
    }
    Agentfense__V1__WriteStdinRequest request = AGENTFENSE__V1__WRITE_STDIN_REQUEST__INIT;
    request.process_id = af_client_text(stream->process_id);
    request.data = data;
    request.eof = len == 0;
    if (af_client_call_start(stream->client, SERVICE "WriteStdin",
                             &agentfense__v1__write_stdin_response__descriptor, 0, &stream->write,
                             err) < 0)
        return -1;
    return af_client_call_try_send(stream->write, &request.base, true, err);
}

// Takes the keys to leave with out of what was typed: from `in` to `out`, which has room for one
// more. Returns whether they were complete; *ret_len is what remains.
static bool take_detach(struct stream *stream, const uint8_t *in, size_t len, uint8_t *out,
                        size_t *ret_len)
{
    size_t kept = 0;
    bool complete = false;
    for (size_t i = 0; i < len && !complete; i++) {
        bool first = in[i] == KEY_DETACH1;
        complete = stream->detach_half && in[i] == KEY_DETACH2;
        if (stream->detach_half && !complete)
            out[kept++] = KEY_DETACH1; // it was no more than that
        stream->detach_half = first;
        if (!first && !complete)
            out[kept++] = in[i];
    }
    *ret_len = kept;
    return complete;
}

static int read_stdin(struct stream *stream, struct af_error *err)
{
    uint8_t bytes[STDIN_BYTES], kept[STDIN_BYTES + 1];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0) // the end; also what cannot be read
        return send_stdin(stream, NULL, 0, err);
    if (!stream->process_id || !stream->terminal)
        return send_stdin(stream, bytes, (size_t)n, err);
    size_t len;
    stream->outcome->detached = take_detach(stream, bytes, (size_t)n, kept, &len);
    return len > 0 ? send_stdin(stream, kept, len, err) : 0;
}

static int send_size(struct stream *stream, struct af_error *err)
{
    Agentfense__V1__Terminal size = AGENTFENSE__V1__TERMINAL__INIT;
    if (!terminal_size(&size.rows, &size.columns))
        return 0;
    if (!stream->process_id) {
        Agentfense__V1__ProcessInput input = AGENTFENSE__V1__PROCESS_INPUT__INIT;
        input.input_case = AGENTFENSE__V1__PROCESS_INPUT__INPUT_RESIZE;
        input.resize = &size;
        return send_input(stream, &input, err);
    }
    Agentfense__V1__ResizeProcessRequest request = AGENTFENSE__V1__RESIZE_PROCESS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__Process *reply = NULL;
    struct af_error ignored; // it may have ended
    request.process_id = af_client_text(stream->process_id);
    request.size = &size;
    if (rpc_unary(stream->client, SERVICE "Resize", &request.base,
                  &agentfense__v1__process__descriptor, &reply, &ignored) < 0 &&
        ignored.status == AF_UNAVAILABLE) {
        *err = ignored;
        return -1;
    }
    return 0;
}

// ---- the loop ---------------------------------------------------------------------------

// Takes the answer to a WriteStdin: a process that closed its stdin gets no more.
static int check_write(struct stream *stream)
{
    ProtobufCMessage *reply = NULL;
    struct af_error err;
    if (!stream->write)
        return 0;
    int rc = af_client_call_try_recv(stream->write, &reply, &err);
    if (rc == AF_CLIENT_REPLY)
        protobuf_c_message_free_unpacked(reply, NULL);
    if (rc == AF_CLIENT_NOTHING || rc == AF_CLIENT_REPLY)
        return rc == AF_CLIENT_REPLY;
    af_client_call_free(AF_TAKE_PTR(stream->write));
    if (rc < 0)
        stream->input = false;
    return 0;
}

// Takes what has come. 1: the call has ended.
static int take_replies(struct stream *stream, struct af_error *err)
{
    for (;;) {
        ProtobufCMessage *reply = NULL;
        while (check_write(stream) > 0)
            ;
        int rc = af_client_call_try_recv(stream->call, &reply, err);
        if (rc < 0)
            return -1;
        if (rc != AF_CLIENT_REPLY)
            return rc == AF_CLIENT_ENDED;
        rc = take_reply(stream, (const Agentfense__V1__ProcessOutput *)reply, err);
        protobuf_c_message_free_unpacked(reply, NULL);
        if (rc < 0)
            return -1;
    }
}

static int pump(struct stream *stream, struct af_error *err)
{
    bool resized = false;
    for (;;) {
        int rc = take_replies(stream, err);
        if (rc != 0)
            return rc < 0 ? -1 : 0;
        if (stream->outcome->detached || interrupt_check(err) < 0)
            return stream->outcome->detached ? 0 : -1;
        bool can_send = af_client_call_is_sent(stream->call) && !stream->write;
        if (resized && can_send) {
            resized = false;
            if (send_size(stream, err) < 0)
                return -1;
            continue;
        }
        struct pollfd fds[] = {
            {.fd = stream->input && can_send ? STDIN_FILENO : -1, .events = POLLIN},
            {.fd = stream->resize_fd, .events = POLLIN},
        };
        if (af_client_wait(stream->client, fds, 2, -1, err) < 0) {
            struct af_error ended = *err; // what came before is still shown
            rc = take_replies(stream, err);
            if (rc == 0)
                *err = ended;
            return rc > 0 ? 0 : -1;
        }
        if (fds[1].revents) {
            terminal_watched(stream->resize_fd);
            resized = true;
        }
        if (fds[0].revents && read_stdin(stream, err) < 0)
            return -1;
    }
}

// Runs the call to its end, the terminal being raw meanwhile where it is to be.
static int perform(struct stream *stream, bool raw, struct af_error *err)
{
    stream->resize_fd = stream->terminal ? terminal_watch() : -1;
    int rc = raw ? terminal_raw(err) : 0;
    fflush(stdout);
    if (rc == 0)
        rc = pump(stream, err);
    terminal_restore();
    af_client_call_free(AF_TAKE_PTR(stream->write));
    af_client_call_free(AF_TAKE_PTR(stream->call));
    free(AF_TAKE_PTR(stream->run_id));
    return rc;
}

// Whether stdin goes to the command: asked for, or there without being a terminal.
static bool passes_stdin(const struct options *options)
{
    return !options->no_stdin && (options->interactive || !isatty(STDIN_FILENO));
}

int stream_run(struct af_client *client, const struct options *options, const char *sandbox_id,
               struct outcome *ret, struct af_error *err)
{
    struct stream stream = {.client = client,
                            .terminal = options->terminal,
                            .input = passes_stdin(options),
                            .json = options->json,
                            .outcome = ret};
    struct stream_spec spec;
    Agentfense__V1__ProcessInput input = AGENTFENSE__V1__PROCESS_INPUT__INIT;
    *ret = (struct outcome){0};
    stream_spec_init(&spec, options, sandbox_id);
    spec.spec.stdin = stream.input;
    input.input_case = AGENTFENSE__V1__PROCESS_INPUT__INPUT_START;
    input.start = &spec.spec;
    int rc = af_client_call_start(
        client, SERVICE "Run", &agentfense__v1__process_output__descriptor, 0, &stream.call, err);
    if (rc == 0)
        rc = af_client_call_try_send(stream.call, &input.base, false, err);
    stream_spec_fini(&spec);
    if (rc == 0)
        return perform(&stream, options->terminal && stream.input, err);
    af_client_call_free(stream.call);
    return -1;
}

int stream_attach(struct af_client *client, const Agentfense__V1__Process *process, bool follow,
                  bool input, bool json, struct outcome *ret, struct af_error *err)
{
    AF_CLEANUP_FREE char *id = tool_copy(process->id.data, process->id.len);
    struct stream stream = {.client = client,
                            .process_id = id,
                            .terminal = process->terminal && input && !json,
                            .json = json,
                            .input = input && process->stdin && process->running,
                            .outcome = ret};
    Agentfense__V1__AttachProcessRequest request = AGENTFENSE__V1__ATTACH_PROCESS_REQUEST__INIT;
    *ret = (struct outcome){0};
    request.process_id = process->id;
    request.follow = follow;
    int rc =
        af_client_call_start(client, SERVICE "Attach", &agentfense__v1__process_output__descriptor,
                             0, &stream.call, err);
    if (rc == 0)
        rc = af_client_call_try_send(stream.call, &request.base, true, err);
    if (rc == 0 && stream.terminal && process->running)
        rc = send_size(&stream, err);
    if (rc == 0)
        return perform(&stream, stream.terminal && stream.input, err);
    af_client_call_free(stream.call);
    return -1;
}
