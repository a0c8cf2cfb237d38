// Decoding one request message, with everything checked that protobuf-c does not check.
//
// protobuf-c takes NUL and invalid UTF-8 in strings for good, and cuts a string at its first NUL.
// The generated code therefore declares every `string` of the .proto files as bytes, and this
// module checks them. A field that really is `bytes` is in the table of raw_fields.h.
// Threads: any. Read next: message.c.
#ifndef AF_API_NET_MESSAGE_H
#define AF_API_NET_MESSAGE_H

#include "api/net/arena.h"
#include "mux/base/error.h"

#include <stddef.h>
#include <stdint.h>

// Decodes into the arena: *ret_message lives until grpc_arena_fini. Failure: INVALID_ARGUMENT
// (not such a message; a text field with NUL or invalid UTF-8, named), RESOURCE_EXHAUSTED (over
// the arena's budget, or out of memory).
int grpc_message_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                        size_t len, struct grpc_arena *arena, ProtobufCMessage **ret_message,
                        struct af_error *err);

// The check of text fields alone, nested messages included.
int grpc_message_check_text(const ProtobufCMessage *message, struct af_error *err);

#endif
