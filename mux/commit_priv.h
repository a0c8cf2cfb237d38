// One commit, rebase or rollback under way. Internal to mux.
//
// A step holds the view (mux_view_hold) and one write transaction; the records are read in that
// transaction and the new state is put in it, so whoever else changes a stack (compaction, an
// upload, another push) is either before or after. Errors: -errno; -ECANCELED: a refused conflict,
// -EAGAIN: overtaken, do it again, -EOWNERDEAD: the codebase is gone. Read next: commit.c, push.c,
// move.c.
#ifndef AF_MUX_COMMIT_PRIV_H
#define AF_MUX_COMMIT_PRIV_H

#include "mux/changes.h"
#include "mux/codebase_priv.h"
#include "mux/commit.h"
#include "mux/compact.h"
#include "mux/kept.h"
#include "mux/layer_list.h"
#include "mux/merge.h"
#include "mux/news_priv.h"
#include "mux/view.h"

struct mux_move {
    struct mux *mux;
    const char *sandbox_id;
    enum mux_conflicts conflicts;
    bool push;     // a commit; else a rebase
    bool rollback; // neither: needs no codebase
    bool any_size; // a large merge too is done in one step: it was overtaken too often
    // ---- one step
    struct mux_hold hold;
    struct store_txn *txn;
    struct store_sandbox sandbox; // as it was found; its pointers are void
    struct store_codebase codebase;
    struct store_layer delta;
    struct mux_layer_list view;  // ids[0]: the delta
    struct mux_layer_list after; // what the view has afterwards; count 0: as it was
    uint64_t stack;              // that it is on afterwards
    bool same_tree;              // the view shows what it showed: only its layers are others
    struct mux_changes changes;
    struct mux_fid_map joined; // directories of the view that became one with others of the head
    struct mux_fid_map known;  // of these, what the view had before
    struct mux_past *past;     // of the view, with what has lost its names; or NULL
    uint64_t *revived;         // orphans that have a name again
    size_t n_revived, revived_capacity;
    bool prepares;             // the step changes nothing that the view shows
    struct mux_news_turn news; // of a push
    struct mux_diff *brought;  // what a large merge changes in the codebase, for `news`, or NULL
    uint64_t brought_lost;     // then about so many changes, when they cannot be told; or 0
    struct mux_commit_result result;
    struct mux_large *large; // move.c's own
};

// commit.c
// Loads what the step is about, in move->txn. -ENOENT: no such sandbox; -EOWNERDEAD.
int mux_move_load(struct mux_move *move);
// Gives the view its layers: `delta` on the codebase's present stack, which may be the one it has.
// Takes over the caller's reference to `delta` when it is another one than the view's. Collects
// what changes for the kernel, unless move->large has, and pins what would be lost.
int mux_move_put_view(struct mux_move *move, uint64_t delta, uint64_t stack);
// Holds the view, begins a transaction and loads; runs fn; commits and publishes when fn returns 0
// and has set result.changed; tells the kernel. Returns what fn returned, or -errno.
int mux_move_step(struct mux_move *move, int (*fn)(struct mux_move *move));
// 0 when the delta has nothing but orphans.
int mux_move_has_changes(struct mux_move *move, bool *ret);

// push.c: the head is the view's base
bool mux_move_is_current(const struct mux_move *move);
int mux_push(struct mux_move *move);
// What may still be open without a name goes from the delta into the layer `to`; `take`: it leaves
// the delta, which is to be frozen. What has a name in `base`, on which the view will stand, is no
// orphan any more: others have kept it.
int mux_push_keep_orphans(struct mux_move *move, uint64_t to, bool take, struct mux_layers base);
// The same for a delta that stays: what has a name in `base` leaves it.
int mux_push_drop_revived(struct mux_move *move, struct mux_layers base);
// The codebase's record after a push. files, bytes: what its tree has gained.
int mux_push_count(struct mux_move *move, int64_t files, int64_t bytes);

// move.c: it has moved on
#define MUX_MOVE_LARGE 1 // not an error: too much for one step
// Within a step. MUX_MOVE_LARGE, unless any_size.
int mux_move_merge(struct mux_move *move, bool changed);
// In several steps. -EAGAIN: overtaken.
int mux_move_large(struct mux_move *move);

#endif
