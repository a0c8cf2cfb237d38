// A session's life: mount, workers, priming the open policy, unmounting.
//
// The mount is made here with mount(2) and handed to libfuse as /dev/fd/N, and requests are read
// here rather than by libfuse's loops, so that the order of the end is ours: no request may be in
// the slow pool or the io loop when libfuse frees its rings.
//
// Owns every thread and every part of the session. No locks of its own. Everything that touches
// the mount from this process (priming, the last flush) runs on a thread that is given up on
// after a while by aborting the connection, so neither start nor stop can hang.
// Fails with a sentence; a failed start leaves nothing behind. Read next: transport.c, ops.c.
#include "fs/limit.h"
#include "fs/session_priv.h"
#include "fs/taps_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define DEFAULT_READ_AHEAD_KIB 1024
#define DEFAULT_SLOW_WORKERS   8
#define TOUCH_LIMIT_NS         (10 * AF_NS_PER_SEC) // for what touches our own mount
#define DRAIN_LIMIT_NS         (10 * AF_NS_PER_SEC) // for slow requests at the end
#define FORGET_PAUSE_NS        (2 * 1000000LL)

// ---- small facts -------------------------------------------------------------------------

const char *fs_session_mountpoint(const struct fs_session *session)
{
    return session->mountpoint;
}

int fs_session_end_fd(struct fs_session *session)
{
    return session->end_fd;
}

bool fs_session_is_serving(struct fs_session *session)
{
    return atomic_load(&session->started) && !atomic_load(&session->stopping) &&
           !atomic_load(&session->ended);
}

static void describe_policy(const struct fs_session *session, char *ret, size_t size)
{
    const char *no_passthrough = atomic_load(&session->no_passthrough);
    if (session->policy == FS_OPEN_KERNEL)
        snprintf(ret, size,
                 "open policy kernel (OPEN answered ENOSYS: a warm open costs no request)");
    else if (!no_passthrough)
        snprintf(ret, size,
                 "open policy server (every OPEN decided here; read-only files from %" PRIu64
                 " KiB passed through)",
                 session->passthrough_bytes >> 10);
    else
        snprintf(ret, size, "open policy server (every OPEN decided here; no passthrough: %s)",
                 no_passthrough);
}

void fs_session_describe(struct fs_session *session, char *ret, size_t size)
{
    char transport[2 * FS_TEXT_MAX];
    fs_transport_describe(&session->transport, session->worker_count, transport, sizeof transport);
    char policy[2 * FS_TEXT_MAX];
    describe_policy(session, policy, sizeof policy);
    snprintf(ret, size, "%s, %s, read-ahead %s%u KiB, libfuse %s", transport, policy,
             session->read_ahead_set ? "" : "not set to ", session->read_ahead_kib,
             fuse_pkgversion());
}

enum fs_open_policy fs_session_open_policy(const struct fs_session *session)
{
    return session->policy;
}

static unsigned default_workers(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < 2 ? 2 : cpus > 4 ? 4 : (unsigned)cpus;
}

// ---- new ---------------------------------------------------------------------------------

static int make_parts(struct fs_session *session, struct af_error *err)
{
    session->counters = fs_counters_new();
    if (!session->counters || fs_view_counters_new(session) < 0 || fs_taps_new(session) < 0 ||
        fs_limits_new(session) < 0)
        return af_error_errno(err, ENOMEM, "FUSE session");
    session->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (session->end_fd < 0)
        return af_error_errno(err, errno, "eventfd");
    int rc = af_io_new(AF_IO_AUTO, &session->io);
    if (rc == 0)
        rc = fs_moved_new(session);
    if (rc == 0)
        rc = fs_invalidator_new(session, &session->invalidator);
    if (rc == 0 && session->policy == FS_OPEN_SERVER)
        rc = fs_passthrough_new(&session->passthrough);
    return rc == 0 ? 0 : af_error_errno(err, rc, "FUSE session");
}

static int check_options(const struct fs_options *options, struct af_error *err)
{
    if (options->workers > FS_WORKERS_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "at most %d FUSE workers", FS_WORKERS_MAX);
    return 0;
}

int fs_session_new(const struct fs_options *options, struct fs_session **ret, struct af_error *err)
{
    if (check_options(options, err) != 0)
        return -1;
    struct fs_session *session = calloc(1, sizeof *session);
    if (!session)
        return af_error_errno(err, ENOMEM, "FUSE session");
    session->magic = FS_SESSION_MAGIC;
    session->mux = options->mux;
    session->dev_fd = -1;
    session->root_fd = -1;
    session->end_fd = -1;
    session->policy = options->open_policy;
    session->passthrough_bytes = options->passthrough_bytes;
    atomic_init(&session->no_passthrough, "not started");
    session->uid_base = options->uid_base;
    session->no_xattrs = options->no_xattrs;
    session->no_counting = getenv("AGENTFENSE_TEST_NO_COUNTING") != NULL;
    session->worker_count = options->workers ? options->workers : default_workers();
    session->slow_worker_count =
        options->slow_workers ? options->slow_workers : DEFAULT_SLOW_WORKERS;
    session->read_ahead_kib =
        options->read_ahead_kib ? options->read_ahead_kib : DEFAULT_READ_AHEAD_KIB;
    int rc = fs_mount_canonical(options->mountpoint, &session->mountpoint);
    if (rc != 0)
        rc = af_error_errno(err, rc, "mountpoint %s", options->mountpoint);
    if (rc == 0)
        rc = fs_transport_choose(&session->transport, options->transport, err);
    if (rc == 0)
        rc = make_parts(session, err);
    if (rc != 0) {
        fs_session_free(session);
        return -1;
    }
    *ret = session;
    return 0;
}

// ---- what is negotiated ------------------------------------------------------------------

static void negotiate_passthrough(struct fs_session *session, struct fuse_conn_info *conn)
{
    const char *why_not = NULL;
    if (session->passthrough_bytes == 0)
        why_not = "off, as configured";
    else if (FS_FUSE_CAP_PASSTHROUGH == 0)
        why_not = "libfuse is older than 3.18";
    else if (!fs_compat_capable(conn, FS_FUSE_CAP_PASSTHROUGH))
        why_not = "this kernel does not offer it";
    fs_compat_want(conn, FS_FUSE_CAP_PASSTHROUGH, !why_not);
    if (!why_not)
        mux_fix_content(session->mux);
    atomic_store(&session->no_passthrough, why_not);
}

void fs_session_negotiate(struct fs_session *session, struct fuse_conn_info *conn)
{
    static const struct {
        uint64_t cap;
        bool on;
    } wishes[] = {
        // O_TRUNC must come as a SETATTR, or it is lost where no OPEN is sent.
        {FUSE_CAP_ATOMIC_O_TRUNC, false},
        // Pages are dropped when mux says so, not whenever an mtime differs.
        {FUSE_CAP_AUTO_INVAL_DATA, false},
        {FUSE_CAP_WRITEBACK_CACHE, false},
        // Locks stay in the kernel (docs/FUSE.md).
        {FUSE_CAP_FLOCK_LOCKS, false},
        {FUSE_CAP_POSIX_LOCKS, false},
        {FUSE_CAP_EXPORT_SUPPORT, false},
        {FUSE_CAP_DONT_MASK, false}, // the kernel applies the umask
        {FUSE_CAP_POSIX_ACL, false},
        {FUSE_CAP_SPLICE_READ, false},
        {FUSE_CAP_SPLICE_WRITE, false},
        {FUSE_CAP_SPLICE_MOVE, false},
        {FUSE_CAP_HANDLE_KILLPRIV, false},
        {FUSE_CAP_HANDLE_KILLPRIV_V2, FS_FUSE_KILLPRIV_RELIABLE},
        {FUSE_CAP_ASYNC_READ, true},
        {FUSE_CAP_PARALLEL_DIROPS, true},
        {FUSE_CAP_READDIRPLUS, true},
        {FUSE_CAP_READDIRPLUS_AUTO, true},
        {FUSE_CAP_CACHE_SYMLINKS, true}, // a symlink's target never changes
        {FUSE_CAP_NO_OPENDIR_SUPPORT, true},
    };
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++)
        fs_compat_want(conn, wishes[i].cap, wishes[i].on);
    if (session->policy == FS_OPEN_SERVER)
        negotiate_passthrough(session, conn);
    bool has_ring = FS_FUSE_HAS_RING && fs_compat_capable(conn, FS_FUSE_CAP_RING);
    conn->max_write = has_ring && session->transport.ring_asked ? FS_RING_IO_MAX : FS_IO_MAX;
    if (conn->max_readahead > FS_IO_MAX)
        conn->max_readahead = FS_IO_MAX;
    conn->max_background = FS_BACKGROUND;
    conn->congestion_threshold = FS_BACKGROUND * 3 / 4;
    fs_compat_no_interrupt(conn); // worker_thread reads them
    atomic_store(&session->transport.ring_offered, has_ring);
}

// ---- workers -----------------------------------------------------------------------------

static void connection_ended(struct fs_session *session)
{
    atomic_store(&session->ended, true);
    uint64_t one = 1;
    ssize_t ignored = write(session->end_fd, &one, sizeof one); // full: readable already
    (void)ignored;
}

// With rings nothing but FORGETs and INTERRUPTs comes over the device, and nobody waits for those.
// Were this thread always waiting for one, whoever closes or removes the last of a file would have
// to wake it; after a pause those that came meanwhile are read together.
static void let_forgets_gather(const struct fs_session *session)
{
    struct timespec pause = {.tv_nsec = FORGET_PAUSE_NS};
    if (fs_transport_is_ring(&session->transport))
        nanosleep(&pause, NULL);
}

// A signal for who waits. It has no answer, and is not for libfuse, which would tell the kernel to
// send no more of them.
static bool is_interrupt(const void *message, ssize_t n)
{
    const struct fuse_in_header *in = message;
    return n >= (ssize_t)sizeof *in && in->opcode == FUSE_INTERRUPT;
}

// Reads requests from /dev/fuse; with io_uring only INIT, FORGET and INTERRUPT come this way.
static void *worker_thread(void *arg)
{
    struct fs_session *session = arg;
    pthread_setname_np(pthread_self(), "af-fs");
    AF_CLEANUP_FREE char *mem = malloc(FS_DEV_BUF);
    int error = mem ? 0 : ENOMEM;
    while (error == 0 && !fuse_session_exited(session->fuse)) {
        ssize_t n = read(session->dev_fd, mem, FS_DEV_BUF);
        if (is_interrupt(mem, n)) {
            fs_limit_interrupted(session);
        } else if (n > 0) {
            struct fuse_buf buf = {.size = (size_t)n, .mem = mem};
            fuse_session_process_buf(session->fuse, &buf);
            let_forgets_gather(session);
        } else if (n == 0 || (errno != EINTR && errno != ENOENT && errno != EAGAIN)) {
            error = n == 0 ? ENODEV : errno; // ENODEV: unmounted or aborted
        }
    }
    if (error != ENODEV && !atomic_load(&session->stopping)) {
        af_log(AF_LOG_ERROR, "fs", "a FUSE worker ended", "error=%d", error);
        fs_mount_abort(session->minor); // callers get an error rather than no answer
    }
    connection_ended(session);
    return NULL;
}

static int start_workers(struct fs_session *session, unsigned count)
{
    while (session->workers_started < count) {
        int rc = pthread_create(&session->workers[session->workers_started], NULL, worker_thread,
                                session);
        if (rc != 0)
            return -rc;
        session->workers_started++;
    }
    return 0;
}

// ---- touching our own mount --------------------------------------------------------------

struct touch {
    struct fs_session *session;
    int (*fn)(struct fs_session *session);
    int rc;
};

static void *touch_thread(void *arg)
{
    struct touch *touch = arg;
    touch->rc = touch->fn(touch->session);
    return NULL;
}

// Runs fn on a thread of its own. When it takes too long the connection is aborted, which makes
// it return with an error.
static int touch_mount(struct fs_session *session, int (*fn)(struct fs_session *))
{
    struct touch touch = {.session = session, .fn = fn};
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, touch_thread, &touch);
    if (rc != 0)
        return -rc;
    struct timespec until = af_timespec_of_ns(af_clock_ns(CLOCK_REALTIME) + TOUCH_LIMIT_NS);
    if (pthread_timedjoin_np(thread, NULL, &until) != 0) {
        fs_mount_abort(session->minor);
        pthread_join(thread, NULL);
        return -ETIMEDOUT;
    }
    return touch.rc;
}

// Makes the kernel learn that OPENDIR, OPEN and FLUSH are not implemented, before anything else
// can send a CREATE.
static int prime(struct fs_session *session)
{
    AF_CLEANUP_FD int dir = open(session->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    AF_CLEANUP_FD int file = openat(dir, FS_SENTINEL, O_RDONLY | O_CLOEXEC);
    return file < 0 ? -errno : 0;
}

static void set_read_ahead(struct fs_session *session)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", session->major,
             session->minor);
    AF_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    session->read_ahead_set = fd >= 0 && dprintf(fd, "%u", session->read_ahead_kib) > 0;
    if (!session->read_ahead_set)
        af_log(AF_LOG_WARN, "fs", "cannot set the read-ahead: large reads will be slower",
               "path=%s error=%d", path, errno);
}

// ---- start -------------------------------------------------------------------------------

int fs_session_start_parts(struct fs_session *session, struct af_error *err)
{
    const char *options = fs_transport_options(&session->transport);
    char *argv[] = {"agentfense", "-o", (char *)options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(options ? 3 : 1, argv);
    struct fuse_lowlevel_ops ops = fs_ops;
    if (session->no_xattrs) { // libfuse answers ENOSYS for what is not in the table
        ops.setxattr = NULL;
        ops.getxattr = NULL;
        ops.listxattr = NULL;
        ops.removexattr = NULL;
    }
    session->fuse = fuse_session_new(&args, &ops, sizeof ops, session);
    fuse_opt_free_args(&args);
    if (!session->fuse)
        return af_error_set(err, AF_INTERNAL, "libfuse refused to make a session");
    int rc = fs_slow_new(session, session->slow_worker_count, true, &session->slow);
    if (rc == 0)
        rc = fs_slow_new(session, default_workers(), false, &session->turns);
    if (rc == 0)
        rc = fs_limits_start(session);
    if (rc == 0)
        rc = fs_moved_start(session);
    if (rc == 0)
        rc = fs_invalidator_start(session->invalidator);
    return rc == 0 ? 0 : af_error_errno(err, rc, "starting the FUSE session's threads");
}

static int mount_here(struct fs_session *session, struct af_error *err)
{
    const char *path = session->mountpoint;
    struct fs_mount mount_info;
    struct stat st;
    int rc = fs_mount_find(path, &mount_info);
    if (rc > 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s has a mount of type %s on it already: choose another directory",
                            path, mount_info.type);
    if (rc == 0)
        rc = stat(path, &st) == 0 ? S_ISDIR(st.st_mode) ? 0 : -ENOTDIR : -errno;
    if (rc != 0)
        return af_error_errno(err, rc, "mountpoint %s", path);
    AF_CLEANUP_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return af_error_errno(err, errno,
                              "opening /dev/fuse (is the fuse module there, are we root?)");
    char data[128];
    snprintf(data, sizeof data,
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd);
    if (mount(FS_SUBTYPE, path, FS_TYPE, MS_NOSUID | MS_NODEV, data) != 0)
        return af_error_errno(err, errno, "mounting FUSE on %s", path);
    session->mounted = true;
    rc = fs_mount_find(path, &mount_info);
    if (rc != 1 || !mount_info.is_ours)
        return af_error_set(err, AF_INTERNAL, "the new mount on %s is not in mountinfo", path);
    session->major = mount_info.major;
    session->minor = mount_info.minor;
    char device[32];
    snprintf(device, sizeof device, "/dev/fd/%d", fd);
    if (fuse_session_mount(session->fuse, device) != 0)
        return af_error_set(err, AF_INTERNAL, "libfuse refused its device %s", device);
    session->dev_fd = af_take_fd(&fd); // libfuse closes it
    return 0;
}

static int serve(struct fs_session *session, struct af_error *err)
{
    int rc = start_workers(session, 1);
    if (rc == 0) {
        rc = touch_mount(session, prime);
        if (rc != 0)
            return af_error_errno(err, rc, "the new mount on %s does not answer",
                                  session->mountpoint);
        if (fs_transport_verify(&session->transport, err) != 0)
            return -1;
        // With rings one is enough: only forgets and interrupts come over the device.
        if (!fs_transport_is_ring(&session->transport))
            rc = start_workers(session, session->worker_count);
    }
    if (rc != 0)
        return af_error_errno(err, rc, "starting FUSE workers");
    set_read_ahead(session);
    return 0;
}

int fs_session_start(struct fs_session *session, struct af_error *err)
{
    AF_CHECK_MAGIC(session, FS_SESSION_MAGIC);
    if (fs_session_start_parts(session, err) != 0 || mount_here(session, err) != 0 ||
        serve(session, err) != 0) {
        fs_session_stop(session);
        return -1;
    }
    atomic_store(&session->started, true);
    return 0;
}

// ---- stop --------------------------------------------------------------------------------

static int unmount(struct fs_session *session)
{
    struct fs_mount top;
    // Somebody may have unmounted it already, or mounted something else over it.
    if (fs_mount_find(session->mountpoint, &top) != 1 || top.minor != session->minor)
        return 0;
    // A descriptor of the mount keeps its device number from being given to another mount before
    // leave_mount has aborted the connection by that number.
    session->root_fd = open(session->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (session->root_fd >= 0)
        syncfs(session->root_fd); // pages written through a map come to us: the workers still run
    // Lazily: a busy mount goes away all the same.
    return umount2(session->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 ? 0 : -errno;
}

static void leave_mount(struct fs_session *session)
{
    if (!session->mounted)
        return;
    int rc = touch_mount(session, unmount);
    if (rc != 0)
        af_log(AF_LOG_WARN, "fs", "unmounting failed", "path=%s error=%d", session->mountpoint,
               -rc);
    bool drained = !session->turns || fs_slow_drain(session->turns, DRAIN_LIMIT_NS);
    if (session->slow && (!fs_slow_drain(session->slow, DRAIN_LIMIT_NS) || !drained))
        af_log(AF_LOG_WARN, "fs", "slow requests were still under way at the end", "waited_s=%d",
               (int)(DRAIN_LIMIT_NS / AF_NS_PER_SEC));
    // Processes that still have files open, or a mount of a subtree, get errors from now on
    // instead of waiting for a daemon that is gone.
    // While the connection is not at its end, its number is no other's.
    if (session->root_fd >= 0 || !atomic_load(&session->ended))
        fs_mount_abort(session->minor);
    if (session->root_fd >= 0)
        close(session->root_fd);
    session->root_fd = -1;
    session->mounted = false;
}

void fs_session_stop(struct fs_session *session)
{
    AF_CHECK_MAGIC(session, FS_SESSION_MAGIC);
    if (atomic_exchange(&session->stopping, true))
        return;
    if (session->invalidator)
        fs_invalidator_close(session->invalidator);
    fs_moved_close(session);
    fs_limits_close(session);
    leave_mount(session);
    fs_guard_stop(session); // not before: this process may be killed while it hangs in there
    for (unsigned i = 0; i < session->workers_started; i++)
        pthread_join(session->workers[i], NULL);
    if (session->invalidator)
        fs_invalidator_join(session->invalidator);
    fs_moved_join(session);
    if (session->fuse) {
        // A ring's thread may still be in a handler. From here on nothing it starts outlives it,
        // and what was started before is answered before the rings go.
        fuse_session_exit(session->fuse);
        if (session->turns)
            fs_slow_close(session->turns); // what it hands on, the slow pool still takes
        if (session->slow)
            fs_slow_close(session->slow);
        af_io_close(session->io);
        fuse_session_loop(session->fuse); // has exited: only ends the ring threads
        fs_slow_free(session->turns);
        fs_slow_free(session->slow);
        session->turns = session->slow = NULL;
        fuse_session_destroy(session->fuse);
        session->fuse = NULL;
    }
    if (session->end_fd >= 0)
        connection_ended(session);
}

void fs_session_free(struct fs_session *session)
{
    if (!session)
        return;
    fs_session_stop(session);
    fs_invalidator_free(session->invalidator);
    fs_moved_free(session);
    af_io_free(session->io);
    fs_passthrough_free(session->passthrough);
    fs_counters_free(session->counters);
    fs_view_counters_free(session);
    fs_taps_free(session);
    fs_limits_free(session);
    if (session->end_fd >= 0)
        close(session->end_fd);
    free(session->mountpoint);
    free(session);
}
