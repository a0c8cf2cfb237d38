// Which way requests come: FUSE over io_uring, or reads of /dev/fuse.
//
// io_uring needs three things: a libfuse that has it and lets any thread answer, the kernel's
// parameter fuse.enable_uring, and a kernel that offers it when the session starts. libfuse falls
// back silently, so what counts is where the first request came from.
// Owns nothing. Fails only when io_uring was insisted on. Read next: session.c.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sysinfo.h>

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"

static void why_not(struct fs_transport_state *state, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void why_not(struct fs_transport_state *state, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(state->why_not, sizeof state->why_not, fmt, ap);
    va_end(ap);
}

// 1: on, 0: off, -errno: the kernel does not have it.
static int read_parameter(void)
{
    AF_CLEANUP_FD int fd = open(PARAMETER, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char value;
    if (read(fd, &value, 1) != 1)
        return -EIO;
    return value == 'Y' || value == '1';
}

static bool switch_on(struct fs_transport_state *state)
{
    int now = read_parameter();
    if (now == -ENOENT) {
        // Opening the device loads the module, where it is one.
        AF_CLEANUP_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        (void)fd;
        now = read_parameter();
    }
    if (now < 0) {
        why_not(state, "this kernel has no FUSE over io_uring (%s is missing)", PARAMETER);
        return false;
    }
    if (now == 1)
        return true;
    AF_CLEANUP_FD int fd = open(PARAMETER, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "Y", 1) != 1 || read_parameter() != 1) {
        why_not(state, "fuse.enable_uring is off and cannot be switched on here");
        return false;
    }
    return true;
}

// One less than a power of two where it is at its bounds: libfuse adds an entry, io_uring rounds
// up. 0 entries for each of very many CPUs are the least that there can be.
unsigned fs_ring_depth(unsigned cpus)
{
    unsigned depth = FS_RING_ENTRIES / cpus;
    if (depth > FS_RING_DEPTH_MAX)
        return FS_RING_DEPTH_MAX;
    return depth <= FS_RING_DEPTH_MIN ? FS_RING_DEPTH_MIN : depth - 1;
}

int fs_transport_choose(struct fs_transport_state *state, enum fs_transport wanted,
                        struct af_error *err)
{
    state->wanted = wanted;
    state->ring_asked = false;
    atomic_init(&state->ring_offered, false);
    atomic_init(&state->ring_seen, false);
    state->why_not[0] = '\0';
    state->depth = fs_ring_depth((unsigned)get_nprocs_conf());
    snprintf(state->options, sizeof state->options, "io_uring,io_uring_q_depth=%u", state->depth);
    if (wanted == FS_TRANSPORT_DEV_FUSE)
        why_not(state, "as asked");
    else if (!FS_FUSE_HAS_RING)
        why_not(state, "built with libfuse %s, which has no FUSE over io_uring", fuse_pkgversion());
    else if (!fs_compat_ring_is_safe())
        why_not(state, "libfuse %s loses io_uring answers from other threads (see docs/FUSE.md)",
                fuse_pkgversion());
    else
        state->ring_asked = switch_on(state);
    if (wanted == FS_TRANSPORT_IO_URING && !state->ring_asked)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "transport io_uring is not to be had: %s. Use transport auto",
                            state->why_not);
    return 0;
}

const char *fs_transport_options(const struct fs_transport_state *state)
{
    return state->ring_asked ? state->options : NULL;
}

bool fs_transport_is_ring(const struct fs_transport_state *state)
{
    return atomic_load(&state->ring_seen);
}

int fs_transport_verify(const struct fs_transport_state *state, struct af_error *err)
{
    if (state->wanted != FS_TRANSPORT_IO_URING || fs_transport_is_ring(state))
        return 0;
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "transport io_uring is not in use although asked for: %s. Use transport "
                        "auto",
                        atomic_load(&state->ring_offered) ? "libfuse could not set up its rings"
                                                          : "the kernel did not offer it");
}

void fs_transport_describe(const struct fs_transport_state *state, unsigned workers, char *ret,
                           size_t size)
{
    if (fs_transport_is_ring(state))
        snprintf(ret, size, "transport io_uring (one queue per CPU, depth %u)", state->depth);
    else if (!state->ring_asked)
        snprintf(ret, size, "transport /dev/fuse (%u threads; %s)", workers, state->why_not);
    else
        snprintf(ret, size, "transport /dev/fuse (%u threads; io_uring was asked for, but %s)",
                 workers,
                 atomic_load(&state->ring_offered) ? "libfuse could not set up its rings"
                                                   : "the kernel did not offer it");
}
