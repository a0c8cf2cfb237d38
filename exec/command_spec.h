// From a caller's spec to what is sent: checks, text, pipes. And back: releasing them.
//
// Read next: command_spec.c, stream.h.
#ifndef AF_EXEC_COMMAND_SPEC_H
#define AF_EXEC_COMMAND_SPEC_H

#include "exec/engine_priv.h"

// Checks the spec and makes the command with its text and pipes; nothing is registered or sent. In
// a box that is not known yet the text comes later. `channel` (may be NULL): two descriptors that
// the leader gets as EXEC_CHANNEL_IN and _OUT; they stay the caller's. Thread: any. Errors:
// INVALID_ARGUMENT, RESOURCE_EXHAUSTED.
int exec_command_new(struct exec_box *box, const struct exec_command_spec *spec,
                     const int channel[2], struct exec_command **ret_command, struct af_error *err);

// event: makes the text of a late command, whose box is up. 0, or -1 with its error set.
int exec_command_complete(struct exec_command *command);

// Closes the init's ends of the pipes: it has its own, or never gets them.
void exec_command_close_fds(struct exec_command *command);

// Closes the descriptors that are in no epoll set, and frees.
void exec_command_free(struct exec_command *command);

#endif
