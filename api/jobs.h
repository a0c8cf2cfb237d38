// Work that waits for the kernel or for processes, on threads of its own: neither a call's worker
// nor the runner may wait that long.
//
// Owns its threads. Jobs run in the order in which they come, as many at once as there are threads.
// Errors: an af_error, at the start only. Read next: services/view_change.c, who uses it.
#ifndef AF_API_JOBS_H
#define AF_API_JOBS_H

#include "api/net/pool.h"
#include "mux/base/error.h"

#include <stdatomic.h>

struct jobs;

// Embedded in what the job is about; run frees it.
struct job {
    struct net_pool_item item;
    // *stop becomes true when the daemon ends: be brief from then on.
    void (*run)(struct job *job, const atomic_bool *stop);
    struct jobs *jobs;
};

int jobs_new(unsigned threads, struct jobs **ret, struct af_error *err);
void jobs_submit(struct jobs *jobs, struct job *job);
// Runs what is queued, told to be brief, and frees. NULL is ignored.
void jobs_free(struct jobs *jobs);

#endif
