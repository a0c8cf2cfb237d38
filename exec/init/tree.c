// Everything below a supervisor: found by the lists of children in /proc, and signalled.
//
// A process may fork or lose its parent while the lists are read; what loses it becomes the
// supervisor's child (subreaper). So the walk begins anew until a round finds nobody new, a bounded
// number of times.
// Owns: nothing afterwards. Fails: without memory or descriptors some are missed, which the caller
// of a signal cannot rely on anyway; ending a command does not use this. Read next: command.c.
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "exec/init/init.h"

#define ROUNDS_MAX 16
#define SEEN_MAX   65536 // of a tree that forks all the time

struct pids {
    pid_t *list;
    size_t count, capacity;
};

static bool has(const struct pids *pids, pid_t pid)
{
    for (size_t i = 0; i < pids->count; i++)
        if (pids->list[i] == pid)
            return true;
    return false;
}

static bool add(struct pids *pids, pid_t pid)
{
    if (pids->count == pids->capacity) {
        size_t capacity = pids->capacity ? 2 * pids->capacity : 64;
        pid_t *grown = realloc(pids->list, capacity * sizeof(pid_t));
        if (!grown)
            return false;
        pids->list = grown;
        pids->capacity = capacity;
    }
    pids->list[pids->count++] = pid;
    return true;
}

// Signals the children of one thread that have not been signalled yet.
static void signal_children(int task, const char *name, int number, struct pids *seen)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%.20s/children", task, name);
    FILE *file = fopen(path, "re");
    long pid;
    while (file && seen->count < SEEN_MAX && fscanf(file, "%ld", &pid) == 1)
        if (!has(seen, (pid_t)pid) && add(seen, (pid_t)pid))
            kill((pid_t)pid, number);
    if (file)
        fclose(file);
}

static void signal_children_of(pid_t pid, int number, struct pids *seen)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    struct dirent *entry;
    while (tasks && (entry = readdir(tasks)))
        if (entry->d_name[0] != '.')
            signal_children((int)pid, entry->d_name, number, seen);
    if (tasks)
        closedir(tasks);
}

void init_signal_tree(int number)
{
    struct pids seen = {0};
    size_t before;
    int round = 0;
    do {
        before = seen.count;
        signal_children_of(getpid(), number, &seen);
        for (size_t i = 0; i < seen.count; i++)
            signal_children_of(seen.list[i], number, &seen);
    } while (seen.count > before && ++round < ROUNDS_MAX);
    free(seen.list);
}
