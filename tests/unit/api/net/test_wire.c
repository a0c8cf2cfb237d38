// Small texts of the protocol, timers and abuse budgets.
#include "api/net/net_priv.h"
#include "api/net/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int64_t timeout_of(const char *text)
{
    int64_t ns;
    return grpc_timeout_parse(text, strlen(text), &ns) ? ns : -1;
}

static void timeouts_are_parsed_by_unit(void **state)
{
    (void)state;
    assert_int_equal(timeout_of("1n"), 1);
    assert_int_equal(timeout_of("2u"), 2000);
    assert_int_equal(timeout_of("3m"), 3000000);
    assert_int_equal(timeout_of("4S"), 4000000000);
    assert_int_equal(timeout_of("5M"), 300000000000);
    assert_int_equal(timeout_of("6H"), 21600000000000);
    assert_int_equal(timeout_of("0n"), 0);
    assert_int_equal(timeout_of("99999999n"), 99999999);
}

static void timeouts_cannot_overflow(void **state)
{
    (void)state;
    assert_int_equal(timeout_of("99999999H"), INT64_MAX / 2);
    assert_int_equal(timeout_of("99999999M"),
                     5999999940000000000LL > INT64_MAX / 2 ? INT64_MAX / 2 : 5999999940000000000LL);
}

static void malformed_timeouts_are_refused(void **state)
{
    (void)state;
    const char *const bad[] = {"",           "n",  "1",   "-1n", "1 n",
                               "123456789n", "1x", "1nn", "+1S", "1.5S"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(timeout_of(bad[i]), -1);
}

static void status_texts_are_percent_encoded(void **state)
{
    (void)state;
    char out[64];
    assert_int_equal(grpc_percent_encode("100% \xc3\xa9\n~", out), 17);
    assert_string_equal(out, "100%25 %C3%A9%0A~");
    grpc_percent_encode("", out);
    assert_string_equal(out, "");
}

static void timers_come_in_the_order_of_time(void **state)
{
    (void)state;
    enum { COUNT = 500 };
    static struct net_timer timers[COUNT];
    struct net_timers heap = {0};
    unsigned seed = 1;
    for (size_t i = 0; i < COUNT; i++) {
        seed = seed * 1103515245u + 12345u;
        assert_true(net_timers_set(&heap, &timers[i], (seed >> 8) % 1000));
    }
    for (size_t i = 0; i < COUNT; i += 3)
        net_timers_clear(&heap, &timers[i]);
    net_timers_clear(&heap, &timers[0]); // twice is harmless
    int64_t last = -1;
    size_t left = 0;
    for (struct net_timer *timer; (timer = net_timers_first(&heap)); left++) {
        assert_true(timer->at_ns >= last);
        last = timer->at_ns;
        net_timers_clear(&heap, timer);
    }
    assert_int_equal(left, COUNT - (COUNT + 2) / 3);
    net_timers_fini(&heap);
}

static void a_bucket_empties_and_refills(void **state)
{
    (void)state;
    struct net_bucket bucket = {0};
    int64_t now = 1000000000;
    for (int i = 0; i < 5; i++)
        assert_true(net_bucket_take(&bucket, 5, 2, now));
    assert_false(net_bucket_take(&bucket, 5, 2, now));
    assert_true(net_bucket_take(&bucket, 5, 2, now + 500000000));
    assert_false(net_bucket_take(&bucket, 5, 2, now + 500000000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timeouts_are_parsed_by_unit),
        cmocka_unit_test(timeouts_cannot_overflow),
        cmocka_unit_test(malformed_timeouts_are_refused),
        cmocka_unit_test(status_texts_are_percent_encoded),
        cmocka_unit_test(timers_come_in_the_order_of_time),
        cmocka_unit_test(a_bucket_empties_and_refills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
