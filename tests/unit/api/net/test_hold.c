// Back-pressure on what clients send: a handler that holds its call holds its client, and no other.
#include "api/client/client.h"
#include "mux/base/clock.h"
#include "proto/sandbox.pb-c.h"
#include "tests/unit/api/net/echo_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EXEC    "/sandbox.v1.SandboxService/Exec"
#define CHAT    "/sandbox.v1.SandboxService/ExecStream"
#define UPLOAD  "/sandbox.v1.CodebaseService/UploadFiles"
#define WAIT    "/sandbox.v1.SandboxService/GetSandbox" // never answers
#define PATIENT (60 * AF_NS_PER_SEC)

struct fixture {
    struct echo_server *echo;
    struct af_client *client;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct af_error err;
    f->echo = echo_server_start(NULL);
    *state = f;
    return af_client_connect(f->echo->path, 0, &f->client, &err);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    af_client_free(f->client);
    struct grpc_call *held = echo_server_take_held(f->echo);
    grpc_call_unref(held);
    echo_server_stop(f->echo);
    free(f);
    return 0;
}

static struct af_client_call *chat(struct fixture *f)
{
    struct af_client_call *call;
    struct af_error err;
    assert_int_equal(af_client_call_start(f->client, CHAT, &sandbox__v1__exec_output__descriptor, 0,
                                          &call, &err),
                     0);
    return call;
}

static void say(struct af_client_call *call, const char *text)
{
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    struct af_error err;
    request.command = af_client_text(text);
    assert_int_equal(af_client_call_send(call, &request.base, &err), 0);
}

static void hear(struct af_client_call *call, const char *text)
{
    struct af_error err;
    ProtobufCMessage *reply;
    assert_int_equal(af_client_call_recv(call, &reply, &err), 1);
    const Sandbox__V1__ExecOutput *output = (const Sandbox__V1__ExecOutput *)reply;
    assert_int_equal(output->data.len, strlen(text));
    assert_memory_equal(output->data.data, text, output->data.len);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void unary(struct fixture *f)
{
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    struct af_error err;
    ProtobufCMessage *reply;
    request.command = af_client_text("x");
    if (af_client_unary(f->client, EXEC, &request.base, &sandbox__v1__exec_result__descriptor,
                        PATIENT, &reply, &err))
        fail_msg("unary: %s", err.text);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void told_to_hold(struct fixture *f, struct af_client_call *call)
{
    say(call, "hold");
    echo_server_wait(f->echo, &f->echo->messages, 1);
}

static void release(struct fixture *f)
{
    struct grpc_call *held = echo_server_take_held(f->echo);
    grpc_call_release(held);
    grpc_call_unref(held);
}

static void messages_wait_for_the_release_and_keep_their_order(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *call = chat(f);
    struct af_error err;
    ProtobufCMessage *reply;
    told_to_hold(f, call);
    say(call, "a");
    say(call, "b");
    assert_int_equal(af_client_call_end(call, &err), 0);
    unary(f); // has gone through the workers after them
    assert_int_equal(echo_server_count(f->echo, &f->echo->messages), 2);
    release(f);
    hear(call, "hold");
    hear(call, "a");
    hear(call, "b");
    assert_int_equal(af_client_call_recv(call, &reply, &err), 0); // the half-close waited too
    af_client_call_free(call);
}

// Sends until the window is closed; how much that was.
static size_t flood(struct fixture *f, struct af_client_call *call, size_t bytes, size_t max)
{
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    struct af_error err;
    size_t sent = 0;
    request.stdin.data = calloc(1, bytes);
    request.stdin.len = bytes;
    while (sent < max && af_client_call_is_sent(call)) {
        assert_int_equal(af_client_call_try_send(call, &request.base, false, &err), 0);
        for (int i = 0; i < 10 && !af_client_call_is_sent(call); i++)
            assert_int_equal(af_client_wait(f->client, NULL, 0, 20, &err), 0);
        sent += bytes;
    }
    free(request.stdin.data);
    return sent;
}

static void a_held_client_is_stopped_by_its_window(void **state)
{
    struct fixture *f = *state;
    struct net_stats stats;
    struct af_client_call *call = chat(f);
    told_to_hold(f, call);
    size_t sent = flood(f, call, 16 << 10, 64 << 20);
    assert_true(sent > 128 << 10 && sent <= 512 << 10);
    unary(f);
    net_server_stats(f->echo->server, &stats);
    assert_true(stats.buffered_bytes <= 512 << 10);
    release(f);
    struct af_error err;
    while (!af_client_call_is_sent(call))
        assert_int_equal(af_client_wait(f->client, NULL, 0, -1, &err), 0);
    assert_int_equal(flood(f, call, 16 << 10, 16 << 20), 16 << 20); // all the way
    af_client_call_free(call);
}

static void many_held_clients_leave_the_connection_to_others(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *calls[20];
    for (size_t i = 0; i < 20; i++) {
        calls[i] = chat(f);
        say(calls[i], "hold");
        echo_server_wait(f->echo, &f->echo->messages, (unsigned)i + 1);
        grpc_call_unref(echo_server_take_held(f->echo));
        assert_true(flood(f, calls[i], 64 << 10, 64 << 20) < 1 << 20);
    }
    unary(f);
    for (size_t i = 0; i < 20; i++)
        af_client_call_free(calls[i]);
    echo_server_wait(f->echo, &f->echo->cancels, 20);
    unary(f);
}

// A request that its handler has is no longer one that waits for a worker, though its reply is far.
static void large_requests_without_a_reply_leave_the_connection_to_others(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *calls[6];
    struct af_error err;
    Sandbox__V1__GetSandboxRequest request = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    request.sandbox_id.len = 3 << 20;
    request.sandbox_id.data = malloc(request.sandbox_id.len);
    assert_non_null(request.sandbox_id.data);
    memset(request.sandbox_id.data, 'x', request.sandbox_id.len);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(af_client_call_start(f->client, WAIT, &sandbox__v1__sandbox__descriptor,
                                              PATIENT, &calls[i], &err),
                         0);
        if (af_client_call_send(calls[i], &request.base, &err) ||
            af_client_call_end(calls[i], &err))
            fail_msg("call %u: %s", i, err.text);
        unary(f);
        echo_server_wait(f->echo, &f->echo->waiting, i + 1);
    }
    for (size_t i = 0; i < 6; i++)
        af_client_call_free(calls[i]);
    echo_server_wait(f->echo, &f->echo->cancels, 6);
    free(request.sandbox_id.data);
}

static void a_cancel_is_not_held(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *call = chat(f);
    told_to_hold(f, call);
    say(call, "a");
    af_client_call_free(call);
    echo_server_wait(f->echo, &f->echo->cancels, 1);
    release(f); // harmless
    unary(f);
    assert_int_equal(echo_server_count(f->echo, &f->echo->messages), 2);
}

static void a_wake_runs_on_writable(void **state)
{
    struct fixture *f = *state;
    struct af_client_call *call = chat(f);
    told_to_hold(f, call);
    struct grpc_call *held = echo_server_take_held(f->echo);
    assert_int_equal(echo_server_count(f->echo, &f->echo->woken), 0);
    grpc_call_wake(held);
    echo_server_wait(f->echo, &f->echo->woken, 1);
    grpc_call_unref(held);
    af_client_call_free(call);
}

// The window has to have room for the second one although the first was not worth telling of.
static void a_large_message_passes_after_one_of_half_its_size(void **state)
{
    struct fixture *f = *state;
    const size_t sizes[] = {3 << 19, (4 << 20) - 64, 100, (4 << 20) - 64, 3 << 19};
    Sandbox__V1__UploadChunk chunk = SANDBOX__V1__UPLOAD_CHUNK__INIT;
    struct af_client_call *call;
    struct af_error err;
    ProtobufCMessage *reply;
    size_t total = 0;
    assert_int_equal(af_client_call_start(f->client, UPLOAD,
                                          &sandbox__v1__upload_result__descriptor, PATIENT, &call,
                                          &err),
                     0);
    chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA;
    chunk.data.data = calloc(1, 4 << 20);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        chunk.data.len = sizes[i];
        total += sizes[i];
        if (af_client_call_send(call, &chunk.base, &err))
            fail_msg("message %zu: %s", i, err.text);
    }
    assert_int_equal(af_client_call_recv(call, &reply, &err), 1);
    assert_int_equal(((Sandbox__V1__UploadResult *)reply)->size, total);
    protobuf_c_message_free_unpacked(reply, NULL);
    af_client_call_free(call);
    free(chunk.data.data);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(messages_wait_for_the_release_and_keep_their_order),
        TEST(a_held_client_is_stopped_by_its_window),
        TEST(many_held_clients_leave_the_connection_to_others),
        TEST(large_requests_without_a_reply_leave_the_connection_to_others),
        TEST(a_cancel_is_not_held),
        TEST(a_wake_runs_on_writable),
        TEST(a_large_message_passes_after_one_of_half_its_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
