// User namespaces for boxes, and the spawning of bubblewrap.
//
// Read next: spawn.c.
#ifndef AF_EXEC_USERNS_H
#define AF_EXEC_USERNS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mux/base/error.h"

// Makes a user namespace in which EXEC_INSIDE_UID is the host's uid and gid, and nothing else is
// mapped. *ret_fd (close-on-exec) keeps it alive; no process stays in it.
// Thread: any, also of a process with threads. Errors: FAILED_PRECONDITION and what to change when
// the machine allows no user namespaces.
int exec_userns_new(uid_t uid, gid_t gid, int *ret_fd, struct af_error *err);

// Lowers the RLIMIT_NPROC of a process in such a namespace, which is uid's. 0 or -errno.
int exec_userns_bound(uid_t uid, pid_t pid, uint64_t processes_max);

struct exec_spawn {
    const char *path;
    char *const *argv;
    int stdin_fd, stdout_fd, stderr_fd;
    const int *keep_fds; // stay open under their numbers; everything else is closed
    size_t keep_count;
    int mount_ns_fd; // the mount namespace to run in, in which `path` is looked up; -1: ours
    int nice;
};

// Executes a program with an empty environment, no supplementary groups and every signal blocked.
// The calling thread is suspended until the program runs, no copy of the address space is made.
// *ret_pid and *ret_pidfd (close-on-exec) are the child; the caller reaps it. 0 or -errno.
int exec_spawn(const struct exec_spawn *spawn, pid_t *ret_pid, int *ret_pidfd);
// The sentence for a -errno of the above: `what` could not be done. Returns -1.
int exec_spawn_error(struct af_error *err, int errnum, const char *what);

#endif
