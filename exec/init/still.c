// Killing a tree that forks faster than it is killed: while everything in the box stands still.
//
// A list of children is old when it is read, and a process that forks and exits all the time may
// be in none. kill(-1) is no list: the kernel signals every process of the namespace but this one
// at one moment in which none of them can fork, and a fork under way fails. After SIGSTOP to all,
// what belongs to no command cannot run away while it is looked for; the others go on a moment
// later, parents after their children, so that a shell does not notice, and those that stood still
// before stay so. This needs no control group, so it is the same under cgroup v1, v2 and none, and
// costs nothing before it is needed. Owns: nothing afterwards. Fails: without memory or descriptors
// nothing is killed here; the caller tries again, and the engine ends the box when that takes too
// long. Read next: main.c.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec/init/init.h"

#define BEFORE_MAX 128
#define DEPTH_MAX  4096 // a longer chain of ancestors is taken for one of a tree that is to end

struct process {
    pid_t pid, parent;
    unsigned long long start; // so that a pid that was used again is told apart
    bool stopped, kept;
    unsigned depth; // below the init
};

struct processes {
    struct process *list;
    size_t count;
};

static bool read_process(const char *pid, struct process *ret)
{
    char path[64], line[1024];
    snprintf(path, sizeof(path), "/proc/%.16s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (fd >= 0)
        close(fd);
    line[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(line, ')'); // a name may hold anything else
    char state;
    int parent;
    if (!name_end || sscanf(name_end + 1,
                            " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                            "%*d %*d %llu",
                            &state, &parent, &ret->start) != 3)
        return false;
    ret->pid = (pid_t)atol(pid);
    ret->parent = parent;
    ret->stopped = state == 'T';
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const struct process *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static int deepest_first(const void *a, const void *b)
{
    const struct process *x = a, *y = b;
    return (x->depth < y->depth) - (x->depth > y->depth);
}

// Oldest first, more or less. Whoever forks all the time makes the list longer than it can be read:
// it has a longest length.
static bool list_all(struct processes *ret, size_t max)
{
    DIR *dir = opendir("/proc");
    size_t capacity = 0;
    bool complete = dir != NULL;
    *ret = (struct processes){0};
    const struct dirent *entry;
    while (complete && ret->count < max && (entry = readdir(dir))) {
        struct process process = {0};
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
            !read_process(entry->d_name, &process))
            continue;
        if (ret->count == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            struct process *grown = realloc(ret->list, capacity * sizeof(process));
            complete = grown != NULL;
            ret->list = grown ? grown : ret->list;
        }
        if (complete)
            ret->list[ret->count++] = process;
    }
    if (dir)
        closedir(dir);
    if (ret->count > 0)
        qsort(ret->list, ret->count, sizeof(*ret->list), by_pid);
    return complete;
}

static struct process *find(const struct processes *processes, pid_t pid)
{
    const struct process key = {.pid = pid};
    return processes->count == 0
               ? NULL
               : bsearch(&key, processes->list, processes->count, sizeof(key), by_pid);
}

// Whether a process is a supervisor or below one; how deep, in any case.
static bool is_kept(const struct processes *all, struct process *process,
                    bool (*is_supervisor)(pid_t pid))
{
    const struct process *at = process;
    for (process->depth = 1; at && process->depth < DEPTH_MAX; process->depth++) {
        if (at->parent == getpid())
            return is_supervisor(at->pid);
        at = find(all, at->parent);
    }
    return false;
}

void init_kill_still(bool (*is_supervisor)(pid_t pid))
{
    struct processes before, all = {0};
    // Whom it does not get to was not there for long, and is taken to have been running.
    bool listed = list_all(&before, BEFORE_MAX);
    // Twice: a SIGCONT that was being sent may have undone the first, and its sender stands now.
    kill(-1, SIGSTOP);
    kill(-1, SIGSTOP);
    listed = list_all(&all, SIZE_MAX) && listed;
    for (size_t i = 0; listed && i < all.count; i++) {
        struct process *process = &all.list[i];
        process->kept = process->pid != getpid() && is_kept(&all, process, is_supervisor);
        if (process->pid != getpid() && !process->kept)
            kill(process->pid, SIGKILL);
    }
    if (listed && all.count > 0)
        qsort(all.list, all.count, sizeof(*all.list), deepest_first);
    for (size_t i = 0; listed && i < all.count; i++) {
        const struct process *process = &all.list[i], *was = find(&before, process->pid);
        if (process->kept && (!was || was->start != process->start || !was->stopped))
            kill(process->pid, SIGCONT);
    }
    if (!listed)
        kill(-1, SIGCONT); // nobody is to stand still for ever
    free(before.list);
    free(all.list);
}
