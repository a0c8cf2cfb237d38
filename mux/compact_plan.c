// The policy of compaction: size-tiered, and shared by as many stacks as possible.
//
// From the top down, the deepest layer that is too light for what is above it ends the group that
// is to become one. A small group is merged at once. A larger one, left by a time when layers came
// faster than they could be merged, is merged piece by piece from below: stacks of older sandboxes
// end in the same layers, so one merge serves all of them and the disk holds its records once.
// Read next: compact_plan.h.
#include "mux/compact_plan.h"

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static bool is_light(uint64_t weight, uint64_t above)
{
    return weight / MUX_COMPACT_RATIO <= above;
}

// The layers from the top that are to become one.
static size_t group_size(const uint64_t *weights, size_t count)
{
    uint64_t above = 0;
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && is_light(weights[i], above))
            size = i + 1;
        above = add(above, weights[i]);
    }
    return size;
}

// Whether no layer of the piece is much heavier than the others together: such a one would be
// written again for little.
static bool is_even(const uint64_t *weights, size_t count)
{
    uint64_t sum = 0, heaviest = 0;
    for (size_t i = 0; i < count; i++) {
        sum = add(sum, weights[i]);
        if (weights[i] > heaviest)
            heaviest = weights[i];
    }
    return is_light(heaviest, sum - heaviest);
}

bool mux_compact_plan(const uint64_t *weights, size_t count, size_t *ret_at, size_t *ret_count)
{
    size_t size = group_size(weights, count);
    if (size < MUX_COMPACT_MIN)
        return false;
    *ret_at = 0;
    *ret_count = size;
    if (size <= MUX_COMPACT_MAX)
        return true;
    *ret_count = MUX_COMPACT_MAX;
    for (size_t at = size - MUX_COMPACT_MAX + 1; at-- > 0;) {
        if (is_even(weights + at, MUX_COMPACT_MAX)) {
            *ret_at = at;
            return true;
        }
    }
    return true; // none is: the topmost
}
