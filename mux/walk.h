// A directory tree merged over its layers, depth first, each directory's names in byte order.
//
// That is "path order" everywhere in mux: compare component by component; a directory comes before
// what it holds. Internal to mux. Runs in the caller's read transaction; memory is the names of the
// directories on the way down, bounded. Symbolic links are reported, never followed.
// Errors: -errno; -E2BIG beyond the bounds. Thread: any. Read next: list_files.c, inspect_tree.c.
#ifndef AF_MUX_WALK_H
#define AF_MUX_WALK_H

#include "mux/resolve.h"

#define MUX_WALK_NAMES_MAX (4u << 20) // names held at once, over all levels
#define MUX_WALK_PATH_MAX  (1u << 20) // bytes of one path (a sandbox can nest without end)

struct mux_walk_node {
    const char *path; // NUL-terminated, relative to the root of the tree
    size_t path_len;
    const char *name; // the path's last component, NUL-terminated
    size_t name_len;
    uint32_t depth; // 1: in the directory where the walk began
    const struct store_inode *inode;
};

enum mux_walk_next { MUX_WALK_ON, MUX_WALK_PRUNE, MUX_WALK_STOP };
typedef enum mux_walk_next (*mux_walk_fn)(void *arg, const struct mux_walk_node *node);

// Everything below the directory `dir`, whose own path is `path` and which is not reported itself.
// MUX_WALK_PRUNE: do not go into this directory. Returns 0 also when fn stopped it.
int mux_walk(struct store_txn *txn, struct mux_layers layers, uint64_t dir, const char *path,
             size_t path_len, mux_walk_fn fn, void *arg);

// memcmp-like, in path order.
int mux_path_compare(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
