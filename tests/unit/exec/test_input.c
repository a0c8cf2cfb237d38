// Stdin as a stream, and signals: what a command is told while it runs.
#include "tests/unit/exec/talk.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mux/base/limits.h"

static void a_command_answers_what_is_typed(void **state)
{
    struct talk *talk =
        talk_sh(*state, 0, 0, "while read line; do echo \"got $line\"; done; echo end");
    talk_type(talk, "one\n");
    talk_expect(talk, "got one\n");
    talk_write(talk, "two\nthree", 9, true);
    talk_expect(talk, "got two\n");
    talk_expect(talk, "end\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static void eof_without_bytes_closes_stdin(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "cat; echo closed");
    talk_write(talk, NULL, 0, true);
    talk_expect(talk, "closed\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

// Every answer that has come stands for bytes that are in the pipe; a pipe holds 64 KiB.
static void a_command_that_does_not_read_holds_its_writers(void **state)
{
    struct xt *xt = *state;
    struct talk *talk = talk_sh(xt, 0, 0, "mkfifo /tmp/go; echo up; read x < /tmp/go; wc -c");
    static char block[64 << 10];
    talk_expect(talk, "up\n");
    for (int i = 0; i < 16; i++)
        talk_type_later(talk, block, sizeof(block), i == 15);
    talk_wait_answers(talk, 1);
    xt_expect_exit(xt_sh(xt, "true"), 0); // the event thread has had its time
    assert_true(talk->written <= 2);
    xt_expect_exit(xt_sh(xt, "echo > /tmp/go"), 0);
    talk_wait_answers(talk, 16);
    talk_expect(talk, "1048576\n");
    talk_expect_exit(talk, 0);
    assert_int_equal(talk->written, 16);
    talk_end(talk);
}

static void what_waits_is_bounded(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "sleep 1000");
    struct af_error err = {0};
    char *block = calloc(1, 1 << 20);
    int taken = 0;
    while (taken < 64 &&
           exec_command_write(talk->command, block, 1 << 20, false, NULL, NULL, &err) == 0)
        taken++;
    assert_true(taken >= 4 && taken <= 6);
    assert_int_equal(err.status, AF_RESOURCE_EXHAUSTED);
    free(block);
    talk_end(talk);
}

static void closing_stdin_refuses_the_rest(void **state)
{
    struct xt *xt = *state;
    struct talk *talk = talk_sh(xt, 0, 0, "exec <&-; echo closed; sleep 1000");
    static char block[256 << 10];
    talk_type_later(talk, block, sizeof(block), false);
    talk_expect(talk, "closed\n");
    talk_wait_answers(talk, 1);
    talk_type_later(talk, "x", 1, false);
    talk_wait_answers(talk, 2);
    assert_int_equal(talk->refused, 2);
    assert_int_equal(talk->refusal.status, AF_FAILED_PRECONDITION);
    talk_end(talk);
}

static void what_waits_at_the_end_is_answered(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "sleep 1000");
    static char block[256 << 10];
    for (int i = 0; i < 4; i++)
        talk_type_later(talk, block, sizeof(block), false);
    exec_command_cancel(talk->command);
    talk_wait(talk);
    talk_wait_answers(talk, 4);
    assert_int_equal(talk->refused, 4);
    talk_type_later(talk, "x", 1, false);
    talk_wait_answers(talk, 5);
    assert_int_equal(talk->refused, 5);
    talk_end(talk);
}

static void stdin_is_either_given_or_open(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {
        .shell_line = "cat", .stdin_bytes = "x", .stdin_len = 1, .stdin_open = true};
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, NULL, NULL, NULL, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
}

// ---- start ------------------------------------------------------------------------------

static void a_start_is_told_before_any_output(void **state)
{
    for (int i = 0; i < 50; i++) {
        struct talk *talk = talk_sh(*state, 0, 0, "echo x");
        talk_expect_exit(talk, 0);
        assert_true(talk->started);
        talk_end(talk); // which looks at the order
    }
}

static void x8_a_program_that_cannot_run_has_not_started(void **state)
{
    struct xt *xt = *state;
    const char *const argv[] = {"/no/such/program", NULL};
    struct exec_command_spec spec = {.argv = argv};
    struct talk *talk = talk_start(xt, &spec);
    talk_wait(talk);
    assert_false(talk->started);
    assert_true(talk->failed);
    assert_int_equal(talk->error.status, AF_INVALID_ARGUMENT);
    talk_end(talk);
}

// ---- signals ----------------------------------------------------------------------------

static void a_signal_reaches_the_leader_alone(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0,
                                "trap 'echo leader; kill $!; exit 7' USR1; "
                                "sh -c 'trap \"echo child\" USR1; echo up; while :; do sleep 0.01; "
                                "done' & while :; do wait; done");
    talk_expect(talk, "up\n");
    talk_signal(talk, SIGUSR1, false);
    talk_expect(talk, "leader\n");
    talk_expect_exit(talk, 7);
    assert_null(strstr(talk->shown[0], "child"));
    talk_end(talk);
}

static void a_signal_to_all_reaches_what_has_left_the_session(void **state)
{
    struct talk *talk =
        talk_sh(*state, 0, 0,
                "trap 'echo leader' USR1; "
                "(setsid sh -c '(trap \"echo deep; exit\" USR1; echo up; while :; do "
                "sleep 0.01; done) & exit' &); read x; echo over");
    talk_expect(talk, "up\n");
    talk_signal(talk, SIGUSR1, true);
    talk_expect(talk, "deep\n");
    talk_type(talk, "\n");
    talk_expect(talk, "over\n");
    talk_expect_exit(talk, 0);
    assert_non_null(strstr(talk->shown[0], "leader"));
    talk_end(talk);
}

static void x8_a_signal_that_kills_is_told_as_one(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "echo up; exec sleep 1000");
    talk_expect(talk, "up\n");
    talk_signal(talk, SIGTERM, false);
    talk_wait(talk);
    assert_int_equal(talk->result.signal, SIGTERM);
    assert_int_equal(talk->result.exit_code, 128 + SIGTERM);
    talk_end(talk);
}

static void stop_and_continue(void **state)
{
    struct xt *xt = *state;
    struct talk *talk = talk_sh(xt, 0, 0, "echo $$ > pid; echo up; read x; echo $x");
    char pid[32], line[128];
    talk_expect(talk, "up\n");
    xt_read_file(xt, "pid", pid, sizeof(pid));
    pid[strcspn(pid, "\n")] = '\0';
    talk_signal(talk, SIGSTOP, false);
    snprintf(line, sizeof(line), "until grep -q 'State:.T' /proc/%s/status; do :; done", pid);
    xt_expect_exit(xt_sh(xt, "%s", line), 0);
    talk_type(talk, "later\n");
    talk_signal(talk, SIGCONT, false);
    talk_expect(talk, "later\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static bool is_over_after_a_signal(struct talk *talk)
{
    struct af_error err;
    assert_int_equal(exec_command_signal(talk->command, SIGCONT, false, &err), 0);
    return talk_is_over(talk);
}

// A supervisor that ends with an order unread: the kernel tells of that before it hands over what
// the supervisor has said.
static void x8_signals_that_come_with_the_end_change_nothing(void **state)
{
    struct xt *xt = *state;
    for (int i = 0; i < 100; i++) {
        struct talk *talk = talk_sh(xt, 0, 0, "exit 7");
        xt_until(is_over_after_a_signal(talk));
        talk_expect_exit(talk, 7);
        talk_end(talk);
    }
}

static void bad_signals_and_commands_that_take_none_are_refused(void **state)
{
    struct xt *xt = *state;
    struct talk *talk = talk_sh(xt, 0, 0, "sleep 1000");
    struct af_error err;
    const int bad[] = {0, -1, NSIG, 1000000};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(exec_command_signal(talk->command, bad[i], false, &err), -1);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    }
    struct exec_command *plain;
    const struct exec_command_spec spec = {.shell_line = "sleep 0.1"};
    struct xt_done *done = xt_start(xt, &spec, &plain);
    assert_int_equal(exec_command_signal(plain, SIGTERM, false, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_int_equal(exec_command_write(plain, "x", 1, false, NULL, NULL, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    xt_wait(done);
    exec_command_unref(plain);
    talk_end(talk);
}

// Takes the log into a file; log_end gives it back and counts the lines that have these words.
static FILE *log_begin(int *ret_kept)
{
    FILE *log = tmpfile();
    assert_non_null(log);
    *ret_kept = dup(STDERR_FILENO);
    assert_int_equal(dup2(fileno(log), STDERR_FILENO), STDERR_FILENO);
    return log;
}

static unsigned log_end(FILE *log, int kept, const char *words)
{
    char line[512];
    unsigned count = 0;
    assert_int_equal(dup2(kept, STDERR_FILENO), STDERR_FILENO);
    close(kept);
    rewind(log);
    while (fgets(line, sizeof(line), log))
        count += strstr(line, words) != NULL;
    fclose(log);
    return count;
}

// The supervisor has the uid of what it watches, so it can be stopped and killed from inside.
static void x7_a_stopped_supervisor_does_not_keep_its_command_alive(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct talk *talk = talk_sh(xt, 0, 0, "kill -STOP $PPID; echo up; sleep 1000");
    int kept;
    talk_expect(talk, "up\n");
    FILE *log = log_begin(&kept);
    for (int i = 0; i < 1000; i++) // more than its socket holds
        talk_signal(talk, SIGUSR1, true);
    exec_command_cancel(talk->command);
    talk_wait(talk);
    assert_int_equal(log_end(log, kept, "takes no signals"), 1);
    assert_int_equal(talk->error.status, AF_CANCELLED);
    assert_int_equal(xt_processes_of(XT_UID), before);
    talk_end(talk);
}

static void x8_a_killed_supervisor_is_no_exit_code(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "kill -KILL $PPID; sleep 1000");
    talk_wait(talk);
    assert_true(talk->failed);
    assert_int_equal(talk->error.status, AF_ABORTED);
    talk_end(talk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(a_command_answers_what_is_typed),
        xt_test(eof_without_bytes_closes_stdin),
        xt_test(a_command_that_does_not_read_holds_its_writers),
        xt_test(what_waits_is_bounded),
        xt_test(closing_stdin_refuses_the_rest),
        xt_test(what_waits_at_the_end_is_answered),
        xt_test(stdin_is_either_given_or_open),
        xt_test(a_start_is_told_before_any_output),
        xt_test(x8_a_program_that_cannot_run_has_not_started),
        xt_test(a_signal_reaches_the_leader_alone),
        xt_test(a_signal_to_all_reaches_what_has_left_the_session),
        xt_test(x8_a_signal_that_kills_is_told_as_one),
        xt_test(stop_and_continue),
        xt_test(x8_signals_that_come_with_the_end_change_nothing),
        xt_test(bad_signals_and_commands_that_take_none_are_refused),
        xt_test(x7_a_stopped_supervisor_does_not_keep_its_command_alive),
        xt_test(x8_a_killed_supervisor_is_no_exit_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
