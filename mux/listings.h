// Decoded listings of directories in frozen stacks, kept once for all views. Internal to mux.
//
// What is kept of a directory, the names and their attributes, is true for every view whose base is
// the same tree: it knows nothing of rules, nor of what a view has changed (readdir.c puts both on
// top). A tree has a number that never comes again. A stack keeps its tree, also when compaction
// tells it by other layers, but for a push that writes into the top layer of a stack that only the
// pusher sees: mux_listings_tree_changes, and then the stack has another number, so that nothing
// kept is ever untrue. Dropping any of it changes no answer.
// The table owns one reference to each listing, a caller another (mux_listing_unref). Bounded in
// bytes; the one that was not used for the longest time goes first. Large directories are not kept.
// Locks: one mutex per shard and one for the numbers, leaves. Fails: for want of memory there is
// none. Read next: listings.c, readdir.c.
#ifndef AF_MUX_LISTINGS_H
#define AF_MUX_LISTINGS_H

#include "mux/node.h"
#include "mux/resolve.h"

#include <stdatomic.h>

struct mux_listings;

struct mux_listing_name {
    struct store_entry entry; // its name lives as long as the listing
    struct mux_node node;     // what the layers say: no nodeid, stamp, state or level
};

struct mux_listing {
    atomic_uint refs;
    uint64_t fid_min, fid_max; // of the names
    uint32_t count;
    struct mux_listing_name names[]; // in the order of their cookies
};

int mux_listings_new(size_t bytes_max, struct mux_listings **ret);
void mux_listings_free(struct mux_listings *listings); // NULL is ignored

// The number of the tree that a stack tells. The caller holds the stack.
uint64_t mux_listings_tree(struct mux_listings *listings, uint64_t stack);
// A stack is about to tell another tree: in the transaction that changes it, by who alone can see
// it. If that is taken back after all, nothing is lost but what was kept.
void mux_listings_tree_changes(struct mux_listings *listings, uint64_t stack);

// The listing of a directory in a tree, and the same, made from the tree's layers if it is not
// there. NULL: it is not to be had, and the caller asks the store. The caller owns a reference.
struct mux_listing *mux_listings_find(struct mux_listings *listings, uint64_t tree, uint64_t dir);
struct mux_listing *mux_listings_make(struct mux_listings *listings, struct store_txn *txn,
                                      uint64_t tree, struct mux_layers base, uint64_t dir);
// For who looks for a single name and has found no listing: whether so many have looked before that
// decoding the directory costs less than going on. Says yes once in a while, and counts roughly.
bool mux_listings_is_due(struct mux_listings *listings, uint64_t tree, uint64_t dir);
void mux_listing_unref(struct mux_listing *listing); // NULL is ignored

// The first name behind this cookie; count: there is none.
uint32_t mux_listing_after(const struct mux_listing *listing, uint64_t cookie);

// A name with this cookie, or NULL.
const struct mux_listing_name *mux_listing_find(const struct mux_listing *listing, uint64_t cookie,
                                                const char *name, size_t name_len);

struct mux_listings_stats {
    uint64_t count, bytes, hits, misses;
};
void mux_listings_stats(struct mux_listings *listings, struct mux_listings_stats *ret);

#endif
