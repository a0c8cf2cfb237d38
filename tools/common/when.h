// Points in time as text. Any value from outside is fine: what is no date prints as a number.
#ifndef AF_TOOLS_COMMON_WHEN_H
#define AF_TOOLS_COMMON_WHEN_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define TOOL_WHEN_MAX 64

// "2026-01-31T12:00:00.000000000Z"
static inline void tool_when_utc(int64_t seconds, int32_t nanos, char out[TOOL_WHEN_MAX])
{
    struct tm tm;
    time_t time = (time_t)seconds;
    char date[40];
    if (nanos < 0 || nanos > 999999999)
        nanos = 0;
    if (gmtime_r(&time, &tm) && strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm) > 0)
        snprintf(out, TOOL_WHEN_MAX, "%s.%09" PRId32 "Z", date, nanos);
    else
        snprintf(out, TOOL_WHEN_MAX, "%" PRId64, seconds);
}

// "2026-01-31 12:00:00" in local time, for people.
static inline void tool_when_local(int64_t seconds, char out[TOOL_WHEN_MAX])
{
    struct tm tm;
    time_t time = (time_t)seconds;
    if (!localtime_r(&time, &tm) || strftime(out, TOOL_WHEN_MAX, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(out, TOOL_WHEN_MAX, "%" PRId64, seconds);
}

#endif
