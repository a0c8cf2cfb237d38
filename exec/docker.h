// The Docker runtime's parts that the engine calls. Read next: docker.c, docker_api.h.
#ifndef AF_EXEC_DOCKER_H
#define AF_EXEC_DOCKER_H

#include "exec/engine_priv.h"

struct exec_docker;

// Asks the daemon behind options->docker.socket for its version, and removes the containers that
// an earlier engine of this run directory has left. Blocks. UNAVAILABLE when nobody answers.
int exec_docker_new(struct exec_engine *engine, struct exec_docker **ret, struct af_error *err);
void exec_docker_free(struct exec_docker *docker);

// The daemon's version, constant.
const char *exec_docker_version(const struct exec_docker *docker);

#endif
