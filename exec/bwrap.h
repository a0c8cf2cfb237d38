// The bubblewrap program that is there.
//
// Read next: bwrap.c.
#ifndef AF_EXEC_BWRAP_H
#define AF_EXEC_BWRAP_H

#include "exec/engine_priv.h"

// Reads "bubblewrap 0.8.0" from `bwrap --version` into ret_version. Thread: any; blocks shortly.
// FAILED_PRECONDITION when it does not run, or is older than what is needed.
int exec_bwrap_version(const char *path, int null_fd, char *ret_version, size_t size,
                       struct af_error *err);

#endif
