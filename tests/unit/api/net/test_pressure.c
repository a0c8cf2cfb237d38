// What goes when there is no room: neither who may not call nor who reads nothing keeps others out.
#include "api/client/client.h"
#include "mux/base/clock.h"
#include "proto/sandbox.pb-c.h"
#include "tests/unit/api/net/echo_server.h"
#include "tests/unit/api/net/raw_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define EXEC     "/sandbox.v1.SandboxService/Exec"
#define DOWNLOAD "/sandbox.v1.CodebaseService/DownloadFile"
#define CROWD    32 // more connections than the server has
#define WHOLE    (3u << 20)

// Until the server has cut so many connections.
static void wait_for_cuts(struct echo_server *echo, uint64_t count)
{
    struct net_stats stats;
    int64_t end_ns = af_monotonic_ns() + 60 * AF_NS_PER_SEC;
    do {
        usleep(1000);
        net_server_stats(echo->server, &stats);
        if (af_monotonic_ns() > end_ns)
            fail_msg("%lu connections were cut", (unsigned long)stats.conns_cut);
    } while (stats.conns_cut < count);
}

static enum af_status call_exec(const char *path)
{
    struct af_client *client;
    struct af_error err;
    ProtobufCMessage *reply;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    if (af_client_connect(path, 0, &client, &err))
        return err.status;
    enum af_status status = AF_OK;
    if (af_client_unary(client, EXEC, &request.base, &sandbox__v1__exec_result__descriptor, 0,
                        &reply, &err))
        status = err.status;
    else
        protobuf_c_message_free_unpacked(reply, NULL);
    af_client_free(client);
    return status;
}

// ---- who may not call -------------------------------------------------------------------

struct crowd {
    struct echo_server *echo;
    struct raw_client *raw[CROWD];
};

// As nobody: takes all the connections that it gets, and keeps them.
static void *gather(void *arg)
{
    struct crowd *crowd = arg;
    // Of this thread alone: glibc's wrapper would change the whole process.
    if (syscall(SYS_setresuid, -1, 65534, -1) != 0)
        abort();
    for (int i = 0; i < CROWD; i++)
        crowd->raw[i] = raw_open(crowd->echo->path);
    // The newest is there, and is told why it is not served.
    raw_call(crowd->raw[CROWD - 1], 1, EXEC, END_STREAM);
    raw_read(crowd->raw[CROWD - 1], 1);
    return NULL;
}

static void who_may_not_call_leaves_room_for_who_may(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: needs root, to connect as another user\n");
        skip();
    }
    struct net_limits limits = {.conns_max = 16, .conns_unproven = 4};
    struct echo_server *echo = echo_server_start(&limits);
    assert_int_equal(chmod(echo->path, 0666), 0);
    assert_int_equal(chmod(echo->dir, 0755), 0);
    struct crowd crowd = {.echo = echo};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, gather, &crowd), 0);
    pthread_join(thread, NULL);
    assert_int_equal(crowd.raw[CROWD - 1]->grpc_status, 7); // PERMISSION_DENIED
    wait_for_cuts(echo, CROWD - 4);
    struct net_stats stats;
    net_server_stats(echo->server, &stats);
    assert_int_equal(stats.conns_open, 4);
    assert_int_equal(call_exec(echo->path), AF_OK);
    for (int i = 0; i < CROWD; i++)
        raw_close(crowd.raw[i]);
    echo_server_stop(echo);
}

// ---- who reads nothing ------------------------------------------------------------------

// A connection whose windows are closed, with calls that have much to say.
static struct raw_client *open_deaf(const char *path)
{
    struct raw_client *raw = raw_open(path);
    raw_frame(raw, SETTINGS, 0, 0, "\0\4\0\0\0\0", 6);
    for (int32_t i = 0; i < 4; i++) {
        raw_call(raw, 2 * i + 1, DOWNLOAD, 0);
        raw_frame(raw, DATA, END_STREAM, 2 * i + 1,
                  "\0\0\0\0\x0c\x12\x0a"
                  "1000000000",
                  17);
    }
    return raw;
}

static uint64_t download(const char *path, struct af_error *err)
{
    struct af_client *client;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    Sandbox__V1__DownloadFileRequest request = SANDBOX__V1__DOWNLOAD_FILE_REQUEST__INIT;
    char number[16];
    request.file_path.data = (uint8_t *)number;
    request.file_path.len = (size_t)snprintf(number, sizeof number, "%u", WHOLE);
    assert_int_equal(af_client_connect(path, 0, &client, err), 0);
    assert_int_equal(
        af_client_call_start(client, DOWNLOAD, &sandbox__v1__file_chunk__descriptor, 0, &call, err),
        0);
    assert_int_equal(af_client_call_send(call, &request.base, err), 0);
    uint64_t bytes = 0;
    while (af_client_call_recv(call, &reply, err) > 0) {
        bytes += ((Sandbox__V1__FileChunk *)reply)->data.len;
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    af_client_call_free(call);
    af_client_free(client);
    return bytes;
}

// Replies that nobody reads fill all that the server may hold: whoever holds most of them goes.
static void who_reads_nothing_goes_before_others_are_refused(void **state)
{
    (void)state;
    struct net_limits limits = {.total_buffer_bytes = 16u << 20};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *deaf[CROWD];
    for (int i = 0; i < CROWD; i++)
        deaf[i] = open_deaf(echo->path);
    wait_for_cuts(echo, 1);
    // While the crowd still fills what the server may hold, another's call may be refused; without
    // an end it must not be.
    struct af_error err = {0};
    int64_t end_ns = af_monotonic_ns() + 60 * AF_NS_PER_SEC;
    for (int in_a_row = 0; in_a_row < 8;) {
        uint64_t bytes = download(echo->path, &err);
        in_a_row = bytes == WHOLE ? in_a_row + 1 : 0;
        if (af_monotonic_ns() > end_ns)
            fail_msg("%lu bytes: %s", (unsigned long)bytes, err.text);
    }
    struct net_stats stats;
    net_server_stats(echo->server, &stats);
    assert_in_range(stats.buffered_bytes, 0, limits.total_buffer_bytes);
    for (int i = 0; i < CROWD; i++)
        raw_close(deaf[i]);
    echo_server_stop(echo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_may_not_call_leaves_room_for_who_may),
        cmocka_unit_test(who_reads_nothing_goes_before_others_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
