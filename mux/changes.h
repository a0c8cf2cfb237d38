// What differs between two states of a view, for the kernel to forget. Internal to mux.
//
// Both states are lists of layers; only the layers that one of them has alone are walked, so the
// cost is that of the changes, not of the tree; merged layers count by their parts (parts.h).
// Filled within a transaction, before the new state is published; told after it is, with no lock
// held. Owns what it gathers. Errors: -errno, -E2BIG for want of memory. Read next: changes.c,
// commit.c.
#ifndef AF_MUX_CHANGES_H
#define AF_MUX_CHANGES_H

#include "mux/arena.h"
#include "mux/fid_map.h"
#include "mux/mux_priv.h"
#include "mux/resolve.h"

struct mux_change_item;

struct mux_changes {
    struct mux_arena arena;
    struct mux_change_item *items;
    size_t count, capacity;
    struct mux_fid_map dirs;  // directories whose listing changed
    struct mux_fid_map named; // what names lead to now that led elsewhere, or nowhere
    uint64_t *gone;           // what had a name and has none
    size_t n_gone;
};

#define AF_CLEANUP_CHANGES AF_CLEANUP(mux_changes_fini)

void mux_changes_fini(struct mux_changes *changes);
int mux_changes_collect(struct mux *mux, struct store_txn *txn, struct mux_layers before,
                        struct mux_layers after, struct mux_changes *ret);
// A directory whose attributes and listing are others.
int mux_changes_add_directory(struct mux_changes *changes, uint64_t fid);
// One whose names are others by now, all of those that it has and may have had by this number.
int mux_changes_add_names(struct mux_changes *changes, struct store_txn *txn,
                          struct mux_layers layers, uint64_t dir, uint64_t number);
// The name that leads to the directory is taken back, and with it what is remembered of its names.
int mux_changes_drop_directory(struct mux_changes *changes, struct store_txn *txn,
                               struct mux_layers layers, uint64_t dir);
// For a view with this route (nodeid.h).
void mux_changes_tell(struct mux *mux, uint32_t route, const struct mux_changes *changes);

#endif
