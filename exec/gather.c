// See gather.h. Owns nothing beyond the gathers it is given; no locks; fails as the header says.
// Read next: stream.c.
#include "exec/gather.h"

#include <stdlib.h>
#include <string.h>

void exec_gather_add(struct exec_gather *gather, size_t max, const char *bytes, size_t n)
{
    gather->total += n;
    size_t room = max > gather->len ? max - gather->len : 0;
    if (n > room)
        n = room;
    size_t needed = gather->len + n + 1;
    if (needed > gather->capacity) {
        size_t capacity = gather->capacity ? gather->capacity : 512;
        while (capacity < needed)
            capacity *= 2;
        char *grown = realloc(gather->bytes, capacity);
        if (!grown)
            return;
        gather->bytes = grown;
        gather->capacity = capacity;
    }
    memcpy(gather->bytes + gather->len, bytes, n);
    gather->len += n;
    gather->bytes[gather->len] = '\0';
}

struct exec_output exec_gather_output(const struct exec_gather *gather)
{
    return (struct exec_output){
        .bytes = gather->bytes ? gather->bytes : "",
        .len = gather->len,
        .total_bytes = gather->total,
        .truncated = gather->total > gather->len,
    };
}

void exec_gather_fini(struct exec_gather *gather)
{
    free(gather->bytes);
    *gather = (struct exec_gather){0};
}
