// See timer.h. An array-backed binary heap whose entries know their place in it.
#include "exec/timer.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

static void put(struct exec_timers *t, size_t place, struct exec_timer *timer)
{
    t->heap[place] = timer;
    timer->place = place;
}

static void sift_up(struct exec_timers *t, size_t place)
{
    struct exec_timer *timer = t->heap[place];
    for (; place > 1 && t->heap[place / 2]->at_ns > timer->at_ns; place /= 2)
        put(t, place, t->heap[place / 2]);
    put(t, place, timer);
}

static void sift_down(struct exec_timers *t, size_t place)
{
    struct exec_timer *timer = t->heap[place];
    for (;;) {
        size_t child = place * 2;
        if (child > t->used)
            break;
        if (child < t->used && t->heap[child + 1]->at_ns < t->heap[child]->at_ns)
            child++;
        if (t->heap[child]->at_ns >= timer->at_ns)
            break;
        put(t, place, t->heap[child]);
        place = child;
    }
    put(t, place, timer);
}

void exec_timers_fini(struct exec_timers *t)
{
    free(t->heap);
    *t = (struct exec_timers){0};
}

int exec_timers_reserve(struct exec_timers *t)
{
    if (t->reserved >= EXEC_TIMERS_MAX)
        return -ENOMEM;
    if (t->reserved + 1 >= t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 64;
        struct exec_timer **heap = realloc(t->heap, capacity * sizeof(struct exec_timer *));
        if (!heap)
            return -ENOMEM;
        t->heap = heap;
        t->capacity = capacity;
    }
    t->reserved++;
    return 0;
}

void exec_timers_release(struct exec_timers *t)
{
    t->reserved--;
}

void exec_timer_set(struct exec_timers *t, struct exec_timer *timer, int64_t at_ns,
                    void (*fn)(struct exec_timer *timer))
{
    exec_timer_clear(t, timer);
    timer->at_ns = at_ns;
    timer->fn = fn;
    put(t, ++t->used, timer);
    sift_up(t, t->used);
}

void exec_timer_clear(struct exec_timers *t, struct exec_timer *timer)
{
    size_t place = timer->place;
    if (!place)
        return;
    timer->place = 0;
    struct exec_timer *last = t->heap[t->used--];
    if (last == timer)
        return;
    put(t, place, last);
    sift_up(t, place);
    sift_down(t, last->place);
}

int exec_timers_wait_ms(const struct exec_timers *t, int64_t now_ns)
{
    if (!t->used)
        return -1;
    int64_t left_ns = t->heap[1]->at_ns - now_ns;
    if (left_ns <= 0)
        return 0;
    int64_t ms = (left_ns + 999999) / 1000000;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

void exec_timers_run(struct exec_timers *t, int64_t now_ns)
{
    while (t->used && t->heap[1]->at_ns <= now_ns) {
        struct exec_timer *timer = t->heap[1];
        exec_timer_clear(t, timer);
        timer->fn(timer);
    }
}
