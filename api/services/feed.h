// Bytes of a streaming call on their way to a thread that reads them as from a file.
//
// The call's handlers put and end; the thread reads and blocks for more. Bounded: over
// FEED_HIGH_BYTES the call's client is held (grpc_call_hold), below half of that it goes on.
// Lock: feed.lock (rank 75), over grpc_call_* (80). Owns what was put. Read next: feed.c.
#ifndef AF_API_SERVICES_FEED_H
#define AF_API_SERVICES_FEED_H

#include "api/net/grpc.h"

#include <pthread.h>
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
    struct grpc_call *call; // borrowed
};

void feed_init(struct feed *feed, struct grpc_call *call);
void feed_fini(struct feed *feed);
// Copies. False: no memory.
bool feed_put(struct feed *feed, const void *bytes, size_t len);
void feed_end(struct feed *feed);    // nothing more comes
void feed_cancel(struct feed *feed); // whoever reads gives up
// A piece that is valid until the next call: its length, 0 at the end, -ECANCELED. Blocks.
ssize_t feed_read(struct feed *feed, const void **ret_bytes);

#endif
