// Many sandboxes in one call: create --copies, and rm of several.
//
// Each has its own result: what fails is said on stderr and counted. Owns nothing. Thread: one.
// Read next: session.h.
#ifndef AF_TOOLS_AGENTFENSE_BATCH_H
#define AF_TOOLS_AGENTFENSE_BATCH_H

#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"

// Makes and starts `count` sandboxes like `one`, and prints the id of each. Those that failed are
// counted in session->failed; -1 when all did, or the call.
int batch_create(struct session *session, const Agentfense__V1__CreateRequest *one, size_t count,
                 bool as_json, struct af_error *err);

// Destroys the sandboxes that the names stand for, side by side, and the codebases made for them.
// Returns how many of the names failed; says what became of each in the report.
size_t batch_destroy(struct af_client *client, char *const *names, size_t count,
                     struct report *report);

#endif
