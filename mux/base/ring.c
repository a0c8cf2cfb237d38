// The last bytes of a stream. Byte n of it is at n modulo the capacity. Read next: ring.h.
#include "mux/base/ring.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_FIRST 512

void af_ring_init(struct af_ring *ring, size_t max)
{
    *ring = (struct af_ring){.max = max};
}

static void copy_in(struct af_ring *ring, uint64_t at, const char *bytes, size_t len)
{
    size_t offset = (size_t)(at % ring->capacity);
    size_t first = len < ring->capacity - offset ? len : ring->capacity - offset;
    memcpy(ring->bytes + offset, bytes, first);
    memcpy(ring->bytes, bytes + first, len - first);
}

static void copy_out(const struct af_ring *ring, uint64_t at, char *out, size_t len)
{
    size_t offset = (size_t)(at % ring->capacity);
    size_t first = len < ring->capacity - offset ? len : ring->capacity - offset;
    memcpy(out, ring->bytes + offset, first);
    memcpy(out + first, ring->bytes, len - first);
}

// Makes room for `wanted` bytes in all, as far as the bound and the memory allow.
static void grow(struct af_ring *ring, size_t wanted)
{
    size_t capacity = ring->capacity ? ring->capacity : CAPACITY_FIRST;
    while (capacity < wanted && capacity < ring->max)
        capacity *= 2;
    if (capacity > ring->max)
        capacity = ring->max;
    if (capacity <= ring->capacity)
        return;
    struct af_ring grown = {.bytes = malloc(capacity), .capacity = capacity};
    if (!grown.bytes)
        return;
    // In two pieces at most, each of which lies in one piece of the old one.
    for (uint64_t at = ring->start; at < ring->end;) {
        size_t len = ring->capacity - (size_t)(at % ring->capacity);
        if (len > ring->end - at)
            len = (size_t)(ring->end - at);
        copy_in(&grown, at, ring->bytes + at % ring->capacity, len);
        at += len;
    }
    free(ring->bytes);
    ring->bytes = grown.bytes;
    ring->capacity = capacity;
}

void af_ring_add(struct af_ring *ring, const void *bytes, size_t len)
{
    size_t kept = (size_t)(ring->end - ring->start);
    if (len > ring->capacity - kept)
        grow(ring, kept + (len < ring->max ? len : ring->max));
    ring->end += len;
    if (ring->capacity == 0) {
        ring->start = ring->end;
        return;
    }
    size_t last = len < ring->capacity ? len : ring->capacity;
    if (last > 0)
        copy_in(ring, ring->end - last, (const char *)bytes + (len - last), last);
    if (ring->end - ring->start > ring->capacity)
        ring->start = ring->end - ring->capacity;
}

size_t af_ring_read(const struct af_ring *ring, uint64_t *at, void *out, size_t room,
                    uint64_t *ret_skipped)
{
    *ret_skipped = *at < ring->start ? ring->start - *at : 0;
    *at += *ret_skipped;
    size_t len = (size_t)(ring->end - *at);
    if (len > room)
        len = room;
    if (len > 0)
        copy_out(ring, *at, out, len);
    *at += len;
    return len;
}

void af_ring_fini(struct af_ring *ring)
{
    free(ring->bytes);
    *ring = (struct af_ring){0};
}
