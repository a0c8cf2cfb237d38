// Memory that is taken in small pieces, bounded by a cap, and given back all at once.
//
// Internal to mux: results of one call (a diff, a tree) are gathered in an arena within one read
// transaction and handed to the caller's callback after it has ended.
// Errors: NULL when the cap is reached or memory is out. Thread: one at a time.
#ifndef AF_MUX_ARENA_H
#define AF_MUX_ARENA_H

#include "mux/base/cleanup.h"

#include <stddef.h>

#define MUX_ARENA_CAP (64u << 20) // bytes one call may gather: some 300,000 paths

struct mux_arena {
    struct mux_arena_chunk *chunks; // newest first
    size_t total;                   // bytes taken, chunk rests included
    size_t cap;
};

#define AF_CLEANUP_ARENA AF_CLEANUP(mux_arena_fini)

void mux_arena_fini(struct mux_arena *arena);
// Aligned for any object; lives until mux_arena_fini.
void *mux_arena_alloc(struct mux_arena *arena, size_t size);
// A copy of the bytes followed by a NUL.
char *mux_arena_copy(struct mux_arena *arena, const void *bytes, size_t len);

#endif
