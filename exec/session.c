// Life of a session: a shell as one endless command of its box, and the channel to it.
//
//   OPENING -> READY -> ENDING -> OVER
// The shell reads its script from one pipe and reports the end of each line on another
// (session_text.h), never in its output. Everything in the sandbox may belong to one adversary,
// who can write to that pipe as well: reports are read with bounds, and one that is not expected
// ends the session. A forged one that is expected ends a turn early, and hurts nobody else.
// That a session is over is what its command's end says, not the channel: an exit code of a shell
// that ended comes from its supervisor (X8).
// Owns: the session, its channel and its shell. Locks: none; event thread but for the public
// functions. Fails: in the callbacks. Read next: turn.c, session_text.c, command.c.
#include "exec/session_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "exec/command_spec.h"
#include "exec/stream.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define SCRIPT "/dev/fd/8" // EXEC_CHANNEL_IN

// ---- memory -----------------------------------------------------------------------------

void exec_session_ref(struct exec_session *session)
{
    atomic_fetch_add(&session->refs, 1);
}

void exec_session_unref(struct exec_session *session)
{
    if (!session || atomic_fetch_sub(&session->refs, 1) != 1)
        return;
    exec_command_unref(session->shell);
    af_cleanup_fd(&session->script.fd);
    af_cleanup_fd(&session->reports.fd);
    exec_gather_fini(&session->idle[0]);
    exec_gather_fini(&session->idle[1]);
    free(session->shell_given);
    free(session->text);
    session->magic = 0;
    free(session);
}

static void session_exhume(struct exec_grave *grave)
{
    exec_session_unref(EXEC_CONTAINER_OF(grave, struct exec_session, grave));
}

// ---- script -----------------------------------------------------------------------------

static void write_script(struct exec_session *session)
{
    ssize_t n = 1;
    while (session->text_at < session->text_len && n > 0) {
        n = write(session->script.fd, session->text + session->text_at,
                  session->text_len - session->text_at);
        if (n > 0)
            session->text_at += (size_t)n;
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    // A shell that does not read any more has ended or will time out: nothing to be done here.
    bool wait = n < 0 && errno == EAGAIN;
    exec_watch_change(session->engine, &session->script, wait ? EPOLLOUT : EPOLLET);
}

static void on_script(struct exec_watch *watch, uint32_t events)
{
    if (events & EPOLLOUT)
        write_script(EXEC_CONTAINER_OF(watch, struct exec_session, script));
}

void exec_session_write(struct exec_session *session, char *text)
{
    free(session->text);
    session->text = text;
    session->text_len = strlen(text);
    session->text_at = 0;
    write_script(session);
}

// Whether the shell has read anything of the current turn's script.
static bool turn_was_begun(const struct exec_session *session)
{
    int unread = 0;
    if (session->script.fd < 0 || ioctl(session->script.fd, FIONREAD, &unread) < 0)
        return false;
    return session->text_at > (size_t)unread;
}

// ---- reports ----------------------------------------------------------------------------

static void on_opened(struct exec_session *session)
{
    session->state = SESSION_READY;
    session->ready_told = true;
    exec_timer_clear(&session->engine->timers, &session->timer);
    exec_streams_flush(session->shell); // what the shell said on its way is nobody's
    exec_gather_fini(&session->idle[EXEC_OUTPUT_STDOUT]);
    exec_gather_fini(&session->idle[EXEC_OUTPUT_STDERR]);
    session->ready(session->arg, NULL);
}

static void on_report(struct exec_session *session)
{
    uint64_t sequence;
    int status;
    if (session->why.status != AF_OK)
        return; // it is being ended: what it says now counts for nothing
    bool known =
        exec_session_parse_report(session->report, session->report_len, &sequence, &status) &&
        sequence == session->sequence;
    if (known && session->state == SESSION_OPENING)
        on_opened(session);
    else if (known && session->current)
        exec_session_turn_reported(session, status);
    else
        exec_session_end(session, AF_ABORTED,
                         "the session's control channel was written to from inside the sandbox, so "
                         "the session was closed: create another");
}

static void read_reports(struct exec_session *session)
{
    char bytes[16 * EXEC_REPORT_MAX];
    ssize_t n;
    do {
        n = read(session->reports.fd, bytes, sizeof(bytes));
    } while (n < 0 && errno == EINTR);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        exec_watch_close(session->engine, &session->reports); // `exec PROGRAM`, or the end
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == '\n') {
            on_report(session);
            session->report_len = 0;
        } else if (session->report_len < EXEC_REPORT_MAX) {
            session->report[session->report_len++] = bytes[i];
        }
        if (session->report_len == EXEC_REPORT_MAX) { // no report is that long: on_report refuses
            on_report(session);
            session->report_len = 0;
        }
    }
}

static void on_reports(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    read_reports(EXEC_CONTAINER_OF(watch, struct exec_session, reports));
}

// ---- the shell's output and end ---------------------------------------------------------

static bool on_shell_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct exec_session *session = arg;
    struct exec_turn *turn = session->current;
    if (turn && turn->on_output) {
        turn->kept[kind].total += len;
        return turn->on_output(turn->arg, kind, bytes, len);
    }
    exec_gather_add(turn ? &turn->kept[kind] : &session->idle[kind],
                    turn ? turn->output_max : AF_SESSION_IDLE_OUTPUT_MAX, bytes, len);
    return true;
}

// Why a session that never came up did not.
static void opening_error(struct exec_session *session, const struct af_error *err,
                          const struct exec_result *result, struct af_error *ret)
{
    if (session->why.status != AF_OK) {
        *ret = session->why;
        return;
    }
    if (err) {
        *ret = *err;
        return;
    }
    struct exec_output words = exec_gather_output(&session->idle[EXEC_OUTPUT_STDERR]);
    af_error_set(ret, AF_INVALID_ARGUMENT,
                 "%.256s cannot be the shell of a session: it ended with exit code %d%s%.200s",
                 atomic_load(&session->shell_path), result->exit_code,
                 words.len ? " and said: " : "", words.bytes);
}

static void turn_ended_with_shell(struct exec_session *session, struct exec_turn *turn, bool begun,
                                  const struct af_error *err, const struct exec_result *result)
{
    struct af_error ended;
    session->current = NULL;
    if (turn->timed_out) {
        exec_turn_finish(turn, NULL, NULL);
    } else if (session->why.status != AF_OK) {
        exec_turn_finish(turn, &session->why, NULL);
    } else if (err) {
        exec_turn_finish(turn, err, NULL);
    } else if (begun) {
        exec_turn_finish(turn, NULL, result);
    } else {
        af_error_set(&ended, AF_FAILED_PRECONDITION,
                     "the session's shell has ended: create another session");
        exec_turn_finish(turn, &ended, NULL);
    }
}

// Nothing of the session is running any more.
static void on_shell_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct exec_session *session = arg;
    struct exec_engine *e = session->engine;
    session->state = SESSION_ENDING;
    bool begun = turn_was_begun(session);
    // The last line may have been reported before the shell ended.
    if (session->ready_told && session->reports.fd >= 0)
        read_reports(session);
    exec_timer_clear(&e->timers, &session->timer);
    if (session->timer_reserved)
        exec_timers_release(&e->timers);
    exec_watch_close(e, &session->script);
    exec_watch_close(e, &session->reports);
    session->state = SESSION_OVER;
    if (session->ready_told) {
        session->closed(session->arg);
    } else {
        struct af_error why;
        opening_error(session, err, result, &why);
        session->ready(session->arg, &why);
    }
    if (session->current)
        turn_ended_with_shell(session, session->current, begun, err, result);
    exec_session_next(session);
    exec_engine_bury(e, &session->grave, session_exhume);
}

void exec_session_end(struct exec_session *session, enum af_status status, const char *text)
{
    if (session->state >= SESSION_ENDING)
        return;
    session->state = SESSION_ENDING;
    af_error_set(&session->why, status, "%s", text);
    exec_command_end(session->shell);
}

// ---- start ------------------------------------------------------------------------------

static void on_opening_timer(struct exec_timer *timer)
{
    exec_session_end(EXEC_CONTAINER_OF(timer, struct exec_session, timer), AF_DEADLINE_EXCEEDED,
                     "the session's shell did not answer: is it a POSIX shell?");
}

// Says the shell its first words.
static void open_shell(struct exec_session *session)
{
    struct exec_engine *e = session->engine;
    char *text = NULL;
    if (session->state != SESSION_OPENING)
        return;
    int failed = exec_timers_reserve(&e->timers);
    session->timer_reserved = failed == 0;
    if (failed == 0)
        failed = exec_watch_add(e, &session->reports, session->reports.fd, EPOLLIN, on_reports);
    if (failed == 0)
        failed = exec_watch_add(e, &session->script, session->script.fd, EPOLLET, on_script);
    if (failed == 0 && (text = exec_session_opening(session->kind))) {
        exec_timer_set(&e->timers, &session->timer, af_monotonic_ns() + e->options.start_timeout_ns,
                       on_opening_timer);
        exec_session_write(session, text);
    } else {
        exec_session_end(session, AF_RESOURCE_EXHAUSTED, "no memory for another session");
    }
}

// Runs after the shell's own start.
static void on_open(struct exec_post *post)
{
    struct exec_session *session = EXEC_CONTAINER_OF(post, struct exec_session, open_post);
    open_shell(session);
    exec_session_unref(session);
}

static void choose_shell(struct exec_session *session, const struct exec_box *box)
{
    const char *root = box->shell == EXEC_SHELL_BASH ? "/bin/bash" : "/bin/sh";
    const char *path = session->shell_given ? session->shell_given : root;
    atomic_store(&session->shell_path, path);
    session->kind = exec_shell_kind_of(path);
}

// The box has come up, and says which shell it has.
static void on_begin(void *arg)
{
    struct exec_session *session = arg;
    choose_shell(session, session->shell->box);
    open_shell(session);
}

// The engine's ends go to the session, the shell's to `theirs`.
static int open_channel(struct exec_session *session, const struct exec_box *box, int theirs[2])
{
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) < 0)
        return -errno;
    theirs[0] = in[0];
    session->script.fd = in[1];
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    theirs[1] = out[1];
    session->reports.fd = out[0];
    // The shell opens its script by path.
    if (fchown(in[0], box->uid, box->gid) < 0 || fchown(out[0], box->uid, box->gid) < 0 ||
        fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 || fcntl(out[0], F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

static struct exec_session *session_alloc(struct exec_box *box,
                                          const struct exec_session_spec *spec)
{
    struct exec_session *session = calloc(1, sizeof(*session));
    if (!session)
        return NULL;
    session->magic = EXEC_SESSION_MAGIC;
    session->engine = box->engine;
    session->script.fd = session->reports.fd = -1;
    STAILQ_INIT(&session->waiting);
    atomic_init(&session->refs, 1);
    bool given = spec->shell && spec->shell[0];
    session->shell_given = given ? strdup(spec->shell) : NULL;
    if (given && !session->shell_given) {
        exec_session_unref(session);
        return NULL;
    }
    choose_shell(session, box);
    return session;
}

// The shell as a command that is ready to be posted.
static int shell_new(struct exec_session *session, struct exec_box *box,
                     const struct exec_session_spec *spec, struct af_error *err)
{
    int theirs[2] = {-1, -1};
    const char *const argv[] = {session->shell_given, SCRIPT, NULL};
    const struct exec_command_spec command = {.argv = session->shell_given ? argv : NULL,
                                              .root_shell = !session->shell_given,
                                              .shell_argument =
                                                  session->shell_given ? NULL : SCRIPT,
                                              .env = spec->env,
                                              .env_count = spec->env_count,
                                              .on_output = on_shell_output};
    int failed = open_channel(session, box, theirs);
    int rc = failed < 0 ? af_error_set(err, AF_RESOURCE_EXHAUSTED,
                                       "cannot make the pipes of a session: %s", strerror(-failed))
                        : exec_command_new(box, &command, theirs, &session->shell, err);
    af_cleanup_fd(&theirs[0]);
    af_cleanup_fd(&theirs[1]);
    return rc;
}

int exec_session_start(struct exec_box *box, const struct exec_session_spec *spec,
                       exec_session_ready ready, exec_session_closed closed, void *arg,
                       struct exec_session **ret_session, struct af_error *err)
{
    AF_CHECK_MAGIC(box, EXEC_BOX_MAGIC);
    if (exec_box_refuses(box))
        return af_error_set(err, AF_FAILED_PRECONDITION, "the sandbox is not running");
    if (spec->shell && (spec->shell[0] == '-' || strlen(spec->shell) > AF_PATH_MAX))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a session's shell is a path or the name of a program");
    struct exec_session *session = session_alloc(box, spec);
    if (!session)
        return af_error_errno(err, ENOMEM, "cannot make a session");
    if (shell_new(session, box, spec, err) < 0) {
        exec_session_unref(session);
        return -1;
    }
    session->ready = ready;
    session->closed = closed;
    session->arg = arg;
    session->shell->done = on_shell_done;
    session->shell->arg = session;
    session->shell->endless = true;
    atomic_store(&session->shell->refs, 2);
    bool late = session->shell->late != NULL;
    session->shell->on_begin = late ? on_begin : NULL;
    atomic_store(&session->refs, late ? 2 : 3); // the owner's, the shell's, on_open's
    *ret_session = session;
    exec_command_post(session->shell);
    if (!late)
        exec_post(session->engine, &session->open_post, on_open);
    return 0;
}

const char *exec_session_shell(const struct exec_session *session)
{
    return atomic_load(&session->shell_path);
}

// ---- close ------------------------------------------------------------------------------

static void on_close(struct exec_post *post)
{
    struct exec_session *session = EXEC_CONTAINER_OF(post, struct exec_session, close_post);
    exec_session_end(session, AF_CANCELLED, "the session was closed");
    exec_session_unref(session);
}

void exec_session_close(struct exec_session *session)
{
    AF_CHECK_MAGIC(session, EXEC_SESSION_MAGIC);
    if (atomic_exchange(&session->close_posted, true))
        return;
    exec_session_ref(session);
    exec_post(session->engine, &session->close_post, on_close);
}
