// Takes RST_STREAM frames for streams that were never opened out of what a client sends.
//
// gRPC's C core (and so Python's client) sends such a frame when a call is cancelled just before
// its HEADERS went out. RFC 9113 section 6.4 makes that a connection error, and nghttp2 ends the
// connection with every other call on it; the frame means nothing, so it is dropped instead.
// Owns nothing; one per connection, used by the network thread. Cannot fail by itself.
// Read next: idle_resets.c.
#ifndef AF_API_NET_IDLE_RESETS_H
#define AF_API_NET_IDLE_RESETS_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idle_resets {
    uint32_t preface_left; // bytes of the client's preface still to come
    uint32_t payload_left; // bytes of the frame under way
    uint32_t highest;      // stream id of the newest HEADERS
    uint8_t header[9];     // of a frame whose header came in pieces
    uint8_t header_have;
    bool drop; // the frame under way
};

void idle_resets_init(struct idle_resets *filter);

// nghttp2_session_mem_recv of everything but those frames: `len`, or a negative nghttp2 error.
ssize_t idle_resets_recv(struct idle_resets *filter, nghttp2_session *session, const uint8_t *bytes,
                         size_t len);

#endif
