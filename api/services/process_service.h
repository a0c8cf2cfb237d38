// What the files of ProcessService share: the specification, and the streaming methods' handlers.
//
// Read next: process_service.c (the table of methods), process_run.c, process_attach.c.
#ifndef AF_API_SERVICES_PROCESS_SERVICE_H
#define AF_API_SERVICES_PROCESS_SERVICE_H

#include "api/services/command.h"
#include "api/services/process_record.h"

// A ProcessSpec in exec's terms, and its sandbox. To be released with service_command_fini when 0
// was returned. `window` lives as long as the command's specification is used.
int process_spec_take(struct grpc_call *call, const Agentfense__V1__ProcessSpec *spec,
                      struct service_command *command, struct exec_window *window,
                      struct af_id *ret_sandbox, struct af_error *err);
// A terminal's size: INVALID_ARGUMENT when out of range.
int process_window_take(const Agentfense__V1__Terminal *terminal, struct exec_window *ret,
                        struct af_error *err);
// A background or foreground process by the id of a request; a reference.
int process_of(struct grpc_call *call, ProtobufCBinaryData id, struct process **ret,
               struct af_error *err);

// process_run.c: a bidi stream.
void process_run_message(struct grpc_call *call, const ProtobufCMessage *message);
void process_run_end(struct grpc_call *call);
void process_run_writable(struct grpc_call *call);
void process_run_cancel(struct grpc_call *call);
void process_run_free(struct grpc_call *call);

// process_attach.c: Attach and Wait.
void process_attach_message(struct grpc_call *call, const ProtobufCMessage *message);
void process_attach_writable(struct grpc_call *call);
void process_wait_message(struct grpc_call *call, const ProtobufCMessage *message);
void process_wait_writable(struct grpc_call *call);
void process_reader_stop(struct grpc_call *call); // on_cancel of both
void process_reader_free(struct grpc_call *call); // on_free of both

#endif
