// Layers in number, for the tests of compaction: what a sandbox changed becomes a layer of its
// codebase, and a tree is told in words, so that the same tree before and after is the same text.
#ifndef AF_TESTS_MUX_LAYERS_H
#define AF_TESTS_MUX_LAYERS_H

#include "tests/unit/mux/view_writer.h"

// Closes mux and opens it again without the thread that merges, or with it.
void layers_reopen(struct fixture *fixture, bool with_thread);
// The sandbox's delta becomes the top layer of its codebase and the sandbox goes. The codebase must
// not have changed since the sandbox was made; the sandbox is detached.
void layers_push(struct fixture *fixture, struct af_id codebase, struct af_id sandbox);
size_t layers_depth(struct fixture *fixture, struct af_id codebase);
size_t layers_depth_of_sandbox(struct fixture *fixture, struct af_id sandbox);
// Every path with fid, version, mode, names, xattr bytes and content; to be freed.
char *layers_tell(struct fixture *fixture, struct af_id sandbox);
void layers_attach(struct fixture *fixture, struct af_id sandbox);

#endif
