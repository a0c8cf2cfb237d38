// sandbox.v1 Exec: handlers that SandboxService's method table refers to.
#ifndef AF_API_SERVICES_EXEC_SERVICE_H
#define AF_API_SERVICES_EXEC_SERVICE_H

#include "api/net/grpc.h"

void exec_message(struct grpc_call *call, const ProtobufCMessage *message);
void exec_cancel(struct grpc_call *call);
void exec_free(struct grpc_call *call);

#endif
