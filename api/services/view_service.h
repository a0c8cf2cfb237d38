// The handlers of agentfense.v1.SandboxService, by file. Read next: view_service.c.
#ifndef AF_API_SERVICES_VIEW_SERVICE_H
#define AF_API_SERVICES_VIEW_SERVICE_H

#include "api/services/common.h"

// view_batch.c
void view_batch_create(struct grpc_call *call, const ProtobufCMessage *message);
void view_batch_destroy(struct grpc_call *call, const ProtobufCMessage *message);

// view_list.c
void view_list(struct grpc_call *call, const ProtobufCMessage *message);
void view_list_writable(struct grpc_call *call);
void view_list_free(struct grpc_call *call);

// view_change.c
void view_update_permissions(struct grpc_call *call, const ProtobufCMessage *message);
void view_set_access(struct grpc_call *call, const ProtobufCMessage *message);
void view_set_quota(struct grpc_call *call, const ProtobufCMessage *message);
void view_set_io_limit(struct grpc_call *call, const ProtobufCMessage *message);
void view_set_expiry(struct grpc_call *call, const ProtobufCMessage *message);

#endif
