// One daemon per mountpoint: a lock file beside it.
//
// The directory itself cannot carry the lock: once mounted, its path leads into the mount. A crash
// leaves the file behind, unlocked; the next daemon takes it over. A killed daemon may still hold
// it: a thread that was taking a name back waits in the kernel for a directory that some request
// has locked, which the daemon would have to answer, and a process that cannot end keeps its files.
// Aborting the connection lets all of them go. Owns nothing but what it
// returns. Fails with a sentence. Read next: recover.c.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DYING_WAIT_NS  (10 * AF_NS_PER_SEC) // for the end of a process whose mount was aborted
#define DYING_RETRY_NS 2000000

static int lock_path(const char *mountpoint, char **ret, struct af_error *err)
{
    AF_CLEANUP_FREE char *canonical = NULL;
    int rc = fs_mount_canonical(mountpoint, &canonical);
    if (rc != 0)
        return af_error_errno(err, rc, "mountpoint %s", mountpoint);
    if (asprintf(ret, "%s.lock", canonical) < 0) {
        *ret = NULL;
        return af_error_errno(err, ENOMEM, "mountpoint %s", mountpoint);
    }
    return 0;
}

// Whether the locked file is still the one at the path: its former holder may have removed it
// between our open and our lock.
static bool is_current(int fd, const char *path)
{
    struct stat held, named;
    return fstat(fd, &held) == 0 && lstat(path, &named) == 0 && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

static int refuse(int fd, const char *mountpoint, struct af_error *err)
{
    char pid[16] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "the mount directory %s is in use by agentfensed, process %.*s", mountpoint,
                        n > 0 ? (int)strcspn(pid, "\n") : 1, n > 0 ? pid : "?");
}

int fs_lock_mountpoint(const char *mountpoint, int *ret_fd, struct af_error *err)
{
    AF_CLEANUP_FREE char *path = NULL;
    if (lock_path(mountpoint, &path, err) < 0)
        return -1;
    for (;;) {
        AF_CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return af_error_errno(err, errno, "cannot open %s", path);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
            return refuse(fd, mountpoint, err);
        if (!is_current(fd, path))
            continue;
        char pid[16];
        int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
        if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)len, 0) != len)
            return af_error_errno(err, errno, "cannot write %s", path);
        *ret_fd = af_take_fd(&fd);
        return 0;
    }
}

static bool read_name(pid_t pid, char *ret, size_t size)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    AF_CLEANUP_FILE FILE *file = fopen(path, "re");
    return file && fgets(ret, (int)size, file);
}

// Whether the process has been killed and hangs in the kernel, and is of our program's name, lest
// the number be another's by now.
static bool is_dying(const char *text)
{
    char name[64], own[64];
    pid_t pid = (pid_t)strtol(text, NULL, 10);
    return pid > 0 && fs_is_half_dead(pid) && read_name(pid, name, sizeof name) &&
           read_name(getpid(), own, sizeof own) && strcmp(name, own) == 0;
}

static void abort_mount(const char *mountpoint, const char *pid)
{
    AF_CLEANUP_FREE char *canonical = NULL;
    struct fs_mount mount;
    if (fs_mount_canonical(mountpoint, &canonical) < 0 || fs_mount_find(canonical, &mount) != 1 ||
        !mount.is_ours)
        return;
    af_log(AF_LOG_WARN, "fs", "a killed daemon hangs; its mount is aborted", "pid=%s mount=%s", pid,
           canonical);
    fs_mount_abort(mount.minor);
}

void fs_end_dying(const char *mountpoint)
{
    struct af_error err;
    AF_CLEANUP_FREE char *path = NULL;
    if (lock_path(mountpoint, &path, &err) < 0)
        return;
    AF_CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    char pid[16] = "";
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0 || pread(fd, pid, sizeof pid - 1, 0) <= 0)
        return;
    pid[strcspn(pid, "\n")] = '\0';
    if (!is_dying(pid))
        return;
    abort_mount(mountpoint, pid);
    int64_t deadline_ns = af_monotonic_ns() + DYING_WAIT_NS;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0 && af_monotonic_ns() < deadline_ns)
        nanosleep(&(struct timespec){.tv_nsec = DYING_RETRY_NS}, NULL);
}

void fs_unlock_mountpoint(const char *mountpoint, int fd)
{
    struct af_error err;
    AF_CLEANUP_FREE char *path = NULL;
    if (fd < 0)
        return;
    if (lock_path(mountpoint, &path, &err) == 0)
        unlink(path);
    close(fd);
}
