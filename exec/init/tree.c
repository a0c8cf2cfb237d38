// Everything below a supervisor: found by the lists of children in /proc, and signalled.
//
// A process may fork or lose its parent while the lists are read; what loses it becomes the
// supervisor's child (subreaper). So the walk begins anew until a round finds nobody new, a bounded
// number of times. Runs in supervisors: raw system calls only, and memory of the command
// (command.c). Owns: nothing. Fails: without descriptors some are missed, which the caller of a
// signal cannot rely on anyway; ending a command does not use this. Read next: command.c.
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

#include "exec/init/init.h"
#include "exec/raw.h"

#define ROUNDS_MAX 16

struct pids {
    pid_t *list; // INIT_SEEN_MAX: a tree that forks all the time has always more
    size_t count;
};

static bool has(const struct pids *pids, pid_t pid)
{
    for (size_t i = 0; i < pids->count; i++)
        if (pids->list[i] == pid)
            return true;
    return false;
}

// Appends to a path that has room for it.
static char *put_text(char *at, const char *text)
{
    size_t len = strlen(text);
    memcpy(at, text, len + 1);
    return at + len;
}

static char *put_number(char *at, unsigned number)
{
    char digits[16], *first = digits + sizeof(digits) - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
    } while (number /= 10);
    return put_text(at, first);
}

static int open_at(int dir, const char *path, int flags)
{
    return (int)raw(SYS_openat, dir, (long)path, flags | O_RDONLY | O_CLOEXEC, 0);
}

static void signal_one(pid_t pid, int number, struct pids *seen)
{
    if (seen->count == INIT_SEEN_MAX || has(seen, pid))
        return;
    seen->list[seen->count++] = pid;
    raw(SYS_kill, pid, number, 0, 0);
}

// Signals the children of one thread that have not been signalled yet. The file is decimal numbers
// with a space after each.
static void signal_children(int tasks, const char *name, int number, struct pids *seen)
{
    char path[64], bytes[512];
    put_text(put_text(path, name), "/children");
    int fd = open_at(tasks, path, 0);
    pid_t pid = 0;
    long n;
    while (fd >= 0 && seen->count < INIT_SEEN_MAX &&
           (n = raw(SYS_read, fd, (long)bytes, sizeof(bytes), 0)) > 0)
        for (long i = 0; i < n; i++) {
            if (bytes[i] >= '0' && bytes[i] <= '9') {
                pid = pid * 10 + (bytes[i] - '0');
            } else if (pid > 0) {
                signal_one(pid, number, seen);
                pid = 0;
            }
        }
    if (fd >= 0)
        raw(SYS_close, fd, 0, 0, 0);
}

static void signal_children_of(pid_t pid, int number, struct pids *seen)
{
    char path[64];
    _Alignas(struct dirent64) char entries[1024];
    put_text(put_number(put_text(path, "/proc/"), (unsigned)pid), "/task");
    int tasks = open_at(AT_FDCWD, path, O_DIRECTORY);
    long n;
    while (tasks >= 0 && (n = raw(SYS_getdents64, tasks, (long)entries, sizeof(entries), 0)) > 0)
        for (long at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(entries + at);
            if (entry->d_name[0] != '.' && strlen(entry->d_name) < 20)
                signal_children(tasks, entry->d_name, number, seen);
            at += entry->d_reclen;
        }
    if (tasks >= 0)
        raw(SYS_close, tasks, 0, 0, 0);
}

void init_signal_tree(struct init_command *command, int number)
{
    struct pids seen = {.list = command->seen};
    pid_t self = (pid_t)raw(SYS_getpid, 0, 0, 0, 0);
    size_t before;
    int round = 0;
    do {
        before = seen.count;
        signal_children_of(self, number, &seen);
        for (size_t i = 0; i < seen.count; i++)
            signal_children_of(seen.list[i], number, &seen);
    } while (seen.count > before && ++round < ROUNDS_MAX);
}
