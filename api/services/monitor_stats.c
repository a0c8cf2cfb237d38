// agentfense.v1.MonitorService/GetStats: the metrics as messages, under the endpoint's names.
//
// Owns the reply while it is built: one allocation per sample. Fails: NOT_FOUND, or a sentence.
// Read next: api/metrics.h.
#include "api/services/monitor_service.h"

#include "api/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BOUNDS (AF_HISTOGRAM_BUCKETS - 1)

struct metric_item {
    Agentfense__V1__Metric message;
    Agentfense__V1__Metric__LabelsEntry labels[2], *label_pointers[2];
    Agentfense__V1__Histogram histogram;
    char label_texts[2][128];
    double bounds[BOUNDS];
    uint64_t counts[AF_HISTOGRAM_BUCKETS];
};

static void fill_histogram(struct metric_item *item, const struct af_histogram_values *values)
{
    agentfense__v1__histogram__init(&item->histogram);
    for (unsigned i = 0; i < BOUNDS; i++)
        item->bounds[i] = (double)af_histogram_bound_ns(i) / AF_NS_PER_SEC;
    memcpy(item->counts, values->counts, sizeof item->counts);
    item->histogram.bounds = item->bounds;
    item->histogram.n_bounds = BOUNDS;
    item->histogram.counts = item->counts;
    item->histogram.n_counts = AF_HISTOGRAM_BUCKETS;
    item->histogram.sum = (double)values->sum_ns / AF_NS_PER_SEC;
    item->message.histogram = &item->histogram;
}

static int keep_sample(void *arg, const struct metrics_sample *sample)
{
    const struct af_metric_def *def = &af_metric_defs[sample->metric];
    struct metric_item *item = calloc(1, sizeof *item);
    if (!item)
        return -ENOMEM;
    agentfense__v1__metric__init(&item->message);
    item->message.name = grpc_text(def->name);
    item->message.help = grpc_text(def->help);
    item->message.kind = (Agentfense__V1__Metric__Kind)def->kind;
    item->message.value = sample->value;
    item->message.labels = item->label_pointers;
    for (unsigned i = 0; i < 2 && def->labels[i]; i++) {
        snprintf(item->label_texts[i], sizeof item->label_texts[i], "%s", sample->labels[i]);
        agentfense__v1__metric__labels_entry__init(&item->labels[i]);
        item->labels[i].key = grpc_text(def->labels[i]);
        item->labels[i].value = grpc_text(item->label_texts[i]);
        item->label_pointers[i] = &item->labels[i];
        item->message.n_labels = i + 1;
    }
    if (sample->histogram)
        fill_histogram(item, sample->histogram);
    return service_list_add(arg, item, free);
}

static int send_stats(struct grpc_call *call, const struct service_list *list)
{
    Agentfense__V1__GetStatsResponse reply = AGENTFENSE__V1__GET_STATS_RESPONSE__INIT;
    Agentfense__V1__Metric **pointers = calloc(list->count + 1, sizeof(Agentfense__V1__Metric *));
    if (!pointers)
        return -ENOMEM;
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = &((struct metric_item *)list->items[i])->message;
    reply.metrics = pointers;
    reply.n_metrics = list->count;
    grpc_call_reply(call, &reply.base);
    free(pointers);
    return 0;
}

void monitor_get_stats(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__GetStatsRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct service_list list = {0};
    if (request->sandbox_id.len > 0 && service_check_id("sb", request->sandbox_id, &id, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc = request->sandbox_id.len > 0
                 ? metrics_gather_view(daemon_of(call), id.text, keep_sample, &list)
                 : metrics_gather(daemon_of(call), keep_sample, &list);
    if (rc == 0)
        rc = send_stats(call, &list);
    if (rc == -ENOENT)
        grpc_call_finish(call, AF_NOT_FOUND, "there is no sandbox %s", id.text);
    else if (rc < 0) {
        af_error_errno(&err, rc, "cannot gather the figures");
        grpc_call_finish_error(call, &err);
    }
    service_list_fini(&list, free);
}
