// Pulls of images: a bounded number at one time, each for all boxes that wait for it.
//
// A pull takes as long as a registry pleases, so it has threads of its own: a start whose image is
// missing leaves its job here, and the job is queued again when the image is there or will not be.
// A box that is to end is not kept: its job goes back within about a second. The pull goes on
// without it, for the next who wants the image, unless the registry falls silent or the engine
// ends. Owns: the pulls, and the jobs that wait. Locks: docker->pull_lock (a leaf but for the
// lanes'). Fails: in the launch of each box that waits. Read next: docker.c.
#include <stdlib.h>
#include <string.h>

#include "exec/docker_api.h"
#include "exec/docker_priv.h"
#include "exec/lane.h"
#include "exec/launcher.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

struct docker_pull {
    LIST_ENTRY(docker_pull) link; // pull_lock
    struct exec_engine *engine;
    struct exec_job job;
    struct exec_job_list waiting; // pull_lock: of boxes
    char image[];
};

static struct exec_box *box_of(struct exec_job *job)
{
    return EXEC_CONTAINER_OF(job, struct exec_box, launch.job);
}

// The box's job is its lane's again. `why` NULL: the image is there.
static void give_back(struct exec_job *job, const struct af_error *why)
{
    struct exec_launch *launch = &box_of(job)->launch;
    launch->pull = why ? EXEC_PULL_FAILED : EXEC_PULL_DONE;
    if (why)
        launch->error = *why;
    exec_launch_again(box_of(job));
}

// Called now and then while a pull is on its way. Their boxes know why they end: nobody is told the
// reason given here.
static void let_go_who_ends(void *arg)
{
    struct docker_pull *pull = arg;
    struct exec_docker *docker = pull->engine->docker;
    struct exec_job_list staying = STAILQ_HEAD_INITIALIZER(staying);
    struct exec_job *job;
    struct af_error why;
    af_error_set(&why, AF_CANCELLED, "its image is still being pulled");
    pthread_mutex_lock(&docker->pull_lock);
    while ((job = STAILQ_FIRST(&pull->waiting))) {
        STAILQ_REMOVE_HEAD(&pull->waiting, link);
        if (atomic_load(&box_of(job)->ending))
            give_back(job, &why);
        else
            STAILQ_INSERT_TAIL(&staying, job, link);
    }
    STAILQ_CONCAT(&pull->waiting, &staying);
    pthread_mutex_unlock(&docker->pull_lock);
}

// Docker answers 200 and reports a failure in the stream, of which the last line counts.
static int perform(struct docker_pull *pull, struct af_error *err)
{
    const struct exec_docker *docker = pull->engine->docker;
    struct docker_reply reply;
    AF_CLEANUP_FREE char *name = docker_encode(pull->image);
    if (!name)
        return af_error_errno(err, ENOMEM, "cannot pull %s", pull->image);
    af_log(AF_LOG_INFO, EXEC_AREA, "pulling an image", "image=%s", pull->image);
    const char *colon = strrchr(pull->image, ':');
    bool tagged = strchr(pull->image, '@') || (colon && !strchr(colon, '/'));
    const struct docker_request request = {.method = "POST",
                                           .unwanted = &pull->engine->ending,
                                           .streams = true,
                                           .waits = let_go_who_ends,
                                           .arg = pull};
    if (docker_ask(docker, &request, &reply, err, "/images/create?fromImage=%s%s", name,
                   tagged ? "" : "&tag=latest") < 0)
        return -1;
    int rc = 0;
    if (reply.status != 200)
        rc = docker_refuse(&reply, "pull the image", err);
    else if (reply.text[0])
        rc = af_error_set(err, AF_FAILED_PRECONDITION, "Docker cannot pull the image: %s",
                          reply.text);
    docker_reply_fini(&reply);
    return rc;
}

static void run_pull(struct exec_job *job)
{
    struct docker_pull *pull = EXEC_CONTAINER_OF(job, struct docker_pull, job);
    struct exec_docker *docker = pull->engine->docker;
    struct exec_job *waiting;
    struct af_error err;
    int rc = perform(pull, &err);
    pthread_mutex_lock(&docker->pull_lock);
    LIST_REMOVE(pull, link);
    docker->pull_count--;
    pthread_mutex_unlock(&docker->pull_lock);
    while ((waiting = STAILQ_FIRST(&pull->waiting))) { // nobody finds it any more
        STAILQ_REMOVE_HEAD(&pull->waiting, link);
        give_back(waiting, rc < 0 ? &err : NULL);
    }
    free(pull);
}

static struct docker_pull *pull_new(struct exec_engine *engine, const char *image)
{
    struct docker_pull *pull = calloc(1, sizeof(*pull) + strlen(image) + 1);
    if (!pull)
        return NULL;
    pull->engine = engine;
    STAILQ_INIT(&pull->waiting);
    strcpy(pull->image, image);
    LIST_INSERT_HEAD(&engine->docker->pulls, pull, link);
    engine->docker->pull_count++;
    return pull;
}

int docker_pull_wait(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    struct exec_docker *docker = box->engine->docker;
    struct docker_pull *pull;
    int rc = 1;
    pthread_mutex_lock(&docker->pull_lock);
    LIST_FOREACH(pull, &docker->pulls, link)
    if (strcmp(pull->image, box->image) == 0)
        break;
    bool first = !pull, full = first && docker->pull_count >= DOCKER_PULLS_MAX;
    if (first && !full)
        pull = pull_new(box->engine, box->image);
    if (pull)
        STAILQ_INSERT_TAIL(&pull->waiting, &launch->job, link);
    else if (full)
        rc = af_error_set(err, AF_RESOURCE_EXHAUSTED,
                          "Docker has no image %s, and %d others are being pulled already: start "
                          "the sandbox again when one of them is there, or pull it (`docker pull`)",
                          box->image, DOCKER_PULLS_MAX);
    else
        rc = af_error_errno(err, ENOMEM, "cannot pull %s", box->image);
    if (pull && first)
        exec_lane_queue(&pull->engine->lanes[EXEC_LANE_PULL], &pull->job, run_pull, false);
    pthread_mutex_unlock(&docker->pull_lock);
    return rc;
}
