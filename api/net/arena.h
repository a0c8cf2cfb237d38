// A budgeted memory arena for decoding one message.
//
// protobuf-c turns a small message into many small allocations: 4 MiB of empty repeated messages
// becomes 240 MiB. The arena gives memory until its budget is spent, then fails, and the message is
// refused. Everything is freed at once by fini; the allocator's free does nothing.
// Threads: an arena belongs to one thread. Read next: message.c.
#ifndef AF_API_NET_ARENA_H
#define AF_API_NET_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#define GRPC_ARENA_INLINE_BYTES 2048 // enough for most requests: no malloc at all

struct grpc_arena_block;

struct grpc_arena {
    ProtobufCAllocator allocator; // what protobuf_c_message_unpack takes
    size_t budget_bytes;          // left
    bool exceeded;                // an allocation failed for lack of budget
    struct grpc_arena_block *blocks;
    unsigned char *at; // free space of the current block
    size_t left;
    size_t next_block_bytes;
    _Alignas(16) unsigned char first[GRPC_ARENA_INLINE_BYTES];
};

// The arena must not be moved afterwards.
void grpc_arena_init(struct grpc_arena *arena, size_t budget_bytes);
void grpc_arena_fini(struct grpc_arena *arena);

#endif
