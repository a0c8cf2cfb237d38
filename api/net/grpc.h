// gRPC methods and calls: what a service handler includes.
//
// A method is one row of a table: its path, how its request is laid out, and its handlers. A
// call is an actor: its handlers run one at a time, in order, on a bounded pool of workers.
//
//   unary          on_message once, after the client has half-closed. The handler sends one reply
//                  with grpc_call_reply, or ends the call with grpc_call_finish_error; at once, or
//                  later from any thread.
//   client stream  on_message for every message, on_end after the last one.
//   server stream  on_message once, then on_writable whenever there is room for more.
//   bidi stream    like a client stream; sends are allowed at any time.
//
// A handler may block for as long as a store transaction takes. What takes longer (a command)
// keeps a reference to the call (grpc_call_ref), returns, and finishes the call from wherever it
// ends. A call that nobody finishes stays open until its client gives up: finishing is the
// handler's duty on every path.
//
// When the client resets the stream, closes the connection or its deadline passes, the call is
// cancelled: messages not yet handled are dropped, on_cancel runs (unless the call was finished
// before), and everything sent afterwards is ignored. on_free runs once, when the last
// reference is given back; it is the place to free what grpc_call_set_data holds.
//
// Before a message reaches a handler it has been checked: at most message_bytes_max on the wire,
// decoded within a memory budget, and every field that is `string` in the .proto holds UTF-8
// without NUL (generated code has them as ProtobufCBinaryData). Enum values are the
// handler's to check: grpc_check_enum.
//
// Threads: every function here may be called from any thread, with or without other locks held;
// they take the call's own lock (rank 80) and, inside it, the server's queues (rank 90), and call
// nothing back. Exception: grpc_call_unref may run on_free.
// Failure: functions that send return an enum grpc_sent; nothing here can fail otherwise.
// Read next: api/net/server.h, and docs/API.md for what a hostile client gets.
#ifndef AF_API_NET_GRPC_H
#define AF_API_NET_GRPC_H

#include "mux/base/error.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct grpc_call;

enum grpc_method_kind {
    GRPC_UNARY,
    GRPC_CLIENT_STREAM,
    GRPC_SERVER_STREAM,
    GRPC_BIDI_STREAM,
};

struct grpc_method {
    const char *path; // "/sandbox.v1.SandboxService/Exec"
    const ProtobufCMessageDescriptor *request;
    enum grpc_method_kind kind;

    // One request message, of the type `request`. It is valid until the handler returns.
    void (*on_message)(struct grpc_call *call, const ProtobufCMessage *message);

    // The client has half-closed and every message has been handled. Client and bidi streams only;
    // not called when the call is finished already.
    void (*on_end)(struct grpc_call *call);

    // There is room to send. Called once after on_message of a server stream, then each time the
    // client has taken what was queued after a send had returned GRPC_SENT_FULL. Send until
    // GRPC_SENT_FULL or the end. May be NULL.
    void (*on_writable)(struct grpc_call *call);

    // The call ended before the handler finished it. Only to stop work in progress: the call's
    // status has been decided. May be NULL.
    void (*on_cancel)(struct grpc_call *call);

    // The last reference is gone and no handler runs any more. Only when grpc_call_set_data set
    // something. May be NULL.
    void (*on_free)(struct grpc_call *call);
    bool free_is_quick; // on_free only gives memory back: the network thread may run it
};

// Who is at the other end, as the kernel said when the connection was made.
struct grpc_peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;  // 0 over TCP
    bool local; // came over the unix socket
};

enum grpc_sent {
    GRPC_SENT = 0,      // queued; there is room for more
    GRPC_SENT_FULL = 1, // queued; wait for on_writable before sending more
    GRPC_GONE = -1,     // nothing was queued: the call is finished or cancelled
};

// Queues one reply message, copying it: a server stream's chunk, or the one reply of the other
// kinds (then followed by grpc_call_finish(call, AF_OK, NULL)). A message over message_bytes_max
// ends the call with RESOURCE_EXHAUSTED and returns GRPC_GONE, and so does a client that lets
// too many replies pile up unread.
enum grpc_sent grpc_call_send(struct grpc_call *call, const ProtobufCMessage *message);

// Ends the call with a status after what was sent before. `fmt` may be NULL (no text); the text
// is for a person: say what to do. Returns GRPC_GONE when the call had ended already.
enum grpc_sent grpc_call_finish(struct grpc_call *call, enum af_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// The same from an error object; err->status must not be AF_OK.
enum grpc_sent grpc_call_finish_error(struct grpc_call *call, const struct af_error *err);

// Sends one message and finishes with OK: the usual end of a unary call.
enum grpc_sent grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *message);

// Adds trailing metadata, sent with the status: at most 8 per call. `key` is lower-case
// ("agentfense-exit-code") and not reserved (no "grpc-" prefix), `value` printable ASCII; both are
// copied. To be called before grpc_call_finish. Aborts the process on a malformed key: it is a
// constant of the program.
void grpc_call_trailer(struct grpc_call *call, const char *key, const char *value);

// Back-pressure for a client or bidi stream. Between the two nothing that the client has sent or
// sends is handled, neither messages nor the half-close; on_cancel and on_writable are. What the
// client can send meanwhile is bounded by its stream's window, which opens again as messages are
// handled. Hold inside on_message; the message being handled is counted until the release.
void grpc_call_hold(struct grpc_call *call);
void grpc_call_release(struct grpc_call *call); // harmless when it is not held

// Has on_writable run soon, on a worker as always: something has come that may be sent.
void grpc_call_wake(struct grpc_call *call);

// Whether the call was cancelled or has been finished. A hint for loops: the answer may be
// out of date when it arrives.
bool grpc_call_is_over(struct grpc_call *call);

// One pointer for the handler. Set it inside a handler, before the call is shared with other
// threads.
void grpc_call_set_data(struct grpc_call *call, void *data);
void *grpc_call_data(const struct grpc_call *call);

// The `context` of struct net_server_options: the daemon's own state.
void *grpc_call_context(const struct grpc_call *call);

const struct grpc_method *grpc_call_method(const struct grpc_call *call);
const struct grpc_peer *grpc_call_peer(const struct grpc_call *call);

// When the client's deadline passes, in af_monotonic_ns time; INT64_MAX without one.
int64_t grpc_call_deadline_ns(const struct grpc_call *call);

struct grpc_call *grpc_call_ref(struct grpc_call *call);
void grpc_call_unref(struct grpc_call *call); // NULL is allowed

// ---- helpers for handlers ---------------------------------------------------------------

// The bytes of a NUL-terminated string, for a `string` field of a reply. Not copied; NULL is "".
ProtobufCBinaryData grpc_text(const char *text);

// A NUL-terminated copy of a request's `string` field, to be freed; never NULL. (The field has
// no NUL inside: that was checked.) For a `bytes` field check memchr first.
char *grpc_text_dup(ProtobufCBinaryData field);

// Copies a `string` field into buf (NUL-terminated). Returns false, buf untouched, when it needs
// more than size - 1 bytes.
bool grpc_text_copy(ProtobufCBinaryData field, char *buf, size_t size);

bool grpc_text_equals(ProtobufCBinaryData field, const char *text);

// 0 when `value` is one of the enum's values, else -1 with INVALID_ARGUMENT naming the field:
//   grpc_check_enum(&sandbox__v1__permission__descriptor, rule->permission,
//                   "permissions.permission", err)
int grpc_check_enum(const ProtobufCEnumDescriptor *descriptor, int value, const char *field,
                    struct af_error *err);

#endif
