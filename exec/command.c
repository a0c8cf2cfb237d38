// Life of a command on the engine's side.
//
//   QUEUED -> RUNNING -> DRAINING -> (ENDING ->) OVER
// Three sources say how it goes: its status pipe (what its supervisor saw), its output pipes,
// and the init's ENDED (nothing of it is left). An exit code comes from an EXITED record alone;
// without one the command ends with an error, whatever else was said (X8).
// Everything but the public functions runs on the event thread.
// Owns: the command, from its post to its callback. Locks: none. Fails: in the callback.
// Read next: command_spec.c (how it is made), stream.c, init/command.c (the other end).
#include "exec/engine_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/command_spec.h"
#include "exec/count.h"
#include "exec/failure.h"
#include "exec/input.h"
#include "exec/pty.h"
#include "exec/send.h"
#include "exec/stream.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

static void on_drain_timer(struct exec_timer *timer);

// ---- end --------------------------------------------------------------------------------

static void unref(struct exec_command *command)
{
    if (atomic_fetch_sub(&command->refs, 1) == 1)
        exec_command_free(command);
}

static void command_exhume(struct exec_grave *grave)
{
    unref(EXEC_CONTAINER_OF(grave, struct exec_command, grave));
}

static void command_detach(struct exec_command *command)
{
    struct exec_engine *e = command->engine;
    struct exec_box *box = command->box;
    exec_timer_clear(&e->timers, &command->timer);
    if (command->timer_reserved)
        exec_timers_release(&e->timers);
    exec_watch_close(e, &command->status);
    exec_watch_close(e, &command->out.watch);
    exec_watch_close(e, &command->err.watch);
    exec_watch_close(e, &command->stdin_watch);
    exec_input_drop(command);
    exec_command_close_fds(command);
    if (command->unsent)
        STAILQ_REMOVE(&box->unsent, command, exec_command, unsent_link);
    LIST_REMOVE(command, link);
    box->used_ns = command->ended_ns ? command->ended_ns : af_monotonic_ns();
}

// Whether the box ran out of memory while the command ran.
static bool ran_out(const struct exec_command *command, bool failed)
{
    return command->id &&
           exec_cgroup_ran_out(command->box->launch.cgroup, &command->memory, failed);
}

static void fill_result(struct exec_command *command, struct exec_result *result, bool with_code)
{
    int64_t end_ns = command->ended_ns ? command->ended_ns : af_monotonic_ns();
    *result = (struct exec_result){.out = exec_gather_output(&command->out.kept),
                                   .err = exec_gather_output(&command->err.kept),
                                   .exit_code = -1,
                                   .duration_ns = end_ns - command->started_ns,
                                   .timed_out = command->timed_out};
    if (!with_code)
        return;
    int status = command->wait_status;
    result->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    result->exit_code = result->signal ? 128 + result->signal : WEXITSTATUS(status);
    result->out_of_memory = ran_out(command, result->exit_code != 0);
}

static void finish(struct exec_command *command)
{
    exec_streams_flush(command);
    bool with_code = command->exited && !command->timed_out && command->error.status == AF_OK;
    bool lost = !with_code && !command->timed_out && command->error.status == AF_OK;
    if (lost && ran_out(command, true))
        af_error_set(&command->error, AF_RESOURCE_EXHAUSTED,
                     "the sandbox reached its memory limit of %" PRIu64
                     " bytes, and the command was ended for it: " EXEC_MEMORY_ADVICE,
                     command->box->resources.memory_bytes);
    else if (lost)
        af_error_set(&command->error, AF_ABORTED,
                     "the command was ended from inside the sandbox before it could report");
    command_detach(command);
    command->state = COMMAND_OVER;
    atomic_store(&command->over, true);
    struct exec_result result;
    fill_result(command, &result, with_code);
    bool failed = command->error.status != AF_OK;
    if (!command->endless)
        exec_count_end(failed ? &command->error : NULL, &result);
    command->done(command->arg, failed ? &command->error : NULL, &result);
    atomic_fetch_sub(&command->box->users, 1);
    exec_engine_bury(command->engine, &command->grave, command_exhume);
}

// ---- ending the tree --------------------------------------------------------------------

static void on_kill_timer(struct exec_timer *timer)
{
    struct exec_command *command = EXEC_CONTAINER_OF(timer, struct exec_command, timer);
    struct af_error why;
    af_error_set(&why, AF_UNAVAILABLE,
                 "a command could not be killed, so its sandbox was ended: start it again");
    exec_box_kill(command->box, &why);
}

// The init is ending the tree; its ENDED has to come in time.
static void wait_for_end(struct exec_command *command)
{
    struct exec_engine *e = command->engine;
    command->state = COMMAND_ENDING;
    exec_timer_set(&e->timers, &command->timer, af_monotonic_ns() + e->options.kill_timeout_ns,
                   on_kill_timer);
}

static void send_later(struct exec_command *command)
{
    if (!command->unsent) {
        command->unsent = true;
        STAILQ_INSERT_TAIL(&command->box->unsent, command, unsent_link);
    }
    exec_box_flush(command->box);
}

static void end_tree(struct exec_command *command)
{
    if (command->state >= COMMAND_ENDING)
        return;
    // Never sent; or its reader alone is what it waits for, and the init does not know it any more.
    if (command->state == COMMAND_QUEUED || (command->exited && !command->left)) {
        finish(command);
        return;
    }
    wait_for_end(command);
    command->end_wanted = true;
    send_later(command);
}

static void on_timeout(struct exec_timer *timer)
{
    struct exec_command *command = EXEC_CONTAINER_OF(timer, struct exec_command, timer);
    command->timed_out = true;
    command->ended_ns = af_monotonic_ns();
    end_tree(command);
}

// ---- draining ---------------------------------------------------------------------------

static void drain_quiet_again(struct exec_command *command)
{
    int64_t at_ns = af_monotonic_ns() + command->engine->options.drain_quiet_ns;
    if (at_ns > command->drain_until_ns)
        at_ns = command->drain_until_ns;
    // A slow reader does not shorten the drain, but cannot stretch it beyond the timeout either.
    int64_t timeout_at_ns = command->started_ns + command->timeout_ns;
    if (command->paused)
        at_ns = command->endless || timeout_at_ns < command->drain_until_ns
                    ? command->drain_until_ns
                    : timeout_at_ns;
    exec_timer_set(&command->engine->timers, &command->timer, at_ns, on_drain_timer);
}

// The drain is over: what is left of the tree goes.
static void drained(struct exec_command *command)
{
    if (command->left)
        end_tree(command);
    else
        finish(command);
}

static void on_drain_timer(struct exec_timer *timer)
{
    drained(EXEC_CONTAINER_OF(timer, struct exec_command, timer));
}

static bool streams_closed(const struct exec_command *command)
{
    return command->out.watch.fd < 0 && command->err.watch.fd < 0;
}

void exec_command_on_output(struct exec_command *command)
{
    if (command->state != COMMAND_DRAINING)
        return;
    if (streams_closed(command))
        drained(command);
    else
        drain_quiet_again(command);
}

void exec_command_unpause(struct exec_command *command)
{
    if (!command->paused || command->state == COMMAND_OVER)
        return;
    exec_streams_unpause(command);
    if (command->state != COMMAND_DRAINING)
        return;
    int64_t since_ns =
        command->paused_ns > command->ended_ns ? command->paused_ns : command->ended_ns;
    command->drain_until_ns += af_monotonic_ns() - since_ns;
    drain_quiet_again(command);
}

// When nothing is left of a command, all that it wrote is in its pipes: whether somebody else has
// them open, its supervisor for one, does not matter. A terminal hands on what was written a moment
// later, and says so by closing.
static void drain_what_there_is(struct exec_command *command)
{
    exec_stream_read(&command->out);
    exec_stream_read(&command->err);
    bool all = !command->left && !command->paused && !command->terminal;
    if (all && command->state == COMMAND_DRAINING)
        finish(command);
    else
        exec_command_on_output(command);
}

// ---- status pipe ------------------------------------------------------------------------

void exec_command_tell_started(struct exec_command *command)
{
    exec_command_started on_started = command->on_started;
    command->on_started = NULL;
    if (on_started)
        on_started(command->arg);
}

// Of all that the command has started.
static void nothing_left(struct exec_command *command)
{
    exec_send_done(command);
    if (command->state == COMMAND_DRAINING)
        drain_what_there_is(command);
    else if (command->state == COMMAND_ENDING)
        finish(command); // before it could be killed
}

static void on_record(struct exec_command *command, const struct exec_status_record *record)
{
    switch (record->kind) {
    case EXEC_STATUS_FAILED:
        if (!command->exited && command->error.status == AF_OK && !command->timed_out)
            exec_failure_set(command, record);
        exec_send_done(command);
        finish(command);
        break;
    case EXEC_STATUS_EXITED:
        if (command->exited)
            break;
        command->exited = true;
        command->wait_status = record->value;
        command->left = record->extra != 0;
        exec_command_tell_started(command);
        if (command->state == COMMAND_RUNNING) {
            command->state = COMMAND_DRAINING;
            command->ended_ns = af_monotonic_ns();
            command->drain_until_ns = command->ended_ns + command->engine->options.drain_max_ns;
        }
        if (!command->left)
            nothing_left(command);
        else if (command->state == COMMAND_DRAINING)
            drain_what_there_is(command);
        break;
    case EXEC_STATUS_GONE:
        command->left = false;
        nothing_left(command);
        break;
    case EXEC_STATUS_STARTED:
        exec_command_tell_started(command);
        break;
    default: // a record that this version does not know says nothing
        break;
    }
}

static void read_status(struct exec_command *command)
{
    struct exec_status_record record;
    while (command->state != COMMAND_OVER && command->status.fd >= 0) {
        ssize_t n = read(command->status.fd, &record, sizeof(record));
        if (n == (ssize_t)sizeof(record)) {
            on_record(command, &record);
        } else if (n < 0 && (errno == EINTR || errno == ECONNRESET)) {
            continue; // the latter, once: an order was left unread; what was said comes after it
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else {
            exec_watch_close(command->engine, &command->status);
            // The supervisor is gone without having said that nothing is left: the init cleans up.
            bool clean = command->exited && !command->left;
            if (!clean && command->state < COMMAND_ENDING)
                wait_for_end(command);
        }
    }
}

static void on_status(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    read_status(EXEC_CONTAINER_OF(watch, struct exec_command, status));
}

static struct exec_command *command_of(struct exec_box *box, uint64_t id)
{
    struct exec_command *command;
    LIST_FOREACH(command, &box->commands, link)
    if (command->id == id)
        break;
    return command;
}

void exec_command_on_ended(struct exec_box *box, uint64_t id)
{
    struct exec_command *command = command_of(box, id);
    if (!command) { // its start may be in the inbox
        exec_posts_run(box->engine);
        command = command_of(box, id);
    }
    if (!command)
        return;           // over already, which is the usual case
    read_status(command); // what the supervisor said before
    if (command->state == COMMAND_OVER)
        return;
    command->left = false;
    exec_send_done(command);
    if (command->state == COMMAND_DRAINING)
        drain_what_there_is(command);
    else
        finish(command);
}

void exec_command_box_gone(struct exec_command *command, const struct af_error *why)
{
    read_status(command);
    if (command->state == COMMAND_OVER)
        return;
    if (!command->timed_out && !command->exited && command->error.status == AF_OK)
        command->error = *why;
    finish(command);
}

// ---- sending ----------------------------------------------------------------------------

// 0, or -1 when the command has ended for want of one.
static int open_terminal(struct exec_command *command)
{
    int failed = exec_pty_open(command);
    if (failed == 0)
        failed = exec_streams_open(command);
    if (failed == 0)
        return 0;
    af_error_errno(&command->error, failed, "cannot open a terminal in the sandbox");
    finish(command);
    return -1;
}

int exec_command_send(struct exec_command *command, int socket_fd)
{
    if (command->state == COMMAND_QUEUED && command->terminal && command->out.watch.fd < 0 &&
        open_terminal(command) < 0)
        return 1;
    if (command->state != COMMAND_QUEUED)
        return command->end_wanted ? exec_send_end(command, socket_fd) : 0;
    int e = exec_send_start(command, socket_fd);
    if (e == 0)
        command->state = COMMAND_RUNNING;
    return e;
}

// ---- start and cancel -------------------------------------------------------------------

int exec_command_watch(struct exec_command *command)
{
    int failed =
        exec_watch_add(command->engine, &command->status, command->status.fd, EPOLLIN, on_status);
    // A terminal can only be opened in a box that is up: when the command is sent.
    return failed || command->terminal ? failed : exec_streams_open(command);
}

static int reserve_timer(struct exec_command *command)
{
    if (exec_timers_reserve(&command->engine->timers) < 0)
        return -ENOMEM;
    command->timer_reserved = true;
    return 0;
}

void exec_command_set_timer(struct exec_command *command)
{
    struct exec_timers *timers = &command->engine->timers;
    int64_t at_ns = command->endless ? INT64_MAX : command->started_ns + command->timeout_ns;
    if (command->eof_at_ns && command->eof_at_ns < at_ns)
        exec_timer_set(timers, &command->timer, command->eof_at_ns, exec_input_on_timer);
    else if (at_ns != INT64_MAX)
        exec_timer_set(timers, &command->timer, at_ns, on_timeout);
}

static void begin(struct exec_command *command)
{
    struct exec_box *box = command->box;
    unsigned slots = exec_send_slots(box);
    int failed = 0;
    if (slots >= command->engine->options.commands_per_box_max)
        af_error_set(&command->error, AF_RESOURCE_EXHAUSTED,
                     "the sandbox runs %u commands already: wait for one to end", slots);
    else if ((failed = reserve_timer(command)) < 0 || (failed = exec_command_watch(command)) < 0)
        af_error_errno(&command->error, failed, "cannot watch the command");
    else if (command->late)
        exec_command_complete(command); // its failure is the command's error
    if (command->state == COMMAND_OVER)
        return; // a session that could not begin has ended it
    if (command->error.status != AF_OK) {
        finish(command);
        return;
    }
    exec_command_set_timer(command);
    send_later(command);
}

// Neither the command's timeout nor its end can be timed: its box, which has a timer, ends with it.
static void end_with_box(struct exec_command *command)
{
    if (command->error.status == AF_OK)
        af_error_set(&command->error, AF_RESOURCE_EXHAUSTED,
                     "no memory to watch a command with, so its sandbox was ended: start it again");
    command->state = COMMAND_ENDING;
    exec_box_kill(command->box, &command->error);
}

// Its START is out (send.c).
static void follow(struct exec_command *command)
{
    command->state = COMMAND_RUNNING;
    if (reserve_timer(command) < 0)
        end_with_box(command);
    else if (command->error.status != AF_OK)
        end_tree(command);
    else
        exec_command_set_timer(command);
}

void exec_command_box_up(struct exec_box *box)
{
    STAILQ_HEAD(, exec_command) waiting = STAILQ_HEAD_INITIALIZER(waiting);
    STAILQ_CONCAT(&waiting, &box->unsent);
    struct exec_command *command;
    while ((command = STAILQ_FIRST(&waiting))) {
        STAILQ_REMOVE_HEAD(&waiting, unsent_link);
        command->unsent = false;
        begin(command);
    }
}

// Begins, now or when the box is up.
static void join(struct exec_command *command)
{
    struct exec_box *box = command->box;
    if (box->state == BOX_UP) {
        begin(command);
    } else if (box->state < BOX_UP) { // else box_gone ends it
        command->unsent = true;
        STAILQ_INSERT_TAIL(&box->unsent, command, unsent_link);
    }
}

static void on_start(struct exec_post *post)
{
    struct exec_command *command = EXEC_CONTAINER_OF(post, struct exec_command, start_post);
    struct exec_box *box = command->box;
    bool sent = exec_send_was_direct(command);
    LIST_INSERT_HEAD(&box->commands, command, link);
    if (box->state == BOX_GONE)
        exec_command_box_gone(command, &box->why);
    else if (sent)
        follow(command);
    else if (!command->held)
        join(command);
}

static void on_release(struct exec_post *post)
{
    struct exec_command *command = EXEC_CONTAINER_OF(post, struct exec_command, release_post);
    command->held = false;
    if (command->state == COMMAND_QUEUED)
        join(command);
    unref(command);
}

void exec_command_release(struct exec_command *command)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &command->release_post, on_release);
}

int exec_command_start(struct exec_box *box, const struct exec_command_spec *spec,
                       exec_command_done done, void *arg, struct exec_command **ret_command,
                       struct af_error *err)
{
    AF_CHECK_MAGIC(box, EXEC_BOX_MAGIC);
    if (exec_box_refuses(box))
        return af_error_set(err, AF_FAILED_PRECONDITION, "the sandbox is not running");
    struct exec_command *command;
    if (exec_command_new(box, spec, NULL, &command, err) < 0)
        return -1;
    command->done = done;
    command->arg = arg;
    command->held = spec->held;
    atomic_store(&command->refs, ret_command ? 2 : 1);
    if (ret_command)
        *ret_command = command;
    exec_count_begin();
    atomic_fetch_add(&box->users, 1);
    if (!exec_send_directly(command, on_start))
        exec_post(command->engine, &command->start_post, on_start);
    return 0;
}

void exec_command_post(struct exec_command *command)
{
    atomic_fetch_add(&command->box->users, 1);
    exec_post(command->engine, &command->start_post, on_start);
}

void exec_command_end(struct exec_command *command)
{
    if (command->state == COMMAND_OVER)
        return;
    if (command->error.status == AF_OK && !command->timed_out)
        af_error_set(&command->error, AF_CANCELLED, "the command was cancelled");
    end_tree(command);
}

static void on_cancel(struct exec_post *post)
{
    struct exec_command *command = EXEC_CONTAINER_OF(post, struct exec_command, cancel_post);
    exec_command_end(command);
    unref(command);
}

static void on_resume(struct exec_post *post)
{
    struct exec_command *command = EXEC_CONTAINER_OF(post, struct exec_command, resume_post);
    atomic_store(&command->resume_posted, false);
    exec_command_unpause(command);
    unref(command);
}

void exec_command_resume(struct exec_command *command)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (atomic_load(&command->over) || atomic_exchange(&command->resume_posted, true))
        return;
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &command->resume_post, on_resume);
}

void exec_command_cancel(struct exec_command *command)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (atomic_load(&command->over) || atomic_exchange(&command->cancel_posted, true))
        return;
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &command->cancel_post, on_cancel);
}

void exec_command_ref(struct exec_command *command)
{
    atomic_fetch_add(&command->refs, 1);
}

void exec_command_unref(struct exec_command *command)
{
    if (command)
        unref(command);
}
