// InspectService: what its two files share.
#ifndef AF_API_SERVICES_INSPECT_SERVICE_H
#define AF_API_SERVICES_INSPECT_SERVICE_H

#include "api/services/common.h"
#include "mux/inspect.h"

void inspect_tree_message(struct grpc_call *call, const ProtobufCMessage *message);
void inspect_diff_message(struct grpc_call *call, const ProtobufCMessage *message);
void inspect_stream_writable(struct grpc_call *call);
void inspect_stream_free(struct grpc_call *call);

// Initialises a TreeNode without its texts.
void inspect_fill_node(Agentfense__V1__TreeNode *node, mode_t mode, enum rules_level level,
                       uint64_t size, bool traversable_only);

#endif
