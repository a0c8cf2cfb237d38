// Faults of the disk, injected into this test program: the n-th system call on a file of one
// directory that a thread makes while faults are armed fails with an errno, or takes time.
//
// The program's own definitions stand before those of libc, for liblmdb too. To be included by one
// file of a program, which links with nothing else that defines them. Covered is what changes or
// makes files, and reads of their content: writes, syncs, allocation, truncation, opening, renames,
// unlinks, copies.
#ifndef AF_TESTS_FAULT_SHIM_H
#define AF_TESTS_FAULT_SHIM_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct {
    char dir[512];        // files below it
    atomic_int countdown; // calls until the fault; 0: disarmed
    atomic_int error;
    atomic_bool fired, others; // others: threads other than the one that armed
    atomic_bool stays;         // every call from the n-th on fails, as on a disk that is full
    atomic_long delay_ms;      // of every sync and read, instead of a fault
    const char *call;          // that failed
} fault;
static _Thread_local bool fault_thread;

static bool fault_fd_is_below(int fd)
{
    char link[64], path[600];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return strncmp(path, fault.dir, strlen(fault.dir)) == 0;
}

static bool fault_hits(int fd, const char *path, const char *call)
{
    if (atomic_load(&fault.countdown) == 0 || fault_thread == atomic_load(&fault.others))
        return false;
    bool below = path && path[0] == '/' ? strncmp(path, fault.dir, strlen(fault.dir)) == 0
                                        : fault_fd_is_below(fd);
    if (!below)
        return false;
    int left = atomic_fetch_sub(&fault.countdown, 1);
    if (left != 1) {
        if (left <= 0)
            atomic_store(&fault.countdown, 0);
        return false;
    }
    if (atomic_load(&fault.stays))
        atomic_store(&fault.countdown, 1);
    atomic_store(&fault.fired, true);
    fault.call = call;
    errno = atomic_load(&fault.error);
    return true;
}

static void fault_arm(const char *dir, int n, int error)
{
    snprintf(fault.dir, sizeof fault.dir, "%s", dir);
    atomic_store(&fault.fired, false);
    atomic_store(&fault.error, error);
    fault_thread = true;
    atomic_store(&fault.countdown, n);
}

// Whether the fault happened.
static bool fault_disarm(void)
{
    atomic_store(&fault.countdown, 0);
    atomic_store(&fault.stays, false);
    fault_thread = false;
    return atomic_load(&fault.fired);
}

static void fault_wait(int fd)
{
    long ms = atomic_load(&fault.delay_ms);
    if (ms > 0 && fault_fd_is_below(fd)) {
        struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
        nanosleep(&time, NULL);
    }
}

#define FAULT_REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULT_FD_CALL(type, name, params, args, fd)                                                \
    type name params                                                                               \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        if (!real)                                                                                 \
            real = FAULT_REAL(name);                                                               \
        return fault_hits(fd, NULL, #name) ? -1 : real args;                                       \
    }
#define FAULT_SLOW_CALL(type, name, params, args, fd)                                              \
    type name params                                                                               \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        if (!real)                                                                                 \
            real = FAULT_REAL(name);                                                               \
        fault_wait(fd);                                                                            \
        return fault_hits(fd, NULL, #name) ? -1 : real args;                                       \
    }
#define FAULT_PATH_CALL(type, name, params, args, fd, path)                                        \
    type name params                                                                               \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        if (!real)                                                                                 \
            real = FAULT_REAL(name);                                                               \
        return fault_hits(fd, path, #name) ? -1 : real args;                                       \
    }

FAULT_FD_CALL(ssize_t, write, (int fd, const void *buf, size_t n), (fd, buf, n), fd)
FAULT_FD_CALL(ssize_t, pwrite, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at), fd)
FAULT_FD_CALL(ssize_t, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n), fd)
FAULT_FD_CALL(int, ftruncate, (int fd, off_t size), (fd, size), fd)
FAULT_FD_CALL(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n), fd)
FAULT_SLOW_CALL(int, fsync, (int fd), (fd), fd)
FAULT_SLOW_CALL(int, fdatasync, (int fd), (fd), fd)
FAULT_SLOW_CALL(ssize_t, copy_file_range,
                (int in, off_t *in_at, int out, off_t *out_at, size_t n, unsigned flags),
                (in, in_at, out, out_at, n, flags), out)
FAULT_PATH_CALL(int, renameat, (int from, const char *a, int to, const char *b), (from, a, to, b),
                from, a)
FAULT_PATH_CALL(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fd, path)

// Variable arguments, passed on as the widest that there are.
int openat(int fd, const char *path, int flags, ...)
{
    static int (*real)(int, const char *, int, ...);
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (!real)
        real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    return fault_hits(fd, path, "openat") ? -1 : real(fd, path, flags, mode);
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (request == FICLONE && fault_hits(fd, NULL, "FICLONE"))
        return -1;
    return real(fd, request, arg);
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list ap;
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_openat2 && fault_hits((int)a[0], (const char *)a[1], "openat2"))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#endif
