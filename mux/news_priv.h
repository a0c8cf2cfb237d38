// Telling of a codebase's change, for those who make one. Internal to mux.
//
//   mux_news_begin    before the transaction that changes the codebase
//   mux_news_gather   in a transaction, while the change is still a layer of its own
//   mux_news_tell     or, once it is committed: one thing at a time
//   mux_news_end      afterwards, whatever has become of it
//
// Locks, in this order, between a view's lock and the store's writer: `gate`, shared, so that no
// listener comes in the middle of a change; and when somebody watches this codebase its `order`, so
// that changes are told in the order of their commits. Errors: none; what cannot be gathered is
// told as lost. Read next: news.c.
#ifndef AF_MUX_NEWS_PRIV_H
#define AF_MUX_NEWS_PRIV_H

#include "mux/diff.h"
#include "mux/mux_priv.h"
#include "mux/news.h"

struct mux_news_watched;

struct mux_news_turn {
    struct mux *mux; // NULL: not begun
    struct mux_news_watched *watched;
    const char *sandbox_id; // of a commit, or NULL
    struct mux_diff *diff;  // what was gathered
    uint64_t lost;
};

int mux_news_new(struct mux *mux);
void mux_news_free(struct mux *mux); // nobody listens any more

void mux_news_begin(struct mux *mux, const char *codebase_id, struct mux_news_turn *ret);
// A commit of this sandbox, which is held.
void mux_news_begin_commit(struct mux *mux, const char *sandbox_id, struct mux_news_turn *ret);
static inline bool mux_news_wanted(const struct mux_news_turn *turn)
{
    return turn->watched != NULL;
}
// What layers.ids[0] changes in the rest. Nothing when nobody wants it, or it is known already.
void mux_news_gather(struct mux_news_turn *turn, struct store_txn *txn, struct mux_layers layers,
                     uint64_t root_fid);
// The same before the turn has begun: for mux_news_turn.diff, and *ret_lost for its `lost`. NULL
// and 0 when nobody wants it.
struct mux_diff *mux_news_gather_early(struct mux *mux, const char *codebase_id,
                                       struct store_txn *txn, struct mux_layers layers,
                                       uint64_t root_fid, uint64_t *ret_lost);
void mux_news_tell(const struct mux_news_turn *turn, const struct mux_diff_entry *entry);
void mux_news_tell_deleted(const struct mux_news_turn *turn);
// done: it is committed, and what was gathered is told.
void mux_news_end(struct mux_news_turn *turn, bool done);

#endif
