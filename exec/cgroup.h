// Control groups: bounds of memory, CPU and processes for the boxes that ask for them.
//
// Each controller is looked for on its own: on cgroup v2 where the daemon's own group has it, else
// in a v1 hierarchy. Boxes without bounds have no group, for moving a process into one costs
// milliseconds.
// Threads: any for exec_cgroups_check and for what a group has counted (exec_cgroup_memory_events,
// exec_cgroup_ran_out); the rest on the thread that holds the box's job.
// Errors: an af_error; FAILED_PRECONDITION names what this machine lacks. Read next: cgroup.c.
#ifndef AF_EXEC_CGROUP_H
#define AF_EXEC_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "exec/exec.h"

struct exec_cgroups; // where the controllers are
struct exec_cgroup;  // the group of one box

struct exec_cgroups_options {
    const char *run_dir;  // where the groups that were made are noted, for recovery
    const char *parent;   // path of a group below which ours are made; NULL: the daemon's own
    const char *proc_dir; // "/proc/self" (tests give another)
};

// Looks, and changes nothing. What is missing is said when it is asked for.
int exec_cgroups_new(const struct exec_cgroups_options *options, struct exec_cgroups **ret,
                     struct af_error *err);
// Makes room for limits on v2: moves the daemon, if it is the only process of its group, into a
// leaf of it. Before it has any child.
void exec_cgroups_settle(struct exec_cgroups *cgroups);
// Removes what was made. NULL is allowed.
void exec_cgroups_free(struct exec_cgroups *cgroups);

// Whether these bounds can be enforced here. None always can.
int exec_cgroups_check(const struct exec_cgroups *cgroups, const struct exec_resources *resources,
                       struct af_error *err);
// How they are enforced, for the log: "memory v1, cpu v2, pids none".
void exec_cgroups_describe(const struct exec_cgroups *cgroups, char *text, size_t size);

// Makes a group with these bounds; *ret is NULL when there are none.
int exec_cgroup_new(struct exec_cgroups *cgroups, const char *name,
                    const struct exec_resources *resources, struct exec_cgroup **ret,
                    struct af_error *err);
// Moves a process into the group; what it forks from then on is in it.
int exec_cgroup_add(struct exec_cgroup *cgroup, pid_t pid, struct af_error *err);
// The group, made by somebody else, that a process is in: only to be asked and freed. *ret is NULL
// where its memory is in no hierarchy that can be seen.
int exec_cgroup_watch(struct exec_cgroups *cgroups, pid_t pid, struct exec_cgroup **ret,
                      struct af_error *err);
// What the kernel has counted of a group that wants more memory than it may have.
struct exec_memory_events {
    uint64_t kills;    // processes that were killed for it
    uint64_t failures; // times that it looked for one to kill, whether it found one or not (v2)
};
// 0 for NULL or without such a bound, what was read last when it cannot be read.
struct exec_memory_events exec_cgroup_memory_events(struct exec_cgroup *cgroup);
// Whether the group has run out of memory since then. `failed`: something in it has failed since,
// for which memory that was refused is a reason, too.
bool exec_cgroup_ran_out(struct exec_cgroup *cgroup, const struct exec_memory_events *since,
                         bool failed);
// Kills what is in it, and removes it once it is empty; waits a moment for that. NULL is allowed.
void exec_cgroup_free(struct exec_cgroup *cgroup);

// Kills and removes the groups that a crashed daemon noted in this run directory. Returns how many
// processes had to be killed.
unsigned exec_cgroups_recover(const char *run_dir);

#endif
