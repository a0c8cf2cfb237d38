// A directory into a codebase, and the manifest of what went in.
//
// Walks beneath the directory's descriptor (beneath.h), sends every file, directory, symbolic link
// and FIFO with its mode and mtime; names of one file stay so (hardlinks.h). Sockets, devices and
// what lies beyond a mount point are left out with a note on stderr and are entries of the manifest
// with `skipped` set. A file that grows while it is read is taken as long as it was when it was
// opened. Holes go as holes. Failure: -1 and an af_error; the codebase is then unchanged. Thread:
// one.
#ifndef AF_TOOLS_AGENTFENSE_IMPORT_H
#define AF_TOOLS_AGENTFENSE_IMPORT_H

#include "api/client/client.h"
#include "tools/agentfense/manifest.h"

// `exclude`, when not NULL, is a directory that is left out without a note (the tool's own).
int import_directory(struct af_client *client, const char *codebase_id, int root,
                     const struct stat *exclude, struct manifest *manifest, struct af_error *err);

#endif
