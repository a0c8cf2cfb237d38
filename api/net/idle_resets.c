// Dropping resets of streams that were never opened. Frame layout: RFC 9113 section 4.1.
// Read next: idle_resets.h, then conn.c, which reads.
#include "api/net/idle_resets.h"

#include <string.h>

#define FRAME_HEADER 9

void idle_resets_init(struct idle_resets *filter)
{
    *filter = (struct idle_resets){.preface_left = NGHTTP2_CLIENT_MAGIC_LEN};
}

// Decides on a frame by its header.
static void begin_frame(struct idle_resets *filter, const uint8_t header[FRAME_HEADER])
{
    uint32_t length = (uint32_t)header[0] << 16 | (uint32_t)header[1] << 8 | header[2];
    uint32_t id = ((uint32_t)header[5] << 24 | (uint32_t)header[6] << 16 |
                   (uint32_t)header[7] << 8 | header[8]) &
                  0x7FFFFFFF;
    uint8_t type = header[3];
    if (type == NGHTTP2_HEADERS && id > filter->highest)
        filter->highest = id;
    filter->drop = type == NGHTTP2_RST_STREAM && length == 4 && id % 2 == 1 && id > filter->highest;
    filter->payload_left = length;
}

static ssize_t pass(nghttp2_session *session, const uint8_t *from, const uint8_t *to)
{
    return from == to ? 0 : nghttp2_session_mem_recv(session, from, (size_t)(to - from));
}

// Completes a header that came in pieces. Its bytes never lie in one read, so they go on by
// themselves. Returns the bytes taken.
static size_t take_piece(struct idle_resets *filter, nghttp2_session *session, const uint8_t *bytes,
                         size_t len, ssize_t *ret_rc)
{
    size_t want = (size_t)FRAME_HEADER - filter->header_have, n = len < want ? len : want;
    memcpy(filter->header + filter->header_have, bytes, n);
    filter->header_have += (uint8_t)n;
    *ret_rc = 0;
    if (filter->header_have == FRAME_HEADER) {
        filter->header_have = 0;
        begin_frame(filter, filter->header);
        if (!filter->drop)
            *ret_rc = pass(session, filter->header, filter->header + FRAME_HEADER);
    }
    return n;
}

ssize_t idle_resets_recv(struct idle_resets *filter, nghttp2_session *session, const uint8_t *bytes,
                         size_t len)
{
    const uint8_t *at = bytes, *end = bytes + len, *start = bytes; // [start, at) is to be passed on
    ssize_t rc = 0;
    while (rc >= 0 && at < end) {
        size_t left = (size_t)(end - at);
        uint32_t *pending = filter->preface_left ? &filter->preface_left : &filter->payload_left;
        if (*pending > 0) {
            size_t n = left < *pending ? left : *pending;
            *pending -= (uint32_t)n;
            at += n;
            if (filter->drop)
                start = at;
        } else if (filter->header_have == 0 && left >= FRAME_HEADER) {
            begin_frame(filter, at);
            if (filter->drop) {
                rc = pass(session, start, at);
                start = at + FRAME_HEADER;
            }
            at += FRAME_HEADER;
        } else {
            rc = pass(session, start, at);
            if (rc < 0)
                break;
            at += take_piece(filter, session, at, left, &rc);
            start = at;
        }
        if (filter->drop && filter->payload_left == 0)
            filter->drop = false;
    }
    if (rc >= 0)
        rc = pass(session, start, at);
    return rc < 0 ? rc : (ssize_t)len;
}
