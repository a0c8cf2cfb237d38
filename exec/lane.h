// Lanes: the engine's worker threads, for what may block on a mount or takes long.
//
// Read next: lane.c, launcher.c.
#ifndef AF_EXEC_LANE_H
#define AF_EXEC_LANE_H

#include "exec/engine_priv.h"

void exec_lane_init(struct exec_lane *lane);
// Starts a thread, at most EXEC_LANE_THREADS_MAX; `prepare` (may be NULL) runs on it first. 0 or an
// errno value.
int exec_lane_start(struct exec_lane *lane, const char *name, void (*prepare)(void));
// Runs what is queued, ends the threads. Allowed when none was started.
void exec_lane_end(struct exec_lane *lane);
void exec_lane_fini(struct exec_lane *lane);

// any: adds a job; one that can wait gives way to all that cannot.
void exec_lane_queue(struct exec_lane *lane, struct exec_job *job, void (*run)(struct exec_job *),
                     bool can_wait);

#endif
