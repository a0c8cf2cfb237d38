// How commands are ended: timeouts, cancellation, left-overs, killed supervisors, stopped boxes.
//
// "Nothing is left" is asked of the host: a box at rest has two processes of its uid, bwrap's
// monitor being one of them only where it changed to that uid; so counts are compared.
#include "tests/unit/exec/fixture.h"

#include "exec/engine_priv.h"
#include "mux/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

// A shell line that starts a process which has left session and parents behind, and writes its
// pid into a file of the view when it runs.
#define DAEMONISE(name)                                                                            \
    "(setsid sh -c '(setsid sh -c \"echo \\$\\$ > /workspace/" name                                \
    "; exec sleep 1000\" <&- >&- 2>&- &) &' <&- >&- 2>&- &); "

static void x6_timeout_kills_descendants_that_fork_twice_and_setsid(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    const struct exec_command_spec spec = {
        .shell_line = DAEMONISE("a") DAEMONISE("b") "sleep 1000 & echo partial; sleep 1000",
        .timeout_ns = XT_SECOND / 2};
    struct xt_done *done = xt_start(xt, &spec, NULL);
    xt_wait_file(xt, "a");
    xt_wait_file(xt, "b");
    assert_true(xt_processes_of(XT_UID) >= before + 5);
    xt_wait(done);
    assert_false(done->failed);
    assert_true(done->result.timed_out);
    assert_string_equal(done->out, "partial\n");
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void a_timeout_leaves_other_commands_alone(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec other = {
        .shell_line = DAEMONISE("b") "mkfifo /tmp/go; while ! [ -s b ]; do :; done; "
                                     "echo > ready; read x < /tmp/go; kill -0 $(cat b) && echo $x"};
    struct xt_done *kept = xt_start(xt, &other, NULL);
    xt_wait_file(xt, "ready");
    const struct exec_command_spec spec = {.shell_line = DAEMONISE("a") "sleep 1000",
                                           .timeout_ns = XT_SECOND / 5};
    assert_true(xt_run(xt, &spec)->result.timed_out);
    xt_expect_exit(xt_sh(xt, "echo still > /tmp/go"), 0);
    xt_wait(kept);
    xt_expect_exit(kept, 0);
    assert_string_equal(kept->out, "still\n");
}

static void a_command_that_ignores_signals_is_killed_too(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    const struct exec_command_spec spec = {
        .shell_line = "trap '' TERM INT HUP QUIT; kill -STOP $$; sleep 1000",
        .timeout_ns = XT_SECOND / 5};
    assert_true(xt_run(xt, &spec)->result.timed_out);
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void x7_cancel_leaves_no_process(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    const struct exec_command_spec spec = {.shell_line =
                                               "echo begun; " DAEMONISE("a") "sleep 1000"};
    struct exec_command *command;
    struct xt_done *done = xt_start(xt, &spec, &command);
    xt_wait_file(xt, "a");
    exec_command_cancel(command);
    exec_command_cancel(command);
    xt_wait(done);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_CANCELLED);
    assert_string_equal(done->out, "begun\n");
    assert_int_equal(done->result.exit_code, -1);
    assert_int_equal(xt_processes_of(XT_UID), before);
    exec_command_cancel(command); // over: nothing happens
    exec_command_unref(command);
}

static void what_a_command_leaves_running_is_ended(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    // Holds no pipe: ended at once.
    struct xt_done *done = xt_sh(xt, DAEMONISE("a") "while ! [ -e a ]; do :; done; exit 5");
    xt_expect_exit(done, 5);
    assert_int_equal(xt_processes_of(XT_UID), before);
    // Holds the pipes: ended after the drain, with what it wrote in time.
    done = xt_sh(xt, "(echo late; sleep 1000) & exit 6");
    xt_expect_exit(done, 6);
    assert_string_equal(done->out, "late\n");
    assert_true(done->result.duration_ns < XT_SECOND * 10);
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void output_of_children_that_end_soon_is_waited_for(void **state)
{
    struct xt *xt = *state;
    char written[256];
    snprintf(written, sizeof(written), "%s/written", xt->view);
    // On a machine that is too busy to run the child in time it is ended, and not the case.
    int64_t end_ns = af_monotonic_ns() + 60 * XT_SECOND;
    struct xt_done *done;
    do {
        done = xt_sh(xt, "(sleep 0.03; echo soon; : > written) & exit 0");
        xt_expect_exit(done, 0);
    } while (access(written, F_OK) < 0 && af_monotonic_ns() < end_ns);
    assert_string_equal(done->out, "soon\n");
}

static void a_flood_after_the_leader_is_bounded(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "yes & exit 4");
    xt_expect_exit(done, 4);
    assert_true(done->result.out.truncated);
}

static void x8_killing_the_supervisor_is_an_error_and_no_exit_code(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct xt_done *done = xt_sh(xt, DAEMONISE("a") "while ! [ -e a ]; do :; done; "
                                                    "kill -9 $PPID; sleep 1000");
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_ABORTED);
    assert_int_equal(done->result.exit_code, -1);
    assert_int_equal(xt_processes_of(XT_UID), before);
    xt_expect_exit(xt_sh(xt, "exit 9"), 9); // the box goes on
}

static void x8_killing_everything_from_inside_spares_the_init(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "kill -9 -1; kill -9 1; sleep 1000");
    // The shell is spared by its own kill -1: it ends with its supervisor.
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_ABORTED);
    static const char *const signals[] = {"KILL", "STOP", "TERM", "CHLD", "SEGV", "RTMIN"};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        xt_expect_exit(xt_sh(xt, "kill -%s 1", signals[i]), 0);
    xt_expect_exit(xt_sh(xt, "exit 9"), 9);
}

// Supervisors and leaders that are killed at any point have the memory of the init.
static void x8_commands_that_kill_each_other_leave_the_init_unharmed(void **state)
{
    struct xt *xt = *state;
    enum { AT_ONCE = 8, ROUNDS = 20 };
    unsigned before = xt_processes_of(XT_UID);
    for (int round = 0; round < ROUNDS; round++) {
        const struct exec_command_spec spec = {
            .argv =
                (const char *const[]){round % 2 ? "true" : "/bin/sh", "-c", "kill -9 -1", NULL}};
        struct xt_done *done[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            done[i] = xt_start(xt, &spec, NULL);
        xt_sh(xt, "kill -9 -1");
        for (int i = 0; i < AT_ONCE; i++) {
            xt_wait(done[i]);
            assert_true(done[i]->failed ? done[i]->error.status == AF_ABORTED
                                        : done[i]->result.exit_code >= 0);
        }
        xt_expect_exit(xt_sh(xt, "exit %d", round), round);
    }
    // Its timeout, not the sleep, is its end, which comes after those of all others.
    const struct exec_command_spec last = {.shell_line = "sleep 1000", .timeout_ns = XT_SECOND / 5};
    assert_true(xt_run(xt, &last)->result.timed_out);
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void a_timeout_comes_though_nothing_else_happens(void **state)
{
    struct xt *xt = *state;
    // Nobody wakes the event thread for a command that has nothing to say: the later one is found
    // by the alarm of the earlier.
    const struct exec_command_spec spec = {.argv = (const char *const[]){"sleep", "1000", NULL},
                                           .timeout_ns = XT_SECOND / 5};
    const struct exec_command_spec longer = {.argv = (const char *const[]){"sleep", "1000", NULL},
                                             .timeout_ns = XT_SECOND / 2};
    struct xt_done *done[] = {xt_start(xt, &longer, NULL), xt_start(xt, &spec, NULL),
                              xt_start(xt, &longer, NULL)};
    for (size_t i = 0; i < 3; i++) {
        xt_wait(done[i]);
        assert_true(done[i]->result.timed_out);
    }
}

static void a_stopped_supervisor_does_not_stop_the_timeout(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    const struct exec_command_spec spec = {.shell_line = "kill -STOP $PPID; exit 0",
                                           .timeout_ns = XT_SECOND / 2};
    assert_true(xt_run(xt, &spec)->result.timed_out);
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void stopping_the_box_ends_its_commands(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line = DAEMONISE("a") "echo begun; sleep 1000"};
    struct xt_done *done[3];
    for (int i = 0; i < 3; i++)
        done[i] = xt_start(xt, &spec, NULL);
    xt_wait_file(xt, "a");
    xt_box_stop(xt, xt->box);
    for (int i = 0; i < 3; i++) {
        assert_true(done[i]->over); // before the box's own callback
        assert_true(done[i]->failed);
        assert_int_equal(done[i]->error.status, AF_CANCELLED);
    }
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

static void ending_the_engine_ends_everything(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line = DAEMONISE("a") "sleep 1000"};
    struct xt_done *done = xt_start(xt, &spec, NULL);
    xt_wait_file(xt, "a");
    xt_engine_close(xt);
    assert_true(done->over);
    assert_int_equal(done->error.status, AF_CANCELLED);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

static void too_many_commands_are_refused_in_words(void **state)
{
    struct xt *xt = *state;
    struct exec_options options = xt_options(xt);
    options.commands_per_box_max = 2;
    xt_engine_open(xt, &options);
    xt->box = xt_box_start(xt, "sb_few", XT_UID);
    const struct exec_command_spec spec = {.shell_line = "echo > /workspace/ready$$; sleep 1000"};
    struct xt_done *first = xt_start(xt, &spec, NULL);
    struct xt_done *second = xt_start(xt, &spec, NULL);
    struct xt_done *third = xt_run(xt, &spec);
    assert_true(third->failed);
    assert_int_equal(third->error.status, AF_RESOURCE_EXHAUSTED);
    xt_engine_close(xt);
    assert_true(first->over && second->over);
}

static void the_limit_of_processes_is_a_clear_end(void **state)
{
    struct xt *xt = *state;
    const struct exec_options options = xt_options(xt);
    xt_engine_open(xt, &options);
    const struct exec_box_spec box = {.id = "sb_small",
                                      .view_path = xt->view,
                                      .uid = XT_UID,
                                      .gid = XT_UID,
                                      .limits.processes_max = 30};
    xt->box = xt_box_try(xt, &box);
    assert_int_equal(xt->start_error.status, AF_OK);
    const struct exec_command_spec bomb = {.shell_line = "f() { f | f & }; f; sleep 1000",
                                           .timeout_ns = XT_SECOND / 2};
    assert_true(xt_run(xt, &bomb)->result.timed_out);
    xt_expect_exit(xt_sh(xt, "exit 3"), 3);
    xt_engine_close(xt);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

struct timers_taken {
    struct exec_post post;
    struct exec_engine *engine;
    size_t count;
};

static void take_timers(struct exec_post *post)
{
    struct timers_taken *taken = EXEC_CONTAINER_OF(post, struct timers_taken, post);
    struct exec_timers *timers = &taken->engine->timers;
    taken->count = EXEC_TIMERS_MAX - timers->reserved;
    timers->reserved += taken->count;
}

static void give_timers(struct exec_post *post)
{
    struct timers_taken *taken = EXEC_CONTAINER_OF(post, struct timers_taken, post);
    taken->engine->timers.reserved -= taken->count;
}

// Its START has been sent by its caller when the event thread finds that it cannot be timed.
static void a_command_that_cannot_be_timed_ends_with_its_box(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line = "echo > /workspace/ready; sleep 1000"};
    struct xt_done *other = xt_start(xt, &spec, NULL);
    xt_wait_file(xt, "ready");
    struct timers_taken taken = {.engine = xt->engine};
    exec_post(xt->engine, &taken.post, take_timers);
    const struct exec_command_spec long_one = {.shell_line = "sleep 1000",
                                               .timeout_ns = XT_WAIT_NS / 2};
    struct exec_command *command;
    struct xt_done *done = xt_start(xt, &long_one, &command);
    exec_command_cancel(command);
    xt_wait_died(xt);
    xt_wait(done);
    xt_wait(other);
    assert_true(done->failed && other->failed);
    assert_int_equal(done->error.status, AF_RESOURCE_EXHAUSTED);
    assert_int_equal(other->error.status, AF_RESOURCE_EXHAUSTED);
    assert_int_equal(xt_processes_of(XT_UID), 0);
    exec_command_unref(command);
    exec_post(xt->engine, &taken.post, give_timers);
    xt_box_stop(xt, xt->box); // after that
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(x6_timeout_kills_descendants_that_fork_twice_and_setsid),
        xt_test(a_timeout_leaves_other_commands_alone),
        xt_test(a_command_that_ignores_signals_is_killed_too),
        xt_test(x7_cancel_leaves_no_process),
        xt_test(what_a_command_leaves_running_is_ended),
        xt_test(output_of_children_that_end_soon_is_waited_for),
        xt_test(a_flood_after_the_leader_is_bounded),
        xt_test(x8_killing_the_supervisor_is_an_error_and_no_exit_code),
        xt_test(x8_killing_everything_from_inside_spares_the_init),
        xt_test(x8_commands_that_kill_each_other_leave_the_init_unharmed),
        xt_test(a_timeout_comes_though_nothing_else_happens),
        xt_test(a_stopped_supervisor_does_not_stop_the_timeout),
        xt_test(stopping_the_box_ends_its_commands),
        xt_test(a_command_that_cannot_be_timed_ends_with_its_box),
        xt_test(ending_the_engine_ends_everything),
        cmocka_unit_test_setup_teardown(too_many_commands_are_refused_in_words, xt_setup_dirs,
                                        xt_teardown),
        cmocka_unit_test_setup_teardown(the_limit_of_processes_is_a_clear_end, xt_setup_dirs,
                                        xt_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
