// Commands in a box: what goes in, what comes out, how they end.
#include "tests/unit/exec/fixture.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec/slice.h"
#include "mux/base/limits.h"

static void exit_codes_come_back(void **state)
{
    struct xt *xt = *state;
    static const int codes[] = {0, 1, 2, 42, 127, 128, 255};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        xt_expect_exit(xt_sh(xt, "exit %d", codes[i]), codes[i]);
}

static void signals_are_told_apart_from_exit_codes(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "kill -TERM $$");
    xt_expect_exit(done, 143);
    assert_int_equal(done->result.signal, 15);
    done = xt_sh(xt, "exit 143");
    xt_expect_exit(done, 143);
    assert_int_equal(done->result.signal, 0);
    done = xt_sh(xt, "kill -KILL $$");
    assert_int_equal(done->result.signal, 9);
}

static void stdout_and_stderr_stay_apart(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "echo out; echo err >&2; printf more");
    xt_expect_exit(done, 0);
    assert_string_equal(done->out, "out\nmore");
    assert_string_equal(done->err, "err\n");
}

static void streams_can_be_opened_again_by_path(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "/bin/sh -c 'echo a > /dev/stdout; echo b > /proc/self/fd/2'");
    xt_expect_exit(done, 0);
    assert_string_equal(done->out, "a\n");
    assert_string_equal(done->err, "b\n");
}

static void stdin_arrives_whole(void **state)
{
    struct xt *xt = *state;
    static const size_t sizes[] = {0, 1, 65536, 65537, AF_STDIN_MAX};
    char *bytes = malloc(AF_STDIN_MAX);
    for (size_t i = 0; i < AF_STDIN_MAX; i++)
        bytes[i] = (char)(i * 31 + i / 251);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const struct exec_command_spec spec = {.shell_line = "cat",
                                               .stdin_bytes = bytes,
                                               .stdin_len = sizes[i],
                                               .output_bytes_max = AF_STDIN_MAX};
        struct xt_done *done = xt_run(xt, &spec);
        xt_expect_exit(done, 0);
        assert_int_equal(done->out_len, sizes[i]);
        assert_memory_equal(done->out, bytes, sizes[i]);
    }
    free(bytes);
}

static void stdin_nobody_reads_does_no_harm(void **state)
{
    struct xt *xt = *state;
    char *bytes = calloc(1, AF_STDIN_MAX);
    const struct exec_command_spec spec = {
        .shell_line = "exec <&-; exit 3", .stdin_bytes = bytes, .stdin_len = AF_STDIN_MAX};
    xt_expect_exit(xt_run(xt, &spec), 3);
    free(bytes);
    xt_expect_exit(xt_sh(xt, "read x || exit 7"), 7); // no stdin is an empty one
}

static void e7_environment_is_the_callers_and_nothing_of_the_daemons(void **state)
{
    struct xt *xt = *state;
    assert_int_equal(setenv("DAEMON_SECRET", "leaked", 1), 0);
    const struct exec_env env[] = {{"GREETING", "hello world"}, {"TERM", "xterm"}, {"EMPTY", ""}};
    const struct exec_command_spec spec = {
        .argv = (const char *const[]){"env", NULL}, .env = env, .env_count = 3};
    struct xt_done *done = xt_run(xt, &spec);
    xt_expect_exit(done, 0);
    static const char *const lines[] = {
        "HOME=/home/agent\n", "USER=agent\n", "PWD=/workspace\n", "LANG=C.UTF-8\n",
        "TERM=xterm\n",       "EMPTY=\n",     "SHELL=/bin/",      "GREETING=hello world\n"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        assert_non_null(strstr(done->out, lines[i]));
    assert_null(strstr(done->out, "leaked"));
    assert_null(strstr(done->out, "TERM=dumb"));
}

static void workdir_is_followed_and_a_bad_one_named(void **state)
{
    struct xt *xt = *state;
    struct exec_command_spec spec = {.shell_line = "pwd"};
    assert_string_equal(xt_run(xt, &spec)->out, "/workspace\n");
    spec.workdir = "/tmp";
    assert_string_equal(xt_run(xt, &spec)->out, "/tmp\n");
    spec.workdir = "/workspace/nowhere";
    struct xt_done *done = xt_run(xt, &spec);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_INVALID_ARGUMENT);
    assert_non_null(strstr(done->error.text, "/workspace/nowhere"));
}

static void argv_is_executed_as_it_is(void **state)
{
    struct xt *xt = *state;
    struct exec_command_spec spec = {
        .argv = (const char *const[]){"printf", "[%s]", "a b", "$HOME", "*", "", NULL}};
    assert_string_equal(xt_run(xt, &spec)->out, "[a b][$HOME][*][]");
    spec.argv = (const char *const[]){"no-such-program", NULL};
    struct xt_done *done = xt_run(xt, &spec);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_INVALID_ARGUMENT);
    assert_non_null(strstr(done->error.text, "no-such-program"));
}

static void a_program_is_looked_up_in_the_callers_path(void **state)
{
    struct xt *xt = *state;
    xt_expect_exit(xt_sh(xt, "mkdir a b; echo 'exit 7' > a/tool; cp a/tool b; chmod 755 b/tool; "
                             "chmod 644 a/tool"),
                   0);
    struct exec_env env = {"PATH", "/workspace/a:/nowhere::/workspace/b"};
    const struct exec_command_spec spec = {
        .argv = (const char *const[]){"tool", NULL}, .env = &env, .env_count = 1};
    // The first one may not be executed; the second one is a script that does not say of what.
    xt_expect_exit(xt_run(xt, &spec), 7);
    env.value = "/workspace/a:/nowhere";
    struct xt_done *done = xt_run(xt, &spec);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_INVALID_ARGUMENT);
    assert_non_null(strstr(done->error.text, strerror(EACCES)));
    env.value = "";
    const struct exec_command_spec here = {.argv = (const char *const[]){"tool", NULL},
                                           .env = &env,
                                           .env_count = 1,
                                           .workdir = "/workspace/b"};
    xt_expect_exit(xt_run(xt, &here), 7);
}

static void a_script_without_a_first_line_keeps_its_arguments(void **state)
{
    struct xt *xt = *state;
    xt_expect_exit(xt_sh(xt, "echo 'echo \"$0|$1|$2|$#\"' > s; chmod 755 s"), 0);
    const struct exec_command_spec spec = {
        .argv = (const char *const[]){"/workspace/s", "a b", "", NULL}};
    assert_string_equal(xt_run(xt, &spec)->out, "/workspace/s|a b||2\n");
}

static void a_command_runs_where_the_box_may_run(void **state)
{
    struct xt *xt = *state;
    char wanted[256];
    snprintf(wanted, sizeof(wanted), "%s", xt_sh(xt, "grep Cpus_allowed_list /proc/1/status")->out);
    for (int i = 0; i < 8; i++)
        assert_string_equal(xt_sh(xt, "grep Cpus_allowed_list /proc/self/status")->out, wanted);
}

static void a_box_that_was_bound_to_a_cpu_is_unbound_when_that_is_asked_for(void **state)
{
    struct xt *xt = *state;
    pid_t init = xt_init_pid(XT_UID);
    cpu_set_t all, first;
    assert_int_equal(sched_getaffinity(init, sizeof(all), &all), 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&first);
    CPU_SET(cpu, &first);
    char every[16];
    snprintf(every, sizeof(every), "%d\n", CPU_COUNT(&all));
    assert_string_equal(xt_sh(xt, "nproc")->out, every);
    assert_int_equal(sched_setaffinity(init, sizeof(first), &first), 0);
    for (int i = 0; i < 4; i++)
        assert_string_equal(xt_sh(xt, "nproc")->out, "1\n");
    assert_int_equal(sched_setaffinity(init, sizeof(all), &all), 0);
    assert_string_equal(xt_sh(xt, "nproc")->out, every);
}

static void long_command_lines_and_environments_fit(void **state)
{
    struct xt *xt = *state;
    char *line = malloc(100000);
    memset(line, 'x', 100000);
    memcpy(line, "echo -n ", 8);
    line[99999] = '\0';
    const struct exec_env env[] = {{"BIG", line}};
    const struct exec_command_spec spec = {.shell_line = line, .env = env, .env_count = 1};
    struct xt_done *done = xt_run(xt, &spec);
    xt_expect_exit(done, 0);
    assert_int_equal(done->out_len, 99999 - 8);
    free(line);
}

static void output_is_capped_and_the_rest_counted(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {
        .shell_line = "head -c 3000000 /dev/zero; head -c 10 /dev/zero >&2",
        .output_bytes_max = 1000};
    struct xt_done *done = xt_run(xt, &spec);
    xt_expect_exit(done, 0);
    assert_int_equal(done->out_len, 1000);
    assert_true(done->result.out.truncated);
    assert_int_equal(done->result.out.total_bytes, 3000000);
    assert_int_equal(done->err_len, 10);
    assert_false(done->result.err.truncated);
}

static void x6_binary_output_survives(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "printf '\\000\\377\\n\\000x'");
    xt_expect_exit(done, 0);
    assert_int_equal(done->out_len, 5);
    assert_memory_equal(done->out, "\000\377\n\000x", 5);
}

static void eight_commands_at_once_are_told_apart(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done[8];
    // Each waits for the next, so that all have to run at the same time.
    for (int i = 0; i < 8; i++) {
        char line[256];
        snprintf(line, sizeof(line),
                 "mkfifo -m 600 /tmp/f%d 2>/dev/null; mkfifo -m 600 /tmp/f%d "
                 "2>/dev/null; %s; echo %d; exit %d",
                 i, i + 1,
                 i == 0   ? "echo go > /tmp/f1"
                 : i == 7 ? "read x < /tmp/f7"
                          : "read x < /tmp/f$ME; echo $x > /tmp/f$NEXT",
                 i, i);
        char me[16], next[16];
        snprintf(me, sizeof(me), "%d", i);
        snprintf(next, sizeof(next), "%d", i + 1);
        const struct exec_env env[] = {{"ME", me}, {"NEXT", next}};
        const struct exec_command_spec spec = {.shell_line = line, .env = env, .env_count = 2};
        done[i] = xt_start(xt, &spec, NULL);
    }
    for (int i = 0; i < 8; i++) {
        char want[16];
        snprintf(want, sizeof(want), "%d\n", i);
        xt_wait(done[i]);
        xt_expect_exit(done[i], i);
        assert_string_equal(done[i]->out, want);
    }
}

static void duration_is_that_of_the_command(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "sleep 0.2");
    xt_expect_exit(done, 0);
    assert_in_range(done->result.duration_ns, XT_SECOND / 5, 20 * XT_SECOND);
}

static void bad_specs_are_refused_at_once(void **state)
{
    struct xt *xt = *state;
    const struct exec_env bad_name = {"A=B", "x"}, no_name = {"", "x"};
    const char *const no_args[] = {NULL};
    const struct exec_command_spec bad[] = {
        {0},
        {.argv = no_args},
        {.shell_line = "true", .argv = no_args},
        {.shell_line = "true", .env = &bad_name, .env_count = 1},
        {.shell_line = "true", .env = &no_name, .env_count = 1},
        {.shell_line = "true", .workdir = "relative"},
        {.shell_line = "true", .timeout_ns = -1},
        {.shell_line = "true", .timeout_ns = AF_TIMEOUT_MAX_NS + 1},
        {.shell_line = "true", .stdin_bytes = "", .stdin_len = AF_STDIN_MAX + 1},
        {.shell_line = "true", .env = &bad_name, .env_count = AF_ENV_MAX + 1},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct af_error err;
        assert_int_equal(exec_command_start(xt->box, &bad[i], NULL, NULL, NULL, &err), -1);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    }
    char *line = malloc(AF_COMMAND_MAX + 2);
    memset(line, 'x', AF_COMMAND_MAX + 1);
    line[AF_COMMAND_MAX + 1] = '\0';
    const struct exec_command_spec spec = {.shell_line = line};
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, NULL, NULL, NULL, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    free(line);
}

static void the_commands_process_state_is_clean(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "umask; ulimit -c; ls /proc/self/fd | tr '\\n' ' '; "
                                     "grep -E '^Sig(Ign|Blk)' /proc/self/status; "
                                     "cat /proc/self/oom_score_adj");
    xt_expect_exit(done, 0);
    // ls itself holds 3.
    assert_string_equal(done->out, "0022\n0\n0 1 2 3 SigBlk:\t0000000000000000\n"
                                   "SigIgn:\t0000000000000000\n500\n");
}

// The slice of a process in ns; 0 on kernels that know none.
static uint64_t slice_of(pid_t pid)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr = {0};
    assert_int_equal(syscall(SYS_sched_getattr, pid, &attr, sizeof(attr), 0), 0);
    return attr.runtime_ns;
}

static void short_turns_are_for_the_start_and_not_for_the_command(void **state)
{
    struct xt *xt = *state;
    uint64_t usual = slice_of(0);
    assert_int_equal(slice_of(xt_init_pid(XT_UID)), usual ? EXEC_SLICE_SHORT_NS : 0);
    struct xt_done *done = xt_sh(xt,
                                 "python3 -c 'import ctypes\n"
                                 "a = (ctypes.c_uint64 * 6)()\n"
                                 "assert ctypes.CDLL(None).syscall(%d, 0, a, 48, 0) == 0\n"
                                 "print(a[3])'",
                                 SYS_sched_getattr);
    xt_expect_exit(done, 0);
    assert_int_equal(strtoull(done->out, NULL, 10), usual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(short_turns_are_for_the_start_and_not_for_the_command),
        xt_test(exit_codes_come_back),
        xt_test(signals_are_told_apart_from_exit_codes),
        xt_test(stdout_and_stderr_stay_apart),
        xt_test(streams_can_be_opened_again_by_path),
        xt_test(stdin_arrives_whole),
        xt_test(stdin_nobody_reads_does_no_harm),
        xt_test(e7_environment_is_the_callers_and_nothing_of_the_daemons),
        xt_test(workdir_is_followed_and_a_bad_one_named),
        xt_test(argv_is_executed_as_it_is),
        xt_test(a_program_is_looked_up_in_the_callers_path),
        xt_test(a_script_without_a_first_line_keeps_its_arguments),
        xt_test(a_command_runs_where_the_box_may_run),
        xt_test(a_box_that_was_bound_to_a_cpu_is_unbound_when_that_is_asked_for),
        xt_test(long_command_lines_and_environments_fit),
        xt_test(output_is_capped_and_the_rest_counted),
        xt_test(x6_binary_output_survives),
        xt_test(eight_commands_at_once_are_told_apart),
        xt_test(duration_is_that_of_the_command),
        xt_test(bad_specs_are_refused_at_once),
        xt_test(the_commands_process_state_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
