// From a list of changes to what has to be done in the directory.
//
// A plan has two lists. First everything that leaves its old place is taken out, deepest first:
// what was deleted, what was renamed, and what gave way to something of the same name. What stays
// is unchanged. Then, in path order, things are put: new directories, new files, renamed ones, new
// content. So the order in which the agent did it does not matter, swaps and chains included.
// Old paths are those of the imported directory, new paths those of the result; plan_base leads
// from the latter to the former.
// Owns its paths; refers to the changes, which must outlive it. Pure: touches no file.
// Failure: -1 and INTERNAL when the list contradicts the manifest. Read next: verify.h, apply.h.
#ifndef AF_TOOLS_AGENTFENSE_PLAN_H
#define AF_TOOLS_AGENTFENSE_PLAN_H

#include "mux/base/error.h"
#include "tools/agentfense/changes.h"
#include "tools/agentfense/manifest.h"

struct plan_take {
    char *path; // old
    const struct manifest_entry *entry;
    const struct change *rename; // NULL: it is gone for good
    bool vanished;               // set by verify: somebody else removed it already
};

enum plan_put_kind {
    PUT_CREATE,  // a new file of any kind
    PUT_RENAMED, // something taken out
    PUT_CONTENT, // new content for a file, another target for a link
    PUT_META,    // mode and mtime alone
};

struct plan_put {
    enum plan_put_kind kind;
    const struct change *change;
    const struct manifest_entry *base; // the file before, NULL for PUT_CREATE
    size_t take;                       // PUT_RENAMED: index in takes
};

struct plan {
    const struct changes *changes;
    const struct manifest *manifest;
    struct plan_take *takes; // deepest first
    size_t n_takes, max_takes;
    struct plan_put *puts; // parents first
    size_t n_puts, max_puts;
};

int plan_make(const struct changes *changes, const struct manifest *manifest, struct plan *ret,
              struct af_error *err);
void plan_fini(struct plan *plan);

// The take of an old path, or NULL.
struct plan_take *plan_find_take(const struct plan *plan, const char *old_path);

// The old place of a new path's name: what must be free, or taken out, before something is put
// there. NULL below a new directory. To be freed.
char *plan_place(const struct changes *changes, const char *path);

// The old path of what is at a new path now, or of what was there (a name in a directory that
// was renamed). NULL below a new directory. To be freed.
char *plan_base(const struct changes *changes, const char *path);

#endif
