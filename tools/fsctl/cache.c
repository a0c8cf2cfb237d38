// agentfense-fsctl cache: the daemon's caches, from its figures. See fsctl.h.
// Read next: mux/base/metrics.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/json.h"

#include <string.h>

struct cache {
    const char *name, *words; // for programs, for people
    const char *used, *max, *hits, *misses, *evictions;
};

static const struct cache caches[] = {
    {"nodes", "inodes", "agentfense_nodes_cached", "agentfense_nodes_cached_max",
     "agentfense_node_cache_hits_total", "agentfense_node_cache_misses_total",
     "agentfense_node_cache_evictions_total"},
    {"blob_files", "open content files", "agentfense_blob_files_open",
     "agentfense_blob_files_open_max", "agentfense_blob_file_hits_total",
     "agentfense_blob_file_misses_total", NULL},
};

static double value_of(const Agentfense__V1__GetStatsResponse *reply, const char *name)
{
    for (size_t i = 0; name && i < reply->n_metrics; i++) {
        const Agentfense__V1__Metric *metric = reply->metrics[i];
        if (metric->name.len == strlen(name) &&
            memcmp(metric->name.data, name, metric->name.len) == 0)
            return metric->value;
    }
    return 0;
}

static double hit_rate(const Agentfense__V1__GetStatsResponse *reply, const struct cache *cache)
{
    double hits = value_of(reply, cache->hits), misses = value_of(reply, cache->misses);
    return hits + misses > 0 ? hits / (hits + misses) : 0;
}

static void print_json(struct fsctl *ctl, const Agentfense__V1__GetStatsResponse *reply)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    for (size_t i = 0; i < AF_ARRAY_LEN(caches); i++) {
        const struct cache *cache = &caches[i];
        json_begin_object(&json, cache->name);
        json_number(&json, "used", value_of(reply, cache->used));
        json_number(&json, "max", value_of(reply, cache->max));
        json_number(&json, "hits", value_of(reply, cache->hits));
        json_number(&json, "misses", value_of(reply, cache->misses));
        if (cache->evictions)
            json_number(&json, "evictions", value_of(reply, cache->evictions));
        json_number(&json, "hit_rate", hit_rate(reply, cache));
        json_end(&json);
    }
    json_end(&json);
    json_finish(&json);
}

static void print_table(struct fsctl *ctl, const Agentfense__V1__GetStatsResponse *reply)
{
    static const char *const titles[] = {"CACHE",   ">USED",    ">ROOM", ">HITS",
                                         ">MISSES", ">DROPPED", ">HIT %"};
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < AF_ARRAY_LEN(caches); i++) {
        const struct cache *cache = &caches[i];
        table_add(&table, cache->words);
        table_addf(&table, "%.0f", value_of(reply, cache->used));
        table_addf(&table, "%.0f", value_of(reply, cache->max));
        table_addf(&table, "%.0f", value_of(reply, cache->hits));
        table_addf(&table, "%.0f", value_of(reply, cache->misses));
        if (cache->evictions)
            table_addf(&table, "%.0f", value_of(reply, cache->evictions));
        else
            table_add(&table, "-");
        table_addf(&table, "%.1f", 100 * hit_rate(reply, cache));
    }
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
}

int fsctl_cache(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__GetStatsRequest request = AGENTFENSE__V1__GET_STATS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__GetStatsResponse *reply = NULL;
    if (rpc_unary(ctl->client, "/agentfense.v1.MonitorService/GetStats", &request.base,
                  &agentfense__v1__get_stats_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->json)
        print_json(ctl, reply);
    else
        print_table(ctl, reply);
    return 0;
}
