// Requests, errors and time by operation, and a few events.
//
// Relaxed atomics in shards by CPU, so that counting costs a few nanoseconds and no cache line
// travels between CPUs. Nothing locks, nothing fails. Read next: fs.h, struct fs_counters.
#include "fs/limit.h"
#include "fs/session_priv.h"

#include <sched.h>
#include <sys/mman.h>

#define SHARDS 16 // a power of two

struct fs_counter_shard {
    _Alignas(64) struct {
        _Atomic uint64_t requests;
        _Atomic uint64_t errors;
        struct af_histogram latency; // its sum is the time of all answers
    } op[FS_OP_COUNT];
    _Atomic uint64_t event[FS_COUNT_COUNT];
};

static const char *const names[FS_OP_COUNT] = {
    [FS_OP_LOOKUP] = "lookup",
    [FS_OP_FORGET] = "forget",
    [FS_OP_GETATTR] = "getattr",
    [FS_OP_SETATTR] = "setattr",
    [FS_OP_READLINK] = "readlink",
    [FS_OP_SYMLINK] = "symlink",
    [FS_OP_MKNOD] = "mknod",
    [FS_OP_MKDIR] = "mkdir",
    [FS_OP_UNLINK] = "unlink",
    [FS_OP_RMDIR] = "rmdir",
    [FS_OP_RENAME] = "rename",
    [FS_OP_LINK] = "link",
    [FS_OP_OPEN] = "open",
    [FS_OP_READ] = "read",
    [FS_OP_WRITE] = "write",
    [FS_OP_STATFS] = "statfs",
    [FS_OP_RELEASE] = "release",
    [FS_OP_FSYNC] = "fsync",
    [FS_OP_SETXATTR] = "setxattr",
    [FS_OP_GETXATTR] = "getxattr",
    [FS_OP_LISTXATTR] = "listxattr",
    [FS_OP_REMOVEXATTR] = "removexattr",
    [FS_OP_FLUSH] = "flush",
    [FS_OP_OPENDIR] = "opendir",
    [FS_OP_READDIR] = "readdir",
    [FS_OP_READDIRPLUS] = "readdirplus",
    [FS_OP_RELEASEDIR] = "releasedir",
    [FS_OP_FSYNCDIR] = "fsyncdir",
    [FS_OP_ACCESS] = "access",
    [FS_OP_CREATE] = "create",
    [FS_OP_FALLOCATE] = "fallocate",
    [FS_OP_LSEEK] = "lseek",
    [FS_OP_COPY_FILE_RANGE] = "copy_file_range",
    [FS_OP_TMPFILE] = "tmpfile",
    [FS_OP_IOCTL] = "ioctl",
};

const char *fs_op_name(enum fs_op op)
{
    return (unsigned)op < FS_OP_COUNT ? names[op] : "unknown";
}

struct fs_counter_shard *fs_counters_new(void)
{
    // Half a megabyte of zeros, of which only what is counted in is ever there.
    void *shards = mmap(NULL, SHARDS * sizeof(struct fs_counter_shard), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return shards == MAP_FAILED ? NULL : shards;
}

void fs_counters_free(struct fs_counter_shard *shards)
{
    if (shards)
        munmap(shards, SHARDS * sizeof *shards);
}

static struct fs_counter_shard *shard_here(struct fs_session *session)
{
    int cpu = sched_getcpu();
    return &session->counters[cpu < 0 ? 0 : cpu & (SHARDS - 1)];
}

static void add(_Atomic uint64_t *to, uint64_t n)
{
    atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

void fs_count_request(struct fs_session *session, enum fs_op op, unsigned n)
{
    add(&shard_here(session)->op[op].requests, n);
}

void fs_count_answer(struct fs_session *session, enum fs_op op, int rc, int64_t latency_ns)
{
    struct fs_counter_shard *shard = shard_here(session);
    if (rc < 0 && rc != -ENOSYS)
        add(&shard->op[op].errors, 1);
    af_histogram_observe(&shard->op[op].latency, latency_ns);
}

void fs_count(struct fs_session *session, enum fs_count what, uint64_t n)
{
    add(&shard_here(session)->event[what], n);
}

void fs_session_counters(struct fs_session *session, struct fs_counters *ret)
{
    memset(ret, 0, sizeof *ret);
    uint64_t event[FS_COUNT_COUNT] = {0};
    for (unsigned s = 0; s < SHARDS; s++) {
        struct fs_counter_shard *shard = &session->counters[s];
        for (unsigned op = 0; op < FS_OP_COUNT; op++) {
            ret->op[op].requests +=
                atomic_load_explicit(&shard->op[op].requests, memory_order_relaxed);
            ret->op[op].errors += atomic_load_explicit(&shard->op[op].errors, memory_order_relaxed);
            ret->op[op].latency_ns +=
                atomic_load_explicit(&shard->op[op].latency.sum_ns, memory_order_relaxed);
        }
        for (unsigned e = 0; e < FS_COUNT_COUNT; e++)
            event[e] += atomic_load_explicit(&shard->event[e], memory_order_relaxed);
    }
    ret->slow_requests = event[FS_COUNT_SLOW];
    ret->deferred = event[FS_COUNT_DEFERRED];
    ret->slow_refused = event[FS_COUNT_SLOW_REFUSED];
    ret->slow_queued = session->slow ? fs_slow_queued(session->slow) : 0;
    ret->reads_async = event[FS_COUNT_READ_ASYNC];
    ret->invalidations = event[FS_COUNT_INVALIDATION];
    ret->invalidations_lost = event[FS_COUNT_INVALIDATION_LOST];
    ret->shared_writes = event[FS_COUNT_SHARED_WRITE];
    ret->held = event[FS_COUNT_HELD];
    ret->held_total_ns = event[FS_COUNT_HELD_NS];
    ret->not_held = event[FS_COUNT_NOT_HELD];
    ret->held_now = session->limits ? fs_limits_held(session) : 0;
}

void fs_session_latency(struct fs_session *session, enum fs_op op, struct af_histogram_values *ret)
{
    memset(ret, 0, sizeof *ret);
    for (unsigned s = 0; s < SHARDS; s++)
        af_histogram_gather(&session->counters[s].op[op].latency, ret);
}
