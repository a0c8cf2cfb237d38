// How many entries a CPU's ring has.
#include "fs/session_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_a_ring_has_its_least_and_its_most(void **state)
{
    (void)state;
    assert_int_equal(fs_ring_depth(1), FS_RING_DEPTH_MAX);
    assert_int_equal(fs_ring_depth(2), FS_RING_DEPTH_MAX);
    assert_int_equal(fs_ring_depth(4), 255);
    assert_int_equal(fs_ring_depth(8), FS_RING_DEPTH_MIN);
    assert_int_equal(fs_ring_depth(FS_RING_ENTRIES), FS_RING_DEPTH_MIN);
    assert_int_equal(fs_ring_depth(FS_RING_ENTRIES + 1), FS_RING_DEPTH_MIN);
    assert_int_equal(fs_ring_depth(8192), FS_RING_DEPTH_MIN);
}

// What is held leaves entries of a ring to others, however few the ring has.
static void test_the_smallest_ring_has_more_than_is_spared(void **state)
{
    (void)state;
    assert_true(FS_RING_SPARE < FS_RING_DEPTH_MIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_ring_has_its_least_and_its_most),
        cmocka_unit_test(test_the_smallest_ring_has_more_than_is_spared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
