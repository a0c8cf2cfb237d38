// The lock of a run directory, which every process of every box holds.
//
// Read next: recover.c.
#ifndef AF_EXEC_RECOVER_H
#define AF_EXEC_RECOVER_H

#include "mux/base/error.h"

// Opens (creating them) and locks the run directory's two lock files: the owner's, which stays in
// this process, and the one that spawned boxes inherit explicitly. Both descriptors are
// close-on-exec. FAILED_PRECONDITION when others hold one of them.
int exec_lock_take(const char *run_dir, int *ret_owner_fd, int *ret_fd, struct af_error *err);

#endif
