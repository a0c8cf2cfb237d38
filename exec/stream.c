// Reading a command's output and feeding its stdin.
//
// A command is never blocked by its own flood: what is over the cap is read and counted, not
// kept. One call reads a bounded amount, so that one flood cannot starve other commands.
// stdin is written as the command reads it; a command that closes its stdin loses the rest.
// Owns: buffers and watches of the streams. Thread: event. Fails: memory that is not there counts
// as a reached cap, and is seen as truncated output. Read next: command.c.
#include "exec/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define READS_MAX 4 // of the scratch buffer's size, per call

static void keep(struct exec_stream *stream, const char *bytes, size_t n)
{
    size_t room = stream->command->output_max - stream->len;
    if (n > room)
        n = room;
    size_t needed = stream->len + n + 1;
    if (needed > stream->capacity) {
        size_t capacity = stream->capacity ? stream->capacity : 512;
        while (capacity < needed)
            capacity *= 2;
        char *grown = realloc(stream->bytes, capacity);
        if (!grown)
            return;
        stream->bytes = grown;
        stream->capacity = capacity;
    }
    memcpy(stream->bytes + stream->len, bytes, n);
    stream->len += n;
    stream->bytes[stream->len] = '\0';
}

bool exec_stream_read(struct exec_stream *stream)
{
    struct exec_engine *e = stream->command->engine;
    bool any = false;
    for (int i = 0; i < READS_MAX && stream->watch.fd >= 0; i++) {
        ssize_t n = read(stream->watch.fd, e->scratch, sizeof(e->scratch));
        if (n > 0) {
            any = true;
            stream->total += (uint64_t)n;
            keep(stream, e->scratch, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            exec_watch_close(e, &stream->watch);
        } else if (errno == EAGAIN) {
            break;
        }
    }
    return any;
}

struct exec_output exec_stream_output(struct exec_stream *stream)
{
    return (struct exec_output){
        .bytes = stream->bytes ? stream->bytes : "",
        .len = stream->len,
        .total_bytes = stream->total,
        .truncated = stream->total > stream->len,
    };
}

static void on_output(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_stream *stream = EXEC_CONTAINER_OF(watch, struct exec_stream, watch);
    exec_stream_read(stream);
    exec_command_on_output(stream->command);
}

static void on_stdin(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_command *command = EXEC_CONTAINER_OF(watch, struct exec_command, stdin_watch);
    ssize_t n = write(watch->fd, command->stdin_bytes + command->stdin_at,
                      command->stdin_len - command->stdin_at);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        command->stdin_at += (size_t)n;
    if (n < 0 || command->stdin_at == command->stdin_len)
        exec_watch_close(command->engine, watch);
}

int exec_streams_open(struct exec_command *command)
{
    struct exec_engine *e = command->engine;
    int failed = exec_watch_add(e, &command->out.watch, command->out.watch.fd, EPOLLIN, on_output);
    if (failed == 0)
        failed = exec_watch_add(e, &command->err.watch, command->err.watch.fd, EPOLLIN, on_output);
    if (failed == 0 && command->stdin_watch.fd >= 0)
        failed =
            exec_watch_add(e, &command->stdin_watch, command->stdin_watch.fd, EPOLLOUT, on_stdin);
    return failed;
}
