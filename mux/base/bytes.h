// A queue of bytes in one piece: what waits for a socket, or came from one.
// Threads: one. Fails with false when memory is short, and is then as it was.
#ifndef AF_MUX_BASE_BYTES_H
#define AF_MUX_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Empty when zeroed. A reader takes from the front by raising off.
struct af_bytes {
    uint8_t *bytes;
    size_t off, len, cap; // content is bytes[off .. len)
};

static inline size_t af_bytes_size(const struct af_bytes *queue)
{
    return queue->len - queue->off;
}

// Empty again, and usable.
static inline void af_bytes_fini(struct af_bytes *queue)
{
    free(queue->bytes);
    memset(queue, 0, sizeof *queue);
}

// Copies len bytes behind the content.
static inline bool af_bytes_put(struct af_bytes *queue, const void *bytes, size_t len)
{
    if (queue->off == queue->len)
        queue->off = queue->len = 0;
    if (queue->len + len > queue->cap && queue->off > 0) {
        memmove(queue->bytes, queue->bytes + queue->off, queue->len - queue->off);
        queue->len -= queue->off;
        queue->off = 0;
    }
    if (queue->len + len > queue->cap) {
        size_t cap = (queue->len + len) * 2;
        uint8_t *grown = realloc(queue->bytes, cap);
        if (!grown)
            return false;
        queue->bytes = grown;
        queue->cap = cap;
    }
    if (len > 0)
        memcpy(queue->bytes + queue->len, bytes, len);
    queue->len += len;
    return true;
}

#endif
