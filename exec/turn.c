// Command lines in a session: the queue, the running one, its end.
//
// One line runs at a time, the others wait in the order in which they came (X3). While a line runs
// the shell's output is its output. A line is over when the shell reports it: whatever its programs
// wrote is in the pipes by then, and is handed over first, so that no sentinel in the output and
// no waiting for silence is needed (X2).
// Owns: turns until their callback. Locks: none; event thread but for the public functions.
// Fails: in the callback. Read next: session.c.
#include "exec/session_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exec/count.h"
#include "exec/stream.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

static void turn_unref(struct exec_turn *turn)
{
    if (atomic_fetch_sub(&turn->refs, 1) != 1)
        return;
    exec_gather_fini(&turn->kept[EXEC_OUTPUT_STDOUT]);
    exec_gather_fini(&turn->kept[EXEC_OUTPUT_STDERR]);
    exec_session_unref(turn->session);
    free(turn->line);
    turn->magic = 0;
    free(turn);
}

// ---- end --------------------------------------------------------------------------------

void exec_turn_finish(struct exec_turn *turn, const struct af_error *err,
                      const struct exec_result *end)
{
    const struct exec_result result = {
        .out = exec_gather_output(&turn->kept[EXEC_OUTPUT_STDOUT]),
        .err = exec_gather_output(&turn->kept[EXEC_OUTPUT_STDERR]),
        .exit_code = end ? end->exit_code : -1,
        .signal = end ? end->signal : 0,
        .out_of_memory = end && end->out_of_memory,
        .duration_ns = turn->started_ns ? af_monotonic_ns() - turn->started_ns : 0,
        .timed_out = turn->timed_out,
    };
    turn->over = true;
    exec_count_end(err, &result);
    turn->done(turn->arg, err, &result);
    turn_unref(turn);
}

static void refuse(struct exec_turn *turn, enum af_status status, const char *text)
{
    struct af_error err;
    af_error_set(&err, status, "%s", text);
    exec_turn_finish(turn, &err, NULL);
}

void exec_session_turn_reported(struct exec_session *session, int status)
{
    struct exec_turn *turn = session->current;
    exec_streams_flush(session->shell);
    session->current = NULL;
    session->last_status = status;
    exec_timer_clear(&session->engine->timers, &session->timer);
    exec_command_unpause(session->shell);
    const struct exec_result end = {
        .exit_code = status,
        .out_of_memory =
            exec_cgroup_ran_out(session->shell->box->launch.cgroup, &turn->memory, status != 0),
    };
    exec_turn_finish(turn, NULL, &end);
    exec_session_next(session);
}

static void on_timeout(struct exec_timer *timer)
{
    struct exec_session *session = EXEC_CONTAINER_OF(timer, struct exec_session, timer);
    session->current->timed_out = true;
    exec_session_end(session, AF_DEADLINE_EXCEEDED, "a command of the session timed out");
}

// ---- start ------------------------------------------------------------------------------

// What background jobs have written since the last turn comes first.
static void take_idle_output(struct exec_session *session, struct exec_turn *turn)
{
    bool room = true;
    for (int kind = 0; kind < 2; kind++) {
        struct exec_gather *idle = &session->idle[kind];
        if (turn->on_output && idle->len > 0)
            room = turn->on_output(turn->arg, kind, idle->bytes, idle->len) && room;
        else if (idle->len > 0)
            exec_gather_add(&turn->kept[kind], turn->output_max, idle->bytes, idle->len);
        turn->kept[kind].total = idle->total;
        exec_gather_fini(idle);
    }
    if (!room)
        exec_streams_pause(session->shell);
}

static void turn_start(struct exec_session *session, struct exec_turn *turn)
{
    char *text = exec_session_turn_text(session->kind, session->sequence + 1, session->last_status,
                                        turn->line);
    if (!text) {
        refuse(turn, AF_RESOURCE_EXHAUSTED, "no memory for the command");
        return;
    }
    session->sequence++;
    session->current = turn;
    turn->started_ns = af_monotonic_ns();
    turn->memory = exec_cgroup_memory_events(session->shell->box->launch.cgroup);
    exec_timer_set(&session->engine->timers, &session->timer, turn->started_ns + turn->timeout_ns,
                   on_timeout);
    take_idle_output(session, turn);
    exec_session_write(session, text);
}

static struct exec_turn *pop(struct exec_session *session)
{
    struct exec_turn *turn = STAILQ_FIRST(&session->waiting);
    STAILQ_REMOVE_HEAD(&session->waiting, link);
    session->waiting_count--;
    turn->waiting = false;
    return turn;
}

void exec_session_next(struct exec_session *session)
{
    exec_session_ref(session); // its last turn may hold the last one
    while (!STAILQ_EMPTY(&session->waiting)) {
        if (session->state == SESSION_OVER)
            refuse(pop(session), AF_FAILED_PRECONDITION,
                   "the session is closed: create another one");
        else if (session->state == SESSION_READY && !session->current)
            turn_start(session, pop(session));
        else
            break;
    }
    exec_session_unref(session);
}

static void on_start(struct exec_post *post)
{
    struct exec_turn *turn = EXEC_CONTAINER_OF(post, struct exec_turn, start_post);
    struct exec_session *session = turn->session;
    if (session->waiting_count >= AF_SESSION_TURNS_MAX) {
        refuse(turn, AF_RESOURCE_EXHAUSTED,
               "too many commands wait in this session: let some end, or use more sessions");
        return;
    }
    STAILQ_INSERT_TAIL(&session->waiting, turn, link);
    session->waiting_count++;
    turn->waiting = true;
    exec_session_next(session);
}

static void on_release(struct exec_post *post)
{
    struct exec_turn *turn = EXEC_CONTAINER_OF(post, struct exec_turn, start_post);
    turn->held = false;
    if (!turn->over)
        on_start(post);
    turn_unref(turn); // the release's own
}

static int check_spec(const struct exec_turn_spec *spec, struct af_error *err)
{
    if (strlen(spec->line) > AF_COMMAND_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the command line is longer than %u bytes",
                            AF_COMMAND_MAX);
    if (spec->timeout_ns < 0 || spec->timeout_ns > AF_TIMEOUT_MAX_NS)
        return af_error_set(err, AF_INVALID_ARGUMENT, "a timeout lies between 0 and %lld s",
                            AF_TIMEOUT_MAX_NS / AF_NS_PER_SEC);
    return 0;
}

int exec_session_run(struct exec_session *session, const struct exec_turn_spec *spec,
                     exec_command_done done, void *arg, struct exec_turn **ret_turn,
                     struct af_error *err)
{
    AF_CHECK_MAGIC(session, EXEC_SESSION_MAGIC);
    if (check_spec(spec, err) < 0)
        return -1;
    struct exec_turn *turn = calloc(1, sizeof(*turn));
    char *line = strdup(spec->line);
    if (!turn || !line) {
        free(turn);
        free(line);
        return af_error_errno(err, ENOMEM, "cannot take the command");
    }
    turn->magic = EXEC_TURN_MAGIC;
    turn->session = session;
    exec_session_ref(session);
    turn->line = line;
    turn->timeout_ns = spec->timeout_ns ? spec->timeout_ns : AF_TIMEOUT_DEFAULT_NS;
    turn->output_max = spec->output_bytes_max ? spec->output_bytes_max : AF_OUTPUT_MAX;
    turn->on_output = spec->on_output;
    turn->done = done;
    turn->arg = arg;
    turn->held = spec->held;
    atomic_init(&turn->refs, (ret_turn ? 2 : 1) + (spec->held ? 1 : 0));
    if (ret_turn)
        *ret_turn = turn;
    exec_count_begin();
    if (!spec->held)
        exec_post(session->engine, &turn->start_post, on_start);
    return 0;
}

void exec_turn_release(struct exec_turn *turn)
{
    AF_CHECK_MAGIC(turn, EXEC_TURN_MAGIC);
    exec_post(turn->session->engine, &turn->start_post, on_release);
}

// ---- cancel and resume ------------------------------------------------------------------

static void on_cancel(struct exec_post *post)
{
    struct exec_turn *turn = EXEC_CONTAINER_OF(post, struct exec_turn, cancel_post);
    struct exec_session *session = turn->session;
    if (turn->waiting) {
        STAILQ_REMOVE(&session->waiting, turn, exec_turn, link);
        session->waiting_count--;
        turn->waiting = false;
        refuse(turn, AF_CANCELLED, "the command was cancelled before it began");
    } else if (turn->held) {
        refuse(turn, AF_CANCELLED, "the command was cancelled before it began");
    } else if (!turn->over) {
        exec_session_end(session, AF_CANCELLED,
                         "the command was cancelled, and its session closed with it");
    }
    turn_unref(turn);
}

void exec_turn_cancel(struct exec_turn *turn)
{
    AF_CHECK_MAGIC(turn, EXEC_TURN_MAGIC);
    if (atomic_exchange(&turn->cancel_posted, true))
        return;
    atomic_fetch_add(&turn->refs, 1);
    exec_post(turn->session->engine, &turn->cancel_post, on_cancel);
}

static void on_resume(struct exec_post *post)
{
    struct exec_turn *turn = EXEC_CONTAINER_OF(post, struct exec_turn, resume_post);
    atomic_store(&turn->resume_posted, false);
    if (turn->session->current == turn)
        exec_command_unpause(turn->session->shell);
    turn_unref(turn);
}

void exec_turn_resume(struct exec_turn *turn)
{
    AF_CHECK_MAGIC(turn, EXEC_TURN_MAGIC);
    if (atomic_exchange(&turn->resume_posted, true))
        return;
    atomic_fetch_add(&turn->refs, 1);
    exec_post(turn->session->engine, &turn->resume_post, on_resume);
}

void exec_turn_ref(struct exec_turn *turn)
{
    atomic_fetch_add(&turn->refs, 1);
}

void exec_turn_unref(struct exec_turn *turn)
{
    if (turn)
        turn_unref(turn);
}
