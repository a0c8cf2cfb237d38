// Unified diffs of what a sandbox changed, made by diff(1).
//
// The old side is the directory's file, when it is still the one that was imported, the new side
// the sandbox's. Shown on `file`: escaped when it is a terminal, raw otherwise, so that it can be
// piped into patch. Temporary files are private and gone afterwards.
// Thread: one. Failure: -1 and an af_error.
#ifndef AF_TOOLS_AGENTFENSE_SHOWDIFF_H
#define AF_TOOLS_AGENTFENSE_SHOWDIFF_H

#include "tools/agentfense/changes.h"
#include "tools/common/rpc.h"

// Writes a file of the view to fd; `arg` is a struct view_source. An apply_fetch.
struct view_source {
    struct af_client *client;
    const char *sandbox_id;
};
int view_fetch(void *arg, const char *path, int fd, struct af_error *err);

int show_diffs(struct view_source *source, int root, const struct changes *changes,
               const struct manifest *manifest, FILE *file, struct af_error *err);

#endif
