// Ids that clients see: a prefix and 128 random bits in base 32, for example
// "sb_7h3k...". Unguessable (O5), valid as a file name, checked before any use.
#ifndef AF_BASE_ID_H
#define AF_BASE_ID_H

#include "mux/base/limits.h"

#include <stdbool.h>
#include <stddef.h>

#define AF_ID_RANDOM_CHARS 26 // 128 bits at 5 bits a character, rounded up

struct af_id {
    char text[AF_ID_TEXT_MAX]; // NUL-terminated
};

// A new id with the given prefix ("cb", "sb", "sess"). Uses getrandom(2); aborts the process
// if the kernel has no randomness, which cannot happen after boot. Any thread.
void af_id_new(const char *prefix, struct af_id *ret);

// Whether the bytes are an id of this prefix: the prefix, '_', exactly AF_ID_RANDOM_CHARS
// characters of the alphabet. Copies it to *ret (may be NULL) when so.
bool af_id_parse(const char *prefix, const void *bytes, size_t len, struct af_id *ret);

#endif
