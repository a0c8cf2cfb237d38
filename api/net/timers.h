// Deadlines in a binary heap. Setting, removing and moving one is O(log n).
// Threads: one (the network thread). Read next: timers.c.
#ifndef AF_API_NET_TIMERS_H
#define AF_API_NET_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Embedded in what times out; all zero means not set.
struct net_timer {
    int64_t at_ns;
    size_t place; // index in the heap plus one; 0: not in it
};

struct net_timers {
    struct net_timer **heap;
    size_t count, cap;
};

void net_timers_fini(struct net_timers *timers);

// Sets a timer that is not set. False when memory is short.
bool net_timers_set(struct net_timers *timers, struct net_timer *timer, int64_t at_ns);

// Harmless when it is not set.
void net_timers_clear(struct net_timers *timers, struct net_timer *timer);

// The earliest, or NULL.
struct net_timer *net_timers_first(const struct net_timers *timers);

#endif
