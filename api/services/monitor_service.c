// agentfense.v1.MonitorService: its methods, but for Fsck (fsck_service.c). No state.
// Read next: monitor_stats.c.
#include "api/services/monitor_service.h"

#include "mux/base/cleanup.h"

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.MonitorService", name, agentfense__v1__##type, handler)

const struct grpc_method monitor_methods[] = {
    METHOD("GetStats", get_stats_request, monitor_get_stats),
};
const size_t monitor_methods_count = AF_ARRAY_LEN(monitor_methods);
