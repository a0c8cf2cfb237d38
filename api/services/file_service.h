// agentfense.v1.FileService: what its two files share. Read next: file_service.c, file_list.c.
#ifndef AF_API_SERVICES_FILE_SERVICE_H
#define AF_API_SERVICES_FILE_SERVICE_H

#include "api/services/common.h"
#include "mux/inspect.h"
#include "proto/agentfense_file.pb-c.h"

// List: handlers of a server stream.
void file_list_message(struct grpc_call *call, const ProtobufCMessage *message);
void file_list_writable(struct grpc_call *call);
void file_list_free(struct grpc_call *call);

#endif
