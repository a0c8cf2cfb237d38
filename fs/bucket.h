// A token bucket as one point in time: what has been used is paid for at `paid_ns`.
//
// Something that costs n goes when paid_ns has come, and puts it off by n / rate. So something that
// costs more than the burst still goes, and what follows waits for it. After a pause paid_ns lies
// at most FS_BURST_NS back: that much may follow without a pause, whatever the rate is.
// Pure arithmetic on times that the caller gives; locks nothing, fails never. Read next: limit.c.
#ifndef AF_FS_BUCKET_H
#define AF_FS_BUCKET_H

#include "mux/base/clock.h"

#include <stdbool.h>
#include <stdint.h>

#define FS_BURST_NS (AF_NS_PER_SEC / 10)

struct fs_bucket {
    uint64_t per_sec; // 0: no limit. At most 2^33, so that nothing overflows
    int64_t paid_ns;
};

// The rate from now on: nothing is owed, and nothing is saved.
static inline void fs_bucket_set(struct fs_bucket *bucket, uint64_t per_sec, int64_t now_ns)
{
    bucket->per_sec = per_sec;
    bucket->paid_ns = now_ns;
}

// When the next may go; not later than now when there is no limit.
static inline int64_t fs_bucket_due_ns(const struct fs_bucket *bucket)
{
    return bucket->per_sec > 0 ? bucket->paid_ns : INT64_MIN;
}

// n is below 2^44 (AF_FILE_SIZE_MAX).
static inline int64_t fs_bucket_cost_ns(const struct fs_bucket *bucket, uint64_t n)
{
    uint64_t whole = n / bucket->per_sec, rest = n % bucket->per_sec;
    return (int64_t)(whole * (uint64_t)AF_NS_PER_SEC +
                     rest * (uint64_t)AF_NS_PER_SEC / bucket->per_sec);
}

// n goes now. What goes although it is not its time makes the debt no larger than debt_max_ns.
static inline void fs_bucket_take(struct fs_bucket *bucket, uint64_t n, int64_t now_ns,
                                  int64_t debt_max_ns)
{
    if (bucket->per_sec == 0)
        return;
    int64_t floor_ns = now_ns - FS_BURST_NS;
    int64_t was_ns = bucket->paid_ns > floor_ns ? bucket->paid_ns : floor_ns;
    int64_t paid_ns = was_ns + fs_bucket_cost_ns(bucket, n);
    int64_t most_ns = now_ns + debt_max_ns;
    if (was_ns > now_ns && paid_ns > most_ns)
        paid_ns = was_ns > most_ns ? was_ns : most_ns;
    bucket->paid_ns = paid_ns;
}

// n of what was taken was not used.
static inline void fs_bucket_give_back(struct fs_bucket *bucket, uint64_t n)
{
    if (bucket->per_sec > 0)
        bucket->paid_ns -= fs_bucket_cost_ns(bucket, n);
}

#endif
