// A load on the API without the cost of a client in a slow language.
//
//   api_load SOCKET CODEBASE latency ROUNDS   one call at a time: create, destroy, files in and out
//   api_load SOCKET CODEBASE rate MILLIS      4 connections, 16 calls open on each
//   api_load SOCKET CODEBASE batch COUNT      COUNT sandboxes by one call, and their end by one
//   api_load SOCKET CODEBASE make COUNT       COUNT sandboxes, which stay; prints nothing
// Prints one line a figure: NAME VALUE UNIT [P99], medians for times. The codebase has to hold
// nothing; files are uploaded first. Read next: bench/api.py.
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/load.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "proto/sandbox.pb-c.h"

#define CONNECTIONS  4
#define OPEN_CALLS   16
#define SMALL_BYTES  1024
#define LARGE_BYTES  (1 << 20)
#define CHUNK_BYTES  65536
#define ID_BYTES     80
#define BATCH_ROUNDS 5

static const char *codebase;
static uint8_t content[LARGE_BYTES];

// ---- calls ------------------------------------------------------------------------------

static void copy_id(char id[ID_BYTES], ProtobufCBinaryData text)
{
    snprintf(id, ID_BYTES, "%.*s", (int)text.len, (const char *)text.data);
}

static Sandbox__V1__PermissionRule everything = SANDBOX__V1__PERMISSION_RULE__INIT;
static Sandbox__V1__PermissionRule *rules[] = {&everything};

static void fill_create(Sandbox__V1__CreateSandboxRequest *request)
{
    sandbox__v1__create_sandbox_request__init(request);
    request->codebase_id = af_client_text(codebase);
    request->permissions = rules;
    request->n_permissions = 1;
}

static void create(struct af_client *client, char id[ID_BYTES])
{
    Sandbox__V1__CreateSandboxRequest request;
    fill_create(&request);
    ProtobufCMessage *reply = unary(client, "/sandbox.v1.SandboxService/CreateSandbox",
                                    &request.base, &sandbox__v1__sandbox__descriptor);
    copy_id(id, ((const Sandbox__V1__Sandbox *)reply)->id);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void destroy(struct af_client *client, const char *id)
{
    Sandbox__V1__DestroySandboxRequest request = SANDBOX__V1__DESTROY_SANDBOX_REQUEST__INIT;
    request.sandbox_id = af_client_text(id);
    ProtobufCMessage *reply = unary(client, "/sandbox.v1.SandboxService/DestroySandbox",
                                    &request.base, &sandbox__v1__empty__descriptor);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static struct af_client_call *begin(struct af_client *client, const char *path,
                                    const ProtobufCMessageDescriptor *reply)
{
    struct af_client_call *call;
    struct af_error err;
    if (af_client_call_start(client, path, reply, 0, &call, &err) < 0)
        die(path, &err);
    return call;
}

static void send_message(struct af_client_call *call, const ProtobufCMessage *message)
{
    struct af_error err;
    if (af_client_call_send(call, message, &err) < 0)
        die("send", &err);
}

// Takes every reply of a call and frees it. Returns the bytes of file chunks among them.
static size_t finish(struct af_client_call *call, bool chunks)
{
    struct af_error err;
    ProtobufCMessage *reply;
    size_t bytes = 0;
    int got;
    while ((got = af_client_call_recv(call, &reply, &err)) > 0) {
        if (chunks)
            bytes += ((const Sandbox__V1__FileChunk *)reply)->data.len;
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    if (got < 0)
        die("call", &err);
    af_client_call_free(call);
    return bytes;
}

static struct af_client_call *begin_upload(struct af_client *client, const char *path, size_t bytes)
{
    struct af_client_call *call = begin(client, "/sandbox.v1.CodebaseService/UploadFiles",
                                        &sandbox__v1__upload_result__descriptor);
    Sandbox__V1__UploadChunk__Metadata metadata = SANDBOX__V1__UPLOAD_CHUNK__METADATA__INIT;
    metadata.codebase_id = af_client_text(codebase);
    metadata.file_path = af_client_text(path);
    metadata.total_size = (int64_t)bytes;
    Sandbox__V1__UploadChunk first = SANDBOX__V1__UPLOAD_CHUNK__INIT;
    first.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_METADATA;
    first.metadata = &metadata;
    send_message(call, &first.base);
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        Sandbox__V1__UploadChunk chunk = SANDBOX__V1__UPLOAD_CHUNK__INIT;
        chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA;
        chunk.data.data = content + at;
        chunk.data.len = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        send_message(call, &chunk.base);
    }
    struct af_error err;
    if (af_client_call_end(call, &err) < 0)
        die("upload", &err);
    return call;
}

static struct af_client_call *begin_download(struct af_client *client, const char *path)
{
    struct af_client_call *call = begin(client, "/sandbox.v1.CodebaseService/DownloadFile",
                                        &sandbox__v1__file_chunk__descriptor);
    Sandbox__V1__DownloadFileRequest request = SANDBOX__V1__DOWNLOAD_FILE_REQUEST__INIT;
    request.codebase_id = af_client_text(codebase);
    request.file_path = af_client_text(path);
    send_message(call, &request.base);
    struct af_error err;
    if (af_client_call_end(call, &err) < 0)
        die("download", &err);
    return call;
}

static void download(struct af_client *client, const char *path, size_t expected)
{
    if (finish(begin_download(client, path), true) != expected)
        die("a download of another length", NULL);
}

// ---- one at a time ----------------------------------------------------------------------

enum { CREATE, DESTROY, DOWN_SMALL, DOWN_LARGE, UP_SMALL, UP_LARGE, KINDS };

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, int64_t *took_ns, int count)
{
    qsort(took_ns, (size_t)count, sizeof *took_ns, compare);
    printf("%s %.4f ms %.4f\n", name, (double)took_ns[count / 2] / 1e6,
           (double)took_ns[count * 99 / 100] / 1e6);
}

static void latency(int rounds)
{
    static const char *const names[KINDS] = {"create",      "destroy",   "download_1k",
                                             "download_1m", "upload_1k", "upload_1m"};
    struct af_client *client = connect_client();
    int64_t *took_ns[KINDS];
    for (int kind = 0; kind < KINDS; kind++)
        took_ns[kind] = calloc((size_t)rounds, sizeof *took_ns[kind]);
    char id[ID_BYTES], path[ID_BYTES];
#define TIMED(kind, statement)                                                                     \
    do {                                                                                           \
        int64_t begun_ns = af_monotonic_ns();                                                      \
        statement;                                                                                 \
        took_ns[kind][i] = af_monotonic_ns() - begun_ns;                                           \
    } while (0)
    for (int i = 0; i < rounds; i++) {
        snprintf(path, sizeof path, "new/%d", i);
        TIMED(CREATE, create(client, id));
        TIMED(DESTROY, destroy(client, id));
        TIMED(DOWN_SMALL, download(client, "small", SMALL_BYTES));
        TIMED(DOWN_LARGE, download(client, "large", LARGE_BYTES));
        TIMED(UP_SMALL, finish(begin_upload(client, path, SMALL_BYTES), false));
        TIMED(UP_LARGE, finish(begin_upload(client, "large-new", LARGE_BYTES), false));
    }
    for (int kind = 0; kind < KINDS; kind++) {
        print_times(names[kind], took_ns[kind], rounds);
        free(took_ns[kind]);
    }
    af_client_free(client);
}

// ---- as many as it takes ----------------------------------------------------------------

static atomic_bool stop_all;
static atomic_uint done_count;
static bool uploads;

static void *rate_main(void *arg)
{
    int number = (int)(intptr_t)arg;
    struct af_client *client = connect_client();
    struct af_client_call *calls[OPEN_CALLS] = {NULL};
    char path[ID_BYTES];
    for (unsigned n = 0; !atomic_load(&stop_all); n++) {
        struct af_client_call **call = &calls[n % OPEN_CALLS];
        if (*call) {
            finish(*call, !uploads);
            atomic_fetch_add(&done_count, 1);
        }
        snprintf(path, sizeof path, "rate/%d/%u", number, n % 1000);
        *call = uploads ? begin_upload(client, path, SMALL_BYTES) : begin_download(client, "small");
    }
    for (int i = 0; i < OPEN_CALLS; i++)
        if (calls[i])
            finish(calls[i], !uploads);
    af_client_free(client);
    return NULL;
}

static double rate_of(bool of_uploads, unsigned millis)
{
    pthread_t threads[CONNECTIONS];
    uploads = of_uploads;
    atomic_store(&stop_all, false);
    for (int i = 0; i < CONNECTIONS; i++)
        if (pthread_create(&threads[i], NULL, rate_main, (void *)(intptr_t)i) != 0)
            die("pthread_create", NULL);
    usleep(millis * 200); // a fifth to warm up
    unsigned before = atomic_load(&done_count);
    int64_t begun_ns = af_monotonic_ns();
    usleep(millis * 1000);
    unsigned done = atomic_load(&done_count) - before;
    double rate = done * 1e9 / (double)(af_monotonic_ns() - begun_ns);
    atomic_store(&stop_all, true);
    for (int i = 0; i < CONNECTIONS; i++)
        pthread_join(threads[i], NULL);
    return rate;
}

// ---- many by one call -------------------------------------------------------------------

static ProtobufCMessage *create_batch(struct af_client *client, size_t count)
{
    Agentfense__V1__BatchCreateRequest batch = AGENTFENSE__V1__BATCH_CREATE_REQUEST__INIT;
    Agentfense__V1__CreateRequest item = AGENTFENSE__V1__CREATE_REQUEST__INIT;
    Agentfense__V1__CreateRequest *items[AF_BATCH_MAX];
    Sandbox__V1__CreateSandboxRequest one;
    fill_create(&one);
    item.sandbox = &one;
    for (size_t i = 0; i < count; i++)
        items[i] = &item;
    batch.items = items;
    batch.n_items = count;
    ProtobufCMessage *reply =
        unary(client, "/agentfense.v1.SandboxService/BatchCreate", &batch.base,
              &agentfense__v1__batch_create_response__descriptor);
    const Agentfense__V1__BatchCreateResponse *made = (const void *)reply;
    for (size_t i = 0; i < made->n_items; i++)
        if (!made->items[i]->sandbox)
            die("BatchCreate made fewer", NULL);
    return reply;
}

static void destroy_batch(struct af_client *client, const ProtobufCMessage *reply)
{
    const Agentfense__V1__BatchCreateResponse *made = (const void *)reply;
    Agentfense__V1__BatchDestroyRequest request = AGENTFENSE__V1__BATCH_DESTROY_REQUEST__INIT;
    ProtobufCBinaryData ids[AF_BATCH_MAX];
    for (size_t i = 0; i < made->n_items; i++)
        ids[i] = made->items[i]->sandbox->id;
    request.sandbox_ids = ids;
    request.n_sandbox_ids = made->n_items;
    protobuf_c_message_free_unpacked(unary(client, "/agentfense.v1.SandboxService/BatchDestroy",
                                           &request.base,
                                           &agentfense__v1__batch_destroy_response__descriptor),
                                     NULL);
}

static void batch(size_t count)
{
    struct af_client *client = connect_client();
    int64_t made_ns[BATCH_ROUNDS], gone_ns[BATCH_ROUNDS];
    for (int i = 0; i < BATCH_ROUNDS; i++) {
        int64_t begun_ns = af_monotonic_ns();
        ProtobufCMessage *reply = create_batch(client, count);
        made_ns[i] = af_monotonic_ns() - begun_ns;
        begun_ns = af_monotonic_ns();
        destroy_batch(client, reply);
        gone_ns[i] = af_monotonic_ns() - begun_ns;
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    print_times("batch_create", made_ns, BATCH_ROUNDS);
    print_times("batch_destroy", gone_ns, BATCH_ROUNDS);
    af_client_free(client);
}

static void make(size_t count)
{
    struct af_client *client = connect_client();
    for (size_t left = count; left > 0;) {
        size_t now = left < AF_BATCH_MAX ? left : AF_BATCH_MAX;
        protobuf_c_message_free_unpacked(create_batch(client, now), NULL);
        left -= now;
    }
    af_client_free(client);
}

static void upload_files(void)
{
    struct af_client *client = connect_client();
    finish(begin_upload(client, "small", SMALL_BYTES), false);
    finish(begin_upload(client, "large", LARGE_BYTES), false);
    af_client_free(client);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: api_load SOCKET CODEBASE latency|rate|batch|make NUMBER\n");
        return 2;
    }
    endpoint = argv[1];
    codebase = argv[2];
    everything.pattern = af_client_text("**/*");
    everything.permission = SANDBOX__V1__PERMISSION__PERMISSION_WRITE;
    memset(content, 'x', sizeof content);
    int number = atoi(argv[4]);
    const char *mode = argv[3];
    if (number <= 0 || (strcmp(mode, "batch") == 0 && number > AF_BATCH_MAX))
        die("a number out of range", NULL);
    if (strcmp(mode, "latency") == 0 || strcmp(mode, "rate") == 0)
        upload_files();
    if (strcmp(mode, "latency") == 0) {
        latency(number);
    } else if (strcmp(mode, "rate") == 0) {
        printf("reads %.0f /s\n", rate_of(false, (unsigned)number));
        printf("uploads %.0f /s\n", rate_of(true, (unsigned)number));
    } else if (strcmp(mode, "batch") == 0) {
        batch((size_t)number);
    } else {
        make((size_t)number);
    }
    return 0;
}
