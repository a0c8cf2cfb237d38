// agentfense-fsctl requests: what the kernel asked for a view, by operation. See fsctl.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/when.h"
#include "tools/common/words.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define OPERATIONS_MAX 64

struct operation {
    ProtobufCBinaryData name;
    uint64_t requests, errors;
    double busy_s, slowest_s;
};

struct operations {
    struct operation items[OPERATIONS_MAX];
    size_t count;
    uint64_t iops, bandwidth; // what the view may ask for in a second; 0: any number
    uint64_t held;            // requests that had to wait for it
    double held_s;
};

static bool equals(ProtobufCBinaryData field, const char *text)
{
    return field.len == strlen(text) && memcmp(field.data, text, field.len) == 0;
}

static struct operation *find(struct operations *list, ProtobufCBinaryData name)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].name.len == name.len &&
            memcmp(list->items[i].name.data, name.data, name.len) == 0)
            return &list->items[i];
    if (list->count == OPERATIONS_MAX)
        return NULL;
    list->items[list->count] = (struct operation){.name = name};
    return &list->items[list->count++];
}

static void gather_limit(const Agentfense__V1__Metric *metric, struct operations *list)
{
    if (equals(metric->name, "agentfense_view_iops_limit"))
        list->iops = (uint64_t)metric->value;
    else if (equals(metric->name, "agentfense_view_bandwidth_limit_bytes"))
        list->bandwidth = (uint64_t)metric->value;
    else if (equals(metric->name, "agentfense_view_held_total"))
        list->held = (uint64_t)metric->value;
    else if (equals(metric->name, "agentfense_view_held_seconds_total"))
        list->held_s = metric->value;
}

// The names point into the reply.
static void gather(const Agentfense__V1__GetStatsResponse *reply, struct operations *list)
{
    for (size_t i = 0; i < reply->n_metrics; i++) {
        const Agentfense__V1__Metric *metric = reply->metrics[i];
        gather_limit(metric, list);
        struct operation *op = metric->n_labels == 1 ? find(list, metric->labels[0]->value) : NULL;
        if (!op)
            continue;
        if (equals(metric->name, "agentfense_view_requests_total"))
            op->requests = (uint64_t)metric->value;
        else if (equals(metric->name, "agentfense_view_errors_total"))
            op->errors = (uint64_t)metric->value;
        else if (equals(metric->name, "agentfense_view_busy_seconds_total"))
            op->busy_s = metric->value;
        else if (equals(metric->name, "agentfense_view_slowest_seconds"))
            op->slowest_s = metric->value;
    }
}

static uint64_t mean_ns(const struct operation *op)
{
    return op->requests ? (uint64_t)(op->busy_s * 1e9 / (double)op->requests) : 0;
}

static void put_operations(struct json *json, const struct operations *list)
{
    for (size_t i = 0; i < list->count; i++) {
        const struct operation *op = &list->items[i];
        if (op->requests == 0)
            continue;
        json_begin_object(json, NULL);
        json_bytes(json, "operation", op->name.data, op->name.len);
        json_uint(json, "requests", op->requests);
        json_uint(json, "errors", op->errors);
        json_uint(json, "mean_ns", mean_ns(op));
        if (op->slowest_s > 0)
            json_uint(json, "slowest_ns", (uint64_t)(op->slowest_s * 1e9));
        json_end(json);
    }
}

static void put_limit(struct json *json, const struct operations *list)
{
    json_uint(json, "iops", list->iops);
    json_uint(json, "bandwidth", list->bandwidth);
    json_uint(json, "held", list->held);
    json_uint(json, "held_ns", (uint64_t)(list->held_s * 1e9));
}

static void print_json(struct fsctl *ctl, const struct operations *list)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    put_limit(&json, list);
    json_begin_array(&json, "operations");
    put_operations(&json, list);
    json_end(&json);
    json_end(&json);
    json_finish(&json);
}

// Nothing for a view without a limit that was never held back.
static void print_limit(struct fsctl *ctl, const struct operations *list)
{
    char rate[TOOL_SIZE_MAX];
    if (list->iops == 0 && list->bandwidth == 0 && list->held == 0)
        return;
    fputs("limit:", ctl->out);
    if (list->iops)
        fprintf(ctl->out, " %" PRIu64 " requests/s", list->iops);
    tool_size_text(list->bandwidth, rate);
    if (list->bandwidth)
        fprintf(ctl->out, "%s %s/s", list->iops ? "," : "", rate);
    if (list->iops == 0 && list->bandwidth == 0)
        fputs(" none", ctl->out);
    fprintf(ctl->out, "; held back: %" PRIu64 " requests, %.1f s in all, %.1f ms each\n",
            list->held, list->held_s, list->held ? list->held_s * 1e3 / (double)list->held : 0.0);
}

static void add_operation(struct table *table, const struct operation *op)
{
    AF_CLEANUP_FREE char *name = tool_escaped(op->name.data, op->name.len);
    table_add(table, name);
    table_addf(table, "%" PRIu64, op->requests);
    table_addf(table, "%" PRIu64, op->errors);
    table_addf(table, "%.1f", (double)mean_ns(op) / 1000);
}

static void print_table(struct fsctl *ctl, const struct operations *list)
{
    static const char *const titles[] = {"OPERATION", ">REQUESTS", ">ERRORS", ">MEAN us",
                                         ">SLOWEST us"};
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < list->count; i++) {
        add_operation(&table, &list->items[i]);
        table_addf(&table, "%.1f", list->items[i].slowest_s * 1e6);
    }
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
    print_limit(ctl, list);
}

// ---- once, or again and again

static int ask(struct fsctl *ctl, const struct af_id *id, Agentfense__V1__GetStatsResponse **ret,
               struct operations *list, struct af_error *err)
{
    Agentfense__V1__GetStatsRequest request = AGENTFENSE__V1__GET_STATS_REQUEST__INIT;
    request.sandbox_id = af_client_text(id->text);
    if (rpc_unary(ctl->client, "/agentfense.v1.MonitorService/GetStats", &request.base,
                  &agentfense__v1__get_stats_response__descriptor, ret, err) < 0)
        return -1;
    *list = (struct operations){.count = 0};
    gather(*ret, list);
    return 0;
}

// What was asked for since `before`. A sandbox that was started anew has begun to count anew.
static void subtract(const struct operations *now, const struct operations *before,
                     struct operations *ret)
{
    struct operations known = *before;
    *ret = *now;
    if (before->held <= now->held) {
        ret->held -= before->held;
        ret->held_s -= before->held_s;
    }
    for (size_t i = 0; i < ret->count; i++) {
        struct operation *op = &ret->items[i];
        const struct operation *was = find(&known, op->name);
        op->slowest_s = 0; // since the start, not since then
        if (!was || was->requests > op->requests)
            continue;
        op->requests -= was->requests;
        op->errors -= was->errors;
        op->busy_s -= was->busy_s;
    }
}

static void print_interval_json(struct fsctl *ctl, const struct operations *list, double seconds)
{
    struct json json;
    struct timespec now = af_timespec_of_ns(af_wall_ns());
    json_init(&json, ctl->out);
    json.one_line = true;
    json_begin_object(&json, NULL);
    json_time(&json, "at", now.tv_sec, (int32_t)now.tv_nsec);
    json_uint(&json, "interval_ns", (uint64_t)(seconds * 1e9));
    put_limit(&json, list);
    json_begin_array(&json, "operations");
    put_operations(&json, list);
    json_end(&json);
    json_end(&json);
    json_finish(&json);
}

static void print_interval(struct fsctl *ctl, const struct operations *list, double seconds)
{
    static const char *const titles[] = {"OPERATION", ">REQUESTS", ">ERRORS", ">MEAN us",
                                         ">PER SECOND"};
    struct table table;
    char when[TOOL_WHEN_MAX];
    uint64_t all = 0;
    tool_when_local(af_wall_ns() / AF_NS_PER_SEC, when);
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < list->count; i++) {
        const struct operation *op = &list->items[i];
        if (op->requests == 0)
            continue;
        all += op->requests;
        add_operation(&table, op);
        table_addf(&table, "%.1f", (double)op->requests / seconds);
    }
    fprintf(ctl->out, "%s  %" PRIu64 " requests\n", when, all);
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
    print_limit(ctl, list);
}

static int repeat(struct fsctl *ctl, const struct af_id *id, struct af_error *err)
{
    const struct timespec pause = af_timespec_of_ns((int64_t)(ctl->interval_s * 1e9));
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__GetStatsResponse *before_reply = NULL;
    struct operations before, now, since;
    int64_t asked_ns = af_monotonic_ns();
    if (ask(ctl, id, &before_reply, &before, err) < 0)
        return -1;
    for (uint64_t i = 0; ctl->count == 0 || i < ctl->count; i++) {
        Agentfense__V1__GetStatsResponse *reply = NULL;
        nanosleep(&pause, NULL);
        int64_t now_ns = af_monotonic_ns();
        double seconds = (double)(now_ns - asked_ns) / 1e9;
        if (ask(ctl, id, &reply, &now, err) < 0)
            return -1;
        asked_ns = now_ns;
        subtract(&now, &before, &since);
        if (ctl->json)
            print_interval_json(ctl, &since, seconds);
        else
            print_interval(ctl, &since, seconds);
        if (fflush(ctl->out) != 0)
            return af_error_errno(err, errno, "cannot write the output");
        rpc_free(before_reply);
        before_reply = reply;
        before = now;
    }
    return 0;
}

int fsctl_requests(struct fsctl *ctl, struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__GetStatsResponse *reply = NULL;
    struct operations list;
    struct af_id id;
    if (ctl->count > 0 && ctl->interval_s == 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "--count needs --interval");
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    if (ctl->interval_s > 0)
        return repeat(ctl, &id, err);
    if (ask(ctl, &id, &reply, &list, err) < 0)
        return -1;
    if (ctl->json)
        print_json(ctl, &list);
    else
        print_table(ctl, &list);
    return 0;
}
