// What limit.c and held.c share. Internal to them and to their tests. Read next: limit.c.
#ifndef AF_FS_LIMIT_PRIV_H
#define AF_FS_LIMIT_PRIV_H

#include "fs/limit.h"
#include "fs/session_priv.h"

#include <sys/queue.h>

#define FS_HELD_MAX        65536u                // calls held at one time, and their copied bytes
#define FS_HELD_BYTES_MAX  (64u << 20)           //
#define FS_SHARED_HOLD_NS  (AF_NS_PER_SEC / 100) // on what other views may be waiting for
#define FS_DEBT_MAX_NS     (5 * AF_NS_PER_SEC)   // of what goes although it is not its time
#define FS_UNBOUNDED_NS    (INT64_MAX / 4)       // added to a time, overflows nothing
#define FS_RINGS_MAX       1024                  // a CPU's ring is counted modulo this
#define FS_PASSES_MAX      16                    // nodeids that pass at one time; more: all do
#define FS_BACKGROUND_MOST 16384u                // requests in the background, at most
#define FS_BACKGROUND_STEP 256u                  // with any limit at all, at least

TAILQ_HEAD(fs_held_list, fs_held);
TAILQ_HEAD(fs_held_all, fs_held);

struct fs_held {
    TAILQ_ENTRY(fs_held) link;  // of a view's list, or of those that go
    TAILQ_ENTRY(fs_held) all;   // while it is held
    struct fs_view_limit *view; // NULL: it goes
    struct fs_held_list *list;
    struct fs_call call;
    struct stat attr;
    fs_run_fn run; // NULL: it has run, `rc` is to be answered
    int rc;
    uint64_t cost_bytes;
    int64_t since_ns, until_ns; // goes then, whatever the buckets say
    size_t bytes;               // of storage
    char storage[];
};

struct fs_view_limit {
    uint32_t slot;
    struct fs_bucket requests, bytes;
    struct fs_held_list own;    // in the order in which they came
    struct fs_held_list shared; // on files that views share: until_ns
    int64_t due_ns;             // of the first that goes; INT64_MAX: none is held
    size_t place;               // in the heap
};

struct fs_limits {
    struct fs_session *session;
    pthread_mutex_t lock; // a leaf
    pthread_cond_t changed;
    _Atomic(struct fs_view_limit *) *views; // by slot; followed under the lock only
    atomic_uint count;                      // of views with a limit
    struct fs_view_limit **heap;            // all of them, by due_ns
    size_t heap_room;
    struct fs_held_list going; // for the thread to send on
    struct fs_held_all all;    // of what is held; those looked at longest ago are first
    unsigned held, reads_held;
    size_t held_bytes;
    uint16_t ring_held[FS_RINGS_MAX]; // by fs_call.ring: they keep an entry of it
    uint64_t passes[FS_PASSES_MAX];
    unsigned n_passes, pass_all;
    unsigned background;   // as the kernel has been told: READs held must leave room in it
    bool background_fails; // not asked for again before a limit is set
    bool interrupted;      // somebody who waits got a signal
    int64_t looked_ns;
    bool closed;
    bool has_thread;
    pthread_t thread;
};

// Moves to `going` what may go at that time, charged, at most max of them. Under the lock.
void fs_limits_collect(struct fs_limits *limits, int64_t now_ns, unsigned max);
// When the next goes; INT64_MAX: nothing is held. Under the lock.
int64_t fs_limits_due_ns(const struct fs_limits *limits);
// Takes a held call out of its view's list, and puts it among those that go. Under the lock.
void fs_limits_let_go(struct fs_limits *limits, struct fs_held *held);
// Lets go those of the longest waiting whose process has been killed, to be answered with -EINTR
// where they have not run. Under the lock, which is dropped meanwhile.
void fs_limits_look(struct fs_limits *limits, int64_t now_ns);

#endif
