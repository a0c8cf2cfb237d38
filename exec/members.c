// Finding and stopping the processes of a box.
//
// A list of processes is never taken at one moment: one that forks and exits all the time may be in
// none. So they are not stopped by a list, but by kill(-1) from inside the box's pid namespace: the
// kernel signals all of them at one moment in which none can fork, and a fork under way fails. That
// is repeated, since a SIGCONT under way may undo it once. Then they are listed until nothing
// moves: a process with a pending SIGSTOP runs no code of its own any more, but a system call under
// way may end first. Parents are resumed after their children, so that a shell does not notice.
// Errors: -errno. Read next: members.h, holders.c.
#include "exec/members.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOP_TIMEOUT_NS (2LL * AF_NS_PER_SEC)
#define PASS_PAUSE_NS   1000000L
#define KILL_TIMEOUT_MS 2000
#define ANCESTORS_MAX   1024
#define QUIET_PASSES    3

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

int exec_members_list(pid_t init, uid_t uid, struct exec_members *ret)
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

// To stop everything in the namespace that the daemon is in would be to stop the machine.
static bool is_same(int one, int other)
{
    struct stat a, b;
    return fstat(one, &a) < 0 || fstat(other, &b) < 0 ||
           (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

// Sends SIGSTOP to everything in the init's pid namespace but the init. The process that does it is
// root's, so nobody in there can touch it; it shares our memory, and we wait, until it has ended.
// When the init has ended, its number may be any other process's by now: it is the init's while it
// has the box's uid, which no other box and nothing of the machine has.
static int stop_all(pid_t init, uid_t uid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)init);
    AF_CLEANUP_FD int theirs = open(path, O_RDONLY | O_CLOEXEC);
    AF_CLEANUP_FD int ours = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (theirs < 0 || ours < 0)
        return -errno;
    if (!has_uid(init, uid) || is_same(theirs, ours))
        return -ESRCH;
    if (setns(theirs, CLONE_NEWPID) < 0) // of this thread's children alone
        return -errno;
    pid_t child = vfork();
    if (child == 0) {
        kill(-1, SIGSTOP);
        _exit(0);
    }
    int rc = child < 0 ? -errno : 0;
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (setns(ours, CLONE_NEWPID) < 0)
        abort(); // or the daemon's next thread would fail, far from here
    return rc;
}

// The new list takes over what the first one knows. Whether nothing in it moves.
static bool settle(const struct exec_members *before, struct exec_members *now)
{
    bool quiet = true;
    for (size_t i = 0; i < now->count; i++) {
        struct exec_member *member = &now->list[i];
        const struct exec_member *known = find(before, member);
        member->stopped_by_us = !known || (known->state != 'T' && known->state != 't');
        if (!exec_member_is_still(member) && waits_for_vfork(member))
            member->state = 't';
        quiet &= exec_member_is_still(member);
    }
    return quiet;
}

static int stop_and_list(pid_t init, uid_t uid, const struct exec_members *before,
                         struct exec_members *ret, bool *ret_quiet)
{
    int rc = stop_all(init, uid);
    if (rc == 0)
        rc = exec_members_list(init, uid, ret);
    if (rc == 0)
        *ret_quiet = settle(before, ret);
    return rc;
}

int exec_members_stop(pid_t init, uid_t uid, struct exec_members *ret)
{
    struct exec_members before, members = {0}, now;
    int64_t until_ns = af_monotonic_ns() + STOP_TIMEOUT_NS;
    const struct timespec pause = {.tv_nsec = PASS_PAUSE_NS};
    int rc = exec_members_list(init, uid, &before); // who stands still without us
    if (rc < 0)
        return rc;
    for (unsigned quiet = 0; quiet < QUIET_PASSES;) {
        bool is_quiet = false;
        rc = stop_and_list(init, uid, &before, &now, &is_quiet);
        if (rc < 0) {
            exec_members_resume(&members);
            free(before.list);
            return rc;
        }
        free(members.list);
        members = now;
        quiet = is_quiet ? quiet + 1 : 0;
        if (af_monotonic_ns() > until_ns)
            break;
        if (quiet == 0)
            nanosleep(&pause, NULL);
    }
    free(before.list);
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
        if (member->pidfd < 0)
            member->pidfd = pidfd_open(member->pid, 0);
        if (member->stopped_by_us && member->pidfd >= 0)
            pidfd_send_signal(member->pidfd, SIGCONT, NULL, 0);
        af_cleanup_fd(&member->pidfd);
    }
    free(members->list);
    *members = (struct exec_members){0};
}
