// Timers of the event loop against a plain sorted list.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "exec/timer.h"

#define COUNT 500

static int64_t last_ns;
static unsigned fired;

static void on_timer(struct exec_timer *timer)
{
    assert_true(timer->at_ns >= last_ns);
    last_ns = timer->at_ns;
    fired++;
}

static void timers_fire_in_order_and_cleared_ones_never(void **state)
{
    (void)state;
    struct exec_timers timers = {0};
    struct exec_timer all[COUNT] = {0};
    srand(7);
    for (int round = 0; round < 20; round++) {
        unsigned set = 0;
        for (int i = 0; i < COUNT; i++)
            if (round == 0)
                assert_int_equal(exec_timers_reserve(&timers), 0);
        for (int i = 0; i < 4 * COUNT; i++) {
            struct exec_timer *timer = &all[rand() % COUNT];
            if (rand() % 3)
                exec_timer_set(&timers, timer, rand() % 1000, on_timer);
            else
                exec_timer_clear(&timers, timer);
        }
        for (int i = 0; i < COUNT; i++)
            set += all[i].place != 0;
        fired = 0;
        last_ns = 0;
        exec_timers_run(&timers, 400);
        assert_true(last_ns <= 400);
        for (int i = 0; i < COUNT; i++)
            assert_true(!all[i].place || all[i].at_ns > 400);
        exec_timers_run(&timers, 1000);
        assert_int_equal(fired, set);
        assert_int_equal(exec_timers_wait_ms(&timers, 0), -1);
    }
    exec_timers_fini(&timers);
}

static void waiting_times_are_rounded_up(void **state)
{
    (void)state;
    struct exec_timers timers = {0};
    struct exec_timer timer = {0};
    assert_int_equal(exec_timers_reserve(&timers), 0);
    exec_timer_set(&timers, &timer, 1000001, on_timer);
    assert_int_equal(exec_timers_wait_ms(&timers, 0), 2);
    assert_int_equal(exec_timers_wait_ms(&timers, 1000000), 1);
    assert_int_equal(exec_timers_wait_ms(&timers, 1000001), 0);
    assert_int_equal(exec_timers_wait_ms(&timers, 5000000), 0);
    exec_timers_fini(&timers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_and_cleared_ones_never),
        cmocka_unit_test(waiting_times_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
