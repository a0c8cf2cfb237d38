// The policy of compaction: which layers of a stack become one, how deep stacks stay, and how often
// a record is written again.
#include "mux/compact_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define LAYERS_MAX 5000

static void test_few_layers_are_left_alone(void **state)
{
    (void)state;
    uint64_t weights[] = {1, 1, 1};
    size_t at, count;
    assert_false(mux_compact_plan(weights, 0, &at, &count));
    assert_false(mux_compact_plan(weights, 3, &at, &count));
}

static void test_light_layers_are_merged_and_a_heavy_base_is_not(void **state)
{
    (void)state;
    uint64_t weights[] = {1, 2, 1, 3, 100000};
    size_t at, count;
    assert_true(mux_compact_plan(weights, 5, &at, &count));
    assert_int_equal(at, 0);
    assert_int_equal(count, 4);
}

static void test_growing_layers_are_left_alone(void **state)
{
    (void)state;
    uint64_t weights[] = {1, 10, 100, 1000, 10000, 100000};
    size_t at, count;
    assert_false(mux_compact_plan(weights, 6, &at, &count));
}

static void test_a_long_queue_is_merged_from_below(void **state)
{
    (void)state;
    uint64_t weights[100];
    size_t at, count;
    for (int i = 0; i < 99; i++)
        weights[i] = 5;
    weights[99] = 1000000;
    assert_true(mux_compact_plan(weights, 100, &at, &count));
    assert_int_equal(count, MUX_COMPACT_MAX);
    assert_int_equal(at + count, 99);
}

static void test_weights_do_not_overflow(void **state)
{
    (void)state;
    uint64_t weights[] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    size_t at, count;
    assert_true(mux_compact_plan(weights, 4, &at, &count));
    assert_int_equal(count, 4);
}

// Merges as the plan says until it is satisfied; returns the weight that was written.
static uint64_t settle(uint64_t *weights, size_t *count)
{
    size_t at, merged;
    uint64_t written = 0;
    while (mux_compact_plan(weights, *count, &at, &merged)) {
        uint64_t sum = 0;
        assert_true(merged >= 2 && merged <= MUX_COMPACT_MAX && at + merged <= *count);
        for (size_t i = at; i < at + merged; i++)
            sum += weights[i];
        written += sum;
        weights[at] = sum;
        memmove(weights + at + 1, weights + at + merged, (*count - at - merged) * sizeof *weights);
        *count -= merged - 1;
    }
    return written;
}

static void test_depth_and_cost_are_logarithmic(void **state)
{
    (void)state;
    static uint64_t weights[LAYERS_MAX];
    size_t count = 1, deepest = 0;
    uint64_t pushed = 0, written = 0;
    weights[0] = 20000;
    for (int i = 0; i < 10000; i++) {
        memmove(weights + 1, weights, count++ * sizeof *weights);
        weights[0] = 10;
        pushed += 10;
        written += settle(weights, &count);
        if (count > deepest)
            deepest = count;
    }
    assert_in_range(deepest, 1, 12);
    assert_in_range(written / pushed, 1, 20); // log2 of 10,000 is 13
}

static void test_a_backlog_of_thousands_settles(void **state)
{
    (void)state;
    static uint64_t weights[LAYERS_MAX];
    size_t count = 4000;
    for (size_t i = 0; i < count; i++)
        weights[i] = 1 + i % 7;
    uint64_t written = settle(weights, &count);
    assert_in_range(count, 1, 12);
    assert_in_range(written, 1, 4000UL * 4 * 12); // log2 of 4,000
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_layers_are_left_alone),
        cmocka_unit_test(test_light_layers_are_merged_and_a_heavy_base_is_not),
        cmocka_unit_test(test_growing_layers_are_left_alone),
        cmocka_unit_test(test_a_long_queue_is_merged_from_below),
        cmocka_unit_test(test_weights_do_not_overflow),
        cmocka_unit_test(test_depth_and_cost_are_logarithmic),
        cmocka_unit_test(test_a_backlog_of_thousands_settles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
