// A map from fids (never 0) to 64-bit values, for work that must remember what it has met.
//
// Internal to mux. Owns its table; grows by doubling, never shrinks; what is removed makes room
// again when it fills up. Errors: -ENOMEM. Thread: one at a time. Read next: diff.c and import.c,
// who use it.
#ifndef AF_MUX_FID_MAP_H
#define AF_MUX_FID_MAP_H

#include "mux/base/cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mux_fid_map {
    struct mux_fid_slot *slots;
    size_t capacity; // 0 or a power of two
    size_t used;     // slots that are or were in use
};

#define AF_CLEANUP_FID_MAP AF_CLEANUP(mux_fid_map_fini)

void mux_fid_map_fini(struct mux_fid_map *map);
// Inserts or replaces; replacing cannot fail.
int mux_fid_map_put(struct mux_fid_map *map, uint64_t fid, uint64_t value);
// Whether the fid is there; *ret_value (may be NULL) is its value.
bool mux_fid_map_get(const struct mux_fid_map *map, uint64_t fid, uint64_t *ret_value);
// Goes through the map, from *position 0: the next fid, or false. Nothing may change meanwhile.
bool mux_fid_map_next(const struct mux_fid_map *map, size_t *position, uint64_t *ret_fid,
                      uint64_t *ret_value);
// No error when absent.
void mux_fid_map_del(struct mux_fid_map *map, uint64_t fid);

#endif
