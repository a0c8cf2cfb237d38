// Open addressing with linear probing; a removed key stays as a mark so that probes go on past it.
// Owns the table. Fails with -ENOMEM only. Read next: fid_map.h.
#include "mux/fid_map.h"

#include <errno.h>

struct mux_fid_slot {
    uint64_t fid; // 0: never used
    uint64_t value;
    bool present; // false with a fid: removed
};

#define CAPACITY_FIRST 64

static size_t slot_of(const struct mux_fid_map *map, uint64_t fid)
{
    uint64_t hash = fid * 0x9E3779B97F4A7C15ULL; // fids are consecutive: spread them
    return (size_t)(hash >> 20) & (map->capacity - 1);
}

// The slot that holds the fid, or the free one where it belongs.
static struct mux_fid_slot *probe(const struct mux_fid_map *map, uint64_t fid)
{
    size_t i = slot_of(map, fid);
    while (map->slots[i].fid != 0 && map->slots[i].fid != fid)
        i = (i + 1) & (map->capacity - 1);
    return &map->slots[i];
}

static size_t count_present(const struct mux_fid_map *map)
{
    size_t count = 0;
    for (size_t i = 0; i < map->capacity; i++)
        count += map->slots[i].present;
    return count;
}

// Makes room: twice the table, or the same size without the marks where those filled it.
static int grow(struct mux_fid_map *map)
{
    bool crowded = count_present(map) * 2 >= map->capacity;
    struct mux_fid_map bigger = {.capacity = crowded ? map->capacity * 2 : map->capacity};
    if (map->capacity == 0)
        bigger.capacity = CAPACITY_FIRST;
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots)
        return -ENOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        if (!map->slots[i].present)
            continue;
        *probe(&bigger, map->slots[i].fid) = map->slots[i];
        bigger.used++;
    }
    free(map->slots);
    *map = bigger;
    return 0;
}

void mux_fid_map_fini(struct mux_fid_map *map)
{
    free(map->slots);
    *map = (struct mux_fid_map){0};
}

int mux_fid_map_put(struct mux_fid_map *map, uint64_t fid, uint64_t value)
{
    bool known = map->capacity > 0 && probe(map, fid)->fid == fid;
    if (!known && map->used * 4 >= map->capacity * 3) {
        int rc = grow(map);
        if (rc < 0)
            return rc;
    }
    struct mux_fid_slot *slot = probe(map, fid);
    if (slot->fid == 0)
        map->used++;
    *slot = (struct mux_fid_slot){.fid = fid, .value = value, .present = true};
    return 0;
}

bool mux_fid_map_get(const struct mux_fid_map *map, uint64_t fid, uint64_t *ret_value)
{
    if (map->capacity == 0)
        return false;
    const struct mux_fid_slot *slot = probe(map, fid);
    if (slot->fid == 0 || !slot->present)
        return false;
    if (ret_value)
        *ret_value = slot->value;
    return true;
}

void mux_fid_map_del(struct mux_fid_map *map, uint64_t fid)
{
    if (map->capacity > 0)
        probe(map, fid)->present = false;
}

bool mux_fid_map_next(const struct mux_fid_map *map, size_t *position, uint64_t *ret_fid,
                      uint64_t *ret_value)
{
    while (*position < map->capacity) {
        const struct mux_fid_slot *slot = &map->slots[(*position)++];
        if (!slot->present)
            continue;
        *ret_fid = slot->fid;
        *ret_value = slot->value;
        return true;
    }
    return false;
}
