// A small blocking gRPC client for the command line tools.
//
// Speaks to agentfensed over a unix socket or TCP without TLS. One connection; any number of
// calls after each other, or open at the same time (each call buffers what arrives for it while
// another one is read). No global state: several clients may live in one process.
//
//   struct af_client *client;
//   if (af_client_connect("unix:/run/agentfense/api.sock", 5 * AF_NS_PER_SEC, &client, &err)) ...
//   Sandbox__V1__GetSandboxRequest request = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
//   request.sandbox_id = af_client_text(id);
//   ProtobufCMessage *reply;
//   if (af_client_unary(client, "/sandbox.v1.SandboxService/GetSandbox", &request.base,
//                       &sandbox__v1__sandbox__descriptor, 0, &reply, &err)) ...
//   protobuf_c_message_free_unpacked(reply, NULL);
//
// A call without a deadline lasts as long as the server is alive: one that has been silent for half
// a minute is asked (PING), and is UNAVAILABLE when it has not answered after a minute. Threads: a
// client and its calls belong to one thread at a time. Failure: -1 and an af_error. From the
// server: its status and sentence. From this side: UNAVAILABLE (no connection, with the path or
// address), DEADLINE_EXCEEDED, INTERNAL (the server broke the protocol), RESOURCE_EXHAUSTED (a
// reply over AF_MESSAGE_MAX). After UNAVAILABLE the client is of no more use: free it and connect
// again. Read next: client.c.
#ifndef AF_API_CLIENT_CLIENT_H
#define AF_API_CLIENT_CLIENT_H

#include "mux/base/error.h"

#include <poll.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct af_client;
struct af_client_call;

// Connects. `endpoint`: "unix:/path", "unix:///path", a path that begins with '/' or '.', or
// "HOST:PORT" with a numeric address or "localhost". timeout_ns covers connect and handshake;
// 0 is 10 s.
int af_client_connect(const char *endpoint, int64_t timeout_ns, struct af_client **ret_client,
                      struct af_error *err);

// The same over a connected stream socket, which the client then owns (also on failure).
int af_client_adopt(int fd, int64_t timeout_ns, struct af_client **ret_client,
                    struct af_error *err);

// Closes the connection; the server cancels what was open. Calls must have been freed. NULL is
// allowed.
void af_client_free(struct af_client *client);

// One request, one reply. timeout_ns is sent as the call's deadline; 0 is none. *ret_reply is to be
// freed with protobuf_c_message_free_unpacked(reply, NULL).
int af_client_unary(struct af_client *client, const char *path, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *reply, int64_t timeout_ns,
                    ProtobufCMessage **ret_reply, struct af_error *err);

// ---- streams ----------------------------------------------------------------------------
//
//   client stream  start, send..., recv (half-closes), recv -> 0, free
//   server stream  start, send, end, recv until 0, free
//   bidi stream    start; then try_send, try_recv and af_client_wait in a loop; free

// Opens a call. Its path and reply type must live as long as it does.
int af_client_call_start(struct af_client *client, const char *path,
                         const ProtobufCMessageDescriptor *reply, int64_t timeout_ns,
                         struct af_client_call **ret_call, struct af_error *err);

// Sends one message, blocking while the server's windows are closed. When the server has ended
// the call already, -1 with its status.
int af_client_call_send(struct af_client_call *call, const ProtobufCMessage *message,
                        struct af_error *err);

// Half-closes: no more messages follow. Twice is harmless.
int af_client_call_end(struct af_client_call *call, struct af_error *err);

// The next reply: 1 and *ret_reply (to be freed as above), 0 when the call has ended with OK, -1
// with the server's status otherwise. Half-closes a client stream that has not been ended.
int af_client_call_recv(struct af_client_call *call, ProtobufCMessage **ret_reply,
                        struct af_error *err);

// The next reply without waiting and without half-closing.
enum af_client_tried {
    AF_CLIENT_NOTHING = 0, // not yet
    AF_CLIENT_REPLY = 1,   // *ret_reply, to be freed as above
    AF_CLIENT_ENDED = 2,   // the call has ended with OK
};
int af_client_call_try_recv(struct af_client_call *call, ProtobufCMessage **ret_reply,
                            struct af_error *err);

// Sends a message without waiting; `last` half-closes after it. Only when af_client_call_is_sent.
// What the server's windows do not take yet goes out in af_client_wait.
int af_client_call_try_send(struct af_client_call *call, const ProtobufCMessage *message, bool last,
                            struct af_error *err);
// Whether there is room for another message: the former one has gone into the connection.
bool af_client_call_is_sent(const struct af_client_call *call);

// Waits until something has come or gone on the connection, or one of `fds` (at most 8) is ready,
// or the time is over (-1: never), or a signal has come; fds[i].revents as of poll(2).
int af_client_wait(struct af_client *client, struct pollfd *fds, size_t count, int timeout_ms,
                   struct af_error *err);

// A piece of trailing metadata ("agentfense-exit-code"), or NULL. After recv has returned 0 or -1.
// Valid until the call is freed.
const char *af_client_call_trailer(const struct af_client_call *call, const char *key);

// Frees the call; one that has not ended is cancelled. NULL is allowed.
void af_client_call_free(struct af_client_call *call);

// The bytes of a NUL-terminated string for a `string` field; not copied, NULL is "".
ProtobufCBinaryData af_client_text(const char *text);

#endif
