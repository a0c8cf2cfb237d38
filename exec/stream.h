// The pipes of a command on the engine's side: stdout and stderr in, stdin out.
//
// Read next: stream.c, command.c.
#ifndef AF_EXEC_STREAM_H
#define AF_EXEC_STREAM_H

#include "exec/engine_priv.h"

// event: puts the pipes of a command into the epoll set. 0 or -errno.
int exec_streams_open(struct exec_command *command);

// event: reads what is there now, a bounded amount; closes the stream at its end.
// Returns whether bytes came.
bool exec_stream_read(struct exec_stream *stream);

// event: the stream as part of a result. Its bytes stay the stream's.
struct exec_output exec_stream_output(struct exec_stream *stream);

#endif
