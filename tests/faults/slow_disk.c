// A slow disk for a whole process, by LD_PRELOAD: system calls on content files of one directory
// that wait for a disk take SLOW_DISK_MS longer while the file SLOW_DISK_SWITCH exists.
//
//   SLOW_DISK_DIR=/state SLOW_DISK_MS=2000 SLOW_DISK_SWITCH=/tmp/on LD_PRELOAD=slow_disk.so
//   agentfensed
//
// Slow are syncs, copies, clones and reads that may wait. Reads with RWF_NOWAIT find nothing in
// memory. What io_uring reads is not seen here: it waits on no thread of the daemon's.
// Used by tests/e2e/test_faults.py, which compiles it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static bool is_slow(int fd)
{
    const char *dir = getenv("SLOW_DISK_DIR"), *on = getenv("SLOW_DISK_SWITCH");
    char link[64], path[4096];
    if (!dir || !on || access(on, F_OK) < 0)
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return strncmp(path, dir, strlen(dir)) == 0 && !strstr(path, "/data.mdb");
}

static void wait_for_disk(int fd)
{
    const char *text = getenv("SLOW_DISK_MS");
    long ms = text ? strtol(text, NULL, 10) : 0;
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    if (is_slow(fd))
        nanosleep(&time, NULL);
}

#define SLOW(type, name, params, args, fd)                                                         \
    type name params                                                                               \
    {                                                                                              \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                       \
        wait_for_disk(fd);                                                                         \
        return real args;                                                                          \
    }

SLOW(int, fsync, (int fd), (fd), fd)
SLOW(int, fdatasync, (int fd), (fd), fd)
SLOW(ssize_t, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), fd)
SLOW(ssize_t, copy_file_range,
     (int in, off_t *in_at, int out, off_t *out_at, size_t n, unsigned flags),
     (in, in_at, out, out_at, n, flags), in)

ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
    __typeof__(&preadv2) real = (__typeof__(&preadv2))dlsym(RTLD_NEXT, "preadv2");
    if (flags & RWF_NOWAIT && is_slow(fd)) {
        errno = EAGAIN;
        return -1;
    }
    wait_for_disk(fd);
    return real(fd, iov, count, at, flags);
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...) =
        (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (request == FICLONE)
        wait_for_disk(fd);
    return real(fd, request, arg);
}
