// Whether a plan can be carried out: did somebody else change what the agent changed?
//
// Compares every path that the plan touches with the manifest. A removed directory is compared as
// a whole: what appeared in it meanwhile, or was left out of the import, would be lost. A file
// that was removed on both sides is fine (the take is marked `vanished`).
// Reads only. Thread: one. Failure: -1 and an af_error when a path cannot be looked at.
#ifndef AF_TOOLS_AGENTFENSE_VERIFY_H
#define AF_TOOLS_AGENTFENSE_VERIFY_H

#include "mux/base/error.h"
#include "tools/agentfense/plan.h"

// Sentences for a person, escaped.
struct lines {
    char **list;
    size_t count, max;
};
void lines_add(struct lines *lines, const char *path, const char *what);
void lines_fini(struct lines *lines);

// *conflicts gets one line for each conflict; none: the plan can be carried out.
int verify_plan(int root, struct plan *plan, struct lines *conflicts, struct af_error *err);

#endif
