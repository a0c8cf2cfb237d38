// Memory for the tools: they run once and for one person, so that running out ends the tool.
//
// The exit code is 1 and the sentence is on stderr. What must be undone at the end of a tool is
// done by others: the keeper process removes a private daemon, and the changes of `--apply` are
// planned and allocated before the first of them is made.
#ifndef AF_TOOLS_COMMON_MEMORY_H
#define AF_TOOLS_COMMON_MEMORY_H

#include <stdlib.h>

// Zeroed; to be freed.
void *tool_alloc(size_t size);

// A NUL-terminated copy of len bytes; to be freed.
char *tool_copy(const void *bytes, size_t len);
char *tool_copy_text(const char *text);

// Makes room for one more element in an array of *max elements of `size` bytes.
void *tool_grow(void *array, size_t used, size_t *max, size_t size);

#endif
