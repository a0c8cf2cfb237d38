// The system call filters of every box.
//
// Read next: seccomp.c for what is allowed and why.
#ifndef AF_EXEC_SECCOMP_H
#define AF_EXEC_SECCOMP_H

#include "mux/base/error.h"

// Compiles the filters into two sealed memfds, in the order in which they have to be loaded
// (bwrap --add-seccomp-fd). The caller owns them. Errors: INTERNAL, RESOURCE_EXHAUSTED.
int exec_seccomp_new(int ret_fds[2], struct af_error *err);

#endif
