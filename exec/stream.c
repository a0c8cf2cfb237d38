// Reading a command's output.
//
// Without a receiver output is kept up to a cap, and a command is never blocked by its own flood:
// what is over the cap is read and counted. With a receiver (on_output) it is handed over as it
// comes; while the receiver has enough the pipes are not read, and fill up: that is what slows a
// command down to its reader, and no other. One call reads a bounded amount, so that one flood
// cannot starve other commands. Whatever the receiver says, what is in the pipes at the end (no
// more than they hold) is handed over then, so that an end never waits for a reader.
// A terminal that nothing has open reads as ended (EIO), but may be opened again for as long as its
// command runs; until then it is watched for edges only, since epoll would report it for ever.
// Owns: buffers and watches of the streams. Thread: event. Fails: not (see gather.h).
// Read next: command.c, input.c (stdin).
#include "exec/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "exec/input.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define READS_MAX    4           // of the scratch buffer's size, per call
#define PTY_HELD_MAX (128 << 10) // more than a terminal holds for its reader

// Hands bytes over, or keeps them. A receiver that has had enough for now pauses the command.
static void deliver(struct exec_stream *stream, const char *bytes, size_t n)
{
    struct exec_command *command = stream->command;
    exec_command_tell_started(command);
    if (!command->on_output) {
        exec_gather_add(&stream->kept, command->output_max, bytes, n);
        return;
    }
    stream->kept.total += n;
    enum exec_output_kind kind = stream == &command->out ? EXEC_OUTPUT_STDOUT : EXEC_OUTPUT_STDERR;
    if (!command->on_output(command->arg, kind, bytes, n))
        exec_streams_pause(command);
}

static void ended(struct exec_stream *stream)
{
    struct exec_command *command = stream->command;
    if (!command->terminal || command->state != COMMAND_RUNNING) {
        exec_watch_close(command->engine, &stream->watch);
        return;
    }
    stream->hung = true;
    exec_watch_change(command->engine, &stream->watch, EPOLLIN | EPOLLET);
}

static void heard(struct exec_stream *stream)
{
    if (stream->hung)
        exec_watch_change(stream->command->engine, &stream->watch, EPOLLIN);
    stream->hung = false;
}

void exec_stream_read(struct exec_stream *stream)
{
    struct exec_command *command = stream->command;
    struct exec_engine *e = command->engine;
    for (int i = 0; i < READS_MAX && stream->watch.fd >= 0 && !command->paused; i++) {
        ssize_t n = read(stream->watch.fd, e->scratch, sizeof(e->scratch));
        if (n > 0) {
            heard(stream);
            deliver(stream, e->scratch, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            ended(stream);
            break;
        } else if (errno == EAGAIN) {
            break;
        }
    }
}

static void flush(struct exec_stream *stream)
{
    struct exec_engine *e = stream->command->engine;
    int left = PTY_HELD_MAX; // a terminal cannot say what it holds
    if (stream->watch.fd < 0 ||
        (!stream->command->terminal && ioctl(stream->watch.fd, FIONREAD, &left) < 0))
        return;
    while (left > 0) {
        size_t wanted = (size_t)left < sizeof(e->scratch) ? (size_t)left : sizeof(e->scratch);
        ssize_t n = read(stream->watch.fd, e->scratch, wanted);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        deliver(stream, e->scratch, (size_t)n);
        left -= (int)n;
    }
}

void exec_streams_flush(struct exec_command *command)
{
    flush(&command->out);
    flush(&command->err);
}

void exec_streams_close(struct exec_command *command, bool out, bool err)
{
    if (out)
        exec_watch_close(command->engine, &command->out.watch);
    if (err)
        exec_watch_close(command->engine, &command->err.watch);
    exec_command_on_output(command); // an end that waited for no more than these
}

// ---- pause ------------------------------------------------------------------------------

// Closed pipes say so whatever is asked of epoll: edge-triggered they say it once.
static void watch_streams(struct exec_command *command, uint32_t events)
{
    struct exec_stream *streams[] = {&command->out, &command->err};
    for (size_t i = 0; i < AF_ARRAY_LEN(streams); i++)
        if (streams[i]->watch.fd >= 0)
            exec_watch_change(command->engine, &streams[i]->watch, events);
}

void exec_streams_pause(struct exec_command *command)
{
    if (command->paused)
        return;
    command->paused = true;
    command->paused_ns = af_monotonic_ns();
    watch_streams(command, EPOLLET);
}

void exec_streams_unpause(struct exec_command *command)
{
    command->paused = false;
    command->out.hung = false; // asked again
    watch_streams(command, EPOLLIN);
}

// ---- events -----------------------------------------------------------------------------

static void on_output(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_stream *stream = EXEC_CONTAINER_OF(watch, struct exec_stream, watch);
    exec_stream_read(stream);
    exec_command_on_output(stream->command);
}

int exec_streams_open(struct exec_command *command)
{
    struct exec_engine *e = command->engine;
    int failed = exec_watch_add(e, &command->out.watch, command->out.watch.fd, EPOLLIN, on_output);
    if (failed == 0 && !command->terminal)
        failed = exec_watch_add(e, &command->err.watch, command->err.watch.fd, EPOLLIN, on_output);
    return failed ? failed : exec_input_open(command);
}
