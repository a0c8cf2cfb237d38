// Stages: mount namespaces in which boxes are made. Each has one root for boxes (root.h), what
// bubblewrap needs to run, and nothing else of the machine.
//
// Read next: stage.c.
#ifndef AF_EXEC_STAGE_H
#define AF_EXEC_STAGE_H

#include "exec/root.h"
#include "mux/base/error.h"

#define EXEC_STAGE_ROOT "/root" // where the boxes' root is, on the stage

struct exec_stages;

// `dir`: an existing directory, to mount on; `program`: bubblewrap's absolute path. Both are
// copied.
int exec_stages_new(const char *dir, const char *program, struct exec_stages **ret,
                    struct af_error *err);
void exec_stages_free(struct exec_stages *stages); // NULL is allowed

// The namespace for boxes with this root, made when there is none yet or when what the root is made
// of has changed. *ret_fd is the stages' own, valid until
// the next call. Blocks for about a millisecond when it makes one. Thread: the spawning lane.
// Errors: as exec_root_build.
int exec_stages_get(struct exec_stages *stages, const struct exec_root *root, int *ret_fd,
                    struct af_error *err);

#endif
