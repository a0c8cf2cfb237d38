// Bytes of a streaming call on their way to a thread. Read next: feed.h.
#include "api/services/feed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct feed_piece {
    STAILQ_ENTRY(feed_piece) link;
    size_t len;
    char bytes[];
};

void feed_init(struct feed *feed, struct grpc_call *call)
{
    *feed = (struct feed){.call = call};
    pthread_mutex_init(&feed->lock, NULL);
    pthread_cond_init(&feed->more, NULL);
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

ssize_t feed_read(struct feed *feed, const void **ret_bytes)
{
    free(feed->current);
    feed->current = NULL;
    pthread_mutex_lock(&feed->lock);
    while (STAILQ_EMPTY(&feed->pieces) && !feed->ended && !feed->cancelled)
        pthread_cond_wait(&feed->more, &feed->lock);
    struct feed_piece *piece = feed->cancelled ? NULL : STAILQ_FIRST(&feed->pieces);
    ssize_t rc = feed->cancelled ? -ECANCELED : 0;
    if (piece) {
        STAILQ_REMOVE_HEAD(&feed->pieces, link);
        feed->bytes -= piece->len;
        feed->current = piece;
        *ret_bytes = piece->bytes;
        rc = (ssize_t)piece->len;
    }
    if (feed->held && feed->bytes < FEED_HIGH_BYTES / 2) {
        feed->held = false;
        grpc_call_release(feed->call);
    }
    pthread_mutex_unlock(&feed->lock);
    return rc;
}
