// Memory for the tools: they run once and for one person, so that running out ends the tool.
//
// The exit code is 1 and the sentence is on stderr. What must be undone at the end of a tool is
// done by others: the keeper process removes a private daemon, and the changes of `--apply` are
// planned and allocated before the first of them is made.
#ifndef AF_TOOLS_COMMON_MEMORY_H
#define AF_TOOLS_COMMON_MEMORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Zeroed.
static inline void *tool_alloc(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

// A NUL-terminated copy of len bytes.
static inline char *tool_copy(const void *bytes, size_t len)
{
    char *copy = tool_alloc(len + 1);
    if (len > 0)
        memcpy(copy, bytes, len);
    return copy;
}

static inline char *tool_copy_text(const char *text)
{
    return tool_copy(text, strlen(text));
}

// Makes room for one more element in an array of *max elements of `size` bytes.
static inline void *tool_grow(void *array, size_t used, size_t *max, size_t size)
{
    if (used < *max)
        return array;
    size_t wanted = *max ? 2 * *max : 16;
    void *memory = wanted > SIZE_MAX / size ? NULL : realloc(array, wanted * size);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    *max = wanted;
    return memory;
}

#endif
