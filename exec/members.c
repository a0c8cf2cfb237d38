// Finding and stopping the processes of a box.
//
// A list of processes is never taken at one moment, and they fork meanwhile. So passes are repeated
// until two in a row found the same processes, all of them standing still: what stands still cannot
// fork. A process with a pending SIGSTOP runs no code of its own any more, but a system call under
// way may end first; that is waited for. Parents are stopped before and resumed after their
// children, so that a shell does not notice. Errors: -errno. Read next: members.h, holders.c.
#include "exec/members.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <time.h>

#define STOP_TIMEOUT_NS (2LL * AF_NS_PER_SEC)
#define PASS_PAUSE_NS   1000000L
#define KILL_TIMEOUT_MS 2000
#define ANCESTORS_MAX   1024

static bool read_stat_of(const char *path, pid_t pid, struct exec_member *ret)
{
    char line[1024];
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t got = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[got] = '\0';
    const char *end = strrchr(line, ')'); // a name may hold anything else
    int parent;
    unsigned long long start;
    char state;
    if (!end || sscanf(end + 1,
                       " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                       "%llu",
                       &state, &parent, &start) != 3)
        return false;
    *ret = (struct exec_member){
        .pid = pid, .parent = parent, .state = state, .start_ticks = start, .pidfd = -1};
    return true;
}

static bool read_stat(pid_t pid, struct exec_member *ret)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    return read_stat_of(path, pid, ret);
}

static bool has_uid(pid_t pid, uid_t uid)
{
    char path[64], line[256];
    unsigned real = (unsigned)-1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Uid: %u", &real) == 1)
            break;
    fclose(file);
    return real == uid;
}

// The first task says little: it may have ended, or stand still, while others run.
static void read_tasks(struct exec_member *member)
{
    char path[sizeof "/proc//task//stat" + 64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)member->pid);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        struct exec_member task;
        pid_t tid = (pid_t)atol(entry->d_name);
        snprintf(path, sizeof path, "/proc/%d/task/%d/stat", (int)member->pid, (int)tid);
        if (tid <= 0 || !read_stat_of(path, tid, &task))
            continue;
        bool ended = task.state == 'Z' || task.state == 'X';
        if (!exec_member_is_still(&task)) {
            member->state = task.state;
            member->moving_task = tid;
            break;
        }
        if (!ended)
            member->state = task.state;
    }
    if (dir)
        closedir(dir);
}

static int compare_pids(const void *a, const void *b)
{
    const struct exec_member *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static int compare_depths(const void *a, const void *b)
{
    const struct exec_member *x = a, *y = b;
    if (x->depth != y->depth)
        return (x->depth > y->depth) - (x->depth < y->depth);
    return compare_pids(a, b);
}

static int list_all(struct exec_members *ret)
{
    DIR *dir = opendir("/proc");
    struct exec_members all = {0};
    size_t capacity = 0;
    const struct dirent *entry;
    if (!dir)
        return -errno;
    while ((entry = readdir(dir))) {
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid <= 0)
            continue;
        if (all.count == capacity) {
            capacity = capacity ? capacity * 2 : 256;
            struct exec_member *grown = reallocarray(all.list, capacity, sizeof *grown);
            if (!grown) {
                free(all.list);
                closedir(dir);
                return -ENOMEM;
            }
            all.list = grown;
        }
        if (read_stat(pid, &all.list[all.count]))
            all.count++;
    }
    closedir(dir);
    qsort(all.list, all.count, sizeof *all.list, compare_pids);
    *ret = all;
    return 0;
}

// How far below the init, 0 when it is not.
static unsigned depth_of(const struct exec_members *all, const struct exec_member *member,
                         pid_t init)
{
    for (unsigned depth = 1; member && depth < ANCESTORS_MAX; depth++) {
        if (member->parent == init)
            return depth;
        struct exec_member key = {.pid = member->parent};
        member = bsearch(&key, all->list, all->count, sizeof *all->list, compare_pids);
    }
    return 0;
}

static int list_members(pid_t init, uid_t uid, struct exec_members *ret)
{
    AF_CLEANUP_FREE struct exec_member *list = NULL;
    struct exec_members all = {0};
    int rc = list_all(&all);
    if (rc < 0)
        return rc;
    list = calloc(all.count + 1, sizeof *list);
    size_t count = 0;
    for (size_t i = 0; list && i < all.count; i++) {
        list[count] = all.list[i];
        list[count].depth = depth_of(&all, &all.list[i], init);
        if (list[count].depth == 0 || !has_uid(list[count].pid, uid))
            continue;
        read_tasks(&list[count++]);
    }
    free(all.list);
    if (!list)
        return -ENOMEM;
    qsort(list, count, sizeof *list, compare_depths);
    *ret = (struct exec_members){AF_TAKE_PTR(list), count};
    return 0;
}

static struct exec_member *find(const struct exec_members *members,
                                const struct exec_member *wanted)
{
    for (size_t i = 0; i < members->count; i++)
        if (members->list[i].pid == wanted->pid &&
            members->list[i].start_ticks == wanted->start_ticks)
            return &members->list[i];
    return NULL;
}

// A parent that waits for a child made by vfork cannot run while the child stands still.
static bool waits_for_vfork(const struct exec_member *member)
{
    char path[64];
    long number = -1;
    if (member->state != 'D')
        return false;
    snprintf(path, sizeof path, "/proc/%d/syscall", (int)member->moving_task);
    FILE *file = fopen(path, "re");
    bool known = file && fscanf(file, "%ld", &number) == 1;
    if (file)
        fclose(file);
#ifdef SYS_vfork
    if (known && number == SYS_vfork)
        return true;
#endif
    return known && (number == SYS_clone || number == SYS_clone3);
}

// By pidfd, and only if it is still the one that was looked at.
static void stop(struct exec_member *member)
{
    struct exec_member now;
    if (member->pidfd < 0)
        member->pidfd = pidfd_open(member->pid, 0);
    if (member->pidfd < 0 || !read_stat(member->pid, &now) ||
        now.start_ticks != member->start_ticks)
        return;
    if (pidfd_send_signal(member->pidfd, SIGSTOP, NULL, 0) == 0)
        member->stopped_by_us = true;
}

// One pass: the new list takes over what the old one knows. Whether nothing was new or moving.
static bool merge(struct exec_members *old, struct exec_members *now)
{
    bool quiet = true;
    for (size_t i = 0; i < now->count; i++) {
        struct exec_member *member = &now->list[i];
        struct exec_member *before = find(old, member);
        if (before) {
            member->pidfd = before->pidfd;
            member->stopped_by_us = before->stopped_by_us;
            before->pidfd = -1;
        } else {
            quiet = false;
        }
        if (exec_member_is_still(member))
            continue;
        if (member->stopped_by_us && waits_for_vfork(member)) {
            member->state = 't';
            continue;
        }
        stop(member);
        quiet = false;
    }
    for (size_t i = 0; i < old->count; i++)
        af_cleanup_fd(&old->list[i].pidfd);
    free(old->list);
    *old = *now;
    return quiet;
}

int exec_members_stop(pid_t init, uid_t uid, struct exec_members *ret)
{
    struct exec_members members = {0}, now;
    int64_t until_ns = af_monotonic_ns() + STOP_TIMEOUT_NS;
    const struct timespec pause = {.tv_nsec = PASS_PAUSE_NS};
    for (unsigned quiet = 0; quiet < 2;) {
        int rc = list_members(init, uid, &now);
        if (rc < 0) {
            exec_members_resume(&members);
            return rc;
        }
        quiet = merge(&members, &now) ? quiet + 1 : 0;
        if (af_monotonic_ns() > until_ns)
            break;
        if (quiet == 0)
            nanosleep(&pause, NULL);
    }
    int moving = 0;
    for (size_t i = 0; i < members.count; i++)
        moving += !exec_member_is_still(&members.list[i]);
    *ret = members;
    return moving;
}

void exec_member_kill(struct exec_member *member)
{
    if (member->pidfd < 0)
        member->pidfd = pidfd_open(member->pid, 0);
    if (member->pidfd < 0)
        return;
    pidfd_send_signal(member->pidfd, SIGKILL, NULL, 0);
    struct pollfd end = {.fd = member->pidfd, .events = POLLIN};
    while (poll(&end, 1, KILL_TIMEOUT_MS) < 0 && errno == EINTR)
        continue;
    member->stopped_by_us = false;
}

void exec_members_resume(struct exec_members *members)
{
    for (size_t i = members->count; i-- > 0;) {
        struct exec_member *member = &members->list[i];
        if (member->stopped_by_us)
            pidfd_send_signal(member->pidfd, SIGCONT, NULL, 0);
        af_cleanup_fd(&member->pidfd);
    }
    free(members->list);
    *members = (struct exec_members){0};
}
