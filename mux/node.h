// Nodes: what mux knows about an inode in a view, and a bounded cache of them. Internal to mux.
//
// A node is a view's inode decoded: attributes, where the record is, and the level that the
// rules give it; for directories the rule state from which their children's levels follow. The
// cache is pure: dropping any of it changes no answer, since records keep the name and parent
// that lead back to the root (mux_node_load).
//
// The cache owns one reference to the state, and the rules, of each directory node it holds. A
// node that a caller has (struct mux_node on its stack) owns a reference of its own:
// AF_CLEANUP-like, mux_node_fini.
// Locks: one mutex per shard, rank: node cache shard, inside a view's lock. A view's nodes are
// put while holding its lock, so nobody caches what a mutation under way will change; a mutation
// publishes before it unlocks. Nothing is allocated after mux_node_cache_new.
// Read next: node.c, attr.h.
#ifndef AF_MUX_NODE_H
#define AF_MUX_NODE_H

#include "mux/mux_priv.h"
#include "mux/rules.h"

struct mux_op;

struct mux_node {
    uint64_t nodeid; // the key
    uint64_t stamp;  // of the view when it was cached; 0: shared, always true
    uint64_t fid, parent, version, size, blob;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint32_t mode, nlink, xattr_bytes;
    uint32_t index;    // of the layer that has the record; 0: the delta
    rules_state state; // of directories with a name; else RULES_STATE_INVALID
    uint8_t level;     // enum rules_level
    uint8_t content;   // enum store_content
    bool blob_owned;
};

// Copies the attributes out of a record; level, state and stamp are left as for an orphan.
void mux_node_of_inode(uint64_t nodeid, const struct store_inode *inode, size_t index,
                       struct mux_node *ret);

// The node of a fid of the operation's view, from the cache or rebuilt from the store. -ESTALE
// when there is none. The caller owns ret->state until mux_node_fini. In a write transaction: only
// before the first change.
int mux_node_load(struct mux_op *op, uint64_t fid, struct mux_node *ret);
// The same when the caller knows the state that the rules give to the name it came by; used by
// lookup and readdir, who then need not walk up. Takes its own reference.
int mux_node_load_as(struct mux_op *op, uint64_t fid, rules_state state, struct mux_node *ret);
// The same of a name that the view has not changed: `base` is what the layers below its delta say
// of the file, which has no other name.
void mux_node_of_base(struct mux_op *op, const struct mux_node *base, rules_state state, bool cache,
                      struct mux_node *ret);
// The node of a shared nodeid, from the cache or the store; takes no view's lock, but that of a
// pinned one's view. -ESTALE.
int mux_node_load_shared(struct mux *mux, uint64_t nodeid, struct mux_node *ret);
void mux_node_fini(struct mux_op *op, struct mux_node *node);

// Whether the sandbox may know of it: at least view, or a directory on the way to something.
bool mux_node_is_visible(const struct mux_op *op, const struct mux_node *node);
// Whether the rules let the sandbox change it. An orphan was writable when it lost its name.
static inline bool mux_node_is_writable(const struct mux_node *node)
{
    return node->level == RULES_WRITE;
}

// ---- the cache

int mux_node_cache_new(size_t nodes_max, struct mux_node_cache **ret);
void mux_node_cache_free(struct mux_node_cache *cache);
// A node with this stamp; ret->state carries a new reference.
bool mux_node_cache_get(struct mux_node_cache *cache, struct rules *rules, uint64_t nodeid,
                        uint64_t stamp, struct mux_node *ret);
// Inserts or replaces; takes its own references. rules may be NULL when there is no state.
void mux_node_cache_put(struct mux_node_cache *cache, struct rules *rules,
                        const struct mux_node *node);
// Takes over the attributes when the node is cached; its level and state stay.
void mux_node_cache_update(struct mux_node_cache *cache, const struct mux_node *node);
void mux_node_cache_drop(struct mux_node_cache *cache, uint64_t nodeid);
// Drops the nodes of one route, or all (0). How many there were.
uint64_t mux_node_cache_clear(struct mux_node_cache *cache, uint32_t route);
struct mux_node_cache_stats {
    uint64_t count, capacity, hits, misses, evictions;
};
void mux_node_cache_stats(struct mux_node_cache *cache, struct mux_node_cache_stats *ret);
// Looks through the whole cache, a shard at a time.
uint64_t mux_node_cache_count_route(struct mux_node_cache *cache, uint32_t route);

#endif
