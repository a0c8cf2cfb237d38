// Open addressing with linear probing; at most half full. See idset.h.
#include "mux/store/idset.h"

#include <errno.h>
#include <stdlib.h>

static size_t slot_of(const struct idset *set, uint64_t id)
{
    size_t at = (size_t)((id * 0x9e3779b97f4a7c15u) >> 17) & (set->capacity - 1);
    while (set->slots[at] != 0 && set->slots[at] != id)
        at = (at + 1) & (set->capacity - 1);
    return at;
}

bool idset_has(const struct idset *set, uint64_t id)
{
    return set->capacity > 0 && set->slots[slot_of(set, id)] == id;
}

int idset_reserve(struct idset *set, size_t more)
{
    size_t capacity = set->capacity ? set->capacity : 64;
    while ((set->count + more) * 2 > capacity)
        capacity *= 2;
    if (capacity == set->capacity)
        return 0;
    struct idset grown = {.capacity = capacity, .count = set->count};
    grown.slots = calloc(capacity, sizeof *grown.slots);
    if (!grown.slots)
        return -ENOMEM;
    for (size_t i = 0; i < set->capacity; i++)
        if (set->slots[i] != 0)
            grown.slots[slot_of(&grown, set->slots[i])] = set->slots[i];
    free(set->slots);
    *set = grown;
    return 0;
}

int idset_add(struct idset *set, uint64_t id)
{
    int rc = idset_reserve(set, 1);
    if (rc < 0)
        return rc;
    size_t at = slot_of(set, id);
    if (set->slots[at] == 0) {
        set->slots[at] = id;
        set->count++;
    }
    return 0;
}

void idset_clear(struct idset *set)
{
    free(set->slots);
    *set = (struct idset){0};
}

uint64_t idset_next(const struct idset *set, size_t *cursor)
{
    while (*cursor < set->capacity) {
        uint64_t id = set->slots[(*cursor)++];
        if (id != 0)
            return id;
    }
    return 0;
}

int idset_merge(struct idset *into, const struct idset *from)
{
    size_t cursor = 0;
    uint64_t id;
    int rc = 0;
    while (rc == 0 && (id = idset_next(from, &cursor)) != 0)
        rc = idset_add(into, id);
    return rc;
}
