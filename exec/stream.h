// The pipes of a command's output on the engine's side, or its terminal.
//
// Read next: stream.c, command.c.
#ifndef AF_EXEC_STREAM_H
#define AF_EXEC_STREAM_H

#include "exec/engine_priv.h"

// event: puts the pipes of a command into the epoll set. 0 or -errno.
int exec_streams_open(struct exec_command *command);

// event: reads what is there now, a bounded amount and nothing while paused; closes the stream at
// its end.
void exec_stream_read(struct exec_stream *stream);

// event: hands over what is in both pipes at this moment, paused or not.
void exec_streams_flush(struct exec_command *command);

// event: closes the pipes that nobody reads any more; not of a terminal.
void exec_streams_close(struct exec_command *command, bool out, bool err);

// event: stops and resumes reading both pipes.
void exec_streams_pause(struct exec_command *command);
void exec_streams_unpause(struct exec_command *command);

#endif
