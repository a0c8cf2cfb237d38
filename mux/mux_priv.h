// struct mux and what every file of mux may use of it. Internal to mux.
//
// Owns: the store, the table of attached views, the node cache, the counters. Everything but the
// counters is set before the first operation and constant afterwards, or guarded by the module
// that is named beside it.
// Lock ranks, outermost first: view table (view_table.c) > view (view.h) > news (news_priv.h) >
// node cache shard (node.c) > LMDB writer. The notifier is called with none of them held.
// Read next: view.h.
#ifndef AF_MUX_MUX_PRIV_H
#define AF_MUX_MUX_PRIV_H

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/ops.h"
#include "mux/store/store.h"

#include <stdatomic.h>

#define MUX_MAGIC 0x6d757831u

// How much a commit does at once; docs/COMMIT.md has the figures.
// Records of a delta that go into the layer below it; more are a layer of their own.
#define MUX_ABSORB_MAX 128u
// Records of the delta and of what is new in the head that are merged holding view and writer; more
// are merged in batches, holding neither.
#define MUX_MERGE_STEP_MAX 512u
#define MUX_MERGE_BATCH    128u // records looked at or changed in one transaction of such a merge

struct mux_view_table;
struct mux_kept;
struct mux_parts;
struct mux_compact;
struct mux_news;
struct mux_node_cache;
struct mux_listings;

struct mux {
    uint32_t magic;
    struct store *store;
    uid_t uid_base;
    uint32_t uid_count;
    uid_t reserved_uid;
    bool no_sharing;                     // mux/nodeid.h
    uint64_t iops_max, bandwidth_max;    // of each view; 0: none
    int64_t opened_ns;                   // wall clock: the times of the top directory
    const struct mux_notifier *notifier; // or NULL: nobody listens (tests, tools)
    void *notifier_arg;
    atomic_bool content_fixed;                        // mux_fix_content
    atomic_bool blobs_in_memory;                      // copy_up.c: reading them waits for no disk
    unsigned absorb_max, merge_step_max, merge_batch; // as above; tests set others
    struct mux_view_table *views;                     // view_table.c
    struct mux_node_cache *nodes;                     // node.c
    struct mux_listings *listings;                    // listings.c
    struct mux_compact *compact;                      // compact.c
    struct mux_kept *kept;                            // kept.c
    struct mux_parts *parts;                          // parts.c
    struct mux_news *news;                            // news.c
    struct {
        _Atomic uint64_t copy_ups, shared_write_alarms, lookups_hidden, merges,
            compared,     // records, for what changed between two heads
            settled,      // looked at, of what had lost its names, ...
            settle_steps; // ... in so many turns of the view's lock
    } counters;
};

// As mux_open, with another bound on the node cache: tests use a handful to force rebuilding.
int mux_open_sized(const struct mux_options *options, size_t nodes_max, struct mux **ret,
                   struct af_error *err);

static inline void mux_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void mux_notify_inval_inode(struct mux *mux, uint64_t nodeid, int64_t offset,
                                          int64_t len)
{
    if (mux->notifier && mux->notifier->inval_inode)
        mux->notifier->inval_inode(mux->notifier_arg, nodeid, offset, len);
}

static inline void mux_notify_expire_entry(struct mux *mux, uint64_t parent, const char *name,
                                           size_t name_len)
{
    if (mux->notifier && mux->notifier->expire_entry)
        mux->notifier->expire_entry(mux->notifier_arg, parent, name, name_len);
}

static inline void mux_notify_inval_entry(struct mux *mux, uint64_t parent, const char *name,
                                          size_t name_len)
{
    if (mux->notifier && mux->notifier->inval_entry)
        mux->notifier->inval_entry(mux->notifier_arg, parent, name, name_len);
}

static inline void mux_notify_moved_directory(struct mux *mux, uint64_t parent, const char *name,
                                              size_t name_len, uint64_t nodeid)
{
    if (mux->notifier && mux->notifier->moved_directory)
        mux->notifier->moved_directory(mux->notifier_arg, parent, name, name_len, nodeid);
}

#endif
