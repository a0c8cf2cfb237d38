// Which layers of a stack to merge. Pure arithmetic over weights. Internal to mux.
// Read next: compact.c.
#ifndef AF_MUX_COMPACT_PLAN_H
#define AF_MUX_COMPACT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A layer is too light to stay below others when it weighs no more than this many times what is
// above it. Depth is then logarithmic in the weight of the whole, and so is the number of times
// that a record is written again.
#define MUX_COMPACT_RATIO 2
#define MUX_COMPACT_MIN   4  // layers at least in one merge: fewer are left alone
#define MUX_COMPACT_MAX   16 // at most

// Whether a stack with these weights, top first, should be merged, and where: layers *ret_at ..
// *ret_at + *ret_count.
bool mux_compact_plan(const uint64_t *weights, size_t count, size_t *ret_at, size_t *ret_count);

#endif
