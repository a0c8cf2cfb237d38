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
static bool defers_call(struct fs_call call, int64_t after_ns)
{
    call.session = &session;
    fs_fair_served(now_ns);
    now_ns += after_ns;
    call.start_ns = now_ns;
    return fs_fair_defers(&call);
}

// A large read.
static bool defers_shared(uint64_t nodeid, uid_t uid, int64_t after_ns)
{
    struct fs_call call = {
        .op = FS_OP_READ, .nodeid = nodeid, .ctx = {.uid = uid}, .size = FS_IO_MAX};
    return defers_call(call, after_ns);
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

static void test_what_is_answered_as_fast_as_sent_away_is_answered(void **state)
{
    (void)state;
    uint64_t nodeid = mux_nodeid_private(mux_route(HAMMER, 0), 5);
    defers(VICTIM, PAUSE_NS);
    for (int i = 0; i < 3; i++)
        defers(HAMMER, 0);
    assert_false(defers_call((struct fs_call){.op = FS_OP_LOOKUP, .nodeid = nodeid}, 0));
    assert_false(
        defers_call((struct fs_call){.op = FS_OP_READ, .nodeid = nodeid, .size = 4096}, 0));
    assert_true(defers_call((struct fs_call){.op = FS_OP_CREATE, .nodeid = nodeid}, 0));
    assert_true(
        defers_call((struct fs_call){.op = FS_OP_READ, .nodeid = nodeid, .size = 1 << 20}, 0));
}

static void test_the_top_directory_is_not_another_view(void **state)
{
    (void)state;
    assert_false(defers(HAMMER, 2 * AF_NS_PER_SEC));
    for (int i = 0; i < 10; i++) {
        assert_false(defers_shared(MUX_NODEID_TOP, 0, 0));
        for (int k = 0; k < 4; k++)
            assert_false(defers(HAMMER, 0));
    }
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
        cmocka_unit_test(test_what_is_answered_as_fast_as_sent_away_is_answered),
        cmocka_unit_test(test_the_top_directory_is_not_another_view),
        cmocka_unit_test(test_callers_of_shared_files_are_told_apart_by_their_uid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
