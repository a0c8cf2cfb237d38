// A kernel that holds the nodeids it is told to, and answers accordingly when mux asks: at once, on
// the thread that asks: the test's, or the one that sweeps kept versions. Functions assert that
// they work.
#ifndef AF_TESTS_MUX_HELD_KERNEL_H
#define AF_TESTS_MUX_HELD_KERNEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "mux/fid_map.h"
#include "tests/unit/mux/ops_fixture.h"

struct kernel {
    struct mux *mux;
    pthread_mutex_t lock;
    struct mux_fid_map held; // nodeids; under the lock
    atomic_uint asked;
};

// Becomes mux's notifier, until it is stopped.
void kernel_start(struct kernel *kernel, struct fixture *fixture);
void kernel_stop(struct kernel *kernel);
// The nodeid of a path, which is held from now on.
uint64_t kernel_hold(struct kernel *kernel, struct view *view, const char *path);
void kernel_hold_node(struct kernel *kernel, uint64_t nodeid);
// With the FORGET that follows.
void kernel_let_go(struct kernel *kernel, uint64_t nodeid);
struct stat kernel_stat(struct view *view, uint64_t nodeid);
// Of a file that nobody has open in this view.
void unlink_closed(struct view *view, const char *path);
// Everything that can take a record away does; caches are empty.
void clean_up_all(struct fixture *fixture);

#endif
