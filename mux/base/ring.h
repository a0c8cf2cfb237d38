// The last bytes of a stream: a ring that forgets the oldest, read by any number of readers.
//
// A reader is a position in the stream; what it has missed is counted. Memory grows with what
// comes, up to the bound. No locks: the owner's. Failure: without memory more is forgotten.
// Read next: ring.c.
#ifndef AF_BASE_RING_H
#define AF_BASE_RING_H

#include <stddef.h>
#include <stdint.h>

struct af_ring {
    char *bytes;
    size_t capacity, max;
    uint64_t start, end; // of the stream: what is kept is start up to end
};

void af_ring_init(struct af_ring *ring, size_t max);
void af_ring_add(struct af_ring *ring, const void *bytes, size_t len);
// Copies what comes at *at, up to `room` bytes, and moves *at behind it. *ret_skipped is how many
// bytes before that are no longer kept. Returns the number of bytes; 0: there is nothing yet.
size_t af_ring_read(const struct af_ring *ring, uint64_t *at, void *out, size_t room,
                    uint64_t *ret_skipped);
void af_ring_fini(struct af_ring *ring);

#endif
