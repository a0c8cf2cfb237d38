// Chunks in a list, the newest in use. Owns them. Read next: arena.h.
#include "mux/arena.h"

#include <stdint.h>
#include <string.h>

#define CHUNK_BYTES (64u << 10)

struct mux_arena_chunk {
    struct mux_arena_chunk *next;
    size_t used, capacity;
    _Alignas(max_align_t) char bytes[];
};

void mux_arena_fini(struct mux_arena *arena)
{
    while (arena->chunks) {
        struct mux_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    arena->total = 0;
}

void *mux_arena_alloc(struct mux_arena *arena, size_t size)
{
    size_t align = _Alignof(max_align_t);
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + align - 1) & ~(align - 1);
    struct mux_arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->capacity - chunk->used < size) {
        size_t capacity = size > CHUNK_BYTES ? size : CHUNK_BYTES;
        size_t cap = arena->cap ? arena->cap : MUX_ARENA_CAP;
        if (capacity > cap - (arena->total < cap ? arena->total : cap))
            return NULL;
        chunk = malloc(sizeof *chunk + capacity);
        if (!chunk)
            return NULL;
        *chunk = (struct mux_arena_chunk){.next = arena->chunks, .capacity = capacity};
        arena->chunks = chunk;
        arena->total += capacity;
    }
    void *taken = chunk->bytes + chunk->used;
    chunk->used += size;
    return taken;
}

char *mux_arena_copy(struct mux_arena *arena, const void *bytes, size_t len)
{
    char *copy = mux_arena_alloc(arena, len + 1);
    if (!copy)
        return NULL;
    if (len > 0)
        memcpy(copy, bytes, len);
    copy[len] = '\0';
    return copy;
}
