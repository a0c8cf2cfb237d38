// Small texts of the gRPC protocol: grpc-timeout, percent-encoded status messages.
//
// Pure functions. The client's halves are in api/client. Read next: wire.c; the specification is
// gRPC's PROTOCOL-HTTP2.
#ifndef AF_API_NET_WIRE_H
#define AF_API_NET_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Reads a grpc-timeout value: one to eight digits and a unit (H M S m u n). Returns false when
// it is malformed. *ret_ns is at most INT64_MAX / 2, so that adding a time cannot overflow.
bool grpc_timeout_parse(const void *text, size_t len, int64_t *ret_ns);

// Percent-encodes a status message: bytes outside 0x20..0x7e and '%' become %XX. `out` holds at
// least 3 * strlen(text) + 1 bytes; returns the length.
size_t grpc_percent_encode(const char *text, char *out);

#endif
