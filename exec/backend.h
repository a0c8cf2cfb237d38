// What can make a box: the steps between "a box is wanted" and "an init says HELLO", and back.
//
// One file per backend: bwrap.c, docker.c. Everything after the HELLO is the same for all: the
// protocol, commands, sessions, how a view is attached. Every function runs on a lane (it may
// block), reads what is constant in the box and writes to `launch` alone. Errors: an af_error.
// Read next: launcher.c.
#ifndef AF_EXEC_BACKEND_H
#define AF_EXEC_BACKEND_H

#include "exec/engine_priv.h"

struct exec_backend {
    const char *name;
    enum exec_lane_kind lane; // of start and remove
    // Brings an init up. Fills launch->socket_fd, and what this backend needs of the rest; on
    // failure nothing is left but what `remove` takes away. 1: something has to come first, whose
    // end starts it anew (exec_launch_again); the box may be another thread's already.
    int (*start)(const struct exec_box *box, struct exec_launch *launch, struct af_error *err);
    // Whether the init, which has said HELLO, is confined as it has to be.
    int (*check)(const struct exec_box *box, const struct exec_launch *launch,
                 struct af_error *err);
    // Takes away what is left once the init has ended or never came up, and an init that does not
    // end when it is killed. NULL: nothing is.
    void (*remove)(const struct exec_box *box, struct exec_launch *launch);
    bool bounds_itself; // the box's resources are enforced by start
    bool has_terminals; // start mounts a devpts, too; else the attaching lane does
};

extern const struct exec_backend exec_backend_bwrap;
extern const struct exec_backend exec_backend_docker;

#endif
