// agentfense.v1.InspectService, but for its streams (inspect_stream.c): ListViews, Stat, Explain,
// Stats.
//
// Looks only; every answer is of one consistent state. Read next: mux/inspect.h.
#include "api/services/inspect_service.h"

#include "mux/base/cleanup.h"
#include "mux/rules.h"
#include "mux/store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- ListViews

struct view_item {
    Agentfense__V1__View message;
    Google__Protobuf__Timestamp created;
    struct mux_view_info info;
};

static const char *status_word(enum store_sandbox_status status)
{
    switch (status) {
    case STORE_SANDBOX_PENDING:
        return "pending";
    case STORE_SANDBOX_RUNNING:
        return "running";
    case STORE_SANDBOX_STOPPED:
        return "stopped";
    default:
        return "error";
    }
}

static const char *access_word(enum store_sandbox_access access)
{
    static const char *const words[] = {"normal", "normal", "read-only", "cut-off"};
    return (size_t)access < AF_ARRAY_LEN(words) ? words[access] : "unknown";
}

static int collect_view(void *arg, const struct mux_view_info *info)
{
    struct view_item *item = malloc(sizeof *item);
    if (!item)
        return -ENOMEM;
    item->info = *info;
    agentfense__v1__view__init(&item->message);
    service_set_timestamp(&item->created, info->created_ns);
    item->message.sandbox_id = grpc_text(item->info.sandbox_id.text);
    item->message.codebase_id = grpc_text(item->info.codebase_id.text);
    item->message.status = grpc_text(status_word(info->status));
    item->message.slot = info->slot;
    item->message.uid = info->slot ? info->uid : 0;
    item->message.stack_depth = (uint32_t)info->stack_depth;
    item->message.delta_bytes = info->delta_bytes;
    item->message.delta_inodes = info->delta_inodes;
    item->message.quota_bytes = info->quota_bytes;
    item->message.quota_inodes = info->quota_inodes;
    item->message.iops = info->iops;
    item->message.bandwidth = info->bandwidth;
    item->message.access = grpc_text(access_word(info->access));
    item->message.rules = (uint32_t)info->n_rules;
    item->message.created_at = &item->created;
    return service_list_add(arg, item, free);
}

static void send_views(struct grpc_call *call, const struct service_list *list)
{
    struct af_error err;
    Agentfense__V1__ListViewsResponse reply = AGENTFENSE__V1__LIST_VIEWS_RESPONSE__INIT;
    AF_CLEANUP_FREE Agentfense__V1__View **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = &((struct view_item *)list->items[i])->message;
    reply.views = pointers;
    reply.n_views = list->count;
    if (service_check_reply(&reply.base, "list sandboxes page by page instead", &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply.base);
}

static void list_views(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    struct af_error err;
    struct service_list list = {0};
    int rc = mux_inspect_views(daemon_of(call)->mux, collect_view, &list, &err);
    if (rc == -ENOMEM)
        af_error_errno(&err, rc, "cannot list views");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_views(call, &list);
    service_list_fini(&list, free);
}

// ---- Stat

static void send_stat(struct grpc_call *call, ProtobufCBinaryData path,
                      const struct mux_node_info *info)
{
    Agentfense__V1__StatResponse reply = AGENTFENSE__V1__STAT_RESPONSE__INIT;
    Agentfense__V1__TreeNode node;
    Google__Protobuf__Timestamp modified, changed;
    char layer[32], content[32];
    inspect_fill_node(&node, info->mode, info->level, info->size, info->traversable_only);
    node.path = path;
    node.symlink_target = grpc_text(info->symlink_target);
    service_set_timestamp(&modified, info->mtime_ns);
    service_set_timestamp(&changed, info->ctime_ns);
    snprintf(layer, sizeof layer, info->in_delta ? "delta" : "base:%" PRIu64, info->layer);
    snprintf(content, sizeof content, "blob:%" PRIu64, info->blob);
    reply.node = &node;
    reply.ino = info->fid;
    reply.nodeid = info->nodeid;
    reply.nlink = info->nlink;
    reply.modified_at = &modified;
    reply.changed_at = &changed;
    reply.layer = grpc_text(layer);
    reply.content = grpc_text(info->blob ? content : info->is_inline ? "inline" : "");
    reply.shared = info->shared;
    grpc_call_reply(call, &reply.base);
}

static void stat_node(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__StatRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct mux_node_info info;
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        mux_inspect_stat(daemon_of(call)->mux, id.text, request->path.data, request->path.len,
                         &info, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        send_stat(call, request->path, &info);
}

// ---- Explain

static int send_explanation(struct grpc_call *call, const struct rules_explanation *found,
                            bool exists)
{
    Agentfense__V1__ExplainResponse reply = AGENTFENSE__V1__EXPLAIN_RESPONSE__INIT;
    size_t count = found->n_matches;
    AF_CLEANUP_FREE Agentfense__V1__MatchedRule *rules = calloc(count + 1, sizeof *rules);
    AF_CLEANUP_FREE Agentfense__V1__MatchedRule **pointers = calloc(count + 1, sizeof *pointers);
    if (!rules || !pointers)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct rules_match *match = &found->matches[i];
        agentfense__v1__matched_rule__init(&rules[i]);
        rules[i].index = match->index;
        rules[i].pattern = service_bytes(match->pattern, match->pattern_len);
        rules[i].type = grpc_text(rules_type_name(match->type));
        rules[i].level = (Agentfense__V1__Level)match->level;
        rules[i].priority = match->priority;
        pointers[i] = &rules[i];
    }
    reply.level = (Agentfense__V1__Level)found->level;
    reply.exists = exists;
    reply.traversable_only = found->traversable_only;
    reply.matched = pointers;
    reply.n_matched = count;
    reply.reason = grpc_text(found->reason);
    grpc_call_reply(call, &reply.base);
    return 0;
}

static void explain(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ExplainRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct rules_explanation found = {0};
    bool exists;
    int rc = service_check_id("sb", request->sandbox_id, &id, &err);
    if (rc == 0)
        rc = mux_inspect_explain(daemon_of(call)->mux, id.text, request->path.data,
                                 request->path.len, &found, &exists, &err);
    if (rc == 0 && send_explanation(call, &found, exists) < 0)
        rc = af_error_errno(&err, ENOMEM, "cannot explain");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    rules_explanation_fini(&found);
}

// ---- Stats

#define COUNTERS_MAX 192

struct counter_list {
    Agentfense__V1__Counter items[COUNTERS_MAX];
    Agentfense__V1__Counter *pointers[COUNTERS_MAX];
    char names[COUNTERS_MAX][64];
    size_t count;
};

static void add_counter(struct counter_list *list, const char *prefix, const char *name,
                        uint64_t value, const char *help)
{
    if (list->count == COUNTERS_MAX)
        return;
    Agentfense__V1__Counter *counter = &list->items[list->count];
    char *text = list->names[list->count];
    snprintf(text, sizeof list->names[0], "%s%s", prefix, name);
    agentfense__v1__counter__init(counter);
    counter->name = grpc_text(text);
    counter->help = grpc_text(help);
    counter->value = value;
    list->pointers[list->count++] = counter;
}

static void add_fs_counters(struct counter_list *list, struct fs_session *fs)
{
    struct fs_counters counters;
    fs_session_counters(fs, &counters);
    for (int op = 0; op < FS_OP_COUNT; op++) {
        if (counters.op[op].requests == 0)
            continue;
        char name[48];
        snprintf(name, sizeof name, "%s_requests", fs_op_name(op));
        add_counter(list, "fuse_", name, counters.op[op].requests, "requests from the kernel");
        snprintf(name, sizeof name, "%s_ns", fs_op_name(op));
        add_counter(list, "fuse_", name, counters.op[op].latency_ns,
                    "time spent on them, nanoseconds");
        snprintf(name, sizeof name, "%s_errors", fs_op_name(op));
        if (counters.op[op].errors)
            add_counter(list, "fuse_", name, counters.op[op].errors, "answered with an error");
    }
    add_counter(list, "fuse_", "slow_requests", counters.slow_requests,
                "requests that may block, done off the workers");
    add_counter(list, "fuse_", "reads_async", counters.reads_async,
                "reads that waited for the backing file");
    add_counter(list, "fuse_", "invalidations", counters.invalidations,
                "cache entries the kernel was told to drop");
    add_counter(list, "fuse_", "shared_writes", counters.shared_writes,
                "writes that reached a shared file: must be 0");
}

static int add_store_counters(struct counter_list *list, struct mux *mux)
{
    struct store_stats stats;
    int rc = store_get_stats(mux_store(mux), &stats);
    if (rc < 0)
        return rc;
    add_counter(list, "store_", "used_bytes", stats.used_bytes, "size of the database");
    add_counter(list, "store_", "entries", stats.entries, "directory entries in all layers");
    add_counter(list, "store_", "inodes", stats.inodes, "inode records in all layers");
    add_counter(list, "store_", "layers", stats.layers, "layers");
    add_counter(list, "store_", "stacks", stats.stacks, "stacks of layers");
    add_counter(list, "store_", "blobs", stats.blobs, "content files");
    add_counter(list, "store_", "blob_bytes", stats.blob_bytes, "bytes in content files");
    add_counter(list, "store_", "codebases", stats.codebases, "codebases");
    add_counter(list, "store_", "sandboxes", stats.sandboxes, "sandboxes");
    add_counter(list, "store_", "orphans", stats.orphans, "unlinked files still open");
    add_counter(list, "store_", "commits", stats.commits, "transactions since the start");
    add_counter(list, "store_", "reads", stats.reads, "read transactions since the start");
    add_counter(list, "store_", "syncs", stats.syncs, "syncs to the disk since the start");
    add_counter(list, "store_", "garbage_layers", stats.garbage_layers,
                "layers waiting for the collector");
    return 0;
}

static void add_daemon_counters(struct counter_list *list, struct daemon *daemon)
{
    struct mux_stats mux;
    struct net_stats net;
    mux_get_stats(daemon->mux, &mux);
    net_server_stats(daemon->server, &net);
    add_counter(list, "", "sandboxes_running", runner_count(daemon->runner),
                "sandboxes with a process");
    add_counter(list, "mux_", "views_attached", mux.views_attached, "views in the mount");
    add_counter(list, "mux_", "nodes_cached", mux.nodes_cached, "nodes in the cache");
    add_counter(list, "mux_", "copy_ups", mux.copy_ups, "files copied into a delta");
    add_counter(list, "mux_", "lookups_hidden", mux.lookups_hidden, "lookups refused by a rule");
    add_counter(list, "mux_", "shared_write_alarms", mux.shared_write_alarms,
                "writes to shared files that were refused: must be 0");
    add_counter(list, "net_", "connections_open", net.conns_open, "client connections");
    add_counter(list, "net_", "connections_accepted", net.conns_accepted, "since the start");
    add_counter(list, "net_", "connections_cut", net.conns_cut, "closed for abuse or silence");
    add_counter(list, "net_", "calls_open", net.calls_open, "calls in progress");
    add_counter(list, "net_", "calls_started", net.calls_started, "calls since the start");
    add_counter(list, "net_", "calls_cancelled", net.calls_cancelled, "given up by the client");
    add_counter(list, "net_", "calls_denied", net.calls_denied, "from peers that may not call");
}

static void stats(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    struct daemon *daemon = daemon_of(call);
    struct af_error err;
    AF_CLEANUP_FREE struct counter_list *list = calloc(1, sizeof *list);
    int rc = list ? add_store_counters(list, daemon->mux) : -ENOMEM;
    if (rc < 0) {
        af_error_errno(&err, rc, "cannot count");
        grpc_call_finish_error(call, &err);
        return;
    }
    add_daemon_counters(list, daemon);
    add_fs_counters(list, daemon->fs);
    char described[512];
    Google__Protobuf__Timestamp started;
    fs_session_describe(daemon->fs, described, sizeof described);
    service_set_timestamp(&started, daemon->started_ns);
    Agentfense__V1__StatsResponse reply = AGENTFENSE__V1__STATS_RESPONSE__INIT;
    reply.version = grpc_text(AF_VERSION);
    reply.transport = grpc_text(strstr(described, "/dev/fuse") ? "dev_fuse" : "io_uring");
    bool by_server = fs_session_open_policy(daemon->fs) == FS_OPEN_SERVER;
    reply.open_policy = grpc_text(by_server ? "server" : "kernel");
    reply.started_at = &started;
    reply.counters = list->pointers;
    reply.n_counters = list->count;
    grpc_call_reply(call, &reply.base);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.InspectService", name, agentfense__v1__##type, handler)
#define STREAM(name, type, handler)                                                                \
    {                                                                                              \
        .path = "/agentfense.v1.InspectService/" name, .kind = GRPC_SERVER_STREAM,                 \
        .request = &agentfense__v1__##type##__descriptor, .on_message = handler,                   \
        .on_writable = inspect_stream_writable, .on_free = inspect_stream_free                     \
    }

const struct grpc_method inspect_methods[] = {
    METHOD("ListViews", list_views_request, list_views),
    METHOD("Stat", stat_request, stat_node),
    METHOD("Explain", explain_request, explain),
    METHOD("Stats", stats_request, stats),
    STREAM("Tree", tree_request, inspect_tree_message),
    STREAM("Diff", diff_request, inspect_diff_message),
};
const size_t inspect_methods_count = AF_ARRAY_LEN(inspect_methods);
