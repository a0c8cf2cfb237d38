// What docker.c (life of a container) and docker_spec.c (what it is) share. Read next: docker.c.
#ifndef AF_EXEC_DOCKER_PRIV_H
#define AF_EXEC_DOCKER_PRIV_H

#include <jansson.h>
#include <stdatomic.h>

#include "exec/engine_priv.h"

#define DOCKER_LABEL       "agentfense.run"
#define DOCKER_DIR_NAME    "docker"    // in the run directory: a directory per box
#define DOCKER_SOCKET_NAME "init.sock" // in a box's directory
#define DOCKER_PASSWD_NAME "passwd"
#define DOCKER_GROUP_NAME  "group"

struct exec_docker {
    char *socket_path;
    char version[32];
    bool pull;
    int dir_fd;
    atomic_uint serial; // of the boxes' directories
};

// The body of a create request for the box whose directory has this name. NULL: no memory.
json_t *docker_container(const struct exec_box *box, const char *dir_name);

#endif
