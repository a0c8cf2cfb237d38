// The figures of mux/base/metrics.h gathered: for the Prometheus endpoint and for GetStats.
//
// Threads: any but the network's, since the store is read. Errors: -errno, and what the callback
// returns. Owns nothing. Read next: metrics.c.
#ifndef AF_API_METRICS_H
#define AF_API_METRICS_H

#include "api/daemon.h"
#include "mux/base/metrics.h"

#include <stdio.h>

struct metrics_sample {
    enum af_metric metric;
    const char *labels[2]; // as many as the metric has; valid during the call
    double value;          // of a counter or gauge
    const struct af_histogram_values *histogram;
};

// 0 to go on; another value ends the gathering and is returned.
typedef int (*metrics_fn)(void *arg, const struct metrics_sample *sample);

// Every figure of the daemon, in the order of the table; those with labels only where something was
// counted.
int metrics_gather(struct daemon *daemon, metrics_fn fn, void *arg);
// Those of one sandbox. -ENOENT: there is none.
int metrics_gather_view(struct daemon *daemon, const char *sandbox_id, metrics_fn fn, void *arg);

// All of them in Prometheus' text format, version 0.0.4. Histograms have every fourth of their
// bounds: a factor of two between two of them.
int metrics_write_text(struct daemon *daemon, FILE *file);

#endif
