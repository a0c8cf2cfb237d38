// What a layer changes against the ones below it, gathered in one transaction and handed out later.
//
// Internal to mux: a sandbox's delta for its diff, what a codebase's next layer brings for those
// who watch it. Costs O(layer). Owns what it gathers, at most MUX_ARENA_CAP bytes of it. Errors:
// -errno, -E2BIG beyond that. Thread: one at a time. Read next: diff.c, news.h.
#ifndef AF_MUX_DIFF_H
#define AF_MUX_DIFF_H

#include "mux/inspect.h"
#include "mux/resolve.h"

struct mux_diff;

#define AF_CLEANUP_DIFF AF_CLEANUP(mux_diff_cleanup)

// layers.ids[0] against the rest, of which there may be none. The transaction may be one that
// writes, but nothing is written meanwhile.
int mux_diff_gather(struct store_txn *txn, struct mux_layers layers, uint64_t root_fid,
                    struct mux_diff **ret);
void mux_diff_free(struct mux_diff *diff); // NULL is ignored

// As mux_inspect_diff tells it.
int mux_diff_each(const struct mux_diff *diff,
                  int (*fn)(void *arg, const struct mux_diff_entry *entry), void *arg);

static inline void mux_diff_cleanup(struct mux_diff **diff)
{
    mux_diff_free(*diff);
}

#endif
