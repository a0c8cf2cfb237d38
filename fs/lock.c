// One daemon per mountpoint: a lock file beside it.
//
// The directory itself cannot carry the lock: once mounted, its path leads into the mount. A crash
// leaves the file behind, unlocked; the next daemon takes it over. Owns nothing but what it
// returns. Fails with a sentence. Read next: recover.c.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

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
