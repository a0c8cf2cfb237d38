// Gathers the metrics from where they are counted: fs, mux, the store, the server, /proc.
//
// One struct holds what was read, so that each source is asked once per scrape. Owns it for the
// time of a call. Locks: none of its own. Read next: mux/base/metrics.h (the table).
#include "api/metrics.h"

#include "api/metrics_process.h"
#include "api/turns.h"
#include "exec/usage.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/inspect.h"
#include "mux/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct gathered {
    struct daemon *daemon;
    metrics_fn fn;
    void *arg;
    double plain[AF_METRIC_COUNT]; // of those without labels
    struct fs_counters fs;
    struct net_method_stats method;
    struct af_histogram_values times;
};

// ---- plain figures

static int read_store(struct gathered *all, struct store *store)
{
    struct store_stats stats;
    uint64_t total, space = 0;
    int rc = store_get_stats(store, &stats);
    if (rc < 0)
        return rc;
    double *to = all->plain;
    to[AF_METRIC_SANDBOXES] = (double)stats.sandboxes;
    to[AF_METRIC_CODEBASES] = (double)stats.codebases;
    to[AF_METRIC_STORE_USED] = (double)stats.used_bytes;
    to[AF_METRIC_STORE_ENTRIES] = (double)stats.entries;
    to[AF_METRIC_STORE_INODES] = (double)stats.inodes;
    to[AF_METRIC_STORE_LAYERS] = (double)stats.layers;
    to[AF_METRIC_STORE_STACKS] = (double)stats.stacks;
    to[AF_METRIC_STORE_BLOBS] = (double)stats.blobs;
    to[AF_METRIC_STORE_BLOB_BYTES] = (double)stats.blob_bytes;
    to[AF_METRIC_STORE_ORPHANS] = (double)stats.orphans;
    to[AF_METRIC_STORE_GARBAGE] = (double)stats.garbage_layers;
    to[AF_METRIC_STORE_COMMITS] = (double)stats.commits;
    to[AF_METRIC_STORE_READS] = (double)stats.reads;
    to[AF_METRIC_STORE_SYNCS] = (double)stats.syncs;
    to[AF_METRIC_BLOB_FDS] = (double)stats.blob_fds;
    to[AF_METRIC_BLOB_FDS_MAX] = (double)stats.blob_fds_max;
    to[AF_METRIC_BLOB_FD_HITS] = (double)stats.blob_fd_hits;
    to[AF_METRIC_BLOB_FD_MISSES] = (double)stats.blob_fd_misses;
    rc = store_statfs(store, &total, &space);
    to[AF_METRIC_STORE_FREE] = (double)space;
    return rc;
}

static void read_server(struct gathered *all)
{
    struct net_stats net;
    double *to = all->plain;
    net_server_stats(all->daemon->server, &net);
    to[AF_METRIC_API_CALLS_OPEN] = (double)net.calls_open;
    to[AF_METRIC_API_CALLS_DENIED] = (double)net.calls_denied;
    to[AF_METRIC_API_CONNECTIONS] = (double)net.conns_open;
    to[AF_METRIC_API_CONNECTIONS_CUT] = (double)net.conns_cut;
    for (size_t i = 0; net_server_method_stats(all->daemon->server, i, &all->method); i++)
        for (unsigned status = AF_OK + 1; status <= AF_UNAUTHENTICATED; status++)
            to[AF_METRIC_API_ERRORS] += (double)all->method.by_status[status];
}

static void read_views(struct gathered *all)
{
    struct mux_stats mux;
    double *to = all->plain;
    mux_get_stats(all->daemon->mux, &mux);
    fs_session_counters(all->daemon->fs, &all->fs);
    to[AF_METRIC_SANDBOXES_ACTIVE] = (double)runner_count(all->daemon->runner);
    to[AF_METRIC_FUSE_MOUNTS] = fs_session_is_serving(all->daemon->fs) ? 1 : 0;
    to[AF_METRIC_VIEWS_ATTACHED] = (double)mux.views_attached;
    to[AF_METRIC_NODES_CACHED] = (double)mux.nodes_cached;
    to[AF_METRIC_NODES_MAX] = (double)mux.nodes_max;
    to[AF_METRIC_NODE_HITS] = (double)mux.node_hits;
    to[AF_METRIC_NODE_MISSES] = (double)mux.node_misses;
    to[AF_METRIC_NODE_EVICTIONS] = (double)mux.node_evictions;
    to[AF_METRIC_COPY_UPS] = (double)mux.copy_ups;
    to[AF_METRIC_LOOKUPS_HIDDEN] = (double)mux.lookups_hidden;
    to[AF_METRIC_FUSE_SLOW] = (double)all->fs.slow_requests;
    to[AF_METRIC_FUSE_DEFERRED] = (double)all->fs.deferred;
    to[AF_METRIC_FUSE_SLOW_REFUSED] = (double)all->fs.slow_refused;
    to[AF_METRIC_FUSE_HELD] = (double)all->fs.held;
    to[AF_METRIC_FUSE_HELD_SECONDS] = (double)all->fs.held_total_ns / AF_NS_PER_SEC;
    to[AF_METRIC_FUSE_HELD_NOW] = (double)all->fs.held_now;
    to[AF_METRIC_FUSE_NOT_HELD] = (double)all->fs.not_held;
    to[AF_METRIC_FUSE_READS_ASYNC] = (double)all->fs.reads_async;
    to[AF_METRIC_FUSE_INVALIDATIONS] = (double)all->fs.invalidations;
    to[AF_METRIC_SHARED_WRITES] = (double)all->fs.shared_writes;
    static const enum af_metric counted[] = {
        AF_METRIC_SANDBOXES_CREATED,
        AF_METRIC_SANDBOXES_DESTROYED,
        AF_METRIC_COMMANDS_RUNNING,
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(counted); i++)
        to[counted[i]] = (double)af_metric_value(counted[i]);
}

static void read_process(struct gathered *all)
{
    struct metrics_process process;
    double *to = all->plain;
    metrics_process_read(&process);
    to[AF_METRIC_DISK_READ] = (double)process.disk_read_bytes;
    to[AF_METRIC_DISK_WRITE] = (double)process.disk_written_bytes;
    to[AF_METRIC_CPU_SECONDS] = (double)process.cpu_ns / AF_NS_PER_SEC;
    to[AF_METRIC_MEMORY] = (double)process.resident_bytes;
    to[AF_METRIC_VIRTUAL_MEMORY] = (double)process.virtual_bytes;
    to[AF_METRIC_OPEN_FDS] = (double)process.fds;
    to[AF_METRIC_MAX_FDS] = (double)process.fds_max;
    to[AF_METRIC_THREADS] = (double)process.threads;
    to[AF_METRIC_START_TIME] = (double)all->daemon->started_ns / AF_NS_PER_SEC;
}

// ---- families

static int emit(struct gathered *all, enum af_metric metric, const char *label, const char *second,
                double value, const struct af_histogram_values *histogram)
{
    struct metrics_sample sample = {
        .metric = metric, .labels = {label, second}, .value = value, .histogram = histogram};
    return all->fn(all->arg, &sample);
}

static int emit_operations(struct gathered *all, enum af_metric metric)
{
    int rc = 0;
    for (int op = 0; op < FS_OP_COUNT && rc == 0; op++) {
        if (metric == AF_METRIC_FUSE_REQUESTS && all->fs.op[op].requests)
            rc = emit(all, metric, fs_op_name(op), NULL, (double)all->fs.op[op].requests, NULL);
        else if (metric == AF_METRIC_FUSE_ERRORS && all->fs.op[op].errors)
            rc = emit(all, metric, fs_op_name(op), NULL, (double)all->fs.op[op].errors, NULL);
        if (metric != AF_METRIC_FUSE_SECONDS)
            continue;
        fs_session_latency(all->daemon->fs, op, &all->times);
        if (all->times.count)
            rc = emit(all, metric, fs_op_name(op), NULL, 0, &all->times);
    }
    return rc;
}

static int emit_methods(struct gathered *all, enum af_metric metric)
{
    struct net_method_stats *method = &all->method;
    int rc = 0;
    for (size_t i = 0; rc == 0 && net_server_method_stats(all->daemon->server, i, method); i++) {
        const char *path = method->path + (method->path[0] == '/');
        if (metric == AF_METRIC_API_CALL_SECONDS && method->latency.count)
            rc = emit(all, metric, path, NULL, 0, &method->latency);
        for (unsigned status = 0;
             metric == AF_METRIC_API_CALLS && rc == 0 && status <= AF_UNAUTHENTICATED; status++)
            if (method->by_status[status])
                rc = emit(all, metric, path, af_status_name(status),
                          (double)method->by_status[status], NULL);
    }
    return rc;
}

static int emit_commands(struct gathered *all)
{
    int rc = 0;
    for (int i = 0; i < AF_COMMAND_RESULTS && rc == 0; i++)
        rc = emit(all, AF_METRIC_COMMANDS, af_command_result_name(i), NULL,
                  (double)af_metric_commands(i), NULL);
    return rc;
}

static int emit_metric(struct gathered *all, enum af_metric metric)
{
    char described[256];
    switch (metric) {
    case AF_METRIC_BUILD_INFO:
        fs_session_describe(all->daemon->fs, described, sizeof described);
        return emit(all, metric, AF_VERSION,
                    strstr(described, "/dev/fuse") ? "dev_fuse" : "io_uring", 1, NULL);
    case AF_METRIC_COMMANDS:
        return emit_commands(all);
    case AF_METRIC_COMMAND_SECONDS:
        memset(&all->times, 0, sizeof all->times);
        af_metric_command_times(&all->times);
        return emit(all, metric, NULL, NULL, 0, &all->times);
    case AF_METRIC_API_CALLS:
    case AF_METRIC_API_CALL_SECONDS:
        return emit_methods(all, metric);
    case AF_METRIC_FUSE_REQUESTS:
    case AF_METRIC_FUSE_ERRORS:
    case AF_METRIC_FUSE_SECONDS:
        return emit_operations(all, metric);
    default:
        return emit(all, metric, NULL, NULL, all->plain[metric], NULL);
    }
}

int metrics_gather(struct daemon *daemon, metrics_fn fn, void *arg)
{
    AF_CLEANUP_FREE struct gathered *all = calloc(1, sizeof *all);
    if (!all)
        return -ENOMEM;
    all->daemon = daemon;
    all->fn = fn;
    all->arg = arg;
    int rc = read_store(all, mux_store(daemon->mux));
    if (rc < 0)
        return rc;
    read_server(all);
    read_views(all);
    read_process(all);
    for (int metric = 0; metric < AF_METRIC_VIEW_BYTES && rc == 0; metric++)
        rc = emit_metric(all, metric);
    return rc;
}

// ---- one sandbox

struct wanted {
    const char *id;
    struct mux_view_info info;
    bool found;
};

static int find_view(void *arg, const struct mux_view_info *info)
{
    struct wanted *wanted = arg;
    if (strcmp(info->sandbox_id.text, wanted->id) != 0)
        return 0;
    wanted->info = *info;
    wanted->found = true;
    return 1;
}

// Zeros when it has no process: it does not run, or was started lazily.
static int emit_view_processes(struct gathered *all, const char *id)
{
    struct exec_usage usage = {0};
    pid_t init;
    uid_t uid;
    int rc =
        runner_init(all->daemon->runner, id, &init, &uid) ? exec_measure(init, uid, &usage) : 0;
    if (rc == 0)
        rc = emit(all, AF_METRIC_VIEW_PROCESSES, NULL, NULL, (double)usage.processes, NULL);
    if (rc == 0)
        rc = emit(all, AF_METRIC_VIEW_MEMORY, NULL, NULL, (double)usage.memory_bytes, NULL);
    if (rc == 0)
        rc = emit(all, AF_METRIC_VIEW_CPU, NULL, NULL, (double)usage.cpu_ns / AF_NS_PER_SEC, NULL);
    return rc;
}

static int emit_view_requests(struct gathered *all, const struct mux_view_info *info)
{
    struct fs_view_counters view;
    if (!fs_session_view_counters(all->daemon->fs, info->slot, info->route, &view))
        return 0;
    int rc = emit(all, AF_METRIC_VIEW_HELD, NULL, NULL, (double)view.held, NULL);
    if (rc == 0)
        rc = emit(all, AF_METRIC_VIEW_HELD_SECONDS, NULL, NULL,
                  (double)view.held_ns / AF_NS_PER_SEC, NULL);
    for (int op = 0; op < FS_OP_COUNT && rc == 0; op++) {
        const char *name = fs_op_name(op);
        if (view.op[op].requests == 0)
            continue;
        rc = emit(all, AF_METRIC_VIEW_REQUESTS, name, NULL, (double)view.op[op].requests, NULL);
        if (rc == 0)
            rc = emit(all, AF_METRIC_VIEW_ERRORS, name, NULL, (double)view.op[op].errors, NULL);
        if (rc == 0)
            rc = emit(all, AF_METRIC_VIEW_BUSY, name, NULL,
                      (double)view.op[op].total_ns / AF_NS_PER_SEC, NULL);
        if (rc == 0)
            rc = emit(all, AF_METRIC_VIEW_SLOWEST, name, NULL,
                      (double)view.op[op].slowest_ns / AF_NS_PER_SEC, NULL);
    }
    return rc == 0 ? emit(all, AF_METRIC_VIEW_SECONDS, NULL, NULL, 0, &view.latency) : rc;
}

int metrics_gather_view(struct daemon *daemon, const char *sandbox_id, metrics_fn fn, void *arg)
{
    struct wanted wanted = {.id = sandbox_id};
    struct af_error err;
    struct gathered all = {.daemon = daemon, .fn = fn, .arg = arg};
    int rc = mux_inspect_views(daemon->mux, find_view, &wanted, &err);
    if (!wanted.found)
        return rc < 0 ? -EIO : -ENOENT;
    rc = emit(&all, AF_METRIC_VIEW_BYTES, NULL, NULL, (double)wanted.info.delta_bytes, NULL);
    if (rc == 0)
        rc = emit(&all, AF_METRIC_VIEW_INODES, NULL, NULL, (double)wanted.info.delta_inodes, NULL);
    if (rc == 0)
        rc = emit(&all, AF_METRIC_VIEW_LAYERS, NULL, NULL, (double)wanted.info.stack_depth, NULL);
    if (rc == 0)
        rc = emit(&all, AF_METRIC_VIEW_COMMANDS, NULL, NULL,
                  turns_running(daemon->turns, sandbox_id), NULL);
    if (rc == 0)
        rc = emit(&all, AF_METRIC_VIEW_IOPS, NULL, NULL, (double)wanted.info.iops, NULL);
    if (rc == 0)
        rc = emit(&all, AF_METRIC_VIEW_BANDWIDTH, NULL, NULL, (double)wanted.info.bandwidth, NULL);
    if (rc == 0)
        rc = emit_view_processes(&all, sandbox_id);
    return rc == 0 ? emit_view_requests(&all, &wanted.info) : rc;
}
