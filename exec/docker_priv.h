// What the files of the Docker runtime share: docker.c (life of a container), docker_spec.c (what
// it is), docker_pull.c (images), docker_late.c (what is left to be removed). Read next: docker.c.
#ifndef AF_EXEC_DOCKER_PRIV_H
#define AF_EXEC_DOCKER_PRIV_H

#include <jansson.h>
#include <stdatomic.h>

#include "exec/docker_api.h"
#include "exec/engine_priv.h"
#include "mux/base/id.h"

#define DOCKER_LABEL       "agentfense.run"
#define DOCKER_DIR_NAME    "docker"    // in the run directory: a directory per box
#define DOCKER_SOCKET_NAME "init.sock" // in a box's directory
#define DOCKER_PASSWD_NAME "passwd"
#define DOCKER_GROUP_NAME  "group"
#define DOCKER_HOSTS_NAME  "hosts"
#define DOCKER_PULLS_MAX   EXEC_LANE_THREADS_MAX // at one time; more are refused

struct docker_pull;

// Containers that are still to be removed (docker_late.c).
struct docker_late {
    const struct exec_docker *docker;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    TAILQ_HEAD(, late_container) containers; // lock
    unsigned count;                          // lock
    atomic_bool end;                         // written under the lock
    pthread_t thread;
    bool started;
};

struct exec_docker {
    char *socket_path;
    char version[32];
    bool pull;
    int dir_fd;
    struct af_id names; // what the names of this engine's containers have that no other's have
    atomic_uint serial; // of the boxes' directories and containers
    pthread_mutex_t pull_lock;
    LIST_HEAD(, docker_pull) pulls; // pull_lock
    unsigned pull_count;            // pull_lock
    struct docker_late late;
};

// The body of a create request for the box whose directory has this name, from an image with these
// volumes (an object of paths). NULL: no memory.
json_t *docker_container(const struct exec_box *box, const char *dir_name, json_t *volumes);
// Whether a container has a tmpfs of ours there.
bool docker_is_tmpfs(const char *path);

// A request about the path that the format makes. 0, or -1 when there is no answer.
int docker_ask(const struct exec_docker *docker, const struct docker_request *request,
               struct docker_reply *reply, struct af_error *err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
// The error for an answer that says no. Returns -1.
int docker_refuse(const struct docker_reply *reply, const char *what, struct af_error *err);

// lane: leaves the start of a box to the pull of its image. 1: whose end queues it again, so
// nothing of the box may be touched any more; or -1.
int docker_pull_wait(const struct exec_box *box, struct exec_launch *launch, struct af_error *err);

// Removes a container with all that runs in it. 1, 0: there is none by this name, or -1.
int docker_delete(const struct exec_docker *docker, const char *name, const atomic_bool *unwanted,
                  struct af_error *err);
// any: has it removed later, whether there is one already or not.
void docker_late_add(struct docker_late *late, const char *name);
void docker_late_init(struct docker_late *late, const struct exec_docker *docker);
int docker_late_start(struct docker_late *late); // 0 or an errno value
void docker_late_fini(struct docker_late *late);

#endif
