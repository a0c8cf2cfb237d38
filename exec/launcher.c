// The launcher thread: what may block on a mount or takes long, one job at a time.
//
// It spawns bubblewrap (which is bound to the life of the thread that started it, so this thread
// lives until the last box is gone) and attaches views (it has a root and working directory of
// its own). It never serves a file system and holds no lock while it works.
// Owns: the job at hand (box->launch) until it posts the answer; reads what is constant in a box.
// Locks: jobs_lock (rank 1). Fails: launch->failed and launch->error. Read next: box.c.
#include "exec/launcher.h"

#include <stdlib.h>
#include <unistd.h>

#include "exec/attach.h"
#include "exec/bwrap.h"
#include "exec/pty.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

static _Thread_local int home_fd = -1; // the launcher's mount namespace

static struct exec_box *box_of(struct exec_job *job)
{
    return EXEC_CONTAINER_OF(job, struct exec_box, launch.job);
}

static void answer(struct exec_box *box, int result)
{
    box->launch.failed = result < 0;
    exec_post(box->engine, &box->launch.done, box->launch.done.fn);
}

static void run_start(struct exec_job *job)
{
    struct exec_box *box = box_of(job);
    answer(box, exec_bwrap_start(box, &box->launch, &box->launch.error));
}

static void run_attach(struct exec_job *job)
{
    struct exec_box *box = box_of(job);
    struct exec_launch *launch = &box->launch;
    int result = exec_attach_check(launch->init_pid, launch->init_pidfd, launch->bwrap_pid,
                                   box->uid, box->gid, &launch->error);
    if (result == 0)
        result =
            exec_pty_locate(launch->init_pid, launch->init_pidfd, &launch->pts_fd, &launch->error);
    if (result == 0 && box->view_path)
        result = exec_attach(home_fd, launch->init_pidfd, box->view_path, &launch->error);
    answer(box, result);
}

static void queue(struct exec_box *box, void (*run)(struct exec_job *),
                  void (*done)(struct exec_post *))
{
    box->launch.running = true;
    box->launch.done.fn = done;
    exec_job_queue(box->engine, &box->launch.job, run);
}

void exec_launch_start(struct exec_box *box, void (*done)(struct exec_post *))
{
    queue(box, run_start, done);
}

void exec_launch_attach(struct exec_box *box, void (*done)(struct exec_post *))
{
    queue(box, run_attach, done);
}

static struct exec_job *next_job(struct exec_engine *e)
{
    pthread_mutex_lock(&e->jobs_lock);
    while (STAILQ_EMPTY(&e->jobs) && !e->jobs_end)
        pthread_cond_wait(&e->jobs_changed, &e->jobs_lock);
    struct exec_job *job = STAILQ_FIRST(&e->jobs);
    if (job)
        STAILQ_REMOVE_HEAD(&e->jobs, link);
    pthread_mutex_unlock(&e->jobs_lock);
    return job;
}

void *exec_launcher_main(void *arg)
{
    struct exec_engine *e = arg;
    pthread_setname_np(pthread_self(), "exec-launcher");
    struct af_error err;
    if (exec_attach_thread_init(&home_fd, &err) < 0) {
        af_log(AF_LOG_ERROR, EXEC_AREA, "launcher", "error=\"%s\"", err.text);
        abort(); // only without CAP_SYS_ADMIN or /proc, which exec_setup has checked
    }
    struct exec_job *job;
    while ((job = next_job(e)))
        job->run(job);
    close(home_fd);
    return NULL;
}
