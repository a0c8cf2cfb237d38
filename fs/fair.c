// Fair service: a view with many requests under way does not make the others wait for all of them.
//
// The kernel hands requests out in the order in which they came, whoever sent them. A sandbox with
// thirty threads that make files has thirty requests before each of another's. So a worker that
// has just served a view `TURN` times without a pause, while other views ask for something as well,
// leaves that view's further requests to the turns pool (slow.c), which serves views in turn: that
// takes a tenth of the time of serving them. A client that waits for one answer before it asks
// again always leaves a pause, and a view that is alone is never sent away. Nor is a request that
// is answered as fast as it would be sent away: looking at names, attributes and small files.
//
// Owns nothing but what each worker remembers of its last requests; no locks. Fails: when that
// pool has no room the request is served at once. Read next: slow.c, docs/FUSE.md.
#include "fs/session_priv.h"

#include "mux/base/clock.h"

#define TURN      2
#define RECENT_NS AF_NS_PER_SEC // so long ago another view counts as asking for something
// Requests that were waiting together follow each other faster than this: a ring has them all at
// hand, the device is read for each.
#define RING_PAUSE_NS 2000
#define DEV_PAUSE_NS  8000

#define SHORT_READ_MAX 16384

struct turn {
    uint32_t slot;      // of the view that was served last
    unsigned served;    // so many times without a pause
    int64_t ended_ns;   // when that was
    int64_t another_ns; // when a view other than that was served last
};
static __thread struct turn turn;

// Sending it away would take longer than answering it.
static bool is_short(const struct fs_call *call)
{
    switch (call->op) {
    case FS_OP_LOOKUP:
    case FS_OP_GETATTR:
    case FS_OP_READLINK:
    case FS_OP_GETXATTR:
    case FS_OP_OPEN:
    case FS_OP_OPENDIR:
    case FS_OP_IOCTL:
        return true;
    case FS_OP_READ:
        return call->size <= SHORT_READ_MAX;
    default:
        return false;
    }
}

bool fs_fair_defers(const struct fs_call *call)
{
    uint32_t slot = fs_call_slot(call);
    if (slot == 0)
        return false; // the top directory is no view
    int64_t pause_ns =
        fs_transport_is_ring(&call->session->transport) ? RING_PAUSE_NS : DEV_PAUSE_NS;
    if (slot != turn.slot) {
        turn.another_ns = turn.ended_ns;
        turn.slot = slot;
        turn.served = 0;
    } else if (call->start_ns - turn.ended_ns > pause_ns) {
        turn.served = 0;
    }
    return ++turn.served > TURN && turn.another_ns != 0 &&
           call->start_ns - turn.another_ns < RECENT_NS && !is_short(call);
}

void fs_fair_served(int64_t now_ns)
{
    turn.ended_ns = now_ns;
}
