// Names and inodes over a stack of layers: the read side of copy-on-write.
//
// Internal to mux. Pure reads within a caller's transaction; no locks, no allocation.
// Read next: view.h.
#ifndef AF_MUX_RESOLVE_H
#define AF_MUX_RESOLVE_H

#include "mux/store/store.h"

// Layers top first; ids[0] is the live one (the delta, or a codebase's open head).
struct mux_layers {
    const uint64_t *ids;
    size_t count;
    size_t skip; // of them, from the top, that are known to be empty
};

// The entry of a name, -ENOENT when absent or whited out. ret_index (may be NULL): its layer.
int mux_resolve_entry(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                      const char *name, size_t name_len, struct store_entry *ret,
                      size_t *ret_index);

// The topmost record of a fid. ret_index (may be NULL): its layer; 0 means it is in the live one.
int mux_resolve_inode(struct store_txn *txn, struct mux_layers layers, uint64_t fid,
                      struct store_inode *ret, size_t *ret_index);

// Walks a normalised relative path from a directory's fid, never following symlinks. -ENOENT,
// -ENOTDIR.
int mux_resolve_path(struct store_txn *txn, struct mux_layers layers, uint64_t root,
                     const char *path, size_t len, struct store_inode *ret, size_t *ret_index);

// Whether a merged directory has any entry.
int mux_resolve_dir_is_empty(struct store_txn *txn, struct mux_layers layers, uint64_t dir,
                             bool *ret_empty);

// Below a lower layer: whether the name exists under the live one, so that removing it needs a
// whiteout.
int mux_resolve_in_lower(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                         const char *name, size_t name_len, bool *ret_exists);

#endif
