// Ends what a crashed daemon left running, found by the lock that it holds.
//
// The daemon opens <run_dir>/exec.lock once, locks that open file description (flock) and lets
// bwrap and the init inherit the descriptor. The lock is held for exactly as long as one of them
// lives: it cannot be forgotten, needs no pid file that could be stale or half-written, covers a
// daemon that was killed between fork and exec, and a reused pid can never be mistaken for one of
// ours. When the lock is held, its holders are the processes with that inode among their open
// files, in /proc. Commands do not inherit it; they die with their init's pid namespace.
// An exiting init gives up the lock before the kernel ends the rest of its pid namespace; it keeps
// its name until that is done, so processes of that name are waited for, but never killed.
// A second lock, <run_dir>/exec.owner, is the daemon's alone: while it is held nothing is ended.
// Usually nothing is found: the init exits when the daemon's end of its socket closes.
// Owns: nothing. Locks: none. Fails: af_error. Read next: init/main.c.
#include "exec/recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/cgroup.h"
#include "exec/exec.h"
#include "exec/init/protocol.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define LOCK_NAME     "exec.lock"
#define OWNER_NAME    "exec.owner"
#define GRACE_NS      (200 * 1000000LL) // for inits that are just seeing their socket close
#define DEADLINE_NS   (10 * AF_NS_PER_SEC)
#define LOCK_RETRY_MS 2
#define EXITING_MS    2000 // for all inits that are exiting: the name is one that anybody may have

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int lock_open(const char *run_dir, const char *name, int flags, int *ret_fd)
{
    AF_CLEANUP_FD int dir = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    int fd = openat(dir, name, flags | O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static int lock_take(const char *run_dir, const char *name, int *ret_fd, struct af_error *err)
{
    AF_CLEANUP_FD int fd = -1;
    int e = lock_open(run_dir, name, O_CREAT, &fd);
    if (e < 0)
        return af_error_errno(err, e, "cannot open %s/%s", run_dir, name);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return af_error_set(err, AF_FAILED_PRECONDITION,
                                "the run directory %s is in use by another daemon, or by processes "
                                "that a crashed one left (%s is locked)",
                                run_dir, name);
        return af_error_errno(err, errno, "cannot lock %s/%s", run_dir, name);
    }
    *ret_fd = af_take_fd(&fd);
    return 0;
}

int exec_lock_take(const char *run_dir, int *ret_owner_fd, int *ret_fd, struct af_error *err)
{
    AF_CLEANUP_FD int owner_fd = -1;
    if (lock_take(run_dir, OWNER_NAME, &owner_fd, err) < 0 ||
        lock_take(run_dir, LOCK_NAME, ret_fd, err) < 0)
        return -1;
    *ret_owner_fd = af_take_fd(&owner_fd);
    return 0;
}

// Whether the process has the lock file open.
static bool holds(int proc_fd, const char *pid, const struct stat *lock)
{
    char path[64];
    snprintf(path, sizeof(path), "%.20s/fd", pid);
    int dir_fd = openat(proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AF_CLEANUP(cleanup_dir) DIR *dir = dir_fd < 0 ? NULL : fdopendir(dir_fd);
    if (!dir)
        return false;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        struct stat st;
        if (entry->d_name[0] != '.' && fstatat(dir_fd, entry->d_name, &st, 0) == 0 &&
            st.st_dev == lock->st_dev && st.st_ino == lock->st_ino)
            return true;
    }
    return false;
}

// Kills one holder and waits for its end. Returns whether it was there.
static bool end_holder(int proc_fd, const char *name, const struct stat *lock, int64_t deadline_ns)
{
    pid_t pid = (pid_t)atol(name);
    if (pid == getpid() || !holds(proc_fd, name, lock))
        return false;
    AF_CLEANUP_FD int pidfd = pidfd_open(pid, 0);
    // Asked again with the pidfd at hand: the number now belongs to what the pidfd names.
    if (pidfd < 0 || !holds(proc_fd, name, lock) || pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0)
        return false;
    struct pollfd polled = {.fd = pidfd, .events = POLLIN};
    int64_t left_ns = deadline_ns - af_monotonic_ns();
    poll(&polled, 1, left_ns > 0 ? (int)(left_ns / 1000000) : 0);
    return true;
}

static unsigned end_holders(const struct stat *lock, int64_t deadline_ns)
{
    unsigned ended = 0;
    AF_CLEANUP(cleanup_dir) DIR *proc = opendir("/proc");
    if (!proc)
        return 0;
    struct dirent *entry;
    while ((entry = readdir(proc)))
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
            end_holder(dirfd(proc), entry->d_name, lock, deadline_ns))
            ended++;
    return ended;
}

static bool has_name(int proc_fd, const char *pid, const char *name)
{
    char path[64], comm[32] = "";
    snprintf(path, sizeof(path), "%.20s/comm", pid);
    AF_CLEANUP_FD int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, comm, sizeof(comm) - 1) <= 0)
        return false;
    comm[strcspn(comm, "\n")] = '\0';
    return strcmp(comm, name) == 0;
}

// Waits for inits that have given up the lock and are ending their pid namespaces.
static void wait_for_exiting(const struct stat *lock)
{
    char name[EXEC_INIT_NAME_SIZE];
    snprintf(name, sizeof(name), EXEC_INIT_NAME_FORMAT, (unsigned)lock->st_ino);
    AF_CLEANUP(cleanup_dir) DIR *proc = opendir("/proc");
    int64_t until_ns = af_monotonic_ns() + EXITING_MS * 1000000LL;
    struct dirent *entry;
    while (proc && (entry = readdir(proc))) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
            !has_name(dirfd(proc), entry->d_name, name))
            continue;
        AF_CLEANUP_FD int pidfd = pidfd_open((pid_t)atol(entry->d_name), 0);
        struct pollfd polled = {.fd = pidfd, .events = POLLIN};
        int64_t left_ns = until_ns - af_monotonic_ns();
        if (pidfd >= 0 && left_ns > 0)
            poll(&polled, 1, (int)(left_ns / 1000000));
    }
}

// Waits until nobody holds the lock; kills the holders after the grace time.
static int lock_free(int fd, const char *run_dir, unsigned *ret_ended, struct af_error *err)
{
    struct stat lock;
    if (fstat(fd, &lock) < 0)
        return af_error_errno(err, errno, "cannot read %s/" LOCK_NAME, run_dir);
    int64_t start_ns = af_monotonic_ns();
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int64_t now_ns = af_monotonic_ns();
        if (errno != EWOULDBLOCK && errno != EINTR)
            return af_error_errno(err, errno, "cannot lock %s/" LOCK_NAME, run_dir);
        if (now_ns > start_ns + DEADLINE_NS)
            return af_error_set(err, AF_UNAVAILABLE,
                                "processes of a crashed daemon hold %s/" LOCK_NAME
                                " and do not end: see `fuser %s/" LOCK_NAME "`",
                                run_dir, run_dir);
        if (now_ns > start_ns + GRACE_NS)
            *ret_ended += end_holders(&lock, start_ns + DEADLINE_NS);
        // flock has no time limit that is free of signals: ask again soon.
        poll(NULL, 0, LOCK_RETRY_MS);
    }
    wait_for_exiting(&lock);
    return 0;
}

int exec_recover(const char *run_dir, unsigned *ret_ended, struct af_error *err)
{
    unsigned ended = 0;
    AF_CLEANUP_FD int fd = -1;
    int e = lock_open(run_dir, LOCK_NAME, 0, &fd);
    if (e < 0 && e != -ENOENT)
        return af_error_errno(err, e, "cannot open %s/" LOCK_NAME, run_dir);
    if (fd >= 0) {
        AF_CLEANUP_FD int owner_fd = -1;
        if (lock_take(run_dir, OWNER_NAME, &owner_fd, err) < 0 ||
            lock_free(fd, run_dir, &ended, err) < 0)
            return -1;
        ended += exec_cgroups_recover(run_dir);
    }
    if (ret_ended)
        *ret_ended = ended;
    return 0;
}
