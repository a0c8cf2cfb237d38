// gRPC framing: messages split anywhere, and prefixes that announce too much.
#include "api/net/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t three[] = {
    0, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o', // five bytes
    0, 0, 0, 0, 0,                          // none
    0, 0, 0, 0, 2, 'o', 'k',                // two
};

// Feeds bytes[from..to) and appends what comes out to `text`, each message in brackets.
static void feed(struct grpc_decoder *decoder, size_t from, size_t to, char *text)
{
    const uint8_t *bytes = three + from;
    size_t len = to - from;
    struct grpc_frame *frame;
    enum grpc_decoded decoded;
    while ((decoded = grpc_decode(decoder, &bytes, &len, &frame)) == GRPC_DECODE_MESSAGE) {
        strcat(text, "[");
        strncat(text, (const char *)frame->bytes, frame->len);
        strcat(text, "]");
        free(frame);
    }
    assert_int_equal(decoded, GRPC_DECODE_MORE);
    assert_int_equal(len, 0);
}

static void split_at_every_pair_of_bytes(void **state)
{
    (void)state;
    for (size_t first = 0; first <= sizeof three; first++) {
        for (size_t second = first; second <= sizeof three; second++) {
            struct grpc_decoder decoder;
            char text[64] = "";
            grpc_decoder_init(&decoder, 100);
            feed(&decoder, 0, first, text);
            feed(&decoder, first, second, text);
            feed(&decoder, second, sizeof three, text);
            assert_string_equal(text, "[hello][][ok]");
            assert_false(grpc_decoder_is_inside(&decoder));
            grpc_decoder_fini(&decoder);
        }
    }
}

static void an_end_inside_a_message_is_seen_at_every_byte(void **state)
{
    (void)state;
    for (size_t cut = 1; cut < 10; cut++) {
        struct grpc_decoder decoder;
        char text[64] = "";
        grpc_decoder_init(&decoder, 100);
        feed(&decoder, 0, cut, text);
        assert_true(grpc_decoder_is_inside(&decoder));
        grpc_decoder_fini(&decoder);
    }
}

static enum grpc_decoded decode_prefix(uint8_t flag, uint32_t len, size_t len_max)
{
    struct grpc_decoder decoder;
    struct grpc_frame *frame;
    uint8_t prefix[GRPC_PREFIX_BYTES];
    grpc_prefix_write(prefix, len);
    prefix[0] = flag;
    const uint8_t *bytes = prefix;
    size_t left = sizeof prefix;
    grpc_decoder_init(&decoder, len_max);
    enum grpc_decoded decoded = grpc_decode(&decoder, &bytes, &left, &frame);
    if (decoded == GRPC_DECODE_MESSAGE)
        free(frame);
    // Announced bytes cost nothing until they arrive.
    if (decoder.partial)
        assert_true(decoder.partial->cap <= 4096);
    grpc_decoder_fini(&decoder);
    return decoded;
}

static void prefixes_are_judged_before_any_byte_is_taken(void **state)
{
    (void)state;
    assert_int_equal(decode_prefix(0, 100, 100), GRPC_DECODE_MORE);
    assert_int_equal(decode_prefix(0, 101, 100), GRPC_DECODE_TOO_LARGE);
    assert_int_equal(decode_prefix(0, UINT32_MAX, 4u << 20), GRPC_DECODE_TOO_LARGE);
    assert_int_equal(decode_prefix(0, 4u << 20, 4u << 20), GRPC_DECODE_MORE);
    assert_int_equal(decode_prefix(1, 10, 100), GRPC_DECODE_COMPRESSED);
    assert_int_equal(decode_prefix(2, 10, 100), GRPC_DECODE_BAD_FLAG);
    assert_int_equal(decode_prefix(0, 0, 100), GRPC_DECODE_MESSAGE);
}

static void a_large_message_in_small_pieces_arrives_whole(void **state)
{
    (void)state;
    enum { SIZE = 300000 };
    struct grpc_decoder decoder;
    struct grpc_frame *frame = NULL;
    uint8_t *all = malloc(GRPC_PREFIX_BYTES + SIZE);
    grpc_prefix_write(all, SIZE);
    for (size_t i = 0; i < SIZE; i++)
        all[GRPC_PREFIX_BYTES + i] = (uint8_t)(i * 7);
    grpc_decoder_init(&decoder, SIZE);
    for (size_t at = 0; at < GRPC_PREFIX_BYTES + SIZE; at += 977) {
        const uint8_t *bytes = all + at;
        size_t len = GRPC_PREFIX_BYTES + SIZE - at < 977 ? GRPC_PREFIX_BYTES + SIZE - at : 977;
        grpc_decode(&decoder, &bytes, &len, &frame);
    }
    assert_non_null(frame);
    assert_int_equal(frame->len, SIZE);
    assert_memory_equal(frame->bytes, all + GRPC_PREFIX_BYTES, SIZE);
    free(frame);
    free(all);
    grpc_decoder_fini(&decoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_at_every_pair_of_bytes),
        cmocka_unit_test(an_end_inside_a_message_is_seen_at_every_byte),
        cmocka_unit_test(prefixes_are_judged_before_any_byte_is_taken),
        cmocka_unit_test(a_large_message_in_small_pieces_arrives_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
