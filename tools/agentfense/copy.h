// What the two ways of agentfense cp share. Read next: copy.c.
//
// Thread: one. Failure: -1 and an af_error.
#ifndef AF_TOOLS_AGENTFENSE_COPY_H
#define AF_TOOLS_AGENTFENSE_COPY_H

#include "proto/agentfense_file.pb-c.h"
#include "tools/agentfense/progress.h"
#include "tools/agentfense/session.h"

#define COPY_PIECE_BYTES (256u << 10)

struct copy {
    struct session session;
    struct af_id id;
    bool is_codebase; // else a sandbox
    const char *path; // in it, without slashes at its ends; "": the root
    bool is_into;     // it was written with a slash at its end: a directory to copy a file into
    size_t left_out;  // files that could not be copied, each said on stderr
    struct progress progress;
    char unused[64]; // of a place that is not taken
};

// A file or a tree of this machine to the place.
int copy_in(struct copy *copy, const char *from, struct af_error *err);

#endif
