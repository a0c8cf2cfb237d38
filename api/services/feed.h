// Bytes of a streaming call on their way to a thread that reads them as from a file.
//
// The call's handlers put and end; the thread reads and blocks for more. Bounded: over
// FEED_HIGH_BYTES the call's client is held (grpc_call_hold), below half of that it goes on.
// A client that sends next to nothing keeps its thread only while nobody else waits for one:
// AF_FEED_PATIENCE_* in limits.h.
// Lock: feed.lock (rank 75), over grpc_call_* (80). Owns what was put. Read next: feed.c.
#ifndef AF_API_SERVICES_FEED_H
#define AF_API_SERVICES_FEED_H

#include "api/net/grpc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#define FEED_HIGH_BYTES (8u << 20)

struct feed_piece;

struct feed {
    pthread_mutex_t lock;
    pthread_cond_t more;
    STAILQ_HEAD(, feed_piece) pieces;
    struct feed_piece *current; // the reader's, taken out
    size_t bytes;               // waiting
    bool ended, cancelled, held;
    struct grpc_call *call;         // borrowed
    const atomic_uint *others_wait; // for the reader's thread; borrowed
    // Of the reader's alone: how long it has waited, and what came, since somebody looked at it.
    int64_t waited_ns;
    size_t came_bytes;
};

void feed_init(struct feed *feed, struct grpc_call *call, const atomic_uint *others_wait);
void feed_fini(struct feed *feed);
// Copies. False: no memory.
bool feed_put(struct feed *feed, const void *bytes, size_t len);
void feed_end(struct feed *feed);    // nothing more comes
void feed_cancel(struct feed *feed); // whoever reads gives up
// Keeps the client from sending until feed_resume, or until it has been read; in a handler.
void feed_hold(struct feed *feed);
void feed_resume(struct feed *feed);
// A piece that is valid until the next call: its length, 0 at the end, -ECANCELED; -ETIMEDOUT:
// the client dawdles and others wait. Blocks.
ssize_t feed_read(struct feed *feed, const void **ret_bytes);

#endif
