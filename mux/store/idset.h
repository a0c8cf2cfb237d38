// A set of ids (open addressing; 0 is no id). Owned and locked by whoever holds it.
// Fails: -ENOMEM. Read next: durability.c, which syncs the blobs in one.
#ifndef AF_MUX_STORE_IDSET_H
#define AF_MUX_STORE_IDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idset {
    uint64_t *slots;
    size_t capacity; // a power of two, or 0
    size_t count;
};

bool idset_has(const struct idset *set, uint64_t id);
int idset_add(struct idset *set, uint64_t id);
int idset_merge(struct idset *into, const struct idset *from);
// Makes room, so that `more` additions cannot fail.
int idset_reserve(struct idset *set, size_t more);
void idset_clear(struct idset *set); // frees
// The next id at or after *cursor (begin with 0), or 0 at the end.
uint64_t idset_next(const struct idset *set, size_t *cursor);

#endif
