// Commands in calls: what SandboxService's methods, ExecService's and the sessions' have in common.
//
// A call owns its command (a command of its own, or a turn of a session) from on_message to
// on_free; it holds a reference to itself until the command has ended. Read next: exec_service.c.
#ifndef AF_API_SERVICES_EXEC_SERVICE_H
#define AF_API_SERVICES_EXEC_SERVICE_H

#include "api/services/common.h"

// A call's data: one of the two.
struct exec_state {
    struct exec_command *command;
    struct exec_turn *turn;
};

// sandbox.v1 Exec and ExecStream.
void exec_message(struct grpc_call *call, const ProtobufCMessage *message);
void exec_stream_message(struct grpc_call *call, const ProtobufCMessage *message);

// on_cancel, on_writable and on_free of every call whose data is a struct exec_state.
void exec_cancel(struct grpc_call *call);
void exec_writable(struct grpc_call *call);
void exec_free(struct grpc_call *call);

// Makes the call's state and takes a reference for the command's end. NULL: the call has been
// finished. When the command then does not start: exec_state_refuse.
struct exec_state *exec_state_new(struct grpc_call *call);
void exec_state_refuse(struct grpc_call *call, const struct af_error *err);

// A timeout of a request, with the daemon's default and maximum.
int exec_check_timeout(struct daemon *daemon, const Google__Protobuf__Duration *timeout,
                       int64_t *ret_ns, struct af_error *err);
// A text without NUL, at most AF_COMMAND_MAX.
int exec_check_bytes(const char *what, ProtobufCBinaryData field, struct af_error *err);

// Ends of commands; arg is the call, whose reference they drop. exec_done answers with an
// ExecResult, exec_stream_done with the trailers of a stream; exec_stream_output is its receiver.
void exec_done(void *arg, const struct af_error *err, const struct exec_result *result);
void exec_stream_done(void *arg, const struct af_error *err, const struct exec_result *result);
bool exec_stream_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len);

#endif
