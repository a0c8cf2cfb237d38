// The table of metrics, log-linear histograms, and what is counted for the whole process.
//
// Owns the process's counters: static, so that whoever counts needs no handle; pages of theirs that
// nobody touched cost nothing. Locks and fails: see metrics.h. Read next: api/metrics.c.
#include "mux/base/metrics.h"

#include <string.h>

#define DEF(id, kind, name, label, second, help)                                                   \
    [AF_METRIC_##id] = {name, {label, second}, help, AF_METRIC_##kind},
const struct af_metric_def af_metric_defs[AF_METRIC_COUNT] = {AF_METRICS(DEF)};

// ---- histograms

unsigned af_histogram_bucket(uint64_t ns)
{
    if (ns < 1ull << AF_HISTOGRAM_FIRST_BIT)
        return 0;
    unsigned bit = 63 - (unsigned)__builtin_clzll(ns);
    unsigned octave = bit - AF_HISTOGRAM_FIRST_BIT;
    if (octave >= AF_HISTOGRAM_OCTAVES)
        return AF_HISTOGRAM_BUCKETS - 1;
    return 1 + octave * 4 + (unsigned)(ns >> (bit - 2) & 3);
}

uint64_t af_histogram_bound_ns(unsigned bucket)
{
    if (bucket == 0)
        return 1ull << AF_HISTOGRAM_FIRST_BIT;
    if (bucket >= AF_HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;
    unsigned octave = (bucket - 1) / 4, step = (bucket - 1) % 4;
    return (uint64_t)(5 + step) << (octave + AF_HISTOGRAM_FIRST_BIT - 2);
}

void af_histogram_gather(const struct af_histogram *histogram, struct af_histogram_values *to)
{
    for (unsigned i = 0; i < AF_HISTOGRAM_BUCKETS; i++) {
        uint64_t n = atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
        to->counts[i] += n;
        to->count += n;
    }
    to->sum_ns += atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
}

uint64_t af_histogram_quantile_ns(const struct af_histogram_values *values, double share)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < AF_HISTOGRAM_BUCKETS; i++) {
        seen += values->counts[i];
        if (seen > 0 && (double)seen >= share * (double)values->count)
            return af_histogram_bound_ns(i < AF_HISTOGRAM_BUCKETS - 1 ? i : i - 1);
    }
    return 0;
}

// ---- counted here

static _Atomic int64_t counted[AF_METRIC_COUNT];
static _Atomic uint64_t commands[AF_COMMAND_RESULTS];
static struct af_histogram command_times;

void af_metric_add(enum af_metric metric, int64_t n)
{
    atomic_fetch_add_explicit(&counted[metric], n, memory_order_relaxed);
}

int64_t af_metric_value(enum af_metric metric)
{
    return atomic_load_explicit(&counted[metric], memory_order_relaxed);
}

const char *af_command_result_name(enum af_command_result result)
{
    static const char *const names[AF_COMMAND_RESULTS] = {
        [AF_COMMAND_SUCCESS] = "success",     [AF_COMMAND_FAILURE] = "failure",
        [AF_COMMAND_SIGNAL] = "signal",       [AF_COMMAND_TIMEOUT] = "timeout",
        [AF_COMMAND_CANCELLED] = "cancelled", [AF_COMMAND_ERROR] = "error",
    };
    return names[result];
}

void af_metric_command(enum af_command_result result, int64_t took_ns)
{
    atomic_fetch_add_explicit(&commands[result], 1, memory_order_relaxed);
    af_histogram_observe(&command_times, took_ns);
}

uint64_t af_metric_commands(enum af_command_result result)
{
    return atomic_load_explicit(&commands[result], memory_order_relaxed);
}

void af_metric_command_times(struct af_histogram_values *to)
{
    af_histogram_gather(&command_times, to);
}
