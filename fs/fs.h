// fs: the one FUSE mount that serves every view. Start here.
//
// A session mounts the top directory, answers the kernel's requests by calling mux, and tells
// the kernel what to forget when mux changes something behind its back. It keeps no table of
// files: a nodeid says everything (mux/nodeid.h), so a restarted daemon needs no state of it.
//
//   fs/session.c     the session's life: mount, workers, priming, unmounting
//   fs/transport.c   FUSE over io_uring or /dev/fuse, chosen and verified
//   fs/ops.c         the op table, one page; fs/op_*.c the operations by kind
//   fs/reply.c       answers; fs/slow.c work that may block; fs/invalidate.c the notifier;
//                    fs/moved.c directories in use that others moved
//   fs/fair.c        whose turn it is; fs/limit.c who has had enough for this second
//   fs/recover.c     what a killed daemon left behind
//   fs/counters.c    requests and time by operation; fs/view_counters.c the same by view
//
// Typical use, on the daemon's main thread:
//   fs_recover(mountpoint, &err); mux_open(...); fs_session_new(&options, &session, &err);
//   fs_session_start(session, &err); ... detach the views ...; fs_session_stop(session);
//   fs_session_free(session); mux_close(mux);
//
// Locks: those of slow.c (one for each of its two pools), invalidate.c, moved.c, limit.c, taps.c,
// passthrough.c (one a shard) and the io loop (mux/base/io.h). All are of one rank, never one
// inside another, and none is held while calling mux. What they are held for is said there. mux may
// call the notifier while holding nothing, but for what mux.h says of single functions. Only this
// folder includes libfuse. docs/FUSE.md has the decisions with their reasons.
#ifndef AF_FS_H
#define AF_FS_H

#include "mux/base/error.h"
#include "mux/base/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mux;
struct fs_session;

enum fs_transport {
    FS_TRANSPORT_AUTO,     // io_uring where kernel and libfuse have it, else /dev/fuse
    FS_TRANSPORT_IO_URING, // starting fails where it is not to be had
    FS_TRANSPORT_DEV_FUSE,
};

enum fs_open_policy {
    FS_OPEN_KERNEL, // OPEN and OPENDIR answered ENOSYS: a warm open costs no request
    FS_OPEN_SERVER, // every OPEN and OPENDIR is decided by the daemon
};

struct fs_options {
    struct mux *mux;        // borrowed; must outlive the session
    const char *mountpoint; // absolute path of an existing directory; copied
    enum fs_transport transport;
    enum fs_open_policy open_policy;
    uint64_t passthrough_bytes; // `server` only: files from this size on; 0: none
    unsigned workers;           // threads on /dev/fuse; 0: default. io_uring has one per CPU
    unsigned slow_workers;      // threads for what may block (copy-up, fsync); 0: default
    bool no_xattrs;             // answered ENOSYS, so that the kernel never asks again
    uid_t uid_base; // of the views, to tell whose a request on a shared file is; 0: nobody's
    unsigned read_ahead_kib; // of the mount's backing device info; 0: default (1024)
};

// Checks the options, chooses the transport and makes itself mux's notifier (mux_set_notifier).
// Nothing is mounted yet. *ret is owned by the caller. Fails with a sentence.
int fs_session_new(const struct fs_options *options, struct fs_session **ret, struct af_error *err);

// Mounts, starts the workers, the notifier and the slow pool, primes the open policy and sets
// the read-ahead. When it returns 0 the mount serves. On failure nothing is mounted and no
// thread is left; the session may only be freed. Not on a FUSE worker.
int fs_session_start(struct fs_session *session, struct af_error *err);

// One line, no newline: transport and open policy in use, and why; for the start-up line and
// fsctl. Before fs_session_start: what was chosen. Truncated to size; any thread.
void fs_session_describe(struct fs_session *session, char *ret, size_t size);

enum fs_open_policy fs_session_open_policy(const struct fs_session *session);

// The mountpoint as given. Any thread.
const char *fs_session_mountpoint(const struct fs_session *session);

// Whether the mount still serves: false after fs_session_stop, and when somebody else unmounted
// it or aborted its connection. Any thread.
bool fs_session_is_serving(struct fs_session *session);

// Has a process of its own abort the mount should this one be killed and hang on it (guard.c). On
// the thread that lives as long as the process; once, after fs_session_start, and after whatever
// counts the processes of the control group.
int fs_session_guard(struct fs_session *session, struct af_error *err);

// A file descriptor that becomes readable (poll it, do not read it) when the mount has stopped
// serving for whatever reason. Owned by the session.
int fs_session_end_fd(struct fs_session *session);

// Unmounts (lazily when busy), aborts the connection so that no process is left hanging on an
// open file of the mount, and ends every thread. Requests under way in the slow pool finish
// first. Idempotent; never hangs. Later notifications from mux are dropped. Not on a FUSE worker.
void fs_session_stop(struct fs_session *session);

// Stops if need be, takes the notifier back from mux and frees. NULL is ignored. Before
// mux_close.
void fs_session_free(struct fs_session *session);

// Waits until every invalidation that mux asked for before this call has been delivered to the
// kernel (or the session has stopped). Call it with no lock held and never from a FUSE worker:
// delivery may wait for requests that are under way. Then, for half a second at most, until
// the kernel has met again what was moved of this sandbox's view while it is in use (fs/moved.c).
void fs_invalidate_flush(struct fs_session *session, const char *sandbox_id);

// Claims a mountpoint for this process, before fs_recover, so that no daemon ever takes the mount
// of another one that lives for a dead one's: a file <mountpoint>.lock beside it, held with flock
// and removed by fs_unlock_mountpoint. *ret_fd is the caller's. FAILED_PRECONDITION, with the
// holder's pid, when another process holds it.
int fs_lock_mountpoint(const char *mountpoint, int *ret_fd, struct af_error *err);
// Before that, and before anything else of a killed daemon's is locked: if it hangs in the kernel,
// waiting for its own mount, the mount is aborted, and its end waited for (ten seconds at most).
void fs_end_dying(const char *mountpoint);
// Gives it back. A negative fd is ignored.
void fs_unlock_mountpoint(const char *mountpoint, int fd);

// Cleans up after a daemon that was killed: aborts the dead FUSE connections mounted on the
// mountpoint (their hanging callers get an error) and unmounts them, also several on top of each
// other. Touches only mounts of type fuse.agentfense on exactly this path; anything else there
// is an error, FAILED_PRECONDITION. Nothing mounted there is success. *ret_count (may be NULL)
// is the number of mounts removed. Call it before fs_session_new, with no session on that path.
int fs_recover(const char *mountpoint, unsigned *ret_count, struct af_error *err);

// ---- counters ----------------------------------------------------------------------------

enum fs_op {
    FS_OP_LOOKUP,
    FS_OP_FORGET, // one per forgotten nodeid, also of a batch
    FS_OP_GETATTR,
    FS_OP_SETATTR,
    FS_OP_READLINK,
    FS_OP_SYMLINK,
    FS_OP_MKNOD,
    FS_OP_MKDIR,
    FS_OP_UNLINK,
    FS_OP_RMDIR,
    FS_OP_RENAME,
    FS_OP_LINK,
    FS_OP_OPEN,
    FS_OP_READ,
    FS_OP_WRITE,
    FS_OP_STATFS,
    FS_OP_RELEASE,
    FS_OP_FSYNC,
    FS_OP_SETXATTR,
    FS_OP_GETXATTR,
    FS_OP_LISTXATTR,
    FS_OP_REMOVEXATTR,
    FS_OP_FLUSH,
    FS_OP_OPENDIR,
    FS_OP_READDIR,
    FS_OP_READDIRPLUS,
    FS_OP_RELEASEDIR,
    FS_OP_FSYNCDIR,
    FS_OP_ACCESS,
    FS_OP_CREATE,
    FS_OP_FALLOCATE,
    FS_OP_LSEEK,
    FS_OP_COPY_FILE_RANGE,
    FS_OP_TMPFILE,
    FS_OP_IOCTL, // all are refused
    FS_OP_COUNT,
};

struct fs_counters {
    struct {
        uint64_t requests;
        uint64_t errors;     // answered with an errno other than ENOSYS
        uint64_t latency_ns; // sum, from the arrival to the answer, less what they were held back
    } op[FS_OP_COUNT];
    uint64_t slow_requests;      // re-dispatched to the slow pool
    uint64_t deferred;           // left to the turns pool: other views came first
    uint64_t slow_refused;       // answered EAGAIN since the slow queue was full
    uint64_t slow_queued;        // in the slow queue now
    uint64_t reads_async;        // reads that had to wait for the backing file
    uint64_t invalidations;      // delivered to the kernel
    uint64_t invalidations_lost; // refused by the kernel for want of memory
    uint64_t shared_writes;      // WRITEs that arrived for a shared nodeid: must stay 0
    uint64_t held;               // requests that waited for their view's limit
    uint64_t held_total_ns;      // how long, all together
    uint64_t held_now;           // that wait now
    uint64_t not_held;           // over a limit, and served since others would have waited, too
};

// Sums since the start; consistent per number, not between numbers. Any thread.
void fs_session_counters(struct fs_session *session, struct fs_counters *ret);

// The answers to one operation by the time they took, over all views. *ret is overwritten.
void fs_session_latency(struct fs_session *session, enum fs_op op, struct af_histogram_values *ret);

struct fs_view_counters {
    struct {
        uint64_t requests, errors, total_ns, slowest_ns;
    } op[FS_OP_COUNT];
    struct af_histogram_values latency; // of all operations
    // Of the kernel to what is the view's own (not to files whose pages views share): lookups that
    // were answered with a nodeid, less those forgotten.
    uint64_t references;
    uint64_t held, held_ns; // requests that waited for the view's limit, and how long in all
};
// The requests of one view since it was attached. False, and zeros: it has made none. Any thread.
bool fs_session_view_counters(struct fs_session *session, uint32_t slot, uint32_t route,
                              struct fs_view_counters *ret);

// The lower-case name of an operation ("lookup").
const char *fs_op_name(enum fs_op op);

#endif
