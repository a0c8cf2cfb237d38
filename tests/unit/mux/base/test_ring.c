// The ring of last bytes against a model that keeps everything.
#include "mux/base/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STREAM_MAX (1 << 16)

static void a_reader_gets_what_is_kept_and_hears_what_is_not(void **state)
{
    (void)state;
    struct af_ring ring;
    char out[16];
    uint64_t at = 0, skipped;
    af_ring_init(&ring, 8);
    assert_int_equal(af_ring_read(&ring, &at, out, sizeof(out), &skipped), 0);
    af_ring_add(&ring, "abcdef", 6);
    assert_int_equal(af_ring_read(&ring, &at, out, 2, &skipped), 2);
    assert_memory_equal(out, "ab", 2);
    af_ring_add(&ring, "ghijklmnop", 10);
    assert_int_equal(af_ring_read(&ring, &at, out, sizeof(out), &skipped), 8);
    assert_memory_equal(out, "ijklmnop", 8);
    assert_int_equal(skipped, 6);
    assert_int_equal(at, 16);
    assert_int_equal(af_ring_read(&ring, &at, out, sizeof(out), &skipped), 0);
    assert_int_equal(skipped, 0);
    af_ring_fini(&ring);
}

// Several readers, each with its own pace, see the stream or a gap of the right size.
static void random_histories_match_the_stream(void **state)
{
    (void)state;
    static char stream[STREAM_MAX], out[5000];
    unsigned seed = 1;
    for (int i = 0; i < STREAM_MAX; i++)
        stream[i] = (char)(rand_r(&seed) >> 8);
    for (int round = 0; round < 200; round++) {
        struct af_ring ring;
        size_t max = 1 + (size_t)rand_r(&seed) % 4000, end = 0;
        uint64_t at[3] = {0};
        af_ring_init(&ring, max);
        while (end < STREAM_MAX) {
            size_t len = (size_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 300 : 9000);
            if (len > STREAM_MAX - end)
                len = STREAM_MAX - end;
            af_ring_add(&ring, stream + end, len);
            end += len;
            assert_true(ring.capacity <= max);
            uint64_t *reader = &at[rand_r(&seed) % 3], before = *reader, skipped;
            size_t got = af_ring_read(&ring, reader, out, (size_t)rand_r(&seed) % 5000, &skipped);
            size_t kept = end < max ? end : max;
            assert_int_equal(skipped, before < end - kept ? end - kept - before : 0);
            assert_int_equal(*reader, before + skipped + got);
            assert_memory_equal(out, stream + before + skipped, got);
        }
        af_ring_fini(&ring);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_gets_what_is_kept_and_hears_what_is_not),
        cmocka_unit_test(random_histories_match_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
