// agentfense.v1.MonitorService: its methods, but for Fsck (fsck_service.c). No state.
// Read next: monitor_stats.c.
#include "api/services/monitor_service.h"

#include "mux/base/cleanup.h"

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.MonitorService", name, agentfense__v1__##type, handler)

#define STREAM(name, type, handler)                                                                \
    {                                                                                              \
        .path = "/agentfense.v1.MonitorService/" name, .kind = GRPC_SERVER_STREAM,                 \
        .request = &agentfense__v1__##type##__descriptor, .on_message = handler,                   \
        .on_writable = monitor_rows_writable, .on_free = monitor_rows_free                         \
    }

const struct grpc_method monitor_methods[] = {
    METHOD("GetStats", get_stats_request, monitor_get_stats),
    STREAM("ListLayers", list_layers_request, monitor_list_layers),
    STREAM("ListBlobs", list_blobs_request, monitor_list_blobs),
    STREAM("DiskUsage", disk_usage_request, monitor_disk_usage),
    {
        .path = "/agentfense.v1.MonitorService/ListActivity",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__list_activity_request__descriptor,
        .on_message = monitor_list_activity,
        .on_writable = monitor_activity_writable,
        .on_free = monitor_activity_free,
    },
    {
        .path = "/agentfense.v1.MonitorService/ListHandles",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__list_handles_request__descriptor,
        .on_message = monitor_list_handles,
        .on_writable = monitor_handles_writable,
        .on_cancel = monitor_handles_cancelled,
        .on_free = monitor_handles_free,
    },
    METHOD("CollectGarbage", collect_garbage_request, monitor_collect_garbage),
    METHOD("DropCaches", drop_caches_request, monitor_drop_caches),
};
const size_t monitor_methods_count = AF_ARRAY_LEN(monitor_methods);
