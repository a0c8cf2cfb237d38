// Containers that could not be removed at once, or may come into being late.
//
// Docker may be asked to make a container and not answer in time: the container that it makes then
// is nobody's. And a removal can be refused or go unanswered. Such containers are asked for by name
// again and again, with growing pauses, by a thread of its own: until they are removed, or for one
// whose create was given up until Docker has said for a while that there is none. What is left when
// the engine ends is found by its label at the next start.
// Owns: the list. Locks: late->lock (a leaf), not held across a request. Fails: a line in the log.
// Read next: docker.c.
#include "exec/docker_priv.h"

#include <stdlib.h>
#include <string.h>

#include "exec/docker_api.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#define LATE_MAX     1024u
#define PAUSE_MIN_NS (AF_NS_PER_SEC / 2)
#define PAUSE_MAX_NS (30 * AF_NS_PER_SEC)
#define MAY_COME_NS  (120 * AF_NS_PER_SEC) // since Docker has first said that there is none
#define REMOVE_MS    20000                 // a stop of the daemon waits for it

struct late_container {
    TAILQ_ENTRY(late_container) link;
    int64_t due_ns, pause_ns;
    int64_t until_ns; // 0: Docker has not yet said that there is none
    char name[];
};

int docker_delete(const struct exec_docker *docker, const char *name, const atomic_bool *unwanted,
                  struct af_error *err)
{
    struct docker_reply reply;
    const struct docker_request request = {
        .method = "DELETE", .timeout_ms = REMOVE_MS, .unwanted = unwanted};
    if (docker_ask(docker, &request, &reply, err, "/containers/%s?force=1&v=1", name) < 0)
        return -1;
    int rc = reply.status == 204   ? 1
             : reply.status == 404 ? 0
                                   : docker_refuse(&reply, "remove the container", err);
    docker_reply_fini(&reply);
    return rc;
}

void docker_late_add(struct docker_late *late, const char *name)
{
    struct late_container *container = malloc(sizeof(*container) + strlen(name) + 1);
    pthread_mutex_lock(&late->lock);
    bool full = !container || late->count >= LATE_MAX;
    if (!full) {
        *container = (struct late_container){.due_ns = af_monotonic_ns() + PAUSE_MIN_NS,
                                             .pause_ns = PAUSE_MIN_NS};
        strcpy(container->name, name);
        TAILQ_INSERT_TAIL(&late->containers, container, link);
        late->count++;
        pthread_cond_signal(&late->changed);
    }
    pthread_mutex_unlock(&late->lock);
    if (!full)
        return;
    free(container);
    af_log(AF_LOG_WARN, EXEC_AREA, "a container is left to the next start of a daemon",
           "container=%s", name);
}

// Whether it is done with.
static bool try_again(struct docker_late *late, struct late_container *container)
{
    struct af_error err;
    int rc = docker_delete(late->docker, container->name, &late->end, &err);
    int64_t now_ns = af_monotonic_ns();
    if (rc > 0)
        af_log(AF_LOG_INFO, EXEC_AREA, "removed a container that had been left behind",
               "container=%s", container->name);
    if (rc > 0 || (rc == 0 && container->until_ns && now_ns > container->until_ns))
        return true;
    if (rc == 0 && !container->until_ns)
        container->until_ns = now_ns + MAY_COME_NS;
    container->pause_ns *= 2;
    if (container->pause_ns > PAUSE_MAX_NS)
        container->pause_ns = PAUSE_MAX_NS;
    container->due_ns = now_ns + container->pause_ns;
    return false;
}

static struct late_container *first_due(const struct docker_late *late)
{
    struct late_container *container, *first = TAILQ_FIRST(&late->containers);
    TAILQ_FOREACH(container, &late->containers, link)
    if (container->due_ns < first->due_ns)
        first = container;
    return first;
}

static void *late_main(void *arg)
{
    struct docker_late *late = arg;
    pthread_setname_np(pthread_self(), "exec-docker-rm");
    pthread_mutex_lock(&late->lock);
    while (!late->end) {
        struct late_container *container = first_due(late);
        if (!container) {
            pthread_cond_wait(&late->changed, &late->lock);
        } else if (container->due_ns > af_monotonic_ns()) {
            const struct timespec due = af_timespec_of_ns(container->due_ns);
            pthread_cond_clockwait(&late->changed, &late->lock, CLOCK_MONOTONIC, &due);
        } else { // nobody else takes one out
            pthread_mutex_unlock(&late->lock);
            bool done = try_again(late, container);
            pthread_mutex_lock(&late->lock);
            if (!done)
                continue;
            TAILQ_REMOVE(&late->containers, container, link);
            late->count--;
            free(container);
        }
    }
    pthread_mutex_unlock(&late->lock);
    return NULL;
}

void docker_late_init(struct docker_late *late, const struct exec_docker *docker)
{
    late->docker = docker;
    TAILQ_INIT(&late->containers);
    pthread_mutex_init(&late->lock, NULL);
    pthread_cond_init(&late->changed, NULL);
}

int docker_late_start(struct docker_late *late)
{
    int e = exec_thread_start(&late->thread, late_main, late);
    late->started = e == 0;
    return e;
}

void docker_late_fini(struct docker_late *late)
{
    struct late_container *container;
    pthread_mutex_lock(&late->lock);
    late->end = true;
    pthread_cond_signal(&late->changed);
    pthread_mutex_unlock(&late->lock);
    if (late->started)
        pthread_join(late->thread, NULL);
    while ((container = TAILQ_FIRST(&late->containers))) {
        TAILQ_REMOVE(&late->containers, container, link);
        free(container);
    }
    pthread_cond_destroy(&late->changed);
    pthread_mutex_destroy(&late->lock);
}
