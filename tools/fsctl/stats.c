// agentfense-fsctl stats: every figure of the daemon or of one sandbox. See fsctl.h.
// Read next: mux/base/metrics.h, where they are declared.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/when.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t count_of(const Agentfense__V1__Histogram *histogram)
{
    uint64_t count = 0;
    for (size_t i = 0; i < histogram->n_counts; i++)
        count += histogram->counts[i];
    return count;
}

// What this share of the values is below, in seconds; of the last bucket its lower bound.
static double quantile_s(const Agentfense__V1__Histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)ceil((double)count_of(histogram) * share), seen = 0;
    double below = 0;
    for (size_t i = 0; i < histogram->n_counts && wanted > 0; i++) {
        if (i < histogram->n_bounds)
            below = histogram->bounds[i];
        seen += histogram->counts[i];
        if (seen >= wanted)
            break;
    }
    return below;
}

static double mean_s(const Agentfense__V1__Histogram *histogram)
{
    uint64_t count = count_of(histogram);
    return count ? histogram->sum / (double)count : 0;
}

static const char *kind_word(Agentfense__V1__Metric__Kind kind)
{
    static const char *const words[] = {"unknown", "counter", "gauge", "histogram"};
    return (int)kind > 0 && (size_t)kind < AF_ARRAY_LEN(words) ? words[(size_t)kind] : words[0];
}

// ---- JSON

static void put_histogram(struct json *json, const Agentfense__V1__Histogram *histogram)
{
    json_begin_object(json, "histogram");
    json_uint(json, "count", count_of(histogram));
    json_number(json, "sum", histogram->sum);
    json_number(json, "p50", quantile_s(histogram, 0.5));
    json_number(json, "p99", quantile_s(histogram, 0.99));
    json_begin_array(json, "bounds");
    for (size_t i = 0; i < histogram->n_bounds; i++)
        json_number(json, NULL, histogram->bounds[i]);
    json_end(json);
    json_begin_array(json, "counts");
    for (size_t i = 0; i < histogram->n_counts; i++)
        json_uint(json, NULL, histogram->counts[i]);
    json_end(json);
    json_end(json);
}

static void put_metrics(struct json *json, const Agentfense__V1__GetStatsResponse *reply)
{
    json_begin_array(json, "metrics");
    for (size_t i = 0; i < reply->n_metrics; i++) {
        const Agentfense__V1__Metric *metric = reply->metrics[i];
        json_begin_object(json, NULL);
        json_bytes(json, "name", metric->name.data, metric->name.len);
        json_text(json, "kind", kind_word(metric->kind));
        json_bytes(json, "help", metric->help.data, metric->help.len);
        json_begin_object(json, "labels");
        for (size_t k = 0; k < metric->n_labels; k++) {
            ProtobufCBinaryData key = metric->labels[k]->key, value = metric->labels[k]->value;
            json_bytes_named(json, key.data, key.len, value.data, value.len);
        }
        json_end(json);
        if (metric->histogram)
            put_histogram(json, metric->histogram);
        else
            json_number(json, "value", metric->value);
        json_end(json);
    }
    json_end(json);
}

// ---- for people

static void time_text(double seconds, char *out, size_t size)
{
    if (seconds < 1e-3)
        snprintf(out, size, "%.0fus", seconds * 1e6);
    else if (seconds < 1)
        snprintf(out, size, "%.1fms", seconds * 1e3);
    else
        snprintf(out, size, "%.1fs", seconds);
}

static void add_histogram(struct table *table, const Agentfense__V1__Histogram *histogram)
{
    char mean[24], half[24], most[24];
    time_text(mean_s(histogram), mean, sizeof mean);
    time_text(quantile_s(histogram, 0.5), half, sizeof half);
    time_text(quantile_s(histogram, 0.99), most, sizeof most);
    table_addf(table, "%" PRIu64 " mean=%s p50<%s p99<%s", count_of(histogram), mean, half, most);
}

static char *labelled_name(const Agentfense__V1__Metric *metric)
{
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (!file)
        abort();
    tool_print_escaped(file, metric->name.data, metric->name.len);
    for (size_t i = 0; i < metric->n_labels; i++) {
        fputs(i == 0 ? "{" : ",", file);
        tool_print_escaped(file, metric->labels[i]->value.data, metric->labels[i]->value.len);
    }
    fputs(metric->n_labels > 0 ? "}" : "", file);
    if (fclose(file) != 0)
        abort();
    return text;
}

static void print_metrics(struct fsctl *ctl, const Agentfense__V1__GetStatsResponse *reply)
{
    static const char *const titles[] = {"METRIC", ">VALUE", "MEANING"};
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < reply->n_metrics; i++) {
        const Agentfense__V1__Metric *metric = reply->metrics[i];
        AF_CLEANUP_FREE char *name = labelled_name(metric);
        AF_CLEANUP_FREE char *help = tool_escaped(metric->help.data, metric->help.len);
        table_add(&table, name);
        if (metric->histogram)
            add_histogram(&table, metric->histogram);
        else
            table_addf(&table, "%.15g", metric->value);
        table_add(&table, help);
    }
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
}

// ---- the two of them

static int show_view(struct fsctl *ctl, const struct af_id *id,
                     const Agentfense__V1__GetStatsResponse *reply)
{
    struct json json;
    if (!ctl->json) {
        print_metrics(ctl, reply);
        return 0;
    }
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    json_text(&json, "sandbox_id", id->text);
    put_metrics(&json, reply);
    json_end(&json);
    json_finish(&json);
    return 0;
}

static void show_json(struct fsctl *ctl, const Agentfense__V1__StatsResponse *about,
                      const Agentfense__V1__GetStatsResponse *reply)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    json_bytes(&json, "version", about->version.data, about->version.len);
    json_bytes(&json, "transport", about->transport.data, about->transport.len);
    json_bytes(&json, "open_policy", about->open_policy.data, about->open_policy.len);
    if (about->started_at)
        json_time(&json, "started_at", about->started_at->seconds, about->started_at->nanos);
    put_metrics(&json, reply);
    json_end(&json);
    json_finish(&json);
}

static void show_text(struct fsctl *ctl, const Agentfense__V1__StatsResponse *about,
                      const Agentfense__V1__GetStatsResponse *reply)
{
    AF_CLEANUP_FREE char *version = tool_escaped(about->version.data, about->version.len);
    AF_CLEANUP_FREE char *transport = tool_escaped(about->transport.data, about->transport.len);
    AF_CLEANUP_FREE char *policy = tool_escaped(about->open_policy.data, about->open_policy.len);
    char when[TOOL_WHEN_MAX] = "-";
    if (about->started_at)
        tool_when_local(about->started_at->seconds, when);
    fprintf(ctl->out, "version      %s\ntransport    %s\nopen policy  %s\nstarted      %s\n\n",
            version, transport, policy, when);
    print_metrics(ctl, reply);
}

int fsctl_stats(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__GetStatsRequest request = AGENTFENSE__V1__GET_STATS_REQUEST__INIT;
    Agentfense__V1__StatsRequest about_request = AGENTFENSE__V1__STATS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__GetStatsResponse *reply = NULL;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__StatsResponse *about = NULL;
    struct af_id id;
    if (ctl->argc > 0) {
        if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
            return -1;
        request.sandbox_id = af_client_text(id.text);
    }
    if (rpc_unary(ctl->client, "/agentfense.v1.MonitorService/GetStats", &request.base,
                  &agentfense__v1__get_stats_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->argc > 0)
        return show_view(ctl, &id, reply);
    if (rpc_unary(ctl->client, "/agentfense.v1.InspectService/Stats", &about_request.base,
                  &agentfense__v1__stats_response__descriptor, &about, err) < 0)
        return -1;
    if (ctl->json)
        show_json(ctl, about, reply);
    else
        show_text(ctl, about, reply);
    return 0;
}
