// Fuzzes the check of a call's request headers.
//
// Input: fields as "name: value" lines. Promises checked: a request that is let through has a path
// that begins with '/', was a POST with gRPC's content type, and never held more than the limit.
// Read next: api/net/request.h.
#include "api/net/request.h"

#include <stdlib.h>
#include <string.h>

#define BYTES_MAX 2048

static void check(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct net_request request = {0};
    const uint8_t *end = data + size;
    while (data < end) {
        const uint8_t *line_end = memchr(data, '\n', (size_t)(end - data));
        if (!line_end)
            line_end = end;
        size_t len = (size_t)(line_end - data);
        // A pseudo header begins with a colon of its own.
        const uint8_t *colon = len > 1 ? memchr(data + 1, ':', len - 1) : NULL;
        const uint8_t *value = colon ? colon + 1 : line_end;
        if (value < line_end && *value == ' ')
            value++;
        net_request_header(&request, BYTES_MAX, data, colon ? (size_t)(colon - data) : len, value,
                           (size_t)(line_end - value));
        data = line_end + (line_end < end);
    }
    enum net_verdict verdict = net_request_verdict(&request);
    if (verdict == NET_REQUEST_OK) {
        check(request.post && request.grpc && !request.malformed && request.bytes <= BYTES_MAX);
        check(request.path_len > 0);
        check(request.path_len >= sizeof request.path ||
              (request.path[0] == '/' && strlen(request.path) <= request.path_len));
        check(request.timeout_ns >= 0);
    }
    return 0;
}
