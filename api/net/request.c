// The check of a call's request headers (RFC 9113, sections 8.2 and 8.3, and gRPC's own).
// Pure functions, no state. Read next: request.h.
#include "api/net/request.h"

#include "api/net/wire.h"

#include <string.h>

#define FIELD_OVERHEAD 32 // RFC 9113, section 6.5.2

enum {
    SEEN_METHOD = 1,
    SEEN_SCHEME = 2,
    SEEN_PATH = 4,
    SEEN_AUTHORITY = 8,
};

static bool is(const uint8_t *bytes, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

static bool name_is_token(const uint8_t *name, size_t len)
{
    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return true;
}

static bool value_is_clean(const uint8_t *value, size_t len)
{
    return !memchr(value, '\0', len) && !memchr(value, '\r', len) && !memchr(value, '\n', len);
}

static bool is_connection_specific(const uint8_t *name, size_t len)
{
    return is(name, len, "connection") || is(name, len, "keep-alive") ||
           is(name, len, "proxy-connection") || is(name, len, "transfer-encoding") ||
           is(name, len, "upgrade");
}

static bool take_pseudo(struct net_request *request, const uint8_t *name, size_t name_len,
                        const uint8_t *value, size_t value_len)
{
    unsigned bit = is(name, name_len, ":method")      ? SEEN_METHOD
                   : is(name, name_len, ":scheme")    ? SEEN_SCHEME
                   : is(name, name_len, ":path")      ? SEEN_PATH
                   : is(name, name_len, ":authority") ? SEEN_AUTHORITY
                                                      : 0;
    if (bit == 0 || (request->seen & bit) || request->regular)
        return false;
    request->seen |= bit;
    if (bit == SEEN_METHOD)
        request->post = is(value, value_len, "POST");
    if (bit == SEEN_PATH) {
        request->path_len = value_len;
        if (value_len == 0 || value[0] != '/')
            return false;
        if (value_len < sizeof request->path) {
            memcpy(request->path, value, value_len);
            request->path[value_len] = '\0';
        }
    }
    return true;
}

// "application/grpc", "application/grpc+proto", either with parameters. gRPC-Web and other
// codecs are not spoken here.
static bool content_type_is_grpc(const uint8_t *value, size_t len)
{
    const uint8_t *end = memchr(value, ';', len);
    size_t n = end ? (size_t)(end - value) : len;
    while (n > 0 && value[n - 1] == ' ')
        n--;
    return is(value, n, "application/grpc") || is(value, n, "application/grpc+proto");
}

static void take_regular(struct net_request *request, const uint8_t *name, size_t name_len,
                         const uint8_t *value, size_t value_len)
{
    if (is(name, name_len, "content-type"))
        request->grpc = content_type_is_grpc(value, value_len);
    else if (is(name, name_len, "grpc-encoding"))
        request->compressed = !is(value, value_len, "identity");
    else if (is(name, name_len, "grpc-timeout"))
        request->bad_timeout = !grpc_timeout_parse(value, value_len, &request->timeout_ns);
    else if (is(name, name_len, "authorization"))
        request->has_token = net_token_digest(value, value_len, request->token_digest);
    else if (is(name, name_len, "te"))
        request->malformed |= !is(value, value_len, "trailers");
    else if (is_connection_specific(name, name_len))
        request->malformed = true;
}

void net_request_header(struct net_request *request, size_t bytes_max, const uint8_t *name,
                        size_t name_len, const uint8_t *value, size_t value_len)
{
    request->bytes += name_len + value_len + FIELD_OVERHEAD;
    if (request->bytes > bytes_max)
        request->too_large = true;
    if (request->malformed || request->too_large)
        return;
    bool pseudo = name_len > 0 && name[0] == ':';
    if (!value_is_clean(value, value_len) || (!pseudo && !name_is_token(name, name_len))) {
        request->malformed = true;
    } else if (pseudo) {
        if (!take_pseudo(request, name, name_len, value, value_len))
            request->malformed = true;
    } else {
        request->regular = true;
        take_regular(request, name, name_len, value, value_len);
    }
}

enum net_verdict net_request_verdict(const struct net_request *request)
{
    unsigned needed = SEEN_METHOD | SEEN_SCHEME | SEEN_PATH;
    if (request->malformed)
        return NET_REQUEST_MALFORMED;
    if (request->too_large)
        return NET_REQUEST_TOO_LARGE;
    if ((request->seen & needed) != needed)
        return NET_REQUEST_MALFORMED;
    if (!request->post)
        return NET_REQUEST_NOT_POST;
    if (!request->grpc)
        return NET_REQUEST_NOT_GRPC;
    return request->bad_timeout ? NET_REQUEST_BAD_TIMEOUT : NET_REQUEST_OK;
}
