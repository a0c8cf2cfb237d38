// Starting the init of one box through bubblewrap.
//
// Read next: bwrap.c.
#ifndef AF_EXEC_BWRAP_H
#define AF_EXEC_BWRAP_H

#include "exec/engine_priv.h"

// Makes the user namespace, the socket and the command line of a box, and starts bubblewrap.
// Fills launch->bwrap_pid, bwrap_pidfd, socket_fd and words_fd. Thread: launcher. On failure
// nothing is left running.
int exec_bwrap_start(const struct exec_box *box, struct exec_launch *launch, struct af_error *err);

// Reads "bubblewrap 0.8.0" from `bwrap --version` into ret_version. Thread: any; blocks shortly.
// FAILED_PRECONDITION when it does not run, or is older than what is needed.
int exec_bwrap_version(const char *path, int null_fd, char *ret_version, size_t size,
                       struct af_error *err);

#endif
