// Writing a command's stdin as fast as the command reads it.
//
// Pieces of input queue up in the command, bounded in bytes; each tells its caller when it is in
// the pipe or the terminal, which is how callers are held at the command's speed. One event
// writes a bounded amount. A command that closes its stdin loses the rest, and its callers hear it.
// The end of input closes a pipe. A terminal stays open: its end of input is a key, which the
// terminal or, in raw mode, the program makes something of. A program that reads on after the end
// of a pipe reads an end again; so the key is typed again when what was typed has been read, and
// also when the terminal has lost it: it was typed for lines, and is read raw, as a NUL.
// Owns: the queue and the watch of stdin. Thread: event, but for exec_command_write. Locks: none.
// Fails: in the callbacks. Read next: stream.c, pty.c.
#include "exec/input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "exec/pty.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define WRITES_MAX 4 // per event

// From one look whether a terminal's end of input has been read to the next.
#define EOF_PAUSE_MIN_NS (AF_NS_PER_SEC / 50)
#define EOF_PAUSE_MAX_NS AF_NS_PER_SEC

struct exec_input *exec_input_new(const void *bytes, size_t len, enum exec_eof eof)
{
    struct exec_input *input = calloc(1, sizeof(*input) + len);
    if (!input)
        return NULL;
    if (len > 0)
        memcpy(input->bytes, bytes, len);
    input->len = len;
    input->eof = eof;
    return input;
}

static size_t cost(const struct exec_input *input)
{
    return sizeof(*input) + input->len;
}

// Tells the caller, and frees; the input is in no list.
static void settle(struct exec_input *input, const char *why)
{
    struct exec_command *command = input->command;
    if (input->done) {
        struct af_error err;
        if (why)
            af_error_set(&err, AF_FAILED_PRECONDITION, "%s", why);
        input->done(input->arg, why ? &err : NULL);
    }
    if (command) {
        atomic_fetch_sub(&command->input_bytes, cost(input));
        exec_command_unref(command);
    }
    free(input);
}

static void drop_all(struct exec_command *command, const char *why)
{
    struct exec_input *input;
    while ((input = STAILQ_FIRST(&command->input))) {
        STAILQ_REMOVE_HEAD(&command->input, link);
        settle(input, why);
    }
}

void exec_input_drop(struct exec_command *command)
{
    drop_all(command, "the command has ended before it read its stdin");
}

static void close_stdin(struct exec_command *command)
{
    exec_watch_close(command->engine, &command->stdin_watch);
    drop_all(command, "the command has closed its stdin");
}

// Whether the whole of it is written; else 0 for later, or -errno.
static int write_one(struct exec_command *command, struct exec_input *input)
{
    while (input->at < input->len) {
        ssize_t n =
            write(command->stdin_watch.fd, input->bytes + input->at, input->len - input->at);
        if (n > 0)
            input->at += (size_t)n;
        else if (n < 0 && errno != EINTR)
            return errno == EAGAIN ? 0 : -errno;
        else if (n == 0)
            return 0;
    }
    return 1;
}

static void ended_for_good(struct exec_command *command)
{
    command->eof_pause_ns = EOF_PAUSE_MIN_NS;
    command->eof_at_ns = af_monotonic_ns() + command->eof_pause_ns;
    if (command->state <= COMMAND_RUNNING)
        exec_command_set_timer(command);
}

void exec_input_on_timer(struct exec_timer *timer)
{
    struct exec_command *command = EXEC_CONTAINER_OF(timer, struct exec_command, timer);
    if (!command->out.hung && STAILQ_EMPTY(&command->input) &&
        exec_pty_is_read(command->stdin_watch.fd))
        exec_pty_end_input(command->stdin_watch.fd);
    command->eof_pause_ns *= 2;
    if (command->eof_pause_ns > EOF_PAUSE_MAX_NS)
        command->eof_pause_ns = EOF_PAUSE_MAX_NS;
    command->eof_at_ns = af_monotonic_ns() + command->eof_pause_ns;
    exec_command_set_timer(command);
}

static void write_input(struct exec_command *command)
{
    struct exec_input *input;
    for (int i = 0; i < WRITES_MAX && (input = STAILQ_FIRST(&command->input)); i++) {
        int rc = write_one(command, input);
        if (rc == 0)
            break;
        if (rc < 0 && !command->terminal) {
            close_stdin(command);
            return;
        }
        bool eof = rc > 0 && input->eof;
        if (eof && command->terminal && exec_pty_end_input(command->stdin_watch.fd) == -EAGAIN)
            break;
        STAILQ_REMOVE_HEAD(&command->input, link);
        if (eof && command->terminal && input->eof == EXEC_EOF_FOR_GOOD)
            ended_for_good(command);
        settle(input, rc < 0 ? "nothing has the command's terminal open" : NULL);
        if (eof && !command->terminal) {
            close_stdin(command);
            return;
        }
    }
    // A reader that goes away is told on an edge as well.
    exec_watch_change(command->engine, &command->stdin_watch,
                      STAILQ_EMPTY(&command->input) ? EPOLLET : EPOLLOUT);
}

static void on_stdin(struct exec_watch *watch, uint32_t events)
{
    struct exec_command *command = EXEC_CONTAINER_OF(watch, struct exec_command, stdin_watch);
    if (events & EPOLLERR && !command->terminal)
        close_stdin(command); // nobody has the other end
    else if (events & EPOLLOUT)
        write_input(command);
}

int exec_input_open(struct exec_command *command)
{
    if (command->stdin_watch.fd < 0)
        return 0;
    int failed = exec_watch_add(command->engine, &command->stdin_watch, command->stdin_watch.fd,
                                EPOLLET, on_stdin);
    command->stdin_watched = failed == 0;
    if (failed == 0 && !STAILQ_EMPTY(&command->input))
        write_input(command);
    return failed;
}

static void on_write(struct exec_post *post)
{
    struct exec_input *input = EXEC_CONTAINER_OF(post, struct exec_input, post);
    struct exec_command *command = input->command;
    if (command->state == COMMAND_OVER) {
        settle(input, "the command has ended");
        return;
    }
    if (command->stdin_watch.fd < 0 && (command->stdin_watched || !command->terminal)) {
        settle(input, "the command's stdin is closed");
        return;
    }
    bool first = STAILQ_EMPTY(&command->input);
    STAILQ_INSERT_TAIL(&command->input, input, link);
    if (first && command->stdin_watched)
        write_input(command);
}

int exec_command_write(struct exec_command *command, const void *bytes, size_t len,
                       enum exec_eof eof, exec_command_written done, void *arg,
                       struct af_error *err)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (!command->stdin_open)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the command was started without an open stdin");
    struct exec_input *input = exec_input_new(bytes, len, eof);
    if (!input)
        return af_error_errno(err, ENOMEM, "cannot take the command's input");
    size_t before = atomic_fetch_add(&command->input_bytes, cost(input));
    if (before > 0 && before + cost(input) > AF_STDIN_QUEUE_MAX) {
        atomic_fetch_sub(&command->input_bytes, cost(input));
        free(input);
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%zu bytes wait for the command to read them: wait for an earlier "
                            "write to end",
                            before);
    }
    input->command = command;
    input->done = done;
    input->arg = arg;
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &input->post, on_write);
    return 0;
}
