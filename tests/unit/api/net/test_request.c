// The header check that stands in for nghttp2's own.
#include "api/net/request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct header {
    const char *name, *value;
};

#define PSEUDO                                                                                     \
    {":method", "POST"}, {":scheme", "http"}, {":path", "/s/M"},                                   \
    {                                                                                              \
        ":authority", "localhost"                                                                  \
    }
#define CONTENT                                                                                    \
    {                                                                                              \
        "content-type", "application/grpc"                                                         \
    }

static struct net_request take(const struct header *headers, size_t count)
{
    struct net_request request = {0};
    for (size_t i = 0; i < count; i++)
        net_request_header(&request, 1000, (const uint8_t *)headers[i].name,
                           strlen(headers[i].name), (const uint8_t *)headers[i].value,
                           strlen(headers[i].value));
    return request;
}

#define VERDICT(...)                                                                               \
    ({                                                                                             \
        const struct header headers_[] = {__VA_ARGS__};                                            \
        struct net_request request_ = take(headers_, sizeof headers_ / sizeof headers_[0]);        \
        (int)net_request_verdict(&request_);                                                       \
    })

static void good_requests_pass(void **state)
{
    (void)state;
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"te", "trailers"}), NET_REQUEST_OK);
    assert_int_equal(VERDICT(PSEUDO, {"content-type", "application/grpc+proto; x=y"}),
                     NET_REQUEST_OK);
    // What grpc-go sends over a unix socket, and what nghttp2 alone would refuse.
    assert_int_equal(VERDICT({":method", "POST"}, {":scheme", "http"}, {":path", "/s/M"},
                             {":authority", "/run/a b/s.sock"}, CONTENT),
                     NET_REQUEST_OK);
    assert_int_equal(VERDICT({":method", "POST"}, {":scheme", "http"}, {":path", "/s/M"}, CONTENT),
                     NET_REQUEST_OK);
}

static void malformed_requests_are_stream_errors(void **state)
{
    (void)state;
    assert_int_equal(VERDICT(CONTENT), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT({":method", "POST"}, {":scheme", "http"}, CONTENT),
                     NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, {":path", "/other"}, CONTENT), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(CONTENT, PSEUDO), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, {":status", "200"}, CONTENT), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"Upper", "x"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"", "x"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"a b", "x"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"x", "a\r\nb: c"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"connection", "close"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"transfer-encoding", "chunked"}),
                     NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"te", "gzip"}), NET_REQUEST_MALFORMED);
    assert_int_equal(VERDICT({":method", "POST"}, {":scheme", "http"}, {":path", "s/M"}, CONTENT),
                     NET_REQUEST_MALFORMED);
}

static void a_nul_in_a_value_is_malformed(void **state)
{
    (void)state;
    struct net_request request = {0};
    net_request_header(&request, 1000, (const uint8_t *)"x", 1, (const uint8_t *)"a\0b", 3);
    assert_true(request.malformed);
}

static void other_protocols_get_their_answers(void **state)
{
    (void)state;
    assert_int_equal(VERDICT({":method", "GET"}, {":scheme", "http"}, {":path", "/"}, CONTENT),
                     NET_REQUEST_NOT_POST);
    assert_int_equal(VERDICT(PSEUDO, {"content-type", "application/json"}), NET_REQUEST_NOT_GRPC);
    assert_int_equal(VERDICT(PSEUDO, {"content-type", "application/grpc-web"}),
                     NET_REQUEST_NOT_GRPC);
    assert_int_equal(VERDICT(PSEUDO), NET_REQUEST_NOT_GRPC);
    assert_int_equal(VERDICT(PSEUDO, CONTENT, {"grpc-timeout", "10"}), NET_REQUEST_BAD_TIMEOUT);
}

static void encodings_and_timeouts_are_kept(void **state)
{
    (void)state;
    const struct header headers[] = {
        PSEUDO, CONTENT, {"grpc-encoding", "gzip"}, {"grpc-timeout", "5S"}};
    struct net_request request = take(headers, sizeof headers / sizeof headers[0]);
    assert_true(request.compressed);
    assert_int_equal(request.timeout_ns, 5000000000);
    assert_string_equal(request.path, "/s/M");
}

static void a_header_list_is_counted_as_http2_counts(void **state)
{
    (void)state;
    struct net_request request = {0};
    uint8_t value[900];
    memset(value, 'v', sizeof value);
    net_request_header(&request, 1000, (const uint8_t *)"n", 1, value, sizeof value);
    assert_int_equal(request.bytes, 1 + 900 + 32);
    assert_false(request.too_large);
    net_request_header(&request, 1000, (const uint8_t *)"n", 1, value, 35);
    assert_true(request.too_large);
    assert_int_equal(net_request_verdict(&request), NET_REQUEST_TOO_LARGE);
}

static void an_overlong_path_is_remembered_as_such(void **state)
{
    (void)state;
    struct net_request request = {0};
    uint8_t path[500];
    memset(path, 'p', sizeof path);
    path[0] = '/';
    net_request_header(&request, 1000, (const uint8_t *)":path", 5, path, sizeof path);
    assert_int_equal(request.path_len, sizeof path);
    assert_string_equal(request.path, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests_pass),
        cmocka_unit_test(malformed_requests_are_stream_errors),
        cmocka_unit_test(a_nul_in_a_value_is_malformed),
        cmocka_unit_test(other_protocols_get_their_answers),
        cmocka_unit_test(encodings_and_timeouts_are_kept),
        cmocka_unit_test(a_header_list_is_counted_as_http2_counts),
        cmocka_unit_test(an_overlong_path_is_remembered_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
