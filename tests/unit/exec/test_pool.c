// The pool: members wait without a view, are adopted, replaced, and leave nothing behind.
#include "tests/unit/exec/fixture.h"

#include "exec/engine_priv.h"
#include "exec/lane.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE 2

// Ids as mux gives them, counted.
static atomic_uint ids_out, next_id, ids_asked;
static unsigned ids_max = 32;

// Of pass_lane.
static atomic_bool passed;

static int uid_take(void *arg, uid_t *ret_uid)
{
    (void)arg;
    atomic_fetch_add(&ids_asked, 1);
    if (atomic_load(&ids_out) >= ids_max)
        return -1;
    atomic_fetch_add(&ids_out, 1);
    *ret_uid = XT_UID + 1 + atomic_fetch_add(&next_id, 1) % 32;
    return 0;
}

static void uid_give(void *arg, uid_t uid)
{
    (void)arg;
    (void)uid;
    atomic_fetch_sub(&ids_out, 1);
}

static struct exec_pool *pool_new(struct xt *xt, unsigned size)
{
    const struct exec_pool_options options = {
        .size = size, .uid_take = uid_take, .uid_give = uid_give};
    struct exec_pool *pool;
    struct af_error err;
    atomic_store(&ids_out, 0);
    atomic_store(&next_id, 0);
    assert_int_equal(exec_pool_new(xt->engine, &options, &pool, &err), 0);
    return pool;
}

// Refills come on their own threads and tell nobody: asked again until it is so.
static void wait_count(struct exec_pool *pool, unsigned count)
{
    for (int i = 0; exec_pool_count(pool) != count; i++) {
        assert_true(i < 60000);
        poll(NULL, 0, 1);
    }
}

static struct exec_box *take(struct xt *xt, struct exec_pool *pool, uid_t *ret_uid)
{
    wait_count(pool, SIZE);
    struct exec_box *box = exec_pool_take(pool, ret_uid);
    assert_non_null(box);
    assert_int_equal(chown(xt->view, *ret_uid, *ret_uid), 0);
    return box;
}

static void an_adopted_member_has_the_view_and_its_own_uid(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, SIZE);
    uid_t uid;
    xt->box = take(xt, pool, &uid);
    struct exec_box_spec spec = {.id = "sb_a", .view_path = xt->view, .uid = uid, .gid = uid};
    xt_box_adopt(xt, xt->box, &spec);
    assert_int_equal(xt->start_error.status, AF_OK);
    xt_write_file(xt, "given", "g");
    struct xt_done *done = xt_sh(xt, "cat given; echo made > made; stat -c %%u made; nice");
    xt_expect_exit(done, 0);
    assert_string_equal(done->out, "g1000\n0\n"); // the priority is back to normal, too
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/made", xt->view);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, uid);
    wait_count(pool, SIZE); // refilled
    xt_box_stop(xt, xt->box);
    assert_int_equal(xt_processes_of(uid), 0);
    exec_pool_free(pool);
    assert_int_equal(atomic_load(&ids_out), 1); // the taken one is the taker's
}

static void a_member_sees_no_view_before_it_is_adopted(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, SIZE);
    uid_t uid;
    xt->box = take(xt, pool, &uid);
    struct exec_box_spec spec = {.id = "sb_a", .uid = uid, .gid = uid};
    xt_box_adopt(xt, xt->box, &spec);
    struct xt_done *done = xt_sh(xt, "ls -A /workspace; touch /workspace/x");
    assert_int_equal(done->result.exit_code, 1);
    assert_string_equal(done->out, "");
    xt_box_stop(xt, xt->box);
    exec_pool_free(pool);
}

static void a_member_that_died_is_given_to_nobody_and_replaced(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, SIZE);
    wait_count(pool, SIZE);
    kill(xt_init_pid(XT_UID + 1), SIGKILL);
    wait_count(pool, SIZE - 1);
    uid_t uid;
    struct exec_box *box = exec_pool_take(pool, &uid);
    assert_non_null(box);
    assert_int_not_equal(uid, XT_UID + 1);
    wait_count(pool, SIZE);
    exec_pool_return(pool, box);
    exec_pool_free(pool);
    assert_int_equal(atomic_load(&ids_out), 0);
    for (uid_t i = 1; i < 8; i++)
        assert_int_equal(xt_processes_of(XT_UID + i), 0);
}

static void a_member_that_dies_after_it_was_taken_fails_the_start(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, SIZE);
    uid_t uid;
    xt->box = take(xt, pool, &uid);
    kill(xt_init_pid(uid), SIGKILL);
    while (xt_processes_of(uid) > 0)
        poll(NULL, 0, 1);
    struct exec_box_spec spec = {.id = "sb_a", .view_path = xt->view, .uid = uid, .gid = uid};
    xt_box_adopt(xt, xt->box, &spec);
    assert_int_equal(xt->start_error.status, AF_UNAVAILABLE);
    xt_box_stop(xt, xt->box);
    exec_pool_free(pool);
}

// Of a start that meets its end half-way no step may say that something is not found: that would be
// the sandbox.
static void a_member_that_dies_while_it_is_attached_is_no_missing_sandbox(void **state)
{
    struct xt *xt = *state;
    for (unsigned round = 0; round < 60; round++) {
        struct exec_pool *pool = pool_new(xt, 1);
        wait_count(pool, 1);
        uid_t uid;
        xt->box = exec_pool_take(pool, &uid);
        pid_t init_pid = xt_init_pid(uid);
        struct exec_box_spec spec = {.id = "sb_a", .view_path = xt->view, .uid = uid, .gid = uid};
        kill(init_pid, SIGKILL); // its end is seen now, or by one of the steps
        xt_box_adopt(xt, xt->box, &spec);
        if (xt->start_error.status != AF_OK && xt->start_error.status != AF_UNAVAILABLE)
            fail_msg("round %u: %s", round, xt->start_error.text);
        xt_box_stop(xt, xt->box);
        exec_pool_free(pool);
    }
}

// As many calls as come at once take a member each, and give it back when their sandbox cannot have
// it.
static void more_members_than_the_pool_holds_come_back_at_once(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, 1);
    struct exec_box *boxes[12];
    uid_t uid;
    for (size_t i = 0; i < 12; i++) {
        wait_count(pool, 1);
        boxes[i] = exec_pool_take(pool, &uid);
        assert_non_null(boxes[i]);
    }
    for (size_t i = 0; i < 12; i++)
        exec_pool_return(pool, boxes[i]);
    exec_pool_free(pool);
    assert_int_equal(atomic_load(&ids_out), 0);
}

static void without_uids_the_pool_is_empty_and_no_error(void **state)
{
    struct xt *xt = *state;
    ids_max = 0;
    struct exec_pool *pool = pool_new(xt, SIZE);
    uid_t uid;
    assert_null(exec_pool_take(pool, &uid));
    assert_null(exec_pool_take(NULL, &uid));
    exec_pool_free(pool);
    ids_max = 32;
}

static void run_passed(struct exec_job *job)
{
    (void)job;
    atomic_store(&passed, true);
}

// Whatever the lane had to start is started, or has been thrown away.
static void pass_lane(struct xt *xt)
{
    static struct exec_job job;
    atomic_store(&passed, false);
    exec_lane_queue(&xt->engine->lanes[EXEC_LANE_SPAWN], &job, run_passed, true);
    xt_until(atomic_load(&passed));
}

static void a_pool_of_an_engine_that_ends_is_not_filled(void **state)
{
    struct xt *xt = *state;
    struct exec_pool *pool = pool_new(xt, 1);
    wait_count(pool, 1);
    exec_engine_close(xt->engine);
    uid_t uid;
    struct exec_box *box = exec_pool_take(pool, &uid);
    assert_non_null(box);
    unsigned asked = atomic_load(&ids_asked);
    exec_pool_refill(pool);
    pass_lane(xt);
    assert_int_equal(atomic_load(&ids_asked), asked);
    exec_pool_return(pool, box);
    exec_pool_free(pool);
    assert_int_equal(atomic_load(&ids_out), 0);
}

static void freeing_a_pool_at_any_moment_leaves_nothing(void **state)
{
    struct xt *xt = *state;
    unsigned fds = xt_open_fds(), children = xt_children();
    for (int i = 0; i < 20; i++) {
        struct exec_pool *pool = pool_new(xt, 3);
        poll(NULL, 0, i); // not to wait for something, but to come at different moments
        uid_t uid;
        struct exec_box *box = i % 3 == 0 ? exec_pool_take(pool, &uid) : NULL;
        if (box)
            exec_pool_return(pool, box);
        exec_pool_free(pool);
        assert_int_equal(atomic_load(&ids_out), 0);
    }
    for (uid_t i = 1; i < 8; i++)
        assert_int_equal(xt_processes_of(XT_UID + i), 0);
    assert_int_equal(xt_children(), children);
    assert_int_equal(xt_open_fds(), fds);
}

static void commands_given_while_the_box_starts_run_when_it_is_up(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec spec = {
        .id = "sb_lazy", .view_path = xt->view, .uid = XT_UID, .gid = XT_UID};
    xt_box_begin(xt, &spec);
    const struct exec_command_spec lines[] = {
        {.shell_line = "echo one; pwd"},
        {.shell_line = "cat", .stdin_bytes = "in", .stdin_len = 2}};
    struct xt_done *first = xt_start(xt, &lines[0], NULL);
    struct xt_done *second = xt_start(xt, &lines[1], NULL);
    xt_wait(first);
    xt_wait(second);
    xt_expect_exit(first, 0);
    assert_string_equal(first->out, "one\n/workspace\n");
    assert_string_equal(second->out, "in");
}

static void commands_given_to_a_box_that_cannot_start_hear_why(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec spec = {
        .id = "sb_lazy", .view_path = "/nonexistent/view", .uid = XT_UID, .gid = XT_UID};
    xt_box_begin(xt, &spec);
    const struct exec_command_spec line = {.shell_line = "true"};
    struct xt_done *done = xt_run(xt, &line);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_NOT_FOUND);
    xt_box_stop(xt, xt->box);
}

#define engine_test(fn) cmocka_unit_test_setup_teardown(fn, xt_setup_engine, xt_teardown)

// ---- idleness

static atomic_uint idle_calls, idle_while_busy;

static void on_idle(void *arg)
{
    const struct xt *xt = arg;
    atomic_fetch_add(&idle_calls, 1);
    if (xt->box && exec_box_busy(xt->box))
        atomic_fetch_add(&idle_while_busy, 1);
}

static void an_idle_box_says_so_again_and_again_and_never_beside_a_command(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec spec = {.id = "sb_idle",
                                       .view_path = xt->view,
                                       .uid = XT_UID,
                                       .gid = XT_UID,
                                       .idle_ns = 20 * 1000000,
                                       .idle = on_idle};
    atomic_store(&idle_calls, 0);
    atomic_store(&idle_while_busy, 0);
    xt_box_begin(xt, &spec);
    for (unsigned round = 1; round <= 3; round++) {
        struct xt_done *done = xt_sh(xt, "sleep 0.2");
        xt_expect_exit(done, 0);
        unsigned seen = atomic_load(&idle_calls);
        for (int i = 0; atomic_load(&idle_calls) < seen + 2; i++) {
            assert_true(i < 60000);
            poll(NULL, 0, 1);
        }
    }
    assert_int_equal(atomic_load(&idle_while_busy), 0);
    assert_false(exec_box_busy(xt->box));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        engine_test(an_idle_box_says_so_again_and_again_and_never_beside_a_command),
        engine_test(an_adopted_member_has_the_view_and_its_own_uid),
        engine_test(a_member_sees_no_view_before_it_is_adopted),
        engine_test(a_member_that_died_is_given_to_nobody_and_replaced),
        engine_test(a_member_that_dies_after_it_was_taken_fails_the_start),
        engine_test(a_member_that_dies_while_it_is_attached_is_no_missing_sandbox),
        engine_test(more_members_than_the_pool_holds_come_back_at_once),
        engine_test(without_uids_the_pool_is_empty_and_no_error),
        engine_test(a_pool_of_an_engine_that_ends_is_not_filled),
        engine_test(freeing_a_pool_at_any_moment_leaves_nothing),
        engine_test(commands_given_while_the_box_starts_run_when_it_is_up),
        engine_test(commands_given_to_a_box_that_cannot_start_hear_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
