// Timers of the event loop: a binary heap, ordered by monotonic time.
//
// A timer is embedded in its owner and belongs to the event thread; no locks. Setting a timer
// cannot fail: its place in the heap is reserved when the owner is made (exec_timers_reserve).
// Read next: engine.c.
#ifndef AF_EXEC_TIMER_H
#define AF_EXEC_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXEC_TIMERS_MAX (1u << 22) // boxes, and commands that are not over

struct exec_timer {
    int64_t at_ns; // monotonic
    void (*fn)(struct exec_timer *timer);
    size_t place; // 1-based index in the heap; 0: not set
};

struct exec_timers {
    struct exec_timer **heap;
    size_t used, capacity, reserved;
};

void exec_timers_fini(struct exec_timers *timers);

// Makes room for one more timer, for as long as exec_timers_release is not called. 0 or -ENOMEM,
// also beyond EXEC_TIMERS_MAX.
int exec_timers_reserve(struct exec_timers *timers);
void exec_timers_release(struct exec_timers *timers);

// Sets or moves a timer.
void exec_timer_set(struct exec_timers *timers, struct exec_timer *timer, int64_t at_ns,
                    void (*fn)(struct exec_timer *timer));

// Does nothing when the timer is not set.
void exec_timer_clear(struct exec_timers *timers, struct exec_timer *timer);

// Milliseconds until the first timer, rounded up, for epoll_wait: -1 when there is none.
int exec_timers_wait_ms(const struct exec_timers *timers, int64_t now_ns);

// Calls every timer that is due; each is unset before its function is called.
void exec_timers_run(struct exec_timers *timers, int64_t now_ns);

#endif
