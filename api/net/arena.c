// A budgeted memory arena. Owns its blocks; no locks; fails by returning NULL to protobuf-c.
// Read next: arena.h.
#include "api/net/arena.h"

#include <stdlib.h>

#define FIRST_BLOCK_BYTES 16384
#define BLOCK_BYTES_MAX   (256u << 10)
#define ALIGNMENT         16u

struct grpc_arena_block {
    struct grpc_arena_block *next;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

static void *arena_alloc(void *data, size_t size)
{
    struct grpc_arena *arena = data;
    if (size > arena->budget_bytes) {
        arena->exceeded = true;
        return NULL;
    }
    size_t rounded = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (rounded == 0)
        rounded = ALIGNMENT; // protobuf-c takes NULL for a failure
    arena->budget_bytes -= rounded < arena->budget_bytes ? rounded : arena->budget_bytes;
    if (rounded > arena->left) {
        size_t block_bytes = arena->next_block_bytes;
        bool own_block = rounded > block_bytes;
        struct grpc_arena_block *block =
            malloc(sizeof *block + (own_block ? rounded : block_bytes));
        if (!block)
            return NULL;
        block->next = arena->blocks;
        arena->blocks = block;
        if (own_block)
            return block->bytes;
        arena->at = block->bytes;
        arena->left = block_bytes;
        if (block_bytes < BLOCK_BYTES_MAX)
            arena->next_block_bytes = block_bytes * 2;
    }
    void *p = arena->at;
    arena->at += rounded;
    arena->left -= rounded;
    return p;
}

static void arena_free(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

void grpc_arena_init(struct grpc_arena *arena, size_t budget_bytes)
{
    arena->allocator =
        (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = arena};
    arena->budget_bytes = budget_bytes;
    arena->exceeded = false;
    arena->blocks = NULL;
    arena->at = arena->first;
    arena->left = sizeof arena->first;
    arena->next_block_bytes = FIRST_BLOCK_BYTES;
}

void grpc_arena_fini(struct grpc_arena *arena)
{
    while (arena->blocks) {
        struct grpc_arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}
