// Resets of streams that were never opened: dropped wherever the reads cut them, all else passed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "api/net/idle_resets.h"

static unsigned streams, resets;

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    (void)session, (void)frame, (void)user_data;
    streams++;
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    (void)session, (void)user_data;
    resets += frame->hd.type == NGHTTP2_RST_STREAM;
    return 0;
}

static size_t put_frame(uint8_t *out, uint8_t type, uint8_t flags, uint8_t stream,
                        const void *payload, uint8_t len)
{
    const uint8_t header[9] = {0, 0, len, type, flags, 0, 0, 0, stream};
    memcpy(out, header, sizeof header);
    memcpy(out + sizeof header, payload, len);
    return sizeof header + len;
}

// A client's preface, SETTINGS, and resets before, between and after two requests.
static size_t make_conversation(uint8_t *out)
{
    static const uint8_t request[] = {0x83, 0x86, 0x84, 0x41, 1, 'x'}; // POST http / authority x
    static const uint8_t cancel[4] = {0, 0, 0, 8};
    size_t n = NGHTTP2_CLIENT_MAGIC_LEN;
    memcpy(out, NGHTTP2_CLIENT_MAGIC, n);
    n += put_frame(out + n, NGHTTP2_SETTINGS, 0, 0, "", 0);
    n += put_frame(out + n, NGHTTP2_RST_STREAM, 0, 1, cancel, 4); // idle
    n += put_frame(out + n, NGHTTP2_HEADERS, 4, 3, request, sizeof request);
    n += put_frame(out + n, NGHTTP2_RST_STREAM, 0, 7, cancel, 4); // idle
    n += put_frame(out + n, NGHTTP2_RST_STREAM, 0, 3, cancel, 4); // of an open stream
    n += put_frame(out + n, NGHTTP2_HEADERS, 4, 5, request, sizeof request);
    n += put_frame(out + n, NGHTTP2_RST_STREAM, 0, 9, cancel, 4); // idle
    return n;
}

static nghttp2_session *new_session(void)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_session *session;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_option_new(&option);
    nghttp2_option_set_no_http_messaging(option, 1);
    assert_int_equal(nghttp2_session_server_new2(&session, callbacks, NULL, option), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    return session;
}

static bool wants_goaway(nghttp2_session *session)
{
    const uint8_t *bytes;
    ssize_t n;
    while ((n = nghttp2_session_mem_send(session, &bytes)) > 0)
        if (bytes[3] == NGHTTP2_GOAWAY)
            return true;
    return false;
}

static void test_they_are_dropped_wherever_the_reads_cut_them(void **state)
{
    (void)state;
    uint8_t bytes[256];
    size_t len = make_conversation(bytes);
    for (size_t first = 0; first <= len; first++)
        for (size_t second = first; second <= len; second++) {
            struct idle_resets filter;
            nghttp2_session *session = new_session();
            idle_resets_init(&filter);
            streams = resets = 0;
            const size_t cuts[] = {0, first, second, len};
            for (int i = 0; i < 3; i++) {
                size_t piece = cuts[i + 1] - cuts[i];
                assert_int_equal(idle_resets_recv(&filter, session, bytes + cuts[i], piece), piece);
            }
            assert_int_equal(streams, 2);
            assert_int_equal(resets, 1);
            assert_false(wants_goaway(session));
            nghttp2_session_del(session);
        }
}

// That there is something to drop: nghttp2 by itself ends the connection.
static void test_without_it_nghttp2_ends_the_connection(void **state)
{
    (void)state;
    uint8_t bytes[256];
    size_t len = make_conversation(bytes);
    nghttp2_session *session = new_session();
    nghttp2_session_mem_recv(session, bytes, len);
    assert_true(wants_goaway(session));
    nghttp2_session_del(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_are_dropped_wherever_the_reads_cut_them),
        cmocka_unit_test(test_without_it_nghttp2_ends_the_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
