// A command's terminal on the engine's side.
//
// Read next: pty.c, stream.c (what it shows), input.c (what is typed).
#ifndef AF_EXEC_PTY_H
#define AF_EXEC_PTY_H

#include "exec/engine_priv.h"

// launcher: finds the devpts of a container whose init is this process, before anything else runs
// in it, and bounds the terminals it can make. *ret_fd is -1 where there is none.
int exec_pty_locate(pid_t init_pid, int init_pidfd, int *ret_fd, struct af_error *err);

// launcher: makes a devpts, detached, for the box in whose mount namespace the thread is. 0 or
// -errno. Only such a one keeps off the terminals that the kernel reserves for the machine.
int exec_pty_mount_new(int *ret_fd);

// any, before the command is posted: the size that its terminal is to have.
void exec_pty_want(struct exec_command *command, const struct exec_window *window);

// event: opens a terminal in the command's box: the master becomes its streams, the slave is added
// to what the init gets. 0 or -errno.
int exec_pty_open(struct exec_command *command);

// event: types the end of input. 0, also when it has no key, or -EAGAIN.
int exec_pty_end_input(int master);
// event: whether all that was typed has been read.
bool exec_pty_is_read(int master);

#endif
