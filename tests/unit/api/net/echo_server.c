// The test server: handlers and waiting for what they saw. Read next: echo_server.h.
#include "tests/unit/api/net/echo_server.h"

#include "proto/sandbox.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES 65536

struct transfer {
    uint64_t bytes;
};

static void count(struct grpc_call *call, unsigned *counter)
{
    struct echo_server *echo = grpc_call_context(call);
    pthread_mutex_lock(&echo->lock);
    ++*counter;
    pthread_cond_broadcast(&echo->changed);
    pthread_mutex_unlock(&echo->lock);
}

#define COUNT(call, field) count(call, &((struct echo_server *)grpc_call_context(call))->field)

static void *finish_late(void *arg)
{
    struct grpc_call *call = arg;
    Sandbox__V1__ExecResult reply = SANDBOX__V1__EXEC_RESULT__INIT;
    reply.stdout = grpc_text("late");
    struct echo_server *echo = grpc_call_context(call);
    grpc_call_reply(call, &reply.base);
    grpc_call_unref(call);
    pthread_mutex_lock(&echo->lock);
    echo->late_over++;
    pthread_cond_broadcast(&echo->changed);
    pthread_mutex_unlock(&echo->lock);
    return NULL;
}

static void on_exec(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ExecRequest *request = (const Sandbox__V1__ExecRequest *)message;
    Sandbox__V1__ExecResult reply = SANDBOX__V1__EXEC_RESULT__INIT;
    COUNT(call, messages);
    if (grpc_text_equals(request->command, "fail")) {
        struct af_error err;
        af_error_set(&err, AF_NOT_FOUND, "100%% gone \xc3\xa9");
        grpc_call_finish_error(call, &err);
        return;
    }
    if (grpc_text_equals(request->command, "late")) {
        pthread_t thread;
        COUNT(call, late_begun);
        if (pthread_create(&thread, NULL, finish_late, grpc_call_ref(call)) == 0)
            pthread_detach(thread);
        return;
    }
    if (grpc_text_equals(request->command, "trailer"))
        grpc_call_trailer(call, "agentfense-exit-code", "7");
    reply.stdout = request->stdin;
    char *big = NULL;
    if (grpc_text_equals(request->command, "big")) {
        char *number = grpc_text_dup(request->workdir);
        reply.stdout.len = strtoul(number, NULL, 10);
        reply.stdout.data = (uint8_t *)(big = calloc(1, reply.stdout.len + 1));
        free(number);
    }
    grpc_call_reply(call, &reply.base);
    free(big);
}

static void on_wait(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    grpc_call_set_data(call, grpc_call_context(call));
    COUNT(call, waiting);
}

static void on_cancel(struct grpc_call *call)
{
    COUNT(call, cancels);
}

static void on_wait_free(struct grpc_call *call)
{
    COUNT(call, frees);
}

static void on_transfer_free(struct grpc_call *call)
{
    free(grpc_call_data(call));
    COUNT(call, frees);
}

static void on_upload(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__UploadChunk *chunk = (const Sandbox__V1__UploadChunk *)message;
    struct transfer *transfer = grpc_call_data(call);
    COUNT(call, messages);
    if (!transfer) {
        transfer = calloc(1, sizeof *transfer);
        grpc_call_set_data(call, transfer);
    }
    if (chunk->content_case != SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA)
        return;
    if (chunk->data.len >= 4 && memcmp(chunk->data.data, "stop", 4) == 0)
        grpc_call_finish(call, AF_FAILED_PRECONDITION, "stopped");
    transfer->bytes += chunk->data.len;
}

static void on_upload_end(struct grpc_call *call)
{
    struct transfer *transfer = grpc_call_data(call);
    Sandbox__V1__UploadResult reply = SANDBOX__V1__UPLOAD_RESULT__INIT;
    COUNT(call, ends);
    reply.size = transfer ? (int64_t)transfer->bytes : 0;
    grpc_call_reply(call, &reply.base);
}

static void on_download(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__DownloadFileRequest *request =
        (const Sandbox__V1__DownloadFileRequest *)message;
    struct transfer *transfer = calloc(1, sizeof *transfer);
    char *number = grpc_text_dup(request->file_path);
    transfer->bytes = strtoull(number, NULL, 10);
    free(number);
    grpc_call_set_data(call, transfer);
    COUNT(call, messages);
}

static void on_download_writable(struct grpc_call *call)
{
    static uint8_t zeros[CHUNK_BYTES];
    struct echo_server *echo = grpc_call_context(call);
    struct transfer *transfer = grpc_call_data(call);
    while (transfer->bytes > 0) {
        Sandbox__V1__FileChunk chunk = SANDBOX__V1__FILE_CHUNK__INIT;
        chunk.data.data = zeros;
        chunk.data.len = transfer->bytes < CHUNK_BYTES ? transfer->bytes : CHUNK_BYTES;
        transfer->bytes -= chunk.data.len;
        enum grpc_sent sent = grpc_call_send(call, &chunk.base);
        pthread_mutex_lock(&echo->lock);
        echo->sent_bytes += chunk.data.len;
        pthread_mutex_unlock(&echo->lock);
        if (sent != GRPC_SENT)
            break;
    }
    if (transfer->bytes == 0)
        grpc_call_finish(call, AF_OK, NULL);
}

static void on_chat(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ExecRequest *request = (const Sandbox__V1__ExecRequest *)message;
    Sandbox__V1__ExecOutput reply = SANDBOX__V1__EXEC_OUTPUT__INIT;
    if (grpc_text_equals(request->command, "hold")) {
        struct echo_server *echo = grpc_call_context(call);
        grpc_call_hold(call);
        pthread_mutex_lock(&echo->lock);
        echo->held = grpc_call_ref(call);
        pthread_mutex_unlock(&echo->lock);
    }
    COUNT(call, messages);
    reply.data = request->command;
    if (request->stdin.len == 0)
        grpc_call_send(call, &reply.base);
}

static void on_chat_writable(struct grpc_call *call)
{
    COUNT(call, woken);
}

static void on_chat_end(struct grpc_call *call)
{
    grpc_call_finish(call, AF_OK, NULL);
}

static const struct grpc_method methods[] = {
    {.path = "/sandbox.v1.SandboxService/Exec",
     .request = &sandbox__v1__exec_request__descriptor,
     .kind = GRPC_UNARY,
     .on_message = on_exec},
    {.path = "/sandbox.v1.SandboxService/GetSandbox",
     .request = &sandbox__v1__get_sandbox_request__descriptor,
     .kind = GRPC_UNARY,
     .on_message = on_wait,
     .on_cancel = on_cancel,
     .on_free = on_wait_free},
    {.path = "/sandbox.v1.CodebaseService/UploadFiles",
     .request = &sandbox__v1__upload_chunk__descriptor,
     .kind = GRPC_CLIENT_STREAM,
     .on_message = on_upload,
     .on_end = on_upload_end,
     .on_cancel = on_cancel,
     .on_free = on_transfer_free},
    {.path = "/sandbox.v1.CodebaseService/DownloadFile",
     .request = &sandbox__v1__download_file_request__descriptor,
     .kind = GRPC_SERVER_STREAM,
     .on_message = on_download,
     .on_writable = on_download_writable,
     .on_cancel = on_cancel,
     .on_free = on_transfer_free},
    {.path = "/sandbox.v1.SandboxService/ExecStream",
     .request = &sandbox__v1__exec_request__descriptor,
     .kind = GRPC_BIDI_STREAM,
     .on_message = on_chat,
     .on_end = on_chat_end,
     .on_writable = on_chat_writable,
     .on_cancel = on_cancel},
};

static void must(int rc, const struct af_error *err)
{
    if (rc == 0)
        return;
    fprintf(stderr, "echo server: %s\n", err->text);
    abort();
}

struct echo_server *echo_server_new(const struct net_limits *limits)
{
    struct echo_server *echo = calloc(1, sizeof *echo);
    struct net_server_options options = {.context = echo};
    struct af_error err = {0};
    if (limits)
        options.limits = *limits;
    pthread_mutex_init(&echo->lock, NULL);
    pthread_cond_init(&echo->changed, NULL);
    snprintf(echo->dir, sizeof echo->dir, "/tmp/af-echo-XXXXXX");
    if (!mkdtemp(echo->dir))
        abort();
    snprintf(echo->path, sizeof echo->path, "%s/s", echo->dir);
    must(net_server_new(&options, &echo->server, &err), &err);
    must(net_server_add_methods(echo->server, methods, sizeof methods / sizeof methods[0], &err),
         &err);
    return echo;
}

struct echo_server *echo_server_start(const struct net_limits *limits)
{
    struct echo_server *echo = echo_server_new(limits);
    struct af_error err = {0};
    must(net_server_listen_unix(echo->server, echo->path, &err), &err);
    must(net_server_start(echo->server, &err), &err);
    return echo;
}

void echo_server_stop(struct echo_server *echo)
{
    net_server_stop(echo->server, 0);
    // A server may be freed only when nobody holds a call.
    echo_server_wait(echo, &echo->late_over, echo->late_begun);
    net_server_free(echo->server);
    rmdir(echo->dir);
    pthread_cond_destroy(&echo->changed);
    pthread_mutex_destroy(&echo->lock);
    free(echo);
}

void echo_server_wait(struct echo_server *echo, const unsigned *counter, unsigned value)
{
    pthread_mutex_lock(&echo->lock);
    while (*counter < value)
        pthread_cond_wait(&echo->changed, &echo->lock);
    pthread_mutex_unlock(&echo->lock);
}

struct grpc_call *echo_server_take_held(struct echo_server *echo)
{
    pthread_mutex_lock(&echo->lock);
    struct grpc_call *held = echo->held;
    echo->held = NULL;
    pthread_mutex_unlock(&echo->lock);
    return held;
}

unsigned echo_server_count(struct echo_server *echo, const unsigned *counter)
{
    pthread_mutex_lock(&echo->lock);
    unsigned value = *counter;
    pthread_mutex_unlock(&echo->lock);
    return value;
}
