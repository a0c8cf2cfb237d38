// What the api keeps of a sandbox and mux has no use for: labels, runtime, image, resource limits,
// policies, network.
//
// It is the record's user_data: a packed agentfense.v1.SandboxInfo of which only sandbox.labels,
// .runtime, .image, .resources and options.commit_policy, .conflict_policy, .network are set. What
// mux acts on (rules, quota, access, expiry, owner) are fields of the record itself, never here.
// Any thread; nothing is locked. Errors: an af_error.
// Read next: services/sandbox_record.h, mux/sandbox.h.
#ifndef AF_API_SANDBOX_FACTS_H
#define AF_API_SANDBOX_FACTS_H

#include "mux/sandbox.h"
#include "proto/agentfense_sandbox.pb-c.h"

// Decided: no field is ever UNSPECIFIED.
struct sandbox_options {
    Agentfense__V1__CommitPolicy commit_policy;
    Agentfense__V1__ConflictPolicy conflict_policy;
    Agentfense__V1__Network network;
};

// A request's options, NULL being all unspecified, with the defaults filled in. INVALID_ARGUMENT
// names a value that is none. The quota is not looked at.
int sandbox_options_parse(const Agentfense__V1__SandboxOptions *message,
                          struct sandbox_options *ret, struct af_error *err);

// The facts of a record, to be freed; NULL when they are damaged or memory is out.
Agentfense__V1__SandboxInfo *sandbox_facts_unpack(const struct store_sandbox *record);
void sandbox_facts_free(Agentfense__V1__SandboxInfo *facts);

// The options of a record. -1: damaged, or memory is out.
int sandbox_options_of(const struct store_sandbox *record, struct sandbox_options *ret);
// The same by id. NOT_FOUND.
int sandbox_options_get(struct mux *mux, const char *id, struct sandbox_options *ret,
                        struct af_error *err);

// Changes the options of a record in one transaction; the other facts stay. fn gets them as they
// are.
typedef void (*sandbox_options_fn)(void *arg, struct sandbox_options *options);
int sandbox_options_change(struct mux *mux, const char *id, sandbox_options_fn fn, void *arg,
                           struct af_error *err);

#endif
