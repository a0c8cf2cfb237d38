// Metrics in Prometheus' text format. No label needs escaping: all are words of the program.
// Owns and locks nothing; the stream's errors are the caller's to ask for. Read next: metrics.h.
#include "api/metrics.h"

#include <inttypes.h>

#define NS_PER_S 1e9

struct text {
    FILE *file;
    int last; // the metric whose HELP and TYPE were written
};

static void write_labels(FILE *file, const struct af_metric_def *def,
                         const struct metrics_sample *sample, const char *bound)
{
    const char *before = "{";
    for (unsigned i = 0; i < 2 && def->labels[i]; i++) {
        fprintf(file, "%s%s=\"%s\"", before, def->labels[i], sample->labels[i]);
        before = ",";
    }
    if (bound) {
        fprintf(file, "%sle=\"%s\"", before, bound);
        before = ",";
    }
    if (*before == ',')
        fputc('}', file);
}

static void write_histogram(FILE *file, const struct af_metric_def *def,
                            const struct metrics_sample *sample)
{
    const struct af_histogram_values *values = sample->histogram;
    uint64_t below = 0;
    char bound[32];
    for (unsigned i = 0; i < AF_HISTOGRAM_BUCKETS; i++) {
        bool last = i == AF_HISTOGRAM_BUCKETS - 1;
        below += values->counts[i];
        if (i % 4 != 0 && !last)
            continue;
        snprintf(bound, sizeof bound, "%.9g", (double)af_histogram_bound_ns(i) / NS_PER_S);
        fprintf(file, "%s_bucket", def->name);
        write_labels(file, def, sample, last ? "+Inf" : bound);
        fprintf(file, " %" PRIu64 "\n", below);
    }
    fprintf(file, "%s_sum", def->name);
    write_labels(file, def, sample, NULL);
    fprintf(file, " %.9f\n%s_count", (double)values->sum_ns / NS_PER_S, def->name);
    write_labels(file, def, sample, NULL);
    fprintf(file, " %" PRIu64 "\n", values->count);
}

static int write_sample(void *arg, const struct metrics_sample *sample)
{
    static const char *const kinds[] = {
        [AF_METRIC_COUNTER] = "counter",
        [AF_METRIC_GAUGE] = "gauge",
        [AF_METRIC_HISTOGRAM] = "histogram",
    };
    struct text *text = arg;
    const struct af_metric_def *def = &af_metric_defs[sample->metric];
    if (text->last != (int)sample->metric)
        fprintf(text->file, "# HELP %s %s\n# TYPE %s %s\n", def->name, def->help, def->name,
                kinds[def->kind]);
    text->last = (int)sample->metric;
    if (def->kind == AF_METRIC_HISTOGRAM) {
        write_histogram(text->file, def, sample);
        return 0;
    }
    fputs(def->name, text->file);
    write_labels(text->file, def, sample, NULL);
    fprintf(text->file, " %.17g\n", sample->value);
    return 0;
}

int metrics_write_text(struct daemon *daemon, FILE *file)
{
    struct text text = {.file = file, .last = -1};
    return metrics_gather(daemon, write_sample, &text);
}
