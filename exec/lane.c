// Worker threads with a queue of two ranks. One job at a time in each thread; no lock is held while
// it runs.
//
// Owns: the queues; a job belongs to whoever queued it, and is not touched once it has run.
// Locks: lane->lock (rank 1). Fails: only at the start. Read next: launcher.c.
#include "exec/lane.h"

#include <errno.h>
#include <stdlib.h>

struct beginning {
    struct exec_lane *lane;
    const char *name;
    void (*prepare)(void);
};

void exec_lane_init(struct exec_lane *lane)
{
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->changed, NULL);
    for (int i = 0; i < 2; i++)
        STAILQ_INIT(&lane->jobs[i]);
}

void exec_lane_fini(struct exec_lane *lane)
{
    pthread_mutex_destroy(&lane->lock);
    pthread_cond_destroy(&lane->changed);
}

static struct exec_job *next_job(struct exec_lane *lane)
{
    struct exec_job *job = NULL;
    pthread_mutex_lock(&lane->lock);
    while (STAILQ_EMPTY(&lane->jobs[0]) && STAILQ_EMPTY(&lane->jobs[1]) && !lane->end)
        pthread_cond_wait(&lane->changed, &lane->lock);
    for (int i = 0; i < 2 && !job; i++) {
        job = STAILQ_FIRST(&lane->jobs[i]);
        if (job)
            STAILQ_REMOVE_HEAD(&lane->jobs[i], link);
    }
    pthread_mutex_unlock(&lane->lock);
    return job;
}

static void *lane_main(void *arg)
{
    struct beginning *beginning = arg;
    struct exec_lane *lane = beginning->lane;
    pthread_setname_np(pthread_self(), beginning->name);
    if (beginning->prepare)
        beginning->prepare();
    free(beginning);
    struct exec_job *job;
    while ((job = next_job(lane)))
        job->run(job);
    return NULL;
}

int exec_lane_start(struct exec_lane *lane, const char *name, void (*prepare)(void))
{
    struct beginning *beginning = malloc(sizeof(*beginning));
    if (!beginning)
        return ENOMEM;
    *beginning = (struct beginning){lane, name, prepare};
    int e = exec_thread_start(&lane->threads[lane->started], lane_main, beginning);
    if (e)
        free(beginning);
    else
        lane->started++;
    return e;
}

void exec_lane_end(struct exec_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    lane->end = true;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock);
    while (lane->started > 0)
        pthread_join(lane->threads[--lane->started], NULL);
}

void exec_lane_queue(struct exec_lane *lane, struct exec_job *job, void (*run)(struct exec_job *),
                     bool can_wait)
{
    job->run = run;
    pthread_mutex_lock(&lane->lock);
    STAILQ_INSERT_TAIL(&lane->jobs[can_wait], job, link);
    pthread_mutex_unlock(&lane->lock);
    pthread_cond_signal(&lane->changed); // who runs at once must not find the lock held
}
