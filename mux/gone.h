// What the kernel may hold of a view though no name of the view leads there any more, because a
// rebase or a rollback has taken the names away. Internal to mux.
//
// The layers that the view had are pinned in the transaction that takes them away (a `past`), so
// that costs no more than the depth of a stack. Then the kernel is told, and asked which of the
// inodes that lost their names it has: what it has not is forgotten, the records of the others are
// copied into one layer of the view, a batch at a time, and the past is let go. A FORGET removes
// what is in that layer. Both are pending (store.h): a crash ends them, detaching too.
// Under the view's lock: shared to resolve, exclusive for all else. Errors: -errno.
// Read next: gone.c.
#ifndef AF_MUX_GONE_H
#define AF_MUX_GONE_H

#include "mux/fid_map.h"
#include "mux/layer_list.h"
#include "mux/rules.h"

struct mux;
struct mux_changes;
struct mux_op;
struct mux_past;

struct mux_gone {
    struct mux_fid_map fids;     // -> number of its past; 0: its record is in `layer`
    struct mux_fid_map ceilings; // of those whose record is in `layer`: mux_gone_ceiling
    uint64_t layer;              // 0: none
    struct mux_past *pasts;      // oldest first
    uint64_t last;               // number of the newest past
};

// Whether the fid has lost its names: then its record is not looked for in the view's layers.
bool mux_gone_has(const struct mux_gone *gone, uint64_t fid);
// The record of such a one, with the name and the links it had. -ENOENT.
int mux_gone_get(const struct mux_gone *gone, struct store_txn *txn, uint64_t fid,
                 struct store_inode *ret);

// The layers that still know the names it had; false: its record has been copied out of them. Then
// its level does not exceed the one that these names gave it (of several the most restricted one):
// the record remembers one name, and the directory of that may be gone.
bool mux_gone_past(const struct mux_gone *gone, uint64_t fid, struct mux_layers *ret);
enum rules_level mux_gone_ceiling(const struct mux_gone *gone, uint64_t fid);

// In the transaction that takes the names away: `before` are the layers of the view, its delta
// first; keeps_delta: that goes on as it is. What has a name again is gone no more.
int mux_gone_prepare(struct mux_gone *gone, struct store_txn *txn, struct mux_layers before,
                     bool keeps_delta, const struct mux_changes *changes, struct mux_past **ret);
// Once it is committed, or not (then *past is freed). NULL: there was nothing.
void mux_gone_publish(struct mux_gone *gone, const struct mux_changes *changes,
                      struct mux_past *past);
void mux_gone_drop(struct mux_gone *gone, const struct mux_changes *changes, struct mux_past *past);
// Asks the kernel, after it has been told of the changes: mux_gone_settle follows. No lock is held.
void mux_gone_ask(struct mux *mux, uint32_t route, const struct mux_changes *changes);

// The kernel has not got it; from mux_forgotten.
int mux_gone_forgotten(struct mux_op *op, uint64_t fid);
// A change makes it an orphan of the delta: in that transaction, and once it is committed.
int mux_gone_adopt(const struct mux_gone *gone, struct store_txn *txn, uint64_t fid);
static inline void mux_gone_remove(struct mux_gone *gone, uint64_t fid)
{
    mux_fid_map_del(&gone->fids, fid);
    mux_fid_map_del(&gone->ceilings, fid);
}

// Nobody can reach anything of it any more: in a write transaction, then the memory.
bool mux_gone_is_empty(const struct mux_gone *gone);
int mux_gone_release(const struct mux_gone *gone, struct store_txn *txn);
void mux_gone_fini(struct mux_gone *gone);

#endif
