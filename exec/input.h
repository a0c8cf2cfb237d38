// A command's stdin on the engine's side: what waits to be written, and writing it.
//
// Read next: input.c, stream.h.
#ifndef AF_EXEC_INPUT_H
#define AF_EXEC_INPUT_H

#include "exec/engine_priv.h"

// any: a piece of input that belongs to no post yet; NULL when memory is short.
struct exec_input *exec_input_new(const void *bytes, size_t len, enum exec_eof eof);

// event: watches the command's stdin, if it has one, and begins to write. 0 or -errno.
int exec_input_open(struct exec_command *command);

// event: types a terminal's end of input again where it is to be (on the command's timer).
void exec_input_on_timer(struct exec_timer *timer);

// event, or before the command is posted: what was not written never will be; its callers hear so.
void exec_input_drop(struct exec_command *command);

#endif
