// A sandbox's record as the API shows it, and a request to create one as mux takes it.
//
// Errors: an af_error. Any thread. Read next: api/sandbox_facts.h, where the api's own facts are.
#ifndef AF_API_SERVICES_SANDBOX_RECORD_H
#define AF_API_SERVICES_SANDBOX_RECORD_H

#include "api/sandbox_facts.h"
#include "api/services/common.h"
#include "mux/sandbox.h"

// A Sandbox message with everything it refers to.
struct sandbox_reply;

// Copies the record. NULL when memory is out.
struct sandbox_reply *sandbox_reply_new(const struct store_sandbox *record);
void sandbox_reply_free(struct sandbox_reply *reply);
const Sandbox__V1__Sandbox *sandbox_reply_message(const struct sandbox_reply *reply);

// Reads the record and ends the call with it, or with the error.
void sandbox_reply_send(struct grpc_call *call, const char *id);

// Rules of a request, checked and in mux's terms; the patterns are the message's. *ret is to be
// freed.
int sandbox_rules_parse(Sandbox__V1__PermissionRule *const *list, size_t count,
                        struct store_rule **ret, struct af_error *err);

// A limit as this server allows it; NULL asks for none. INVALID_ARGUMENT.
int sandbox_io_limit_check(const struct daemon *daemon, const Agentfense__V1__IoLimit *limit,
                           struct af_error *err);

// What CreateSandbox asks for, checked, in mux's terms. The messages must outlive it.
struct sandbox_request {
    struct mux_sandbox_spec spec;
    struct af_id codebase_id;
    struct store_rule *rules;
    uint8_t *user_data;
};
// options: those of agentfense.v1; NULL for a sandbox of sandbox.v1.
// FAILED_PRECONDITION: what this server cannot give.
int sandbox_request_parse(struct daemon *daemon, const Sandbox__V1__CreateSandboxRequest *message,
                          const Agentfense__V1__SandboxOptions *options,
                          struct sandbox_request *ret, struct af_error *err);
void sandbox_request_fini(struct sandbox_request *request);

#endif
