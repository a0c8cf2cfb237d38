// Clocks, in nanoseconds. Durations use the monotonic clock, file times the wall clock.
#ifndef AF_BASE_CLOCK_H
#define AF_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define AF_NS_PER_SEC INT64_C(1000000000)

static inline int64_t af_clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * AF_NS_PER_SEC + ts.tv_nsec;
}

// Nanoseconds since an unspecified start; never goes back.
static inline int64_t af_monotonic_ns(void)
{
    return af_clock_ns(CLOCK_MONOTONIC);
}

// Nanoseconds since 1970-01-01 UTC.
static inline int64_t af_wall_ns(void)
{
    return af_clock_ns(CLOCK_REALTIME);
}

// Splits nanoseconds since 1970 (also negative) into a timespec with 0 <= tv_nsec < 1e9.
static inline struct timespec af_timespec_of_ns(int64_t ns)
{
    struct timespec ts = {.tv_sec = ns / AF_NS_PER_SEC, .tv_nsec = ns % AF_NS_PER_SEC};
    if (ts.tv_nsec < 0) {
        ts.tv_nsec += AF_NS_PER_SEC;
        ts.tv_sec--;
    }
    return ts;
}

// The nearest that there is, for what is before 1677 or after 2262.
static inline int64_t af_ns_of_timespec(struct timespec ts)
{
    int64_t ns;
    if (__builtin_mul_overflow((int64_t)ts.tv_sec, AF_NS_PER_SEC, &ns) ||
        __builtin_add_overflow(ns, (int64_t)ts.tv_nsec, &ns))
        return ts.tv_sec < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

#endif
