// SipHash, by the values of its authors' reference implementation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mux/store/siphash.h"

// The key 0, 1, ... 15.
static const uint64_t KEY[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
static const uint64_t NO_KEY[2];

static void test_two_and_four_rounds_are_as_published(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    assert_true(store_siphash(KEY, bytes, 0) == 0x726fdb47dd0e0e31);
    assert_true(store_siphash(KEY, bytes, 1) == 0x74f839c593dc67fd);
    assert_true(store_siphash(KEY, bytes, sizeof bytes) == 0xa129ca6149be45e5);
}

static void test_one_and_three_rounds_are_as_published(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0};
    assert_true(store_siphash_fast(KEY, bytes, 0) == 0xabac0158050fc4dc);
    assert_true(store_siphash_fast(NO_KEY, bytes, 0) == 0xd1fba762150c532c);
    assert_true(store_siphash_fast(NO_KEY, bytes, 1) == 0x68a914128e01e473);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_and_four_rounds_are_as_published),
        cmocka_unit_test(test_one_and_three_rounds_are_as_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
