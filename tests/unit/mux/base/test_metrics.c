// Tests of metrics: buckets without gaps, quantiles, counting from many threads.
#include "mux/base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define ROUNDS  20000

static void test_every_value_is_in_the_bucket_whose_bounds_hold_it(void **state)
{
    (void)state;
    for (unsigned bucket = 0; bucket < AF_HISTOGRAM_BUCKETS - 1; bucket++) {
        uint64_t bound = af_histogram_bound_ns(bucket);
        assert_int_equal(af_histogram_bucket(bound - 1), bucket);
        assert_int_equal(af_histogram_bucket(bound), bucket + 1);
    }
    assert_int_equal(af_histogram_bucket(0), 0);
    assert_int_equal(af_histogram_bucket(UINT64_MAX), AF_HISTOGRAM_BUCKETS - 1);
}

static void test_a_bucket_is_at_most_a_quarter_wide(void **state)
{
    (void)state;
    for (unsigned bucket = 1; bucket < AF_HISTOGRAM_BUCKETS - 1; bucket++) {
        uint64_t low = af_histogram_bound_ns(bucket - 1), high = af_histogram_bound_ns(bucket);
        assert_true(high > low && high - low <= low / 4);
    }
}

static void test_quantiles_are_what_was_observed(void **state)
{
    (void)state;
    struct af_histogram *histogram = calloc(1, sizeof *histogram);
    struct af_histogram_values values = {0};
    assert_int_equal(af_histogram_quantile_ns(&values, 0.5), 0);
    for (int i = 0; i < 99; i++)
        af_histogram_observe(histogram, 5000);
    af_histogram_observe(histogram, 3000000);
    af_histogram_observe(histogram, -1); // a clock that went back
    af_histogram_gather(histogram, &values);
    assert_int_equal(values.count, 101);
    assert_int_equal(values.sum_ns, 99 * 5000 + 3000000);
    assert_in_range(af_histogram_quantile_ns(&values, 0.5), 5000, 6250);
    assert_in_range(af_histogram_quantile_ns(&values, 1), 3000000, 3750000);
    memset(&values, 0, sizeof values);
    af_histogram_observe(histogram, INT64_MAX);
    af_histogram_gather(histogram, &values);
    assert_int_equal(af_histogram_quantile_ns(&values, 1), 1ull << 37);
    free(histogram);
}

static struct af_histogram shared;

static void *count(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        af_histogram_observe(&shared, i);
        af_metric_add(AF_METRIC_SANDBOXES_CREATED, 1);
        af_metric_command(AF_COMMAND_SIGNAL, i);
    }
    return NULL;
}

static void test_nothing_is_lost_when_threads_count_at_once(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, NULL), 0);
    struct af_histogram_values during = {0}, after = {0}, commands = {0};
    af_histogram_gather(&shared, &during); // a reader disturbs nobody
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    af_histogram_gather(&shared, &after);
    af_metric_command_times(&commands);
    assert_true(during.count <= after.count);
    assert_int_equal(after.count, THREADS * ROUNDS);
    assert_int_equal(commands.count, THREADS * ROUNDS);
    assert_int_equal(af_metric_value(AF_METRIC_SANDBOXES_CREATED), THREADS * ROUNDS);
    assert_int_equal(af_metric_commands(AF_COMMAND_SIGNAL), THREADS * ROUNDS);
}

static void test_names_are_unique_and_end_as_their_kind_does(void **state)
{
    (void)state;
    for (int i = 0; i < AF_METRIC_COUNT; i++) {
        const struct af_metric_def *def = &af_metric_defs[i];
        size_t len = strlen(def->name);
        assert_true(*def->help);
        assert_int_equal(def->kind == AF_METRIC_COUNTER,
                         len > 6 && strcmp(def->name + len - 6, "_total") == 0);
        assert_true(def->kind != AF_METRIC_HISTOGRAM ||
                    strcmp(def->name + len - 8, "_seconds") == 0);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(def->name, af_metric_defs[k].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value_is_in_the_bucket_whose_bounds_hold_it),
        cmocka_unit_test(test_a_bucket_is_at_most_a_quarter_wide),
        cmocka_unit_test(test_quantiles_are_what_was_observed),
        cmocka_unit_test(test_nothing_is_lost_when_threads_count_at_once),
        cmocka_unit_test(test_names_are_unique_and_end_as_their_kind_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
