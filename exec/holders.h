// Ending the processes of a box that hold what they may no longer have.
//
// exec knows no rules: whether a file is forbidden is the caller's answer, by inode number on one
// device. May be included by api. Read next: holders.c.
#ifndef AF_EXEC_HOLDERS_H
#define AF_EXEC_HOLDERS_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct exec_holders_spec {
    pid_t init; // of the box: exec_box_init
    uid_t uid;
    uint32_t dev_major, dev_minor; // where the files are
    bool (*forbids)(void *arg, uint64_t ino);
    void *arg;
};

// Kills every process of the box, but its init, that has such a file open (also by O_PATH, or as
// an executable), mapped, or as its directory; and those with descriptors on their way in a unix
// socket, since nobody can say of which files. All processes of the box stand still meanwhile
// (SIGSTOP; those that were stopped before stay so), so that none can pass a descriptor on. Those
// that do not stand still within two seconds are killed as well. Blocks; not on exec's threads.
// *ret_ended is how many were killed. Errors: UNAVAILABLE, with every process running again.
int exec_end_holders(const struct exec_holders_spec *spec, uint32_t *ret_ended,
                     struct af_error *err);

#endif
