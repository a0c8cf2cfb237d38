// agentfense-fsctl requests: what the kernel asked for a view, by operation. See fsctl.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"

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

// The names point into the reply.
static void gather(const Agentfense__V1__GetStatsResponse *reply, struct operations *list)
{
    for (size_t i = 0; i < reply->n_metrics; i++) {
        const Agentfense__V1__Metric *metric = reply->metrics[i];
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

static void print_json(struct fsctl *ctl, const struct operations *list)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_array(&json, NULL);
    for (size_t i = 0; i < list->count; i++) {
        const struct operation *op = &list->items[i];
        json_begin_object(&json, NULL);
        json_bytes(&json, "operation", op->name.data, op->name.len);
        json_uint(&json, "requests", op->requests);
        json_uint(&json, "errors", op->errors);
        json_uint(&json, "mean_ns", mean_ns(op));
        json_uint(&json, "slowest_ns", (uint64_t)(op->slowest_s * 1e9));
        json_end(&json);
    }
    json_end(&json);
    json_finish(&json);
}

static void print_table(struct fsctl *ctl, const struct operations *list)
{
    static const char *const titles[] = {"OPERATION", ">REQUESTS", ">ERRORS", ">MEAN us",
                                         ">SLOWEST us"};
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < list->count; i++) {
        const struct operation *op = &list->items[i];
        AF_CLEANUP_FREE char *name = tool_escaped(op->name.data, op->name.len);
        table_add(&table, name);
        table_addf(&table, "%" PRIu64, op->requests);
        table_addf(&table, "%" PRIu64, op->errors);
        table_addf(&table, "%.1f", (double)mean_ns(op) / 1000);
        table_addf(&table, "%.1f", op->slowest_s * 1e6);
    }
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
}

int fsctl_requests(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__GetStatsRequest request = AGENTFENSE__V1__GET_STATS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__GetStatsResponse *reply = NULL;
    struct operations list = {.count = 0};
    struct af_id id;
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id =
        (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id.text, .len = strlen(id.text)};
    if (rpc_unary(ctl->client, "/agentfense.v1.MonitorService/GetStats", &request.base,
                  &agentfense__v1__get_stats_response__descriptor, &reply, err) < 0)
        return -1;
    gather(reply, &list);
    if (ctl->json)
        print_json(ctl, &list);
    else
        print_table(ctl, &list);
    return 0;
}
