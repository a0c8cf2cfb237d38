// A slow disk for a whole process, by LD_PRELOAD: system calls on content files of one directory
// that wait for a disk take SLOW_DISK_MS longer, or until the file SLOW_DISK_SWITCH is gone. To
// that file a call adds what it is when it begins to wait: 's' a sync, 'c' a copy, 'r' a read; and
// 'e' when its time is over.
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
#include <fcntl.h>
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

// The switch may go at any time: then there is nobody to tell.
static void tell(char what)
{
    int fd = open(getenv("SLOW_DISK_SWITCH"), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, &what, 1) != 1)
        abort();
    close(fd);
}

#define STEP_MS 10

static void wait_for_disk(int fd, char what)
{
    const char *text = getenv("SLOW_DISK_MS");
    long ms = text ? strtol(text, NULL, 10) : 0;
    const struct timespec step = {.tv_nsec = STEP_MS * 1000000};
    if (!is_slow(fd))
        return;
    tell(what);
    for (; ms > 0 && access(getenv("SLOW_DISK_SWITCH"), F_OK) == 0; ms -= STEP_MS)
        nanosleep(&step, NULL);
    tell('e');
}

#define SLOW(type, name, params, args, fd, what)                                                   \
    type name params                                                                               \
    {                                                                                              \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                       \
        wait_for_disk(fd, what);                                                                   \
        return real args;                                                                          \
    }

SLOW(int, fsync, (int fd), (fd), fd, 's')
SLOW(int, fdatasync, (int fd), (fd), fd, 's')
SLOW(ssize_t, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), fd, 'r')
SLOW(ssize_t, copy_file_range,
     (int in, off_t *in_at, int out, off_t *out_at, size_t n, unsigned flags),
     (in, in_at, out, out_at, n, flags), in, 'c')

ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
    __typeof__(&preadv2) real = (__typeof__(&preadv2))dlsym(RTLD_NEXT, "preadv2");
    if (flags & RWF_NOWAIT && is_slow(fd)) {
        errno = EAGAIN;
        return -1;
    }
    wait_for_disk(fd, 'r');
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
        wait_for_disk(fd, 'c');
    return real(fd, request, arg);
}
