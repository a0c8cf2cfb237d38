// A queue of bytes in one piece: what waits for a socket.
// Threads: one. Fails with false when memory is short. Read next: conn.c.
#ifndef AF_API_NET_BUF_H
#define AF_API_NET_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct net_buf {
    uint8_t *bytes;
    size_t off, len, cap; // content is bytes[off .. len)
};

static inline size_t net_buf_size(const struct net_buf *buf)
{
    return buf->len - buf->off;
}

static inline void net_buf_fini(struct net_buf *buf)
{
    free(buf->bytes);
    memset(buf, 0, sizeof *buf);
}

static inline bool net_buf_put(struct net_buf *buf, const void *bytes, size_t len)
{
    if (buf->off == buf->len)
        buf->off = buf->len = 0;
    if (buf->len + len > buf->cap && buf->off > 0) {
        memmove(buf->bytes, buf->bytes + buf->off, buf->len - buf->off);
        buf->len -= buf->off;
        buf->off = 0;
    }
    if (buf->len + len > buf->cap) {
        size_t cap = (buf->len + len) * 2;
        uint8_t *grown = realloc(buf->bytes, cap);
        if (!grown)
            return false;
        buf->bytes = grown;
        buf->cap = cap;
    }
    if (len > 0)
        memcpy(buf->bytes + buf->len, bytes, len);
    buf->len += len;
    return true;
}

#endif
