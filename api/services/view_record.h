// A sandbox as agentfense.v1 shows it: what sandbox.v1 says of it, and more.
// Errors: an af_error. Any thread. Read next: view_service.c, sandbox_record.h.
#ifndef AF_API_SERVICES_VIEW_RECORD_H
#define AF_API_SERVICES_VIEW_RECORD_H

#include "api/services/sandbox_record.h"
#include "proto/agentfense_sandbox.pb-c.h"

// A SandboxInfo with everything it refers to.
struct view_reply;

// Copies the record. NULL when memory is out.
struct view_reply *view_reply_new(const struct store_sandbox *record,
                                  const struct store_layer *delta);
void view_reply_free(struct view_reply *reply);
Agentfense__V1__SandboxInfo *view_reply_message(struct view_reply *reply);

// Reads a record. NULL with *err set.
struct view_reply *view_reply_read(struct daemon *daemon, const char *id, struct af_error *err);
// Reads the record and ends the call with it, or with the error.
void view_reply_send(struct grpc_call *call, const char *id);

// Whether a record has all these labels.
bool view_reply_has_labels(struct view_reply *reply,
                           Agentfense__V1__ListRequest__LabelsEntry *const *labels, size_t count);

#endif
