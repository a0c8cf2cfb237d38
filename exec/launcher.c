// The jobs that make a box: what may block on a mount or takes long.
//
// Spawning bubblewrap and attaching views have a thread each: a start from the pool, which only
// attaches, never waits behind a spawn. A pool's members are spawned after everybody else, with
// the lowest priority; a box that gets a sandbox is brought back to the normal one.
// Owns: the job at hand (box->launch) until it posts the answer; reads what is constant in a box.
// Locks: none. Fails: launch->failed and launch->error. Read next: box.c, lane.c.
#include "exec/launcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "exec/attach.h"
#include "exec/backend.h"
#include "exec/lane.h"
#include "exec/pty.h"
#include "exec/userns.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

static _Thread_local int home_fd = -1; // the mount namespace of the thread that attaches

void exec_launch_thread(void)
{
    struct af_error err;
    if (exec_attach_thread_init(&home_fd, &err) < 0) {
        af_log(AF_LOG_ERROR, EXEC_AREA, "launcher", "error=\"%s\"", err.text);
        abort(); // only without CAP_SYS_ADMIN or /proc, which exec_setup has checked
    }
}

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
    int result = box->backend->start(box, &box->launch, &box->launch.error);
    if (result <= 0)
        answer(box, result);
}

// Puts the init, alone until now, under the box's bounds.
static int bound(struct exec_box *box, struct exec_launch *launch)
{
    const struct exec_resources *resources = &box->resources;
    if (box->backend->bounds_itself)
        return resources->memory_bytes ? exec_cgroup_watch(box->engine->cgroups, launch->init_pid,
                                                           &launch->cgroup, &launch->error)
                                       : 0;
    char name[AF_ID_TEXT_MAX + 32];
    snprintf(name, sizeof(name), "%s-%d", box->id, (int)launch->init_pid);
    for (char *c = name; *c; c++)
        if (*c == '/' || *c == '.')
            *c = '_';
    if (exec_cgroup_new(box->engine->cgroups, name, resources, &launch->cgroup, &launch->error) <
            0 ||
        (launch->cgroup && exec_cgroup_add(launch->cgroup, launch->init_pid, &launch->error) < 0))
        return -1;
    if (resources->pids_max == 0 || resources->pids_max >= box->limits.processes_max)
        return 0;
    int e = exec_userns_bound(box->uid, launch->init_pid, resources->pids_max);
    if (e < 0)
        return exec_attach_error(&launch->error, e, "cannot bound the sandbox's processes");
    return 0;
}

static void run_remove(struct exec_job *job)
{
    struct exec_box *box = box_of(job);
    exec_cgroup_free(AF_TAKE_PTR(box->launch.old_cgroup));
    if (box->backend->remove)
        box->backend->remove(box, &box->launch);
    answer(box, 0);
}

static void run_attach(struct exec_job *job)
{
    struct exec_box *box = box_of(job);
    struct exec_launch *launch = &box->launch;
    int result = 0;
    if (box->checked) // of the pool; fails only when it has ended, which is told anyway
        setpriority(PRIO_PROCESS, (id_t)launch->init_pid, 0);
    else
        result = box->backend->check(box, launch, &launch->error);
    bool terminals = !box->checked && !box->backend->has_terminals;
    if (result == 0 && !box->checked && !terminals)
        result =
            exec_pty_locate(launch->init_pid, launch->init_pidfd, &launch->pts_fd, &launch->error);
    if (result == 0 && !(box->pool && !box->checked)) // a member is bounded with its sandbox
        result = bound(box, launch);
    if (result == 0 && (terminals || box->view_path))
        result = exec_attach(home_fd, launch->init_pidfd, box->view_path,
                             terminals ? &launch->pts_fd : NULL, &launch->error);
    answer(box, result);
}

static void queue_job(struct exec_box *box, enum exec_lane_kind lane,
                      void (*run)(struct exec_job *))
{
    exec_lane_queue(&box->engine->lanes[lane], &box->launch.job, run, box->pool && !box->checked);
}

static void queue(struct exec_box *box, enum exec_lane_kind lane, void (*run)(struct exec_job *),
                  void (*done)(struct exec_post *))
{
    box->launch.running = true;
    box->launch.done.fn = done;
    queue_job(box, lane, run);
}

void exec_launch_start(struct exec_box *box, void (*done)(struct exec_post *))
{
    queue(box, box->backend->lane, run_start, done);
}

void exec_launch_again(struct exec_box *box)
{
    queue_job(box, box->backend->lane, run_start);
}

void exec_launch_attach(struct exec_box *box, void (*done)(struct exec_post *))
{
    queue(box, EXEC_LANE_ATTACH, run_attach, done);
}

void exec_launch_remove(struct exec_box *box, void (*done)(struct exec_post *))
{
    box->launch.old_cgroup = AF_TAKE_PTR(box->launch.cgroup);
    queue(box, box->backend->remove ? box->backend->lane : EXEC_LANE_ATTACH, run_remove, done);
}
