// Attaching a view to a box that is up, and checking what a box's init is.
//
// Read next: attach.c.
#ifndef AF_EXEC_ATTACH_H
#define AF_EXEC_ATTACH_H

#include <sys/types.h>

#include "mux/base/error.h"

// Makes the calling thread able to enter mount namespaces (it gets a root and working directory
// of its own). *ret_home_fd names the namespace to come back to. Call once in the thread.
int exec_attach_thread_init(int *ret_home_fd, struct af_error *err);

// Mounts in the init's mount namespace: the directory `path` of this one on /workspace, nosuid and
// nodev (NULL: nothing); a devpts of its own on /dev/pts, of which *ret_pts_fd is a descriptor
// (NULL: none). Thread: one that has called exec_attach_thread_init, never one that serves the
// mount itself: walking to `path` may ask the file system. NOT_FOUND when there is no such
// directory.
int exec_attach(int home_fd, int init_pidfd, const char *path, int *ret_pts_fd,
                struct af_error *err);

// The error of a step of a start. ESRCH is the init, which has ended meanwhile: UNAVAILABLE.
int exec_attach_error(struct af_error *err, int errnum, const char *what);

// Checks that the init is what was asked for: a child of bwrap that runs as exactly this host
// uid and gid, without capabilities, with no_new_privs and the filters, in a pid namespace.
// INTERNAL when not: the box must then be ended. Thread: any.
int exec_attach_check(pid_t init_pid, int init_pidfd, pid_t bwrap_pid, uid_t uid, gid_t gid,
                      struct af_error *err);

// Whether the kernel has the calls that are needed. FAILED_PRECONDITION.
int exec_attach_probe(struct af_error *err);

#endif
