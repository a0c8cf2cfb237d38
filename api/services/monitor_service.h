// MonitorService: what its files share. Read next: monitor_service.c, the table of its methods.
#ifndef AF_API_SERVICES_MONITOR_SERVICE_H
#define AF_API_SERVICES_MONITOR_SERVICE_H

#include "api/services/common.h"
#include "mux/base/clock.h"
#include "proto/agentfense_monitor.pb-c.h"

void monitor_get_stats(struct grpc_call *call, const ProtobufCMessage *message);

// monitor_store.c
void monitor_list_layers(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_list_blobs(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_disk_usage(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_collect_garbage(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_drop_caches(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_rows_writable(struct grpc_call *call);
void monitor_rows_free(struct grpc_call *call);

// monitor_live.c
void monitor_list_activity(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_activity_writable(struct grpc_call *call);
void monitor_activity_free(struct grpc_call *call);
// monitor_handles.c
void monitor_list_handles(struct grpc_call *call, const ProtobufCMessage *message);
void monitor_handles_writable(struct grpc_call *call);
void monitor_handles_cancelled(struct grpc_call *call);
void monitor_handles_free(struct grpc_call *call);

#endif
