// What a sandbox changed, as the daemon lists it: fetched, checked, sorted, printed.
//
// Nothing the daemon says is taken on trust: paths are in normal form (no "..", no empty
// component), kinds and changes are known ones, link targets have a size.
// Owns its entries. Thread: one. Failure: -1 and an af_error. Read next: plan.h.
#ifndef AF_TOOLS_AGENTFENSE_CHANGES_H
#define AF_TOOLS_AGENTFENSE_CHANGES_H

#include "api/client/client.h"
#include "proto/agentfense.pb-c.h"
#include "tools/agentfense/manifest.h"

#include <stdio.h>

enum change_type {
    CHANGE_ADDED = 1,
    CHANGE_MODIFIED = 2,
    CHANGE_DELETED = 3,
    CHANGE_METADATA = 4,
    CHANGE_RENAMED = 5,
};

struct change {
    enum change_type type;
    char *path, *old_path; // old_path: CHANGE_RENAMED only
    char *target;          // of a symbolic link, else NULL
    mode_t mode;           // type and permission bits; the type is 0 for CHANGE_DELETED
    uint64_t size;
    uint64_t ino; // the same for all names of a file, 0: unknown
    bool has_mtime;
    int64_t mtime_ns;
};

struct changes {
    struct change *list; // by path; RENAMED before MODIFIED at the same path
    size_t count, max;
    size_t too_long; // more changes, at paths over AF_PATH_MAX: no program can open those
};

int changes_fetch(struct af_client *client, const char *sandbox_id, struct changes *ret,
                  struct af_error *err);
// Checks one message and adds it; public for tests. Call changes_sort after the last.
int changes_add(struct changes *changes, const Agentfense__V1__DiffEntry *entry,
                struct af_error *err);
void changes_sort(struct changes *changes);
void changes_fini(struct changes *changes);

// The entry at a path whose type is one of the set bits (1u << CHANGE_...), or NULL.
const struct change *changes_find(const struct changes *changes, const char *path, unsigned types);

// One line each, at most `max_lines` (0: all): "  A  output/report".
void changes_print(const struct changes *changes, const struct manifest *manifest, size_t max_lines,
                   FILE *file);

#endif
