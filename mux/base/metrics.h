// Metrics: every figure that the daemon tells of itself, declared in one table.
//
// The table (AF_METRICS) has each metric's name, kind, labels and meaning; the Prometheus endpoint,
// GetStats, fsctl and the dashboard's test are made from it. Where the figure comes from is one of:
//   counted here   AF_METRIC_... with a place in this file: af_metric_add, af_metric_observe;
//   kept by a module that has more to say (fs by operation, net by method) in a struct
//   af_histogram of its own; or read when somebody asks (the store's size, /proc).
// Labels are operations, methods and statuses: from sets that the program fixes, never an id, a
// path or anything else that a client chooses.
//
// A histogram is log-linear: four steps in each power of two from 1 us to 137 s, so that a quantile
// read from it is at most a quarter too high. Observing costs two relaxed additions.
// Locks: none. Nothing fails. Figures are right one by one, not among each other.
// Read next: api/metrics.c, which gathers them.
#ifndef AF_BASE_METRICS_H
#define AF_BASE_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum af_metric_kind { AF_METRIC_COUNTER = 1, AF_METRIC_GAUGE = 2, AF_METRIC_HISTOGRAM = 3 };

// M(id, kind, name, first label or NULL, second label or NULL, help). Names as Prometheus has them.
#define AF_METRICS(M)                                                                              \
    M(BUILD_INFO, GAUGE, "agentfense_build_info", "version", "transport",                          \
      "1; its labels say which version runs and how it talks to the kernel")                       \
    M(SANDBOXES_ACTIVE, GAUGE, "agentfense_sandboxes_active", NULL, NULL,                          \
      "sandboxes that are running")                                                                \
    M(SANDBOXES, GAUGE, "agentfense_sandboxes", NULL, NULL, "sandboxes that exist")                \
    M(SANDBOXES_CREATED, COUNTER, "agentfense_sandboxes_created_total", NULL, NULL,                \
      "sandboxes made since the start")                                                            \
    M(SANDBOXES_DESTROYED, COUNTER, "agentfense_sandboxes_destroyed_total", NULL, NULL,            \
      "sandboxes destroyed since the start")                                                       \
    M(CODEBASES, GAUGE, "agentfense_codebases", NULL, NULL, "codebases that exist")                \
    M(FUSE_MOUNTS, GAUGE, "agentfense_fuse_mounts", NULL, NULL,                                    \
      "FUSE mounts that are served: one, whatever the number of sandboxes")                        \
    M(VIEWS_ATTACHED, GAUGE, "agentfense_views_attached", NULL, NULL, "views in the mount")        \
    M(COMMANDS_RUNNING, GAUGE, "agentfense_commands_running", NULL, NULL, "commands that run now") \
    M(COMMANDS, COUNTER, "agentfense_commands_total", "result", NULL,                              \
      "commands that have ended: success, failure (a code other than 0), signal, timeout, "        \
      "cancelled, error (it could not be run)")                                                    \
    M(COMMAND_SECONDS, HISTOGRAM, "agentfense_command_seconds", NULL, NULL,                        \
      "time from a command's start to its end")                                                    \
    M(API_CALLS, COUNTER, "agentfense_api_calls_total", "method", "status",                        \
      "API calls that have ended")                                                                 \
    M(API_CALL_SECONDS, HISTOGRAM, "agentfense_api_call_seconds", "method", NULL,                  \
      "time from an API call's headers to its status")                                             \
    M(API_ERRORS, COUNTER, "agentfense_api_errors_total", NULL, NULL,                              \
      "API calls that have ended with a status other than OK")                                     \
    M(API_CALLS_OPEN, GAUGE, "agentfense_api_calls_open", NULL, NULL, "API calls in progress")     \
    M(API_CALLS_DENIED, COUNTER, "agentfense_api_calls_denied_total", NULL, NULL,                  \
      "API calls from peers that may not call")                                                    \
    M(API_CONNECTIONS, GAUGE, "agentfense_api_connections_open", NULL, NULL,                       \
      "connections of API clients")                                                                \
    M(API_CONNECTIONS_CUT, COUNTER, "agentfense_api_connections_cut_total", NULL, NULL,            \
      "connections closed for abuse or silence")                                                   \
    M(FUSE_REQUESTS, COUNTER, "agentfense_fuse_requests_total", "operation", NULL,                 \
      "requests from the kernel")                                                                  \
    M(FUSE_ERRORS, COUNTER, "agentfense_fuse_errors_total", "operation", NULL,                     \
      "requests answered with an error")                                                           \
    M(FUSE_SECONDS, HISTOGRAM, "agentfense_fuse_request_seconds", "operation", NULL,               \
      "time from a request's arrival in the daemon to its answer")                                 \
    M(FUSE_SLOW, COUNTER, "agentfense_fuse_slow_requests_total", NULL, NULL,                       \
      "requests that may block, done off the workers")                                             \
    M(FUSE_SLOW_REFUSED, COUNTER, "agentfense_fuse_slow_refused_total", NULL, NULL,                \
      "requests refused because too many that may block were waiting")                             \
    M(FUSE_DEFERRED, COUNTER, "agentfense_fuse_deferred_total", NULL, NULL,                        \
      "requests of views that ask without a pause, done after other views'")                       \
    M(FUSE_HELD, COUNTER, "agentfense_fuse_held_total", NULL, NULL,                                \
      "requests of sandboxes with a limit that had to wait for it")                                \
    M(FUSE_HELD_SECONDS, COUNTER, "agentfense_fuse_held_seconds_total", NULL, NULL,                \
      "how long, all together; no part of the times of requests")                                  \
    M(FUSE_HELD_NOW, GAUGE, "agentfense_fuse_held_now", NULL, NULL,                                \
      "requests that wait for a limit now")                                                        \
    M(FUSE_NOT_HELD, COUNTER, "agentfense_fuse_not_held_total", NULL, NULL,                        \
      "requests over a limit that were served, since others would have waited with them")          \
    M(FUSE_READS_ASYNC, COUNTER, "agentfense_fuse_reads_async_total", NULL, NULL,                  \
      "reads that waited for the backing file")                                                    \
    M(FUSE_INVALIDATIONS, COUNTER, "agentfense_fuse_invalidations_total", NULL, NULL,              \
      "cache entries that the kernel was told to drop")                                            \
    M(SHARED_WRITES, COUNTER, "agentfense_fuse_shared_writes_total", NULL, NULL,                   \
      "writes that reached a shared file, and were refused: must be 0")                            \
    M(NODES_CACHED, GAUGE, "agentfense_nodes_cached", NULL, NULL, "inodes in the daemon's cache")  \
    M(NODES_MAX, GAUGE, "agentfense_nodes_cached_max", NULL, NULL, "how many it has room for")     \
    M(NODE_HITS, COUNTER, "agentfense_node_cache_hits_total", NULL, NULL,                          \
      "inodes that were asked for and in the cache")                                               \
    M(NODE_MISSES, COUNTER, "agentfense_node_cache_misses_total", NULL, NULL,                      \
      "inodes that had to be read from the store")                                                 \
    M(NODE_EVICTIONS, COUNTER, "agentfense_node_cache_evictions_total", NULL, NULL,                \
      "inodes that were dropped for others")                                                       \
    M(BLOB_FDS, GAUGE, "agentfense_blob_files_open", NULL, NULL, "content files that are open")    \
    M(BLOB_FDS_MAX, GAUGE, "agentfense_blob_files_open_max", NULL, NULL,                           \
      "how many are kept open beside those in use")                                                \
    M(BLOB_FD_HITS, COUNTER, "agentfense_blob_file_hits_total", NULL, NULL,                        \
      "content files that were asked for and open")                                                \
    M(BLOB_FD_MISSES, COUNTER, "agentfense_blob_file_misses_total", NULL, NULL,                    \
      "content files that had to be opened")                                                       \
    M(COPY_UPS, COUNTER, "agentfense_copy_ups_total", NULL, NULL, "files copied into a delta")     \
    M(LOOKUPS_HIDDEN, COUNTER, "agentfense_lookups_hidden_total", NULL, NULL,                      \
      "lookups refused by a rule")                                                                 \
    M(STORE_USED, GAUGE, "agentfense_store_used_bytes", NULL, NULL, "size of the database")        \
    M(STORE_ENTRIES, GAUGE, "agentfense_store_entries", NULL, NULL,                                \
      "directory entries in all layers")                                                           \
    M(STORE_INODES, GAUGE, "agentfense_store_inodes", NULL, NULL, "inode records in all layers")   \
    M(STORE_LAYERS, GAUGE, "agentfense_store_layers", NULL, NULL, "layers")                        \
    M(STORE_STACKS, GAUGE, "agentfense_store_stacks", NULL, NULL, "stacks of layers")              \
    M(STORE_BLOBS, GAUGE, "agentfense_store_blobs", NULL, NULL, "content files")                   \
    M(STORE_BLOB_BYTES, GAUGE, "agentfense_store_blob_bytes", NULL, NULL,                          \
      "bytes in content files")                                                                    \
    M(STORE_ORPHANS, GAUGE, "agentfense_store_orphans", NULL, NULL,                                \
      "unlinked files that are still open")                                                        \
    M(STORE_GARBAGE, GAUGE, "agentfense_store_garbage_layers", NULL, NULL,                         \
      "layers waiting for the collector")                                                          \
    M(STORE_COMMITS, COUNTER, "agentfense_store_commits_total", NULL, NULL, "transactions")        \
    M(STORE_READS, COUNTER, "agentfense_store_reads_total", NULL, NULL, "read transactions")       \
    M(STORE_SYNCS, COUNTER, "agentfense_store_syncs_total", NULL, NULL, "syncs to the disk")       \
    M(STORE_FREE, GAUGE, "agentfense_store_free_bytes", NULL, NULL,                                \
      "free space of the file system that holds the store")                                        \
    M(DISK_READ, COUNTER, "agentfense_disk_read_bytes_total", NULL, NULL,                          \
      "bytes that the daemon had read from disks")                                                 \
    M(DISK_WRITE, COUNTER, "agentfense_disk_written_bytes_total", NULL, NULL,                      \
      "bytes that the daemon had written to disks")                                                \
    M(CPU_SECONDS, COUNTER, "process_cpu_seconds_total", NULL, NULL,                               \
      "CPU time of the daemon, in user mode and in the kernel")                                    \
    M(MEMORY, GAUGE, "process_resident_memory_bytes", NULL, NULL, "memory of the daemon")          \
    M(VIRTUAL_MEMORY, GAUGE, "process_virtual_memory_bytes", NULL, NULL,                           \
      "address space of the daemon")                                                               \
    M(OPEN_FDS, GAUGE, "process_open_fds", NULL, NULL, "file descriptors of the daemon")           \
    M(MAX_FDS, GAUGE, "process_max_fds", NULL, NULL, "how many it may have")                       \
    M(THREADS, GAUGE, "process_threads", NULL, NULL, "threads of the daemon")                      \
    M(START_TIME, GAUGE, "process_start_time_seconds", NULL, NULL,                                 \
      "when the daemon started, in seconds since 1970")                                            \
    M(VIEW_BYTES, GAUGE, "agentfense_view_delta_bytes", NULL, NULL,                                \
      "content bytes in the sandbox's delta")                                                      \
    M(VIEW_INODES, GAUGE, "agentfense_view_delta_inodes", NULL, NULL,                              \
      "inode records in the sandbox's delta")                                                      \
    M(VIEW_LAYERS, GAUGE, "agentfense_view_layers", NULL, NULL, "layers below the delta")          \
    M(VIEW_PROCESSES, GAUGE, "agentfense_view_processes", NULL, NULL, "processes of the sandbox")  \
    M(VIEW_MEMORY, GAUGE, "agentfense_view_memory_bytes", NULL, NULL,                              \
      "resident memory of its processes, without files' pages")                                    \
    M(VIEW_CPU, GAUGE, "agentfense_view_cpu_seconds", NULL, NULL,                                  \
      "CPU time of its processes and of those that they have waited for")                          \
    M(VIEW_COMMANDS, GAUGE, "agentfense_view_commands_running", NULL, NULL,                        \
      "commands of the sandbox that have not ended, those that last included")                     \
    M(VIEW_IOPS, GAUGE, "agentfense_view_iops_limit", NULL, NULL,                                  \
      "requests a second that the sandbox may make; 0: any number")                                \
    M(VIEW_BANDWIDTH, GAUGE, "agentfense_view_bandwidth_limit_bytes", NULL, NULL,                  \
      "bytes a second that it may read and write; 0: any number")                                  \
    M(VIEW_HELD, COUNTER, "agentfense_view_held_total", NULL, NULL,                                \
      "requests of the sandbox that had to wait for its limit")                                    \
    M(VIEW_HELD_SECONDS, COUNTER, "agentfense_view_held_seconds_total", NULL, NULL,                \
      "how long, all together; no part of the times of requests")                                  \
    M(VIEW_REQUESTS, COUNTER, "agentfense_view_requests_total", "operation", NULL,                 \
      "requests of the sandbox since it was started")                                              \
    M(VIEW_ERRORS, COUNTER, "agentfense_view_errors_total", "operation", NULL,                     \
      "of these, answered with an error")                                                          \
    M(VIEW_BUSY, COUNTER, "agentfense_view_busy_seconds_total", "operation", NULL,                 \
      "time from the requests' arrival in the daemon to their answers")                            \
    M(VIEW_SLOWEST, GAUGE, "agentfense_view_slowest_seconds", "operation", NULL,                   \
      "the longest of these times")                                                                \
    M(VIEW_SECONDS, HISTOGRAM, "agentfense_view_request_seconds", NULL, NULL,                      \
      "the same of all operations")

#define AF_METRIC_ID(id, kind, name, label, second, help) AF_METRIC_##id,
enum af_metric { AF_METRICS(AF_METRIC_ID) AF_METRIC_COUNT };
#undef AF_METRIC_ID

struct af_metric_def {
    const char *name, *labels[2], *help;
    enum af_metric_kind kind;
};
extern const struct af_metric_def af_metric_defs[AF_METRIC_COUNT];

// ---- histograms

#define AF_HISTOGRAM_FIRST_BIT 10 // below 2^10 ns is one bucket
#define AF_HISTOGRAM_OCTAVES   27 // from 2^37 ns on is the last one
#define AF_HISTOGRAM_BUCKETS   (AF_HISTOGRAM_OCTAVES * 4 + 2)

struct af_histogram {
    _Atomic uint64_t counts[AF_HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_ns;
};

struct af_histogram_values {
    uint64_t counts[AF_HISTOGRAM_BUCKETS];
    uint64_t count; // of all buckets
    uint64_t sum_ns;
};

unsigned af_histogram_bucket(uint64_t ns);
// What every value of the bucket is below; UINT64_MAX for the last one.
uint64_t af_histogram_bound_ns(unsigned bucket);

static inline void af_histogram_observe(struct af_histogram *histogram, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    atomic_fetch_add_explicit(&histogram->counts[af_histogram_bucket(value)], 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, value, memory_order_relaxed);
}

// Adds what it holds to *to, which the caller has zeroed.
void af_histogram_gather(const struct af_histogram *histogram, struct af_histogram_values *to);
// The bound below which this share of the values lies (0.99: all but one in a hundred); 0 when
// there are none. A value in the last bucket counts as that bucket's lower bound.
uint64_t af_histogram_quantile_ns(const struct af_histogram_values *values, double share);

// ---- counted here, over the whole process

// Counters and gauges without labels.
void af_metric_add(enum af_metric metric, int64_t n);
int64_t af_metric_value(enum af_metric metric);

// How a command ended: the label of AF_METRIC_COMMANDS.
enum af_command_result {
    AF_COMMAND_SUCCESS,
    AF_COMMAND_FAILURE,
    AF_COMMAND_SIGNAL,
    AF_COMMAND_TIMEOUT,
    AF_COMMAND_CANCELLED,
    AF_COMMAND_ERROR,
    AF_COMMAND_RESULTS,
};
const char *af_command_result_name(enum af_command_result result);
void af_metric_command(enum af_command_result result, int64_t took_ns);
uint64_t af_metric_commands(enum af_command_result result);
void af_metric_command_times(struct af_histogram_values *to);

#endif
