// A bounded queue with many writers and one reader: nobody waits, what does not fit is refused.
//
// A ring of cells, each with a turn that says whose it is: the writer's of round n when it is n
// times the ring's length plus the cell's place, the reader's when it is one more. A writer claims
// a place by moving `tail`, fills the cell and passes the turn on. A writer that is interrupted
// between the two keeps the reader from what comes after it, but no other writer.
// Owns what is in it. Locks nothing. Read next: taps.c.
#include "fs/taps_priv.h"

#include <stdlib.h>

struct cell {
    _Atomic size_t turn;
    struct fs_event *event;
    size_t bytes;
};

struct fs_tap_queue {
    _Alignas(64) _Atomic size_t tail; // where the next writer goes
    _Atomic size_t bytes;             // of all events inside
    _Alignas(64) size_t head;         // the reader's
    struct cell cells[AF_WATCH_EVENTS_MAX];
};

_Static_assert((AF_WATCH_EVENTS_MAX & (AF_WATCH_EVENTS_MAX - 1)) == 0, "a power of two");

struct fs_tap_queue *fs_tap_queue_new(void)
{
    struct fs_tap_queue *queue = aligned_alloc(64, sizeof *queue);
    if (!queue)
        return NULL;
    memset(queue, 0, sizeof *queue);
    for (size_t i = 0; i < AF_WATCH_EVENTS_MAX; i++)
        atomic_init(&queue->cells[i].turn, i);
    return queue;
}

void fs_tap_queue_free(struct fs_tap_queue *queue)
{
    struct fs_event *event;
    while (queue && (event = fs_tap_queue_take(queue)))
        free(event);
    free(queue);
}

bool fs_tap_queue_put(struct fs_tap_queue *queue, struct fs_event *event, size_t bytes)
{
    if (atomic_fetch_add(&queue->bytes, bytes) + bytes > AF_WATCH_BYTES_MAX) {
        atomic_fetch_sub(&queue->bytes, bytes);
        return false;
    }
    size_t place = atomic_load(&queue->tail);
    for (;;) {
        struct cell *cell = &queue->cells[place % AF_WATCH_EVENTS_MAX];
        size_t turn = atomic_load(&cell->turn);
        if (turn == place) {
            if (!atomic_compare_exchange_weak(&queue->tail, &place, place + 1))
                continue;
            cell->event = event;
            cell->bytes = bytes;
            atomic_store(&cell->turn, place + 1);
            return true;
        }
        if (turn < place) { // still the reader's, of the round before
            atomic_fetch_sub(&queue->bytes, bytes);
            return false;
        }
        place = atomic_load(&queue->tail); // another writer was here
    }
}

struct fs_event *fs_tap_queue_take(struct fs_tap_queue *queue)
{
    struct cell *cell = &queue->cells[queue->head % AF_WATCH_EVENTS_MAX];
    if (atomic_load(&cell->turn) != queue->head + 1)
        return NULL;
    struct fs_event *event = cell->event;
    atomic_fetch_sub(&queue->bytes, cell->bytes);
    atomic_store(&cell->turn, queue->head + AF_WATCH_EVENTS_MAX);
    queue->head++;
    return event;
}
