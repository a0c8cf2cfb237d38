// Which calls a worker leaves to the turns pool: those of a view that does not stop asking, while
// another one asks as well. No mount, no clock but the one in the calls.
#include "fs/session_priv.h"

#include "mux/base/clock.h"
#include "mux/nodeid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define PAUSE_NS 100000

enum { HAMMER = 7, VICTIM = 8 };

static struct fs_session session = {.uid_base = 200000};
static int64_t now_ns = AF_NS_PER_SEC;

// A call of a view that begins so long after the worker had done with the last one.
static bool defers_shared(uint64_t nodeid, uid_t uid, int64_t after_ns)
{
    struct fs_call call = {.session = &session, .nodeid = nodeid, .ctx = {.uid = uid}};
    fs_fair_served(now_ns);
    now_ns += after_ns;
    call.start_ns = now_ns;
    return fs_fair_defers(&call);
}

static bool defers(uint32_t slot, int64_t after_ns)
{
    return defers_shared(mux_nodeid_private(mux_route(slot, 0), 5), 0, after_ns);
}

static void test_a_view_that_is_alone_is_never_sent_away(void **state)
{
    (void)state;
    defers(VICTIM, 0);
    assert_false(defers(HAMMER, 2 * AF_NS_PER_SEC)); // the other has been silent for long
    for (int i = 0; i < 100; i++)
        assert_false(defers(HAMMER, 0));
}

static void test_a_view_that_does_not_stop_waits_its_turn_while_another_asks(void **state)
{
    (void)state;
    defers(VICTIM, PAUSE_NS);
    assert_false(defers(HAMMER, 0));
    assert_false(defers(HAMMER, 0));
    assert_true(defers(HAMMER, 0));
    assert_true(defers(HAMMER, 0));
    assert_false(defers(VICTIM, 0)); // comes first, and begins the other's turn anew
    assert_false(defers(HAMMER, 0));
    assert_false(defers(HAMMER, 0));
    assert_true(defers(HAMMER, 0));
}

static void test_a_client_that_waits_for_each_answer_is_never_sent_away(void **state)
{
    (void)state;
    defers(VICTIM, PAUSE_NS);
    for (int i = 0; i < 100; i++)
        assert_false(defers(HAMMER, PAUSE_NS));
}

static void test_callers_of_shared_files_are_told_apart_by_their_uid(void **state)
{
    (void)state;
    uint64_t nodeid = mux_nodeid_shared(MUX_CLASS_READ, 9);
    defers_shared(nodeid, 200001, PAUSE_NS);
    assert_false(defers_shared(nodeid, 200002, 0));
    assert_false(defers_shared(nodeid, 200002, 0));
    assert_true(defers_shared(nodeid, 200002, 0));
    assert_false(defers_shared(nodeid, 200001, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_view_that_is_alone_is_never_sent_away),
        cmocka_unit_test(test_a_view_that_does_not_stop_waits_its_turn_while_another_asks),
        cmocka_unit_test(test_a_client_that_waits_for_each_answer_is_never_sent_away),
        cmocka_unit_test(test_callers_of_shared_files_are_told_apart_by_their_uid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
