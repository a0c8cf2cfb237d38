// Output as it comes with flow control, and sessions, on the engine itself.
#include "tests/unit/exec/fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mux/base/limits.h"

// A receiver that takes `room` messages and then has enough until it is asked to go on.
struct sink {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t len[2];
    unsigned messages, room;
    bool heard, ready, closed, over, failed;
    struct af_error error;
    struct exec_result result;
    char text[2][256]; // what came first
};

static void sink_init(struct sink *sink, unsigned room)
{
    memset(sink, 0, sizeof(*sink));
    pthread_mutex_init(&sink->lock, NULL);
    pthread_cond_init(&sink->changed, NULL);
    sink->room = room;
}

static void sink_wait(struct sink *sink, const bool *flag)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += XT_WAIT_NS / XT_SECOND;
    int e = 0;
    pthread_mutex_lock(&sink->lock);
    while (!*flag && e == 0)
        e = pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
    pthread_mutex_unlock(&sink->lock);
    if (e != 0)
        fail_msg("the engine did not call back within %lld s", XT_WAIT_NS / XT_SECOND);
}

static void sink_set(struct sink *sink, bool *flag, const struct af_error *err)
{
    pthread_mutex_lock(&sink->lock);
    if (err) {
        sink->failed = true;
        sink->error = *err;
    }
    *flag = true;
    pthread_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
}

static bool on_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct sink *sink = arg;
    pthread_mutex_lock(&sink->lock);
    size_t used = sink->len[kind], room = sizeof(sink->text[kind]) - 1;
    if (used < room)
        memcpy(sink->text[kind] + used, bytes, len < room - used ? len : room - used);
    sink->len[kind] += len;
    bool more = ++sink->messages < sink->room;
    sink->heard = true;
    pthread_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
    return more;
}

static void on_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct sink *sink = arg;
    pthread_mutex_lock(&sink->lock);
    sink->result = *result;
    for (int kind = 0; kind < 2; kind++) {
        const struct exec_output *output = kind ? &result->err : &result->out;
        if (output->len > 0)
            snprintf(sink->text[kind], sizeof(sink->text[kind]), "%s", output->bytes);
    }
    pthread_mutex_unlock(&sink->lock);
    sink_set(sink, &sink->over, err);
}

static void on_ready(void *arg, const struct af_error *err)
{
    struct sink *sink = arg;
    sink_set(sink, &sink->ready, err);
}

static void on_closed(void *arg)
{
    struct sink *sink = arg;
    sink_set(sink, &sink->closed, NULL);
}

// ---- output as it comes -----------------------------------------------------------------

static void x5_a_paused_command_waits_and_loses_nothing(void **state)
{
    struct xt *xt = *state;
    struct sink sink;
    sink_init(&sink, 1);
    const struct exec_command_spec spec = {
        .shell_line = "head -c 10000000 /dev/zero; echo e >&2; echo > done; exit 3",
        .on_output = on_output};
    struct exec_command *command;
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, on_done, &sink, &command, &err), 0);
    // While the first one is full, another command runs at its own speed.
    struct exec_command_spec flood = {.shell_line = "head -c 3000000 /dev/zero",
                                      .output_bytes_max = 10};
    assert_int_equal(xt_run(xt, &flood)->result.out.total_bytes, 3000000);
    xt_expect_exit(xt_sh(xt, "test ! -e done"), 0);
    assert_true(sink.len[0] <= 2 << 20);
    pthread_mutex_lock(&sink.lock);
    sink.room = 0x7fffffff;
    pthread_mutex_unlock(&sink.lock);
    exec_command_resume(command);
    sink_wait(&sink, &sink.over);
    assert_false(sink.failed);
    assert_int_equal(sink.result.exit_code, 3);
    assert_int_equal(sink.len[0], 10000000);
    assert_int_equal(sink.result.out.total_bytes, 10000000);
    assert_int_equal(sink.len[1], 2);
    exec_command_resume(command); // over: nothing happens
    exec_command_unref(command);
}

static void x6_a_paused_command_times_out_with_what_is_in_its_pipes(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct sink sink;
    sink_init(&sink, 1);
    const struct exec_command_spec spec = {.shell_line = "echo one; echo two >&2; sleep 1000 & yes",
                                           .timeout_ns = XT_SECOND / 2,
                                           .on_output = on_output};
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, on_done, &sink, NULL, &err), 0);
    sink_wait(&sink, &sink.over);
    assert_true(sink.result.timed_out);
    assert_string_equal(sink.text[1], "two\n");
    assert_int_equal(xt_processes_of(XT_UID), before);
}

static void x7_a_paused_command_ends_with_its_box(void **state)
{
    struct xt *xt = *state;
    struct sink sink;
    sink_init(&sink, 1);
    const struct exec_command_spec spec = {.shell_line = "yes", .on_output = on_output};
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, on_done, &sink, NULL, &err), 0);
    sink_wait(&sink, &sink.heard);
    xt_box_stop(xt, xt->box);
    sink_wait(&sink, &sink.over);
    assert_int_equal(sink.error.status, AF_CANCELLED);
}

// Its reader is slow, and it has exited: nobody is left whom the init could end.
static void x7_a_paused_command_that_has_exited_is_cancelled_without_its_box(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct sink sink;
    sink_init(&sink, 1);
    const struct exec_command_spec spec = {.shell_line = "echo one", .on_output = on_output};
    struct exec_command *command;
    struct af_error err;
    assert_int_equal(exec_command_start(xt->box, &spec, on_done, &sink, &command, &err), 0);
    sink_wait(&sink, &sink.heard);
    xt_until(xt_processes_of(XT_UID) == before);
    xt_expect_exit(xt_sh(xt, "true"), 0); // ended later, so the engine knows of both
    assert_false(sink.over);
    exec_command_cancel(command);
    sink_wait(&sink, &sink.over);
    assert_int_equal(sink.error.status, AF_CANCELLED);
    xt_expect_exit(xt_sh(xt, "true"), 0);
    exec_command_unref(command);
}

// ---- sessions ---------------------------------------------------------------------------

static struct exec_session *open_session(struct xt *xt, struct sink *sink, const char *shell)
{
    sink_init(sink, 0);
    const struct exec_session_spec spec = {.shell = shell};
    struct exec_session *session;
    struct af_error err;
    if (exec_session_start(xt->box, &spec, on_ready, on_closed, sink, &session, &err) < 0)
        fail_msg("exec_session_start: %s", err.text);
    sink_wait(sink, &sink->ready);
    return session;
}

static void run_line(struct exec_session *session, struct sink *sink, const char *line,
                     int64_t timeout_ns)
{
    sink_init(sink, 0);
    const struct exec_turn_spec spec = {.line = line, .timeout_ns = timeout_ns};
    struct af_error err;
    assert_int_equal(exec_session_run(session, &spec, on_done, sink, NULL, &err), 0);
    sink_wait(sink, &sink->over);
}

static void x1_x2_state_stays_and_output_needs_no_newline(void **state)
{
    static const char *const shells[] = {NULL, "/bin/sh"};
    struct xt *xt = *state;
    for (size_t i = 0; i < 2; i++) {
        struct sink life, turn;
        struct exec_session *session = open_session(xt, &life, shells[i]);
        assert_false(life.failed);
        run_line(session, &turn, "cd /tmp; X=1; printf a", 0);
        assert_string_equal(turn.text[0], "a");
        run_line(session, &turn, "printf '%s %s' $PWD $X >&2; (exit 9)", 0);
        assert_string_equal(turn.text[1], "/tmp 1");
        assert_int_equal(turn.result.exit_code, 9);
        run_line(session, &turn, "echo 'broken", 0);
        run_line(session, &turn, "echo $X", 0);
        assert_string_equal(turn.text[0], "1\n");
        run_line(session, &turn, "exit 4", 0);
        assert_int_equal(turn.result.exit_code, 4);
        assert_true(life.closed);
        run_line(session, &turn, "true", 0);
        assert_int_equal(turn.error.status, AF_FAILED_PRECONDITION);
        exec_session_unref(session);
    }
}

static void x6_x7_nothing_of_a_session_outlives_it(void **state)
{
    struct xt *xt = *state;
    unsigned before = xt_processes_of(XT_UID);
    struct sink life, turn;
    struct exec_session *session = open_session(xt, &life, NULL);
    run_line(session, &turn, "sleep 1000 & (setsid sleep 1000 &); echo x", 0);
    run_line(session, &turn, "echo kept; sleep 1000", XT_SECOND / 5);
    assert_true(turn.result.timed_out);
    assert_string_equal(turn.text[0], "kept\n");
    assert_true(life.closed);
    assert_int_equal(xt_processes_of(XT_UID), before);
    exec_session_unref(session);

    session = open_session(xt, &life, NULL);
    run_line(session, &turn, "sleep 1000 & true", 0);
    exec_session_close(session);
    exec_session_close(session);
    sink_wait(&life, &life.closed);
    assert_int_equal(xt_processes_of(XT_UID), before);
    exec_session_unref(session);
}

static void output_between_turns_is_bounded_and_comes_with_the_next(void **state)
{
    struct xt *xt = *state;
    struct sink life, turn;
    struct exec_session *session = open_session(xt, &life, NULL);
    run_line(session, &turn, "(head -c 1000000 /dev/zero; echo > /workspace/wrote) & true", 0);
    xt_wait_file(xt, "wrote"); // nobody reads, and yet the job was not blocked
    run_line(session, &turn, "echo -n", 0);
    assert_true(turn.result.out.total_bytes <= 1000000);
    assert_true(turn.result.out.len <= AF_SESSION_IDLE_OUTPUT_MAX + 65536 * 16);
    exec_session_close(session);
    sink_wait(&life, &life.closed);
    exec_session_unref(session);
}

static void a_flood_on_the_control_channel_ends_the_session_only(void **state)
{
    struct xt *xt = *state;
    struct sink life, other_life, turn;
    struct exec_session *session = open_session(xt, &life, NULL);
    struct exec_session *other = open_session(xt, &other_life, NULL);
    run_line(session, &turn, "for f in /proc/$$/fd/*; do yes > $f & done; sleep 1000", 0);
    assert_int_equal(turn.error.status, AF_ABORTED);
    assert_true(life.closed);
    run_line(other, &turn, "echo well", 0);
    assert_string_equal(turn.text[0], "well\n");
    exec_session_unref(session);
    exec_session_close(other);
    sink_wait(&other_life, &other_life.closed);
    exec_session_unref(other);
}

static void what_is_no_shell_is_refused(void **state)
{
    struct xt *xt = *state;
    struct sink life;
    static const char *const bad[] = {"/bin/true", "/bin/nosuch", "false"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct exec_session *session = open_session(xt, &life, bad[i]);
        assert_true(life.failed);
        assert_int_equal(life.error.status, AF_INVALID_ARGUMENT);
        exec_session_unref(session);
    }
}

static void a_shell_that_does_not_answer_is_ended(void **state)
{
    struct xt *xt = *state;
    struct exec_options options = xt_options(xt);
    options.start_timeout_ns = 2 * XT_SECOND;
    xt_engine_open(xt, &options);
    xt->box = xt_box_start(xt, "sb_test", XT_UID);
    unsigned before = xt_processes_of(XT_UID);
    struct sink life;
    struct exec_session *session = open_session(xt, &life, "cat"); // reads to the script's end
    assert_true(life.failed);
    assert_int_equal(life.error.status, AF_DEADLINE_EXCEEDED);
    assert_int_equal(xt_processes_of(XT_UID), before);
    exec_session_unref(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(x5_a_paused_command_waits_and_loses_nothing),
        xt_test(x6_a_paused_command_times_out_with_what_is_in_its_pipes),
        xt_test(x7_a_paused_command_ends_with_its_box),
        xt_test(x7_a_paused_command_that_has_exited_is_cancelled_without_its_box),
        xt_test(x1_x2_state_stays_and_output_needs_no_newline),
        xt_test(x6_x7_nothing_of_a_session_outlives_it),
        xt_test(output_between_turns_is_bounded_and_comes_with_the_next),
        xt_test(a_flood_on_the_control_channel_ends_the_session_only),
        xt_test(what_is_no_shell_is_refused),
        cmocka_unit_test_setup_teardown(a_shell_that_does_not_answer_is_ended, xt_setup_dirs,
                                        xt_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
