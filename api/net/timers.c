// Deadlines in a binary heap. Owns the array of pointers, not the timers. No locks.
// Read next: timers.h.
#include "api/net/timers.h"

#include <stdlib.h>

static void put(struct net_timers *timers, size_t index, struct net_timer *timer)
{
    timers->heap[index] = timer;
    timer->place = index + 1;
}

static void sift_up(struct net_timers *timers, size_t index)
{
    struct net_timer *timer = timers->heap[index];
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (timers->heap[parent]->at_ns <= timer->at_ns)
            break;
        put(timers, index, timers->heap[parent]);
        index = parent;
    }
    put(timers, index, timer);
}

static void sift_down(struct net_timers *timers, size_t index)
{
    struct net_timer *timer = timers->heap[index];
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count &&
            timers->heap[child + 1]->at_ns < timers->heap[child]->at_ns)
            child++;
        if (timers->heap[child]->at_ns >= timer->at_ns)
            break;
        put(timers, index, timers->heap[child]);
        index = child;
    }
    put(timers, index, timer);
}

void net_timers_fini(struct net_timers *timers)
{
    free(timers->heap);
    *timers = (struct net_timers){0};
}

bool net_timers_set(struct net_timers *timers, struct net_timer *timer, int64_t at_ns)
{
    if (timers->count == timers->cap) {
        size_t cap = timers->cap ? timers->cap * 2 : 64;
        struct net_timer **grown = realloc(timers->heap, cap * sizeof(struct net_timer *));
        if (!grown)
            return false;
        timers->heap = grown;
        timers->cap = cap;
    }
    timer->at_ns = at_ns;
    timers->heap[timers->count++] = timer;
    sift_up(timers, timers->count - 1);
    return true;
}

void net_timers_clear(struct net_timers *timers, struct net_timer *timer)
{
    if (timer->place == 0)
        return;
    size_t index = timer->place - 1;
    timer->place = 0;
    struct net_timer *last = timers->heap[--timers->count];
    if (last == timer)
        return;
    put(timers, index, last);
    sift_up(timers, index);
    sift_down(timers, last->place - 1);
}

struct net_timer *net_timers_first(const struct net_timers *timers)
{
    return timers->count > 0 ? timers->heap[0] : NULL;
}
