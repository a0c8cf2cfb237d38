// The top directory of the mount, above all views: root only, lists attached sandboxes by id, and
// holds the sentinel .agentfense by which the daemon primes the open policy at start-up.
//
// Internal to mux. Nothing in it can be changed (-EPERM). Sandboxes come and go without the
// kernel's knowledge, so no name in it is ever cached (entry ttl 0, no negative entries).
// Locks: the view table's, shared, for moments. Read next: top.c.
#ifndef AF_MUX_TOP_H
#define AF_MUX_TOP_H

#include "mux/nodeid.h"
#include "mux/ops.h"

#define MUX_SENTINEL_NAME ".agentfense"

static inline bool mux_top_owns(uint64_t nodeid)
{
    return nodeid == MUX_NODEID_TOP || nodeid == MUX_NODEID_SENTINEL;
}

int mux_top_lookup(struct mux *mux, const struct mux_ctx *ctx, const char *name,
                   struct mux_entry *ret);
int mux_top_getattr(struct mux *mux, uint64_t nodeid, struct stat *ret, int64_t *ret_ttl_ns);
int mux_top_read(uint64_t nodeid, size_t size, off_t offset, struct mux_read *ret);
int mux_top_readdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t cookie, bool plus,
                    mux_readdir_fn fn, void *arg);

#endif
