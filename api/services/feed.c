// Bytes of a streaming call on their way to a thread. Read next: feed.h.
#include "api/services/feed.h"

#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct feed_piece {
    STAILQ_ENTRY(feed_piece) link;
    size_t len;
    char bytes[];
};

void feed_init(struct feed *feed, struct grpc_call *call, const atomic_uint *others_wait)
{
    pthread_condattr_t monotonic;
    *feed = (struct feed){.call = call, .others_wait = others_wait};
    pthread_mutex_init(&feed->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&feed->more, &monotonic);
    pthread_condattr_destroy(&monotonic);
    STAILQ_INIT(&feed->pieces);
}

void feed_fini(struct feed *feed)
{
    struct feed_piece *piece;
    while ((piece = STAILQ_FIRST(&feed->pieces))) {
        STAILQ_REMOVE_HEAD(&feed->pieces, link);
        free(piece);
    }
    free(feed->current);
    pthread_cond_destroy(&feed->more);
    pthread_mutex_destroy(&feed->lock);
}

bool feed_put(struct feed *feed, const void *bytes, size_t len)
{
    struct feed_piece *piece = len > 0 ? malloc(sizeof *piece + len) : NULL;
    if (!piece)
        return len == 0;
    piece->len = len;
    memcpy(piece->bytes, bytes, len);
    pthread_mutex_lock(&feed->lock);
    STAILQ_INSERT_TAIL(&feed->pieces, piece, link);
    feed->bytes += len;
    if (feed->bytes > FEED_HIGH_BYTES && !feed->held) {
        feed->held = true;
        grpc_call_hold(feed->call);
    }
    pthread_cond_signal(&feed->more);
    pthread_mutex_unlock(&feed->lock);
    return true;
}

static void finish(struct feed *feed, bool *flag)
{
    pthread_mutex_lock(&feed->lock);
    *flag = true;
    pthread_cond_signal(&feed->more);
    pthread_mutex_unlock(&feed->lock);
}

void feed_end(struct feed *feed)
{
    finish(feed, &feed->ended);
}

void feed_cancel(struct feed *feed)
{
    finish(feed, &feed->cancelled);
}

void feed_hold(struct feed *feed)
{
    pthread_mutex_lock(&feed->lock);
    feed->held = true;
    grpc_call_hold(feed->call);
    pthread_mutex_unlock(&feed->lock);
}

static void release_if_low(struct feed *feed)
{
    if (feed->held && feed->bytes < FEED_HIGH_BYTES / 2) {
        feed->held = false;
        grpc_call_release(feed->call);
    }
}

void feed_resume(struct feed *feed)
{
    pthread_mutex_lock(&feed->lock);
    release_if_low(feed);
    pthread_mutex_unlock(&feed->lock);
}

// Whether the client has had its time: others wait, and too little has come in it.
static bool dawdles(struct feed *feed)
{
    if (feed->waited_ns < AF_FEED_PATIENCE_NS)
        return false;
    if (feed->came_bytes < AF_FEED_PATIENCE_BYTES && atomic_load(feed->others_wait) > 0)
        return true;
    feed->waited_ns = 0;
    feed->came_bytes = 0;
    return false;
}

// Waits for more, a look at a time. The lock is held.
static int wait_for_more(struct feed *feed)
{
    while (STAILQ_EMPTY(&feed->pieces) && !feed->ended && !feed->cancelled) {
        int64_t now = af_monotonic_ns();
        const struct timespec until = af_timespec_of_ns(now + AF_FEED_LOOK_NS);
        if (dawdles(feed))
            return -ETIMEDOUT;
        pthread_cond_timedwait(&feed->more, &feed->lock, &until);
        feed->waited_ns += af_monotonic_ns() - now;
    }
    return feed->cancelled ? -ECANCELED : 0;
}

ssize_t feed_read(struct feed *feed, const void **ret_bytes)
{
    free(feed->current);
    feed->current = NULL;
    pthread_mutex_lock(&feed->lock);
    ssize_t rc = wait_for_more(feed);
    struct feed_piece *piece = rc < 0 ? NULL : STAILQ_FIRST(&feed->pieces);
    if (piece) {
        STAILQ_REMOVE_HEAD(&feed->pieces, link);
        feed->bytes -= piece->len;
        feed->came_bytes += piece->len;
        feed->current = piece;
        *ret_bytes = piece->bytes;
        rc = (ssize_t)piece->len;
    }
    release_if_low(feed);
    pthread_mutex_unlock(&feed->lock);
    return rc;
}
