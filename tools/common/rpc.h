// The daemon as the tools see it: where its socket is, and calls in fewer lines.
//
// Owns nothing beyond what it returns. Thread: one. Failure: -1 and an af_error with a sentence.
// Read next: api/client/client.h.
#ifndef AF_TOOLS_COMMON_RPC_H
#define AF_TOOLS_COMMON_RPC_H

#include "api/client/client.h"
#include "mux/base/clock.h"
#include "mux/base/id.h"
#include "mux/base/places.h"
#include "proto/agentfense.pb-c.h"
#include "proto/sandbox.pb-c.h"

// The flag's value, else the environment's, else NULL.
const char *rpc_socket_given(const char *flag);

// Connects to a unix socket ("/path" or "unix:/path"). *ret_fd, when asked for, is a second
// descriptor of the connection, to be closed by the caller: shutdown(2) on it, also from a signal
// handler, makes every call under way and to come fail with UNAVAILABLE.
int rpc_connect(const char *socket, struct af_client **ret, int *ret_fd, struct af_error *err);

// One call, which lasts as long as the daemon is alive (client.h): a commit, a batch or a removal
// may rightly take minutes. *ret is freed with rpc_free.
int rpc_unary(struct af_client *client, const char *path, const ProtobufCMessage *request,
              const ProtobufCMessageDescriptor *reply, void *ret, struct af_error *err);

// A server stream without a deadline: fn gets every reply; it returns 0, or -1 with *err set to
// stop.
typedef int (*rpc_fn)(void *arg, const ProtobufCMessage *reply, struct af_error *err);
int rpc_stream(struct af_client *client, const char *path, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, rpc_fn fn, void *arg, struct af_error *err);

// Frees a reply; NULL is allowed. For cleanup attributes: AF_CLEANUP(rpc_cleanup).
void rpc_free(void *message);
void rpc_cleanup(void *message_pointer);

// Finds the one sandbox whose id begins with `prefix` ("sb_7h3k", or without "sb_").
int rpc_find_view(struct af_client *client, const char *prefix, struct af_id *ret,
                  struct af_error *err);

#endif
