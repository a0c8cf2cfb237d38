// Terminals: what a command in one can do, and what a hostile one cannot.
#include "tests/unit/exec/talk.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mux/base/limits.h"

static void the_terminal_is_the_leaders(void **state)
{
    struct talk *talk = talk_sh(*state, 30, 100,
                                "tty; stty size; ls -l $(tty) | cut -d' ' -f3; echo $TERM; "
                                "ps -o tty=,stat= -p $$; echo again > /dev/tty; test -t 0 && "
                                "test -t 1 && test -t 2 && echo all");
    talk_expect(talk, "/dev/pts/0\r\n");
    talk_expect(talk, "30 100\r\n");
    talk_expect(talk, "agent\r\n");
    talk_expect(talk, "xterm-256color\r\n");
    talk_expect(talk, "pts/0");
    talk_expect(talk, "s+\r\n"); // a session leader in the foreground
    talk_expect(talk, "again\r\n");
    talk_expect(talk, "all\r\n");
    talk_expect_exit(talk, 0);
    assert_int_equal(talk->len[EXEC_OUTPUT_STDERR], 0);
    talk_end(talk);
}

static void a_resize_is_told_by_sigwinch(void **state)
{
    struct talk *talk =
        talk_sh(*state, 30, 100, "trap 'stty size' WINCH; echo up; while :; do sleep 0.01; done");
    struct af_error err;
    const struct exec_window window = {50, 132};
    talk_expect(talk, "up\r\n");
    assert_int_equal(exec_command_resize(talk->command, &window, &err), 0);
    talk_expect(talk, "50 132\r\n");
    talk_end(talk);
}

static void keys_are_signals_and_the_end_of_input(void **state)
{
    struct talk *talk =
        talk_sh(*state, 24, 80,
                "trap 'echo interrupted' INT; sh -c 'echo up; exec sleep 1000'; cat; echo end");
    talk_expect(talk, "up\r\n");
    talk_type(talk, "\003");
    talk_expect(talk, "interrupted\r\n");
    talk_type(talk, "typed\n");
    talk_expect(talk, "typed\r\ntyped\r\n"); // the echo, then cat
    talk_write(talk, NULL, 0, true);
    talk_expect(talk, "end\r\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static void job_control_works(void **state)
{
    struct xt *xt = *state;
    const char *const argv[] = {"bash", "--norc", "--noediting", "-i", NULL};
    const struct exec_window window = {24, 80};
    const struct exec_env env[] = {{"PS1", "$ "}};
    struct exec_command_spec spec = {
        .argv = argv, .stdin_open = true, .terminal = &window, .env = env, .env_count = 1};
    struct talk *talk = talk_start(xt, &spec);
    talk_expect(talk, "$ ");
    talk_type(talk, "sleep 1000\n");
    talk_expect(talk, "sleep 1000\r\n");
    xt_expect_exit(xt_sh(xt, "until ps -o stat= -C sleep | grep -q '^S.*+'; do :; done"), 0);
    talk_type(talk, "\032");
    talk_expect(talk, "Stopped");
    talk_type(talk, "bg\n");
    talk_expect(talk, "sleep 1000 &");
    talk_type(talk, "jobs\n");
    talk_expect(talk, "Running");
    talk_type(talk, "fg\n");
    // ^C between the words and the job's turn would be for the shell.
    xt_expect_exit(xt_sh(xt, "until ps -o stat= -C sleep | grep -q '^S.*+'; do :; done"), 0);
    talk_type(talk, "\003");
    talk_expect(talk, "$ ");
    talk_type(talk, "echo code $?\n");
    talk_expect(talk, "code 130\r\n");
    talk_type(talk, "exit 3\n");
    talk_expect_exit(talk, 3);
    talk_end(talk);
}

// readline's terminal is raw, and the key is its own.
static void the_end_of_input_reaches_a_program_in_raw_mode(void **state)
{
    const char *const argv[] = {"bash", "--norc", "-i", NULL};
    const struct exec_window window = {24, 80};
    const struct exec_env env[] = {{"PS1", "$ "}};
    struct exec_command_spec spec = {
        .argv = argv, .stdin_open = true, .terminal = &window, .env = env, .env_count = 1};
    struct talk *talk = talk_start(*state, &spec);
    talk_expect(talk, "$ ");
    talk_write(talk, "", 0, true);
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

// Typed once for each, before either reads: the second would wait for ever.
static void input_that_ended_for_good_ends_for_every_reader(void **state)
{
    struct talk *talk = talk_sh(*state, 24, 80, "cat; cat; stty raw; head -c 1 | od -An -c; cat");
    struct af_error err;
    assert_int_equal(
        exec_command_write(talk->command, "a line\n", 7, EXEC_EOF_FOR_GOOD, NULL, NULL, &err), 0);
    talk_expect(talk, "a line\r\na line\r\n"); // its echo, too
    talk_expect(talk, "004");                  // raw it is the key that comes
    talk_end(talk);
}

static void raw_mode_passes_every_byte(void **state)
{
    struct talk *talk =
        talk_sh(*state, 24, 80,
                "stty raw -echo; printf 'up\\n'; head -c 256 | od -An -v -tu1 -w256 | "
                "tr -s ' '; echo");
    char bytes[256], want[1100];
    size_t at = 0;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        at += (size_t)snprintf(want + at, sizeof(want) - at, " %d", i);
    }
    talk_expect(talk, "up\n");
    talk_write(talk, bytes, sizeof(bytes), false);
    talk_expect(talk, want);
    talk_end(talk);
}

// More than every buffer on the way: nothing is lost, nothing waits for ever.
static void megabytes_pass_through_a_raw_terminal(void **state)
{
    const size_t total = 8 << 20;
    struct xt *xt = *state;
    struct talk *talk =
        talk_sh(xt, 24, 80, "stty raw -echo; printf 'up\\n'; head -c 8388608 | sha256sum");
    char *bytes = malloc(total);
    unsigned seed = 1;
    assert_non_null(bytes);
    for (size_t i = 0; i < total; i++)
        bytes[i] = (char)(rand_r(&seed) >> 8);
    char command[128], want[65];
    snprintf(command, sizeof command, "exec sha256sum > '%s/hash'", xt->view);
    FILE *hash = popen(command, "we");
    assert_non_null(hash);
    assert_int_equal(fwrite(bytes, 1, total, hash), total);
    assert_int_equal(pclose(hash), 0);
    assert_int_equal(strlen(xt_read_file(xt, "hash", want, sizeof want)), 64);
    talk_expect(talk, "up\n");
    for (size_t at = 0; at < total; at += 64 << 10)
        talk_write(talk, bytes + at, 64 << 10, false);
    talk_expect(talk, want);
    talk_expect_exit(talk, 0);
    free(bytes);
    talk_end(talk);
}

static void the_last_words_before_the_end_arrive(void **state)
{
    for (int i = 0; i < 20; i++) {
        struct talk *talk = talk_sh(*state, 24, 80, "seq 5000; printf last");
        talk_expect_exit(talk, 0);
        talk_expect(talk, "4999\r\n5000\r\nlast");
        talk_end(talk);
    }
}

// ---- hostile ----------------------------------------------------------------------------

static void a_terminal_that_is_closed_and_opened_again_goes_on(void **state)
{
    struct talk *talk = talk_sh(*state, 24, 80,
                                "exec 0<&- 1>&- 2>&-; sleep 0.2; exec 1<>/dev/pts/0; echo back; "
                                "exec 1>&-; sleep 0.2; exec 1<>/dev/pts/0; echo twice");
    talk_expect(talk, "back\r\n");
    talk_expect(talk, "twice\r\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static void typing_into_a_closed_terminal_does_no_harm(void **state)
{
    struct xt *xt = *state;
    static char block[64 << 10];
    struct talk *talk =
        talk_sh(xt, 24, 80, "echo up; exec 0<&- 1>&- 2>&-; echo > closed; sleep 1000");
    talk_expect(talk, "up\r\n");
    xt_wait_file(xt, "closed");
    for (int i = 0; i < 8; i++)
        talk_type_later(talk, block, sizeof(block), false);
    xt_expect_exit(xt_sh(xt, "true"), 0);
    exec_command_cancel(talk->command);
    talk_wait(talk);
    talk_wait_answers(talk, 8);
    talk_end(talk);
}

static void e6_input_cannot_be_forged(void **state)
{
    struct talk *talk = talk_sh(*state, 24, 80,
                                "python3 -c 'import fcntl, termios, os\n"
                                "for fd in (0, os.open(\"/dev/tty\", os.O_RDWR)):\n"
                                "  try: fcntl.ioctl(fd, termios.TIOCSTI, b\"x\")\n"
                                "  except OSError as e: print(\"refused\", e.errno)\n'; echo over");
    talk_expect(talk, "refused 1\r\nrefused 1\r\n");
    talk_expect(talk, "over\r\n");
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static void a_flood_stops_at_a_reader_without_room_and_can_be_cancelled(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct talk *talk = talk_sh(xt, 24, 80, "yes $'\\e]0;title\\a\\e[6n'");
    talk_expect(talk, "\033]0;title\a\033[6n\r\n"); // as it is
    talk_hold(talk, true);
    xt_expect_exit(xt_sh(xt, "true"), 0);
    size_t shown = talk_shown(talk);
    xt_expect_exit(xt_sh(xt, "sleep 0.1"), 0);
    assert_true(talk_shown(talk) - shown <= 128 << 10);
    talk_hold(talk, false);
    exec_command_cancel(talk->command);
    talk_wait(talk);
    assert_int_equal(xt_processes_of(XT_UID), before);
    talk_end(talk);
}

static void x6_what_holds_the_terminal_after_the_end_is_killed(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct talk *talk =
        talk_sh(xt, 24, 80,
                "(trap '' HUP; setsid sh -c 'trap \"\" HUP; while :; do echo x; done' &) ; exit 5");
    talk_expect_exit(talk, 5);
    assert_int_equal(xt_processes_of(XT_UID), before);
    talk_end(talk);
}

static void x8_killing_the_supervisor_ends_the_command_with_an_error(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct talk *talk = talk_sh(xt, 24, 80, "trap '' HUP; kill -KILL $PPID; sleep 1000");
    talk_wait(talk);
    assert_true(talk->failed);
    assert_int_equal(talk->error.status, AF_ABORTED);
    assert_int_equal(xt_processes_of(XT_UID), before);
    talk_end(talk);
}

// Every one of these would, kept, exhaust the machine's.
static void terminals_of_a_box_are_bounded(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0,
                                "python3 -c 'import os\n"
                                "n = 0\n"
                                "try:\n"
                                "  while n < 1000: os.open(\"/dev/ptmx\", os.O_RDWR); n += 1\n"
                                "except OSError: pass\n"
                                "print(\"made\", n)' 2>&1");
    char want[32];
    snprintf(want, sizeof(want), "made %u\n", AF_TERMINALS_MAX);
    talk_expect(talk, want);
    talk_expect_exit(talk, 0);
    talk_end(talk);
}

static void terminals_leave_no_descriptor(void **state)
{
    struct xt *xt = *state;
    xt_expect_exit(xt_sh(xt, "true"), 0);
    unsigned before = xt_open_fds();
    for (int i = 0; i < 100; i++) {
        struct talk *talk = talk_sh(xt, 24, 80, i % 2 ? "echo x" : "sleep 1000");
        talk_wait_started(talk);
        if (i % 2)
            talk_expect_exit(talk, 0);
        talk_end(talk);
    }
    xt_expect_exit(xt_sh(xt, "true"), 0);
    assert_int_equal(xt_open_fds(), before);
}

static void a_command_without_a_terminal_has_no_size(void **state)
{
    struct talk *talk = talk_sh(*state, 0, 0, "cat");
    const struct exec_window window = {50, 132};
    struct af_error err;
    assert_int_equal(exec_command_resize(talk->command, &window, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    talk_end(talk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(the_terminal_is_the_leaders),
        xt_test(a_resize_is_told_by_sigwinch),
        xt_test(keys_are_signals_and_the_end_of_input),
        xt_test(job_control_works),
        xt_test(the_end_of_input_reaches_a_program_in_raw_mode),
        xt_test(input_that_ended_for_good_ends_for_every_reader),
        xt_test(raw_mode_passes_every_byte),
        xt_test(megabytes_pass_through_a_raw_terminal),
        xt_test(the_last_words_before_the_end_arrive),
        xt_test(a_terminal_that_is_closed_and_opened_again_goes_on),
        xt_test(typing_into_a_closed_terminal_does_no_harm),
        xt_test(e6_input_cannot_be_forged),
        xt_test(a_flood_stops_at_a_reader_without_room_and_can_be_cancelled),
        xt_test(x6_what_holds_the_terminal_after_the_end_is_killed),
        xt_test(x8_killing_the_supervisor_ends_the_command_with_an_error),
        xt_test(terminals_of_a_box_are_bounded),
        xt_test(terminals_leave_no_descriptor),
        xt_test(a_command_without_a_terminal_has_no_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
