// See talk.h. One lock and one condition variable serve every talk.
#include "tests/unit/exec/talk.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static struct timespec patience(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += XT_WAIT_NS / XT_SECOND;
    return until;
}

// With the lock: waits once more; false when the time is over.
static bool wait_more(const struct timespec *until)
{
    return pthread_cond_timedwait(&changed, &lock, until) != ETIMEDOUT;
}

// ---- callbacks --------------------------------------------------------------------------

static void on_started(void *arg)
{
    struct talk *talk = arg;
    pthread_mutex_lock(&lock);
    talk->started = true;
    talk->starts++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static bool on_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct talk *talk = arg;
    pthread_mutex_lock(&lock);
    if (!talk->started)
        talk->late_start = true;
    if (talk->len[kind] + len + 1 > talk->capacity[kind]) {
        talk->capacity[kind] = 2 * (talk->len[kind] + len + 1);
        talk->shown[kind] = realloc(talk->shown[kind], talk->capacity[kind]);
        if (!talk->shown[kind])
            abort();
    }
    memcpy(talk->shown[kind] + talk->len[kind], bytes, len);
    talk->len[kind] += len;
    talk->shown[kind][talk->len[kind]] = '\0';
    bool room = !talk->held;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return room;
}

static void on_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct talk *talk = arg;
    pthread_mutex_lock(&lock);
    talk->over = true;
    talk->failed = err != NULL;
    if (err)
        talk->error = *err;
    talk->result = *result;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void on_written(void *arg, const struct af_error *err)
{
    struct talk *talk = arg;
    pthread_mutex_lock(&lock);
    if (err) {
        talk->refused++;
        talk->refusal = *err;
    } else {
        talk->written++;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

// ---- start and end ----------------------------------------------------------------------

struct talk *talk_start(struct xt *xt, struct exec_command_spec *spec)
{
    struct talk *talk = calloc(1, sizeof(*talk));
    assert_non_null(talk);
    struct af_error err;
    spec->controlled = true;
    spec->on_started = on_started;
    spec->on_output = on_output;
    if (exec_command_start(xt->box, spec, on_done, talk, &talk->command, &err) < 0)
        fail_msg("exec_command_start: %s", err.text);
    return talk;
}

struct talk *talk_sh(struct xt *xt, unsigned rows, unsigned columns, const char *line)
{
    const struct exec_window window = {(uint16_t)rows, (uint16_t)columns};
    struct exec_command_spec spec = {
        .shell_line = line, .stdin_open = true, .terminal = rows ? &window : NULL};
    return talk_start(xt, &spec);
}

void talk_wait(struct talk *talk)
{
    struct timespec until = patience();
    pthread_mutex_lock(&lock);
    while (!talk->over && wait_more(&until))
        ;
    bool over = talk->over;
    pthread_mutex_unlock(&lock);
    if (!over)
        fail_msg("the command does not end; it has shown '%s'",
                 talk->shown[0] ? talk->shown[0] : "");
}

bool talk_is_over(struct talk *talk)
{
    pthread_mutex_lock(&lock);
    bool over = talk->over;
    pthread_mutex_unlock(&lock);
    return over;
}

void talk_expect_exit(struct talk *talk, int code)
{
    talk_wait(talk);
    if (talk->failed || talk->result.timed_out || talk->result.exit_code != code)
        fail_msg("exit code %d, error '%s', shown '%s', stderr '%s'", talk->result.exit_code,
                 talk->failed ? talk->error.text : "", talk->shown[0] ? talk->shown[0] : "",
                 talk->shown[1] ? talk->shown[1] : "");
}

void talk_end(struct talk *talk)
{
    exec_command_cancel(talk->command);
    talk_wait(talk);
    exec_command_unref(talk->command);
    assert_false(talk->late_start);
    assert_true(talk->starts <= 1);
    free(talk->shown[0]);
    free(talk->shown[1]);
    free(talk);
}

// ---- talking ----------------------------------------------------------------------------

void talk_type_later(struct talk *talk, const void *bytes, size_t len, bool eof)
{
    struct af_error err;
    if (exec_command_write(talk->command, bytes, len, eof, on_written, talk, &err) < 0)
        fail_msg("exec_command_write: %s", err.text);
}

void talk_wait_answers(struct talk *talk, size_t count)
{
    struct timespec until = patience();
    pthread_mutex_lock(&lock);
    while (talk->written + talk->refused < count && wait_more(&until))
        ;
    bool enough = talk->written + talk->refused >= count;
    pthread_mutex_unlock(&lock);
    assert_true(enough);
}

void talk_write(struct talk *talk, const void *bytes, size_t len, bool eof)
{
    pthread_mutex_lock(&lock);
    size_t before = talk->written + talk->refused;
    pthread_mutex_unlock(&lock);
    talk_type_later(talk, bytes, len, eof);
    talk_wait_answers(talk, before + 1);
}

void talk_type(struct talk *talk, const char *text)
{
    talk_write(talk, text, strlen(text), false);
}

void talk_expect(struct talk *talk, const char *words)
{
    struct timespec until = patience();
    const char *found = NULL;
    bool more = true;
    pthread_mutex_lock(&lock);
    while (more) {
        found = talk->shown[0] ? strstr(talk->shown[0] + talk->seen, words) : NULL;
        if (found || talk->over)
            break;
        more = wait_more(&until);
    }
    if (found)
        talk->seen = (size_t)(found - talk->shown[0]) + strlen(words);
    pthread_mutex_unlock(&lock);
    if (!found)
        fail_msg("'%s' was not shown after '%.*s', but '%s' (over %d: %s)", words, (int)talk->seen,
                 talk->shown[0] ? talk->shown[0] : "",
                 talk->shown[0] ? talk->shown[0] + talk->seen : "", talk->over,
                 talk->failed ? talk->error.text : "");
}

void talk_wait_started(struct talk *talk)
{
    struct timespec until = patience();
    pthread_mutex_lock(&lock);
    while (!talk->started && !talk->over && wait_more(&until))
        ;
    bool started = talk->started;
    pthread_mutex_unlock(&lock);
    assert_true(started);
}

void talk_signal(struct talk *talk, int number, bool all)
{
    struct af_error err;
    if (exec_command_signal(talk->command, number, all, &err) < 0)
        fail_msg("exec_command_signal: %s", err.text);
}

size_t talk_shown(struct talk *talk)
{
    pthread_mutex_lock(&lock);
    size_t len = talk->len[0];
    pthread_mutex_unlock(&lock);
    return len;
}

void talk_hold(struct talk *talk, bool held)
{
    pthread_mutex_lock(&lock);
    talk->held = held;
    pthread_mutex_unlock(&lock);
    if (!held)
        exec_command_resume(talk->command);
}
