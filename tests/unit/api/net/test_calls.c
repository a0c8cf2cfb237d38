// Calls end to end: the client of api/client against a server over a unix socket.
#include "api/client/client.h"
#include "mux/base/clock.h"
#include "proto/sandbox.pb-c.h"
#include "tests/unit/api/net/echo_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define EXEC     "/sandbox.v1.SandboxService/Exec"
#define WAIT     "/sandbox.v1.SandboxService/GetSandbox"
#define CHAT     "/sandbox.v1.SandboxService/ExecStream"
#define UPLOAD   "/sandbox.v1.CodebaseService/UploadFiles"
#define DOWNLOAD "/sandbox.v1.CodebaseService/DownloadFile"

struct fixture {
    struct echo_server *echo;
    struct af_client *client;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct af_error err;
    f->echo = echo_server_start(NULL);
    if (af_client_connect(f->echo->path, 0, &f->client, &err))
        return -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    af_client_free(f->client);
    echo_server_stop(f->echo);
    free(f);
    return 0;
}

// Runs Exec; returns the status. *ret_stdout (may be NULL) is to be freed.
static enum af_status exec(struct af_client *client, const char *command, ProtobufCBinaryData input,
                           const char *workdir, ProtobufCBinaryData *ret_stdout,
                           struct af_error *err)
{
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.command = af_client_text(command);
    request.stdin = input;
    request.workdir = af_client_text(workdir);
    ProtobufCMessage *reply;
    if (af_client_unary(client, EXEC, &request.base, &sandbox__v1__exec_result__descriptor, 0,
                        &reply, err))
        return err->status;
    Sandbox__V1__ExecResult *result = (Sandbox__V1__ExecResult *)reply;
    if (ret_stdout) {
        *ret_stdout = result->stdout;
        result->stdout = (ProtobufCBinaryData){0};
    }
    protobuf_c_message_free_unpacked(reply, NULL);
    return AF_OK;
}

static void a_unary_call_comes_back(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    ProtobufCBinaryData out;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(exec(f->client, "x", af_client_text("hello"), NULL, &out, &err), AF_OK);
        assert_int_equal(out.len, 5);
        assert_memory_equal(out.data, "hello", 5);
        free(out.data);
    }
    assert_int_equal(exec(f->client, "late", af_client_text(""), NULL, &out, &err), AF_OK);
    assert_memory_equal(out.data, "late", 4);
    free(out.data);
}

static void an_error_arrives_with_its_text_unchanged(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    assert_int_equal(exec(f->client, "fail", af_client_text(""), NULL, NULL, &err), AF_NOT_FOUND);
    assert_string_equal(err.text, "100% gone \xc3\xa9");
}

static void messages_up_to_the_limit_pass_and_larger_ones_are_invalid(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    size_t len = (4u << 20) - 20;
    ProtobufCBinaryData in = {len, malloc(len + 100)}, out;
    memset(in.data, 'a', len + 100);
    assert_int_equal(exec(f->client, "x", in, NULL, &out, &err), AF_OK);
    assert_int_equal(out.len, len);
    assert_memory_equal(out.data, in.data, len);
    free(out.data);
    in.len = len + 100;
    assert_int_equal(exec(f->client, "x", in, NULL, NULL, &err), AF_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "at most 4194304"));
    free(in.data);
    assert_int_equal(exec(f->client, "big", af_client_text(""), "4194304", NULL, &err),
                     AF_RESOURCE_EXHAUSTED);
    assert_int_equal(exec(f->client, "x", af_client_text("still here"), NULL, NULL, &err), AF_OK);
}

static void a_nul_in_a_command_never_reaches_the_handler(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.command = (ProtobufCBinaryData){18, (uint8_t *)"cat ok\0; rm -rf /"};
    ProtobufCMessage *reply;
    assert_int_equal(af_client_unary(f->client, EXEC, &request.base,
                                     &sandbox__v1__exec_result__descriptor, 0, &reply, &err),
                     -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_int_equal(echo_server_count(f->echo, &f->echo->messages), 0);
}

static void a_client_stream_is_counted_and_empty_ones_end(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    static uint8_t data[65536];
    for (int chunks = 0; chunks <= 300; chunks += 150) {
        struct af_client_call *call;
        ProtobufCMessage *reply;
        assert_int_equal(af_client_call_start(f->client, UPLOAD,
                                              &sandbox__v1__upload_result__descriptor, 0, &call,
                                              &err),
                         0);
        for (int i = 0; i < chunks; i++) {
            Sandbox__V1__UploadChunk chunk = SANDBOX__V1__UPLOAD_CHUNK__INIT;
            chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA;
            chunk.data = (ProtobufCBinaryData){sizeof data, data};
            assert_int_equal(af_client_call_send(call, &chunk.base, &err), 0);
        }
        assert_int_equal(af_client_call_recv(call, &reply, &err), 1);
        assert_int_equal(((Sandbox__V1__UploadResult *)reply)->size, chunks * 65536);
        protobuf_c_message_free_unpacked(reply, NULL);
        assert_int_equal(af_client_call_recv(call, &reply, &err), 0);
        af_client_call_free(call);
    }
}

static void an_early_error_stops_an_upload(void **state)
{
    struct fixture *f = *state;
    struct af_error err = {0};
    struct af_client_call *call;
    static uint8_t data[65536] = "stop";
    assert_int_equal(af_client_call_start(f->client, UPLOAD,
                                          &sandbox__v1__upload_result__descriptor, 0, &call, &err),
                     0);
    int rc = 0;
    // Without the reset the windows would close and this would hang.
    for (int i = 0; i < 10000 && rc == 0; i++) {
        Sandbox__V1__UploadChunk chunk = SANDBOX__V1__UPLOAD_CHUNK__INIT;
        chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA;
        chunk.data = (ProtobufCBinaryData){sizeof data, data};
        rc = af_client_call_send(call, &chunk.base, &err);
    }
    assert_int_equal(rc, -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_string_equal(err.text, "stopped");
    af_client_call_free(call);
    echo_server_wait(f->echo, &f->echo->frees, 1);
}

static struct af_client_call *start_download(struct af_client *client, const char *bytes)
{
    struct af_error err;
    struct af_client_call *call;
    Sandbox__V1__DownloadFileRequest request = SANDBOX__V1__DOWNLOAD_FILE_REQUEST__INIT;
    request.file_path = af_client_text(bytes);
    assert_int_equal(af_client_call_start(client, DOWNLOAD, &sandbox__v1__file_chunk__descriptor, 0,
                                          &call, &err),
                     0);
    assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
    return call;
}

static void a_server_stream_arrives_whole_and_is_pulled(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct af_client_call *call = start_download(f->client, "50000000");
    ProtobufCMessage *reply;
    uint64_t bytes = 0;
    int rc;
    while ((rc = af_client_call_recv(call, &reply, &err)) == 1) {
        bytes += ((Sandbox__V1__FileChunk *)reply)->data.len;
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(bytes, 50000000);
    af_client_call_free(call);
}

static void trailing_metadata_arrives(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.command = af_client_text("trailer");
    assert_int_equal(af_client_call_start(f->client, EXEC, &sandbox__v1__exec_result__descriptor, 0,
                                          &call, &err),
                     0);
    assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
    assert_int_equal(af_client_call_recv(call, &reply, &err), 1);
    protobuf_c_message_free_unpacked(reply, NULL);
    assert_int_equal(af_client_call_recv(call, &reply, &err), 0);
    assert_string_equal(af_client_call_trailer(call, "agentfense-exit-code"), "7");
    assert_null(af_client_call_trailer(call, "agentfense-signal"));
    af_client_call_free(call);
}

static void bidirectional_messages_answer_each_other(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    assert_int_equal(af_client_call_start(f->client, CHAT, &sandbox__v1__exec_output__descriptor, 0,
                                          &call, &err),
                     0);
    request.command = af_client_text("ping");
    for (int i = 0; i < 3; i++)
        assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(af_client_call_recv(call, &reply, &err), 1);
        assert_int_equal(((Sandbox__V1__ExecOutput *)reply)->data.len, 4);
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    assert_int_equal(af_client_call_recv(call, &reply, &err), 0);
    af_client_call_free(call);
}

static struct af_client_call *start_wait(struct af_client *client, int64_t timeout_ns)
{
    struct af_error err;
    struct af_client_call *call;
    Sandbox__V1__GetSandboxRequest request = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    assert_int_equal(af_client_call_start(client, WAIT, &sandbox__v1__sandbox__descriptor,
                                          timeout_ns, &call, &err),
                     0);
    assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
    assert_int_equal(af_client_call_end(call, &err), 0);
    return call;
}

static void a_reset_cancels_the_call(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *call = start_wait(f->client, 0);
    echo_server_wait(f->echo, &f->echo->waiting, 1);
    af_client_call_free(call);
    echo_server_wait(f->echo, &f->echo->cancels, 1);
    echo_server_wait(f->echo, &f->echo->frees, 1);
}

static void a_closed_connection_cancels_its_calls(void **state)
{
    struct fixture *f = *state;
    struct af_client *other;
    struct af_error err;
    struct af_client_call *calls[5];
    assert_int_equal(af_client_connect(f->echo->path, 0, &other, &err), 0);
    for (int i = 0; i < 5; i++)
        calls[i] = start_wait(other, 0);
    echo_server_wait(f->echo, &f->echo->waiting, 5);
    // Closed without a word for the calls: they are freed once the client is dead.
    struct af_client *gone = other;
    for (int i = 0; i < 5; i++)
        af_client_call_free(calls[i]);
    af_client_free(gone);
    echo_server_wait(f->echo, &f->echo->cancels, 5);
    echo_server_wait(f->echo, &f->echo->frees, 5);
}

static void a_deadline_cancels_the_call_on_the_server(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    ProtobufCMessage *reply;
    struct af_client_call *call = start_wait(f->client, 50 * 1000000);
    assert_int_equal(af_client_call_recv(call, &reply, &err), -1);
    assert_int_equal(err.status, AF_DEADLINE_EXCEEDED);
    echo_server_wait(f->echo, &f->echo->cancels, 1);
    af_client_call_free(call);
    echo_server_wait(f->echo, &f->echo->frees, 1);
}

static void an_unknown_method_is_unimplemented(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    ProtobufCMessage *reply;
    Sandbox__V1__GetSandboxRequest request = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    assert_int_equal(af_client_unary(f->client, "/sandbox.v1.SandboxService/Nothing", &request.base,
                                     &sandbox__v1__sandbox__descriptor, 0, &reply, &err),
                     -1);
    assert_int_equal(err.status, AF_UNIMPLEMENTED);
}

static void a_call_without_a_message_is_invalid(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    assert_int_equal(af_client_call_start(f->client, EXEC, &sandbox__v1__exec_result__descriptor, 0,
                                          &call, &err),
                     0);
    assert_int_equal(af_client_call_recv(call, &reply, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "the request has no message");
    af_client_call_free(call);
}

static void a_unary_call_with_two_messages_is_invalid(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    assert_int_equal(af_client_call_start(f->client, EXEC, &sandbox__v1__exec_result__descriptor, 0,
                                          &call, &err),
                     0);
    assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
    af_client_call_send(call, &request.base, &err);
    assert_int_equal(af_client_call_recv(call, &reply, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_int_equal(echo_server_count(f->echo, &f->echo->messages), 0);
    af_client_call_free(call);
}

// ---- who may call -----------------------------------------------------------------------

struct stranger {
    const char *path;
    enum af_status status;
    char text[AF_ERROR_TEXT_MAX];
};

static void *call_as_nobody(void *arg)
{
    struct stranger *stranger = arg;
    struct af_client *client;
    struct af_error err = {0};
    stranger->status = AF_INTERNAL;
    // Of this thread alone: glibc's wrapper would change the whole process.
    if (syscall(SYS_setresuid, -1, 65534, -1) != 0)
        return NULL;
    if (af_client_connect(stranger->path, 0, &client, &err) == 0) {
        exec(client, "x", af_client_text(""), NULL, NULL, &err);
        af_client_free(client);
    }
    stranger->status = err.status;
    memcpy(stranger->text, err.text, sizeof err.text);
    return NULL;
}

static void other_users_are_told_that_they_may_not_call(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    if (geteuid() != 0) {
        print_message("skipped: needs root, to call as another user\n");
        skip();
    }
    assert_int_equal(stat(f->echo->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(chmod(f->echo->path, 0666), 0);
    assert_int_equal(chmod(f->echo->dir, 0755), 0);
    struct stranger stranger = {.path = f->echo->path};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, call_as_nobody, &stranger), 0);
    pthread_join(thread, NULL);
    assert_int_equal(stranger.status, AF_PERMISSION_DENIED);
    assert_non_null(strstr(stranger.text, "uid 65534 may not call"));
}

static void loopback_callers_are_known_by_uid(void **state)
{
    (void)state;
    struct echo_server *echo = echo_server_new(NULL);
    struct af_error err;
    struct af_client *client;
    unsigned port;
    char address[32];
    assert_int_equal(net_server_listen_tcp(echo->server, "0.0.0.0:0", &port, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_int_equal(net_server_listen_tcp(echo->server, "127.0.0.1:0", &port, &err), 0);
    assert_int_equal(net_server_start(echo->server, &err), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    assert_int_equal(af_client_connect(address, 0, &client, &err), 0);
    assert_int_equal(exec(client, "x", af_client_text(""), NULL, NULL, &err), AF_OK);
    af_client_free(client);
    if (geteuid() == 0) {
        struct stranger stranger = {.path = address};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, call_as_nobody, &stranger), 0);
        pthread_join(thread, NULL);
        assert_int_equal(stranger.status, AF_PERMISSION_DENIED);
    }
    echo_server_stop(echo);
}

// ---- stopping ---------------------------------------------------------------------------

static void *stop_server(void *arg)
{
    struct echo_server *echo = arg;
    net_server_stop(echo->server, 50 * 1000000);
    return NULL;
}

static void a_stop_cancels_what_does_not_end_in_time(void **state)
{
    (void)state;
    struct echo_server *echo = echo_server_start(NULL);
    struct af_client *client;
    struct af_error err;
    ProtobufCMessage *reply;
    assert_int_equal(af_client_connect(echo->path, 0, &client, &err), 0);
    struct af_client_call *call = start_wait(client, 0);
    echo_server_wait(echo, &echo->waiting, 1);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_server, echo), 0);
    assert_int_equal(af_client_call_recv(call, &reply, &err), -1);
    assert_int_equal(err.status, AF_UNAVAILABLE);
    pthread_join(thread, NULL);
    assert_int_equal(echo_server_count(echo, &echo->cancels), 1);
    assert_int_not_equal(access(echo->path, F_OK), 0);
    af_client_call_free(call);
    af_client_free(client);
    echo_server_stop(echo);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
    struct fixture *f = *state;
    struct echo_server *other = echo_server_new(NULL);
    struct af_error err;
    assert_int_equal(net_server_listen_unix(other->server, f->echo->path, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    FILE *file = fopen(other->path, "w");
    fclose(file);
    assert_int_equal(net_server_listen_unix(other->server, other->path, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    unlink(other->path);
    echo_server_stop(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_unary_call_comes_back),
        TEST(an_error_arrives_with_its_text_unchanged),
        TEST(messages_up_to_the_limit_pass_and_larger_ones_are_invalid),
        TEST(a_nul_in_a_command_never_reaches_the_handler),
        TEST(a_client_stream_is_counted_and_empty_ones_end),
        TEST(an_early_error_stops_an_upload),
        TEST(a_server_stream_arrives_whole_and_is_pulled),
        TEST(trailing_metadata_arrives),
        TEST(bidirectional_messages_answer_each_other),
        TEST(a_reset_cancels_the_call),
        TEST(a_closed_connection_cancels_its_calls),
        TEST(a_deadline_cancels_the_call_on_the_server),
        TEST(an_unknown_method_is_unimplemented),
        TEST(a_call_without_a_message_is_invalid),
        TEST(a_unary_call_with_two_messages_is_invalid),
        TEST(other_users_are_told_that_they_may_not_call),
        cmocka_unit_test(loopback_callers_are_known_by_uid),
        cmocka_unit_test(a_stop_cancels_what_does_not_end_in_time),
        TEST(a_stale_socket_is_replaced_and_a_live_one_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
