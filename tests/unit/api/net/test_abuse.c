// What a hostile client gets: its connection cut or a clear status, and others are still served.
#include "api/client/client.h"
#include "mux/base/clock.h"
#include "proto/sandbox.pb-c.h"
#include "tests/unit/api/net/echo_server.h"
#include "tests/unit/api/net/raw_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define EXEC     "/sandbox.v1.SandboxService/Exec"
#define WAIT     "/sandbox.v1.SandboxService/GetSandbox"
#define UPLOAD   "/sandbox.v1.CodebaseService/UploadFiles"
#define DOWNLOAD "/sandbox.v1.CodebaseService/DownloadFile"

static int set_up(void **state)
{
    *state = echo_server_start(NULL);
    return 0;
}

// Whatever was done: others are served, and nothing is held once the bad client is gone.
static int tear_down(void **state)
{
    struct echo_server *echo = *state;
    struct af_client *client;
    struct af_error err;
    ProtobufCMessage *reply;
    struct net_stats stats;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    if (af_client_connect(echo->path, 0, &client, &err) ||
        af_client_unary(client, EXEC, &request.base, &sandbox__v1__exec_result__descriptor, 0,
                        &reply, &err))
        return -1;
    protobuf_c_message_free_unpacked(reply, NULL);
    af_client_free(client);
    net_server_stop(echo->server, 0);
    net_server_stats(echo->server, &stats);
    bool clean = stats.calls_open == 0 && stats.buffered_bytes == 0;
    echo_server_stop(echo);
    return clean ? 0 : -1;
}

static uint64_t cut_count(struct echo_server *echo)
{
    struct net_stats stats;
    net_server_stats(echo->server, &stats);
    return stats.conns_cut;
}

static void rapid_resets_are_cut(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    bool going = true;
    for (int32_t i = 0; i < 100000 && going; i++) // far beyond the burst that is allowed
        going =
            raw_call(raw, 2 * i + 1, WAIT, 0) && raw_frame(raw, RST, 0, 2 * i + 1, "\0\0\0\x08", 4);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
}

static void provoked_resets_are_cut(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    int resets = 0;
    // A window that overflows: the server resets. One at a time, so that nghttp2 finds nothing.
    for (int32_t i = 0; i < 5000 && !raw->closed; i++) {
        raw_call(raw, 2 * i + 1, WAIT, 0);
        raw_frame(raw, WINDOW, 0, 2 * i + 1, "\x7f\xff\xff\xff", 4);
        raw_read(raw, 2 * i + 1);
        resets += raw->reset != RAW_NONE;
    }
    assert_true(raw->closed);
    assert_in_range(resets, 100, 4000);
    assert_int_equal(raw->goaway, 11); // ENHANCE_YOUR_CALM
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
}

static void a_continuation_flood_is_cut(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    static struct raw_bytes block;
    block.len = 0;
    raw_add_request(&block, "POST", EXEC, "application/grpc");
    bool going = raw_frame(raw, HEADERS, 0, 1, block.bytes, block.len);
    block.len = 0;
    raw_add_header(&block, "x", "y");
    for (int i = 0; i < 10000 && going; i++)
        going = raw_frame(raw, CONT, 0, 1, block.bytes, block.len);
    assert_true(raw_read_to_end(raw));
    raw_close(raw);
}

// Sends the same frames until the server hangs up; it must, long before `times`.
static void flood_unread(struct echo_server *echo, int type, int32_t stream, const char *payload,
                         size_t len, int times)
{
    struct raw_client *raw = raw_open(echo->path);
    static struct raw_bytes many;
    many.len = 0;
    if (stream > 0)
        raw_call(raw, stream, UPLOAD, 0);
    for (int i = 0; i < 1000; i++)
        raw_add_frame(&many, type, 0, stream, payload, len);
    int i = 0;
    while (i < times && raw_send(raw, many.bytes, many.len))
        i++;
    assert_in_range(i, 0, times - 1);
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
}

static void a_ping_flood_without_reading_is_cut(void **state)
{
    flood_unread(*state, PING, 0, "12345678", 8, 2000);
}

static void a_settings_flood_without_reading_is_cut(void **state)
{
    flood_unread(*state, SETTINGS, 0, NULL, 0, 2000);
}

static void an_empty_data_flood_is_cut(void **state)
{
    flood_unread(*state, DATA, 1, NULL, 0, 2000);
}

static void a_header_bomb_is_refused_and_repeated_ones_are_cut(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    static struct raw_bytes block;
    char value[3501];
    memset(value, 'q', 3500);
    value[3500] = '\0';
    block.len = 0;
    raw_add_request(&block, "POST", EXEC, "application/grpc");
    size_t indexed = block.len;
    raw_add_header(&block, "z", value);
    block.bytes[indexed] = 0x40; // into the dynamic table, as its entry 62
    memset(block.bytes + block.len, 0xbe, 10000);
    block.len += 10000;
    raw_frame(raw, HEADERS, END_HEADERS, 1, block.bytes, block.len);
    raw_read(raw, 1);
    assert_int_equal(raw->grpc_status, 8); // RESOURCE_EXHAUSTED
    bool going = true;
    for (int32_t i = 1; i < 2000 && going; i++)
        going = raw_frame(raw, HEADERS, END_HEADERS, 2 * i + 1, block.bytes, block.len);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
}

static void too_many_settings_are_cut(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    static const uint8_t entries[33 * 6];
    raw_frame(raw, SETTINGS, 0, 0, entries, sizeof entries);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
}

static void more_streams_than_announced_end_the_connection(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    for (int32_t i = 0; i < 200; i++)
        raw_call(raw, 2 * i + 1, WAIT, 0);
    assert_true(raw_read_to_end(raw));
    assert_int_not_equal(raw->goaway, RAW_NONE);
    raw_close(raw);
}

static void many_open_calls_wait_side_by_side(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw[4];
    static const char empty[5];
    for (int c = 0; c < 4; c++) {
        raw[c] = raw_open(echo->path);
        for (int32_t i = 0; i < 100; i++) {
            raw_call(raw[c], 2 * i + 1, WAIT, 0);
            raw_frame(raw[c], DATA, END_STREAM, 2 * i + 1, empty, sizeof empty);
        }
    }
    echo_server_wait(echo, &echo->waiting, 400);
    for (int c = 0; c < 4; c++)
        raw_close(raw[c]);
    echo_server_wait(echo, &echo->cancels, 400);
    echo_server_wait(echo, &echo->frees, 400);
}

static void half_a_message_and_an_end_is_invalid(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    raw_call(raw, 1, EXEC, 0);
    raw_frame(raw, DATA, END_STREAM, 1, "\0\0\0\0\x09half", 9);
    raw_read(raw, 1);
    assert_int_equal(raw->grpc_status, 3);
    raw_call(raw, 3, UPLOAD, 0);
    raw_frame(raw, DATA, END_STREAM, 3, "\0\0", 2);
    raw_read(raw, 3);
    assert_int_equal(raw->grpc_status, 3);
    raw_call(raw, 5, EXEC, END_STREAM);
    raw_read(raw, 5);
    assert_int_equal(raw->grpc_status, 3);
    raw_close(raw);
}

static void odd_flags_get_a_status(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    raw_call(raw, 1, EXEC, 0);
    raw_frame(raw, DATA, END_STREAM, 1, "\1\0\0\0\0", 5);
    raw_read(raw, 1);
    assert_int_equal(raw->grpc_status, 3); // compressed, but no grpc-encoding
    raw_call(raw, 3, EXEC, 0);
    raw_frame(raw, DATA, END_STREAM, 3, "\7\0\0\0\0", 5);
    raw_read(raw, 3);
    assert_int_equal(raw->grpc_status, 3);
    raw_call(raw, 5, EXEC, 0);
    raw_frame(raw, DATA, 0, 5, "\0\xff\xff\xff\xff", 5);
    raw_read(raw, 5);
    assert_int_equal(raw->grpc_status, 3); // announces 4 GiB
    raw_close(raw);
}

static void what_is_no_grpc_gets_an_http_status(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_open(echo->path);
    static struct raw_bytes block;
    static const struct {
        const char *method, *type;
        int status;
    } cases[] = {
        {"POST", "application/json", 415}, {"POST", NULL, 415}, {"GET", "application/grpc", 405}};
    for (int32_t i = 0; i < 3; i++) {
        block.len = 0;
        raw_add_request(&block, cases[i].method, EXEC, cases[i].type);
        raw_frame(raw, HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, block.bytes, block.len);
        raw_read(raw, 2 * i + 1);
        assert_int_equal(raw->http_status, cases[i].status);
    }
    // A malformed request is a stream error, and the connection goes on.
    block.len = 0;
    raw_add_request(&block, "POST", EXEC, "application/grpc");
    raw_add_header(&block, "connection", "close");
    raw_frame(raw, HEADERS, END_HEADERS | END_STREAM, 7, block.bytes, block.len);
    raw_read(raw, 7);
    assert_int_equal(raw->reset, 1); // PROTOCOL_ERROR
    // Trailers have to end the request.
    raw_call(raw, 9, UPLOAD, 0);
    block.len = 0;
    raw_add_header(&block, "x", "y");
    raw_frame(raw, HEADERS, END_HEADERS, 9, block.bytes, block.len);
    raw_read(raw, 9);
    assert_int_equal(raw->reset, 1);
    raw_close(raw);
}

static void http1_is_turned_away(void **state)
{
    struct echo_server *echo = *state;
    struct raw_client *raw = raw_connect(echo->path);
    raw_send(raw, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
    assert_true(raw_read_to_end(raw));
    raw_close(raw);
}

// ---- with limits of their own ----------------------------------------------------------

static void silent_connections_are_closed(void **state)
{
    (void)state;
    struct net_limits limits = {.handshake_timeout_ns = 1000000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_connect(echo->path);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
    echo_server_stop(echo);
}

static void idle_connections_are_told_to_go(void **state)
{
    (void)state;
    struct net_limits limits = {.idle_timeout_ns = 1000000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_open(echo->path);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(raw->goaway, 0);
    raw_close(raw);
    echo_server_stop(echo);
}

static void half_a_message_and_no_more_is_cut(void **state)
{
    (void)state;
    struct net_limits limits = {.stall_timeout_ns = 1000000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_open(echo->path);
    raw_call(raw, 1, UPLOAD, 0);
    raw_frame(raw, DATA, 0, 1, "\0\0\0\1\0half", 9);
    assert_true(raw_read_to_end(raw));
    assert_int_equal(cut_count(echo), 1);
    raw_close(raw);
    echo_server_stop(echo);
}

static void half_messages_are_bounded_per_connection(void **state)
{
    (void)state;
    struct net_limits limits = {.conn_buffer_bytes = 100000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_open(echo->path);
    static const uint8_t zeros[16384];
    for (int32_t i = 0; i < 10; i++) {
        raw_call(raw, 2 * i + 1, UPLOAD, 0);
        raw_frame(raw, DATA, 0, 2 * i + 1, "\0\0\x10\0\0", 5);
        raw_frame(raw, DATA, 0, 2 * i + 1, zeros, sizeof zeros - 5);
    }
    raw_read(raw, 13);
    assert_int_equal(raw->grpc_status, 8);
    raw_close(raw);
    echo_server_stop(echo);
}

static void a_slow_reader_holds_little_and_is_cut(void **state)
{
    (void)state;
    struct net_limits limits = {.stall_timeout_ns = 1000000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_open(echo->path);
    // Windows as wide as they get: what stops the server is that nobody reads.
    raw_frame(raw, SETTINGS, 0, 0, "\0\4\x7f\xff\xff\xff", 6);
    raw_frame(raw, WINDOW, 0, 0, "\x7f\xff\0\0", 4);
    raw_call(raw, 1, DOWNLOAD, 0);
    raw_frame(raw, DATA, END_STREAM, 1,
              "\0\0\0\0\x0c\x12\x0a"
              "1000000000",
              17);
    echo_server_wait(echo, &echo->frees, 1);
    pthread_mutex_lock(&echo->lock);
    uint64_t sent = echo->sent_bytes;
    pthread_mutex_unlock(&echo->lock);
    assert_in_range(sent, 65536, 4 << 20);
    assert_int_equal(echo_server_count(echo, &echo->cancels), 1);
    raw_close(raw);
    echo_server_stop(echo);
}

static void replies_that_nobody_reads_are_bounded_per_connection(void **state)
{
    (void)state;
    struct net_limits limits = {.conn_buffer_bytes = 100000};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw = raw_open(echo->path);
    // Replies of 60,000 bytes into a window of 65,535 that is never opened again.
    for (int32_t i = 0; i < 3; i++) {
        raw_call(raw, 2 * i + 1, EXEC, 0);
        raw_frame(raw, DATA, END_STREAM, 2 * i + 1,
                  "\0\0\0\0\x0c\x12\3big\x2a\5"
                  "60000",
                  17);
    }
    raw_read_status(raw, 8); // which of them it hits is up to the workers
    assert_int_not_equal(raw->statuses[8], 0);
    raw_close(raw);
    echo_server_stop(echo);
}

static void connections_are_capped_per_uid(void **state)
{
    (void)state;
    struct net_limits limits = {.conns_per_uid = 3};
    struct echo_server *echo = echo_server_start(&limits);
    struct raw_client *raw[4];
    for (int i = 0; i < 4; i++)
        raw[i] = raw_open(echo->path);
    assert_true(raw_read_to_end(raw[3]));
    raw_call(raw[0], 1, EXEC, END_STREAM);
    raw_read(raw[0], 1);
    assert_int_equal(raw[0]->grpc_status, 3);
    for (int i = 0; i < 4; i++)
        raw_close(raw[i]);
    echo_server_stop(echo);
}

struct strangers {
    const char *path;
    uid_t uid;
    struct raw_client *raw[2];
};

static void *open_as(void *arg)
{
    struct strangers *who = arg;
    // Of this thread alone: glibc's wrapper would change the whole process.
    if (syscall(SYS_setresuid, -1, who->uid, -1) != 0)
        abort();
    for (int i = 0; i < 2; i++)
        who->raw[i] = raw_open(who->path);
    return NULL;
}

static struct strangers strangers_open(const struct echo_server *echo, uid_t uid)
{
    struct strangers who = {.path = echo->path, .uid = uid};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, open_as, &who), 0);
    pthread_join(thread, NULL);
    return who;
}

// The share of those who may not call is full, and so is the newcomer's own: nobody goes for it.
static void who_is_over_its_cap_costs_nobody_a_connection(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: needs root, to connect as other users\n");
        skip();
    }
    struct net_limits limits = {.conns_per_uid = 2, .conns_unproven = 16};
    struct echo_server *echo = echo_server_start(&limits);
    struct strangers who[9];
    assert_int_equal(chmod(echo->path, 0666), 0);
    assert_int_equal(chmod(echo->dir, 0755), 0);
    for (uid_t i = 0; i < 8; i++)
        who[i] = strangers_open(echo, 60000 + i);
    who[8] = strangers_open(echo, 60007);
    assert_true(raw_read_to_end(who[8].raw[0]) && raw_read_to_end(who[8].raw[1]));
    struct net_stats stats;
    net_server_stats(echo->server, &stats);
    assert_int_equal(stats.conns_cut, 0);
    assert_int_equal(stats.conns_refused, 2);
    assert_int_equal(stats.conns_open, 16);
    for (int i = 0; i < 18; i++)
        raw_close(who[i / 2].raw[i % 2]);
    echo_server_stop(echo);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rapid_resets_are_cut),
        TEST(provoked_resets_are_cut),
        TEST(a_continuation_flood_is_cut),
        TEST(a_ping_flood_without_reading_is_cut),
        TEST(a_settings_flood_without_reading_is_cut),
        TEST(an_empty_data_flood_is_cut),
        TEST(a_header_bomb_is_refused_and_repeated_ones_are_cut),
        TEST(too_many_settings_are_cut),
        TEST(more_streams_than_announced_end_the_connection),
        TEST(many_open_calls_wait_side_by_side),
        TEST(half_a_message_and_an_end_is_invalid),
        TEST(odd_flags_get_a_status),
        TEST(what_is_no_grpc_gets_an_http_status),
        TEST(http1_is_turned_away),
        cmocka_unit_test(silent_connections_are_closed),
        cmocka_unit_test(idle_connections_are_told_to_go),
        cmocka_unit_test(half_a_message_and_no_more_is_cut),
        cmocka_unit_test(half_messages_are_bounded_per_connection),
        cmocka_unit_test(a_slow_reader_holds_little_and_is_cut),
        cmocka_unit_test(replies_that_nobody_reads_are_bounded_per_connection),
        cmocka_unit_test(connections_are_capped_per_uid),
        cmocka_unit_test(who_is_over_its_cap_costs_nobody_a_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
