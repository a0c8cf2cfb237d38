// The streams of CodebaseService: handlers that its method table refers to.
#ifndef AF_API_SERVICES_CODEBASE_SERVICE_H
#define AF_API_SERVICES_CODEBASE_SERVICE_H

#include "api/net/grpc.h"
#include "mux/codebase.h"

void codebase_upload_message(struct grpc_call *call, const ProtobufCMessage *message);
void codebase_upload_end(struct grpc_call *call);
void codebase_upload_free(struct grpc_call *call);

void codebase_download_message(struct grpc_call *call, const ProtobufCMessage *message);
void codebase_download_writable(struct grpc_call *call);
void codebase_download_free(struct grpc_call *call);

// Streams an open file: sends what there is room for and ends the call after the last byte. `send`
// wraps one piece of at most 64 KiB in the method's message type; send_hole, or NULL where the
// client knows of none, stands for `len` zeros.
void service_stream_file(struct grpc_call *call, struct mux_file *file, uint64_t *offset,
                         enum grpc_sent (*send)(struct grpc_call *call, const void *data,
                                                size_t len),
                         enum grpc_sent (*send_hole)(struct grpc_call *call, uint64_t len));

#endif
