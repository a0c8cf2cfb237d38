// Memory that is there or the tool is not: see memory.h.
#include "tools/common/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static void *check(void *memory)
{
    if (memory)
        return memory;
    fputs("out of memory\n", stderr);
    exit(1);
}

void *tool_alloc(size_t size)
{
    return check(calloc(1, size ? size : 1));
}

char *tool_copy(const void *bytes, size_t len)
{
    char *copy = tool_alloc(len + 1);
    if (len > 0)
        memcpy(copy, bytes, len);
    return copy;
}

char *tool_copy_text(const char *text)
{
    return tool_copy(text, strlen(text));
}

void *tool_grow(void *array, size_t used, size_t *max, size_t size)
{
    if (used < *max)
        return array;
    size_t wanted = *max ? 2 * *max : 16;
    array = check(wanted > SIZE_MAX / size ? NULL : realloc(array, wanted * size));
    *max = wanted;
    return array;
}
