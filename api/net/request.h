// The check of a call's request headers.
//
// nghttp2's own HTTP checks are off, because it refuses an :authority that is a socket path, which
// is what grpc-go and kubelets send. What they would have checked is checked here, and no more
// than a call needs is kept.
// Pure functions over one struct. Read next: request.c, session.c.
#ifndef AF_API_NET_REQUEST_H
#define AF_API_NET_REQUEST_H

#include "api/net/token.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_PATH_MAX 160 // bytes of a method path; longer ones are unknown methods

struct net_request {
    size_t bytes; // names, values and 32 for each field, as SETTINGS_MAX_HEADER_LIST_SIZE counts
    char path[NET_PATH_MAX];
    size_t path_len; // may be over NET_PATH_MAX: then path holds nothing
    unsigned seen;   // bits of the pseudo headers that came
    bool regular;    // a header that is no pseudo header came
    bool malformed;  // a stream error
    bool too_large;
    bool post;
    bool grpc;       // content-type is application/grpc
    bool compressed; // grpc-encoding is something else than identity
    bool bad_timeout;
    int64_t timeout_ns; // 0: none
    bool has_token;     // an authorization header of the form "Bearer TOKEN" came
    uint8_t token_digest[NET_TOKEN_DIGEST];
};

enum net_verdict {
    NET_REQUEST_OK,
    NET_REQUEST_MALFORMED,   // RST_STREAM(PROTOCOL_ERROR)
    NET_REQUEST_TOO_LARGE,   // grpc RESOURCE_EXHAUSTED
    NET_REQUEST_NOT_POST,    // HTTP 405
    NET_REQUEST_NOT_GRPC,    // HTTP 415
    NET_REQUEST_BAD_TIMEOUT, // grpc INVALID_ARGUMENT
};

// Takes one header field; `bytes_max` is the limit on all of them together.
void net_request_header(struct net_request *request, size_t bytes_max, const uint8_t *name,
                        size_t name_len, const uint8_t *value, size_t value_len);

// After the last one.
enum net_verdict net_request_verdict(const struct net_request *request);

#endif
