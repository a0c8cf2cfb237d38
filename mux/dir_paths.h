// From a directory's fid to its path, by the parent hints of its record, remembered.
//
// Internal to mux; within one read transaction. A directory whose chain of names does not lead to
// the root any more (deleted, with records left behind) has no path. Paths live in the arena.
// Errors: -errno; -E2BIG when the arena is full. Read next: diff.c.
#ifndef AF_MUX_DIR_PATHS_H
#define AF_MUX_DIR_PATHS_H

#include "mux/arena.h"
#include "mux/fid_map.h"
#include "mux/resolve.h"

struct mux_dir_path {
    const char *text; // "" for the root
    size_t len;
};

struct mux_dir_paths {
    struct store_txn *txn;
    struct mux_layers layers;
    uint64_t root_fid;
    struct mux_arena *arena;
    struct mux_fid_map known; // fid -> struct mux_dir_path *, 0: none
};

void mux_dir_paths_init(struct mux_dir_paths *paths, struct store_txn *txn,
                        struct mux_layers layers, uint64_t root_fid, struct mux_arena *arena);
void mux_dir_paths_fini(struct mux_dir_paths *paths);

// *ret is NULL when no names lead to the directory.
int mux_dir_paths_get(struct mux_dir_paths *paths, uint64_t fid, const struct mux_dir_path **ret);

// Whether (parent, name) is the fid's name there and the parent has a path.
int mux_dir_paths_has(struct mux_dir_paths *paths, uint64_t parent, const char *name,
                      size_t name_len, uint64_t fid, bool *ret);

// The path of a name in a directory, in the arena; *ret_text is NULL when the directory has none.
int mux_dir_paths_join(struct mux_dir_paths *paths, uint64_t parent, const char *name,
                       size_t name_len, const char **ret_text, size_t *ret_len);

#endif
