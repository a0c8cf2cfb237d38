// Bytes of one stream that are kept for a result, up to a cap; the rest is counted.
//
// Owns its memory. No locks. Fails: memory that is not there counts as a reached cap, and is seen
// as truncated output. Read next: gather.c, stream.c.
#ifndef AF_EXEC_GATHER_H
#define AF_EXEC_GATHER_H

#include "exec/exec.h"

struct exec_gather {
    char *bytes; // len + 1 bytes at least, or NULL
    size_t len, capacity;
    uint64_t total;
};

// Keeps as much as fits below `max` bytes, and counts all.
void exec_gather_add(struct exec_gather *gather, size_t max, const char *bytes, size_t n);

// As part of a result. Its bytes stay the gather's.
struct exec_output exec_gather_output(const struct exec_gather *gather);

// Frees what was kept; the gather is empty then.
void exec_gather_fini(struct exec_gather *gather);

#endif
