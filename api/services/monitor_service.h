// MonitorService: what its files share. Read next: monitor_service.c, the table of its methods.
#ifndef AF_API_SERVICES_MONITOR_SERVICE_H
#define AF_API_SERVICES_MONITOR_SERVICE_H

#include "api/services/common.h"
#include "mux/base/clock.h"
#include "proto/agentfense_monitor.pb-c.h"

void monitor_get_stats(struct grpc_call *call, const ProtobufCMessage *message);

#endif
