// What cgroup.c (groups) and cgroup_find.c (hierarchies) share. Read next: cgroup.c.
#ifndef AF_EXEC_CGROUP_PRIV_H
#define AF_EXEC_CGROUP_PRIV_H

#include <limits.h>
#include <pthread.h>

#include "exec/cgroup.h"
#include "mux/base/id.h"

#define CGROUP_OWN_PREFIX "agentfense-"

enum cgroup_controller { CGROUP_MEMORY, CGROUP_CPU, CGROUP_PIDS, CGROUP_CONTROLLERS };
extern const char *const exec_cgroup_names[CGROUP_CONTROLLERS];

// A hierarchy that has at least one controller for us.
struct cgroup_hierarchy {
    bool v2;
    unsigned controllers; // bit per cgroup_controller; no two hierarchies have the same
    char root[PATH_MAX];  // the part of it that is mounted,
    char point[PATH_MAX]; // and where
    char base[PATH_MAX];  // directory of the group below which ours is made
    int own_fd;           // our group's directory; -1: not made yet (lock)
};

// The directory of a process's group in a hierarchy. False: it cannot be seen.
bool exec_cgroup_path(const struct cgroup_hierarchy *hierarchy, pid_t pid, char path[PATH_MAX]);

struct exec_cgroups {
    char *run_dir;
    char *parent;                  // the configured group; NULL: the daemon's own
    char own[AF_ID_TEXT_MAX + 16]; // name of our group
    unsigned count;
    struct cgroup_hierarchy hierarchies[CGROUP_CONTROLLERS];
    pthread_mutex_t lock;
    bool noted; // lock
};

#endif
