// Jobs on a pool of threads. Read next: jobs.h.
#include "api/jobs.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

struct jobs {
    struct net_pool pool;
    atomic_bool stop;
};

static void run_item(struct net_pool_item *item)
{
    struct job *job = (struct job *)(void *)((char *)item - offsetof(struct job, item));
    job->run(job, &job->jobs->stop);
}

int jobs_new(unsigned threads, struct jobs **ret, struct af_error *err)
{
    struct jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return af_error_errno(err, ENOMEM, "jobs");
    net_pool_init(&jobs->pool, run_item);
    int rc = net_pool_start(&jobs->pool, threads);
    if (rc < 0) {
        net_pool_fini(&jobs->pool);
        free(jobs);
        return af_error_errno(err, -rc, "cannot start the threads for jobs");
    }
    *ret = jobs;
    return 0;
}

void jobs_submit(struct jobs *jobs, struct job *job)
{
    job->jobs = jobs;
    net_pool_submit(&jobs->pool, &job->item);
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    atomic_store(&jobs->stop, true);
    net_pool_stop(&jobs->pool);
    net_pool_fini(&jobs->pool);
    free(jobs);
}
