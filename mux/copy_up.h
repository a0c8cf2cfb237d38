// Copying content up: a private blob from an immutable one. Internal to mux.
//
// The source of a copy never changes, so the copy is made outside of every lock; whoever asked
// takes the view's lock afterwards, finds the record still as it was, and commits, or discards the
// copy and begins again. Until then a crash leaves a blob without a record, swept at the next
// start: a copy-up is whole or has not happened (D6).
// Thread: any that may block, for content above MUX_COPY_FAST_BYTES. Read next: copy_up.c, write.c.
#ifndef AF_MUX_COPY_UP_H
#define AF_MUX_COPY_UP_H

#include "mux/mux_priv.h"

// What a FUSE worker copies itself; more is for a thread that may block.
#define MUX_COPY_FAST_BYTES (128u << 10)

struct mux_copy {
    struct store_blob *blob; // NULL: nothing copied. Owned until given to a record
    uint64_t source;         // blob that it is a copy of
    uint64_t bytes;          // how much of it
};

// Copies the first `bytes` of a blob into a new one: by sharing extents where the file system can,
// else by copy_file_range, else by hand; holes stay holes. Unless it may block, only what is in the
// page cache is copied, as bytes: else MUX_SLOW. -ENOENT when the blob is gone meanwhile.
int mux_copy_blob(struct mux *mux, uint64_t source, uint64_t bytes, bool may_block,
                  struct mux_copy *ret);
// Unlinks a copy that no record took.
void mux_copy_discard(struct mux_copy *copy);
// After the transaction that recorded it has committed.
void mux_copy_adopted(struct mux_copy *copy);

#endif
