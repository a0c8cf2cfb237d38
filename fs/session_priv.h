// What a session is made of. Internal to fs (and to its tests).
//
// Each part owns its state and is reached through the functions below; a session only holds
// them together. The flags are atomics, everything else is set before threads start.
// Read next: fs/session.c.
#ifndef AF_FS_SESSION_PRIV_H
#define AF_FS_SESSION_PRIV_H

#include "fs/call.h"
#include "fs/fs.h"
#include "mux/base/io.h"
#include "mux/base/limits.h"
#include "mux/nodeid.h"

#include <pthread.h>
#include <stdatomic.h>

#define FS_SESSION_MAGIC 0xaf5e5510U
#define FS_TYPE          "fuse.agentfense" // of the mount, in /proc/self/mountinfo
#define FS_SUBTYPE       "agentfense"
#define FS_SENTINEL      ".agentfense" // opened to prime the open policy

#define FS_IO_MAX      (1u << 20)                // bytes of one READ or WRITE
#define FS_RING_IO_MAX (256u << 10)              // over io_uring: see docs/FUSE.md
#define FS_DEV_BUF     (FS_IO_MAX + (64u << 10)) // of a worker that reads /dev/fuse
#define FS_WORKERS_MAX 64
// Requests in flight per CPU on io_uring, and of these not to be used up by what is held back; see
// docs/FUSE.md.
#define FS_RING_ENTRIES   1024 // of all CPUs
#define FS_RING_DEPTH_MIN 127
#define FS_RING_DEPTH_MAX 511
#define FS_RING_SPARE     64
#define FS_BACKGROUND     64
#define FS_TEXT_MAX       160

struct fs_slow;
struct fs_passthrough;
struct fs_invalidator;
struct fs_counter_shard;
struct fs_taps;
struct fs_limits;
struct fs_moved;

// ---- transport.c -------------------------------------------------------------------------

struct fs_transport_state {
    enum fs_transport wanted;
    bool ring_asked;           // libfuse is told to use io_uring
    unsigned depth;            // of each ring
    char options[64];          // of libfuse
    atomic_bool ring_offered;  // the kernel offers it to this connection
    atomic_bool ring_seen;     // a request has come over it
    char why_not[FS_TEXT_MAX]; // why io_uring is not asked for; "" when it is
};

// Decides whether to ask for io_uring; switches the kernel's parameter on where it may.
int fs_transport_choose(struct fs_transport_state *state, enum fs_transport wanted,
                        struct af_error *err);
// The libfuse options for it, for fuse_session_new.
const char *fs_transport_options(const struct fs_transport_state *state);
// After priming: fails when io_uring was insisted on and is not in use.
int fs_transport_verify(const struct fs_transport_state *state, struct af_error *err);
void fs_transport_describe(const struct fs_transport_state *state, unsigned workers, char *ret,
                           size_t size);
bool fs_transport_is_ring(const struct fs_transport_state *state);
// How many entries a CPU's ring is to have on a machine of so many CPUs.
unsigned fs_ring_depth(unsigned cpus);

// ---- the session -------------------------------------------------------------------------

struct fs_session {
    unsigned magic;
    struct mux *mux;
    char *mountpoint; // canonical
    enum fs_open_policy policy;
    unsigned worker_count;
    unsigned slow_worker_count;
    bool no_xattrs;
    bool no_counting; // for bench/counting.py: what does counting cost?
    unsigned read_ahead_kib;
    struct fs_transport_state transport;

    struct fuse_session *fuse;
    int dev_fd;            // /dev/fuse; closed by libfuse with the session
    int root_fd;           // of the mount, while it is being left; else -1
    bool mounted;          // by us, and not yet unmounted
    unsigned major, minor; // of the mount's device; the minor is its connection's number
    pid_t guard;           // guard.c; 0: none
    bool read_ahead_set;

    pthread_t workers[FS_WORKERS_MAX];
    unsigned workers_started;
    atomic_uint workers_running;
    atomic_bool started;
    atomic_bool stopping;
    atomic_bool ended; // the connection is gone
    int end_fd;        // eventfd, readable once ended

    uint64_t passthrough_bytes; // from this size on; 0: never
    struct fs_passthrough *passthrough;
    _Atomic(const char *) no_passthrough; // why it is not in use, a literal; NULL when it is

    struct af_io *io;
    struct fs_slow *slow;
    struct fs_slow *turns; // fair.c; ends before `slow`
    struct fs_invalidator *invalidator;
    struct fs_moved *moved;
    struct fs_counter_shard *counters;
    void *view_blocks;        // view_counters.c
    struct fs_limits *limits; // limit.h
    struct fs_taps *taps;
    atomic_uint taps_open;         // of them: whether an answer is anybody's business
    uid_t uid_base;                // see struct fs_options
    atomic_bool backing_known;     // whether the next is known
    atomic_bool backing_in_memory; // backing files never wait for a disk (tmpfs)
};

// The op table (fs/ops.c) and what it negotiates (fs/session.c).
extern const struct fuse_lowlevel_ops fs_ops;
void fs_session_negotiate(struct fs_session *session, struct fuse_conn_info *conn);
// The parts that need no mount: the libfuse session, the slow pool and the notifier. For
// fs_session_start, and for tests that drive the op table over a socket pair.
int fs_session_start_parts(struct fs_session *session, struct af_error *err);

// ---- mounts.c ----------------------------------------------------------------------------

// Finds the topmost mount on exactly this canonical path. Returns 1 and sets *ret, 0 if nothing
// is mounted there, or -errno.
struct fs_mount {
    unsigned major, minor; // of its device; the minor is its FUSE connection's number
    bool is_ours;          // of type fuse.agentfense
    char type[64];
};
int fs_mount_find(const char *path, struct fs_mount *ret);
// Makes a path comparable with the kernel's list: its parent is resolved, its last part is not,
// since looking at a dead mount fails. Returns 0 (*ret is the caller's) or -errno.
int fs_mount_canonical(const char *path, char **ret);
// Ends a FUSE connection: everybody who waits for it gets an error. 0 or -errno.
int fs_mount_abort(unsigned minor);
// A descriptor that ends it when something is written to it, and nothing when it has gone: its
// number may be another's by then. The caller's to close; -errno.
int fs_mount_open_abort(unsigned minor);
// How many requests that nobody waits for (READs ahead) may be under way on it. 0 or -errno.
int fs_mount_set_background(unsigned minor, unsigned count);

// ---- guard.c -----------------------------------------------------------------------------

// Ends it; the session's mount has gone.
void fs_guard_stop(struct fs_session *session);
// Whether the first thread of a process is gone, but not all of it: it was killed and hangs in the
// kernel, or will have ended soon. Allocates nothing and takes no lock.
bool fs_is_half_dead(pid_t pid);

// ---- call_copy.c -------------------------------------------------------------------------

// Bytes of `storage` that a copy of the call needs.
size_t fs_call_copy_bytes(const struct fs_call *call);
void fs_call_copy(const struct fs_call *call, struct fs_call *ret, struct stat *attr,
                  char *storage);

// ---- slow.c: a pool for what may block ---------------------------------------------------

// may_block: false for the turns pool.
int fs_slow_new(struct fs_session *session, unsigned threads, bool may_block, struct fs_slow **ret);
// Finishes what is queued, then ends the threads. NULL is ignored.
void fs_slow_free(struct fs_slow *slow);
// Copies the call and runs it in the pool. 0, or -EAGAIN (queue full) or -ENOMEM: the caller
// still owns the request.
int fs_slow_push(struct fs_slow *slow, const struct fs_call *call, fs_run_fn run);
// Refuses what comes from now on and waits until everything before has been answered.
void fs_slow_close(struct fs_slow *slow);
// Waits until nothing is queued or running, at most timeout_ns. Whether that came true.
bool fs_slow_drain(struct fs_slow *slow, int64_t timeout_ns);

// ---- passthrough.c: large files read without requests ------------------------------------

int fs_passthrough_new(struct fs_passthrough **ret);
// NULL is ignored.
void fs_passthrough_free(struct fs_passthrough *table);
// For an open, as far as it has been answered, of a file whose content of `size` bytes never
// changes under its nodeid: passes it through where it is large enough. 0 or -errno.
int fs_passthrough_open(struct fs_call *call, uint64_t size);
// `req`, a RELEASE of a counted handle.
void fs_passthrough_close(struct fs_session *session, fuse_req_t req, uint64_t nodeid);

// ---- fair.c: views are served in turn -----------------------------------------------------

// Whether a call that a worker begins should be left to the turns pool, for its view has had its
// turn. fs_fair_served must follow when the worker has done with it.
bool fs_fair_defers(const struct fs_call *call);
void fs_fair_served(int64_t now_ns);

// ---- invalidate.c: the notifier ----------------------------------------------------------

int fs_invalidator_new(struct fs_session *session, struct fs_invalidator **ret);
// Starts the thread; entries queued before are delivered now.
int fs_invalidator_start(struct fs_invalidator *inv);
// Drops what is queued and what is still to come, wakes everybody who waits. Does not block.
void fs_invalidator_close(struct fs_invalidator *inv);
// Ends the thread; the connection must be gone, or a delivery may be waiting in the kernel.
void fs_invalidator_join(struct fs_invalidator *inv);
void fs_invalidator_free(struct fs_invalidator *inv);
void fs_invalidate_inode(struct fs_session *session, uint64_t nodeid, int64_t offset, int64_t len);

// ---- moved.c: directories that others have moved while they are in use --------------------

// 0 or -errno. `start` is once, before the connection is made and before the notifier's; `join`
// once it is gone, `free` after that.
int fs_moved_new(struct fs_session *session);
int fs_moved_start(struct fs_session *session);
void fs_moved_close(struct fs_session *session);
void fs_moved_join(struct fs_session *session);
void fs_moved_free(struct fs_session *session);
// Has the kernel meet it by its new name. Too many at once are left to whoever looks them up.
void fs_moved_add(struct fs_session *session, uint64_t nodeid);
// Waits until those of a view that were added before are met, for a bounded time.
void fs_moved_wait(struct fs_session *session, const char *sandbox_id);

// ---- counters.c --------------------------------------------------------------------------

enum fs_count {
    FS_COUNT_SLOW,
    FS_COUNT_SLOW_REFUSED,
    FS_COUNT_DEFERRED,
    FS_COUNT_READ_ASYNC,
    FS_COUNT_INVALIDATION,
    FS_COUNT_INVALIDATION_LOST,
    FS_COUNT_SHARED_WRITE,
    FS_COUNT_HELD,
    FS_COUNT_HELD_NS,
    FS_COUNT_NOT_HELD,
    FS_COUNT_COUNT,
};

struct fs_counter_shard *fs_counters_new(void); // NULL: out of memory
void fs_counters_free(struct fs_counter_shard *shards);
void fs_count_request(struct fs_session *session, enum fs_op op, unsigned n);
void fs_count_answer(struct fs_session *session, enum fs_op op, int rc, int64_t latency_ns);
void fs_count(struct fs_session *session, enum fs_count what, uint64_t n);
// view_counters.c. 0 or -errno.
int fs_view_counters_new(struct fs_session *session);
void fs_view_counters_free(struct fs_session *session);
void fs_count_view(const struct fs_call *call, int rc, int64_t latency_ns);
void fs_count_view_held(const struct fs_call *call, uint64_t held_ns);
// The kernel gets n references to a nodeid, or gives them back (n < 0). Counted by view.
void fs_count_references(struct fs_session *session, uint64_t nodeid, int64_t n);
// Whether a nodeid says whose it is: one that views share has its class there.
static inline bool fs_is_views_own(const struct fs_session *session, uint64_t nodeid)
{
    return session->policy == FS_OPEN_SERVER || !mux_nodeid_is_shared(nodeid);
}
// The slot of the view that asks: the nodeid says which, or for a file that views share, the
// caller's uid. 0: none.
uint32_t fs_call_slot(const struct fs_call *call);
unsigned fs_slow_queued(struct fs_slow *slow);

// ---- held.c ------------------------------------------------------------------------------

// Whether a thread of this machine is about to end by SIGKILL, or has ended. Asks /proc.
bool fs_thread_is_killed(pid_t tid);

#endif
