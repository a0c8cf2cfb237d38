// What a merged layer was made of, for as long as some stack stands on a part of it. Internal to
// mux.
//
// A view that was on [c b a] when the head [d c b a] became one layer m has d for news, and not all
// of m. So the layers of a run stay pinned, unchanged, beside the one that replaced them, until no
// stack but theirs is left (then nobody can be behind by a part), and two lists of layers are
// compared part by part. In memory: after a restart, or beyond MUX_PARTS_MAX merges, a view that is
// behind looks through the whole of m once. Lock: parts.lock, a leaf. Errors: -errno.
// Read next: parts.c, changes.h.
#ifndef AF_MUX_PARTS_H
#define AF_MUX_PARTS_H

#include "mux/layer_list.h"
#include "mux/mux_priv.h"

#define MUX_PARTS_MAX 64u // merges remembered; the oldest ones are forgotten first

int mux_parts_new(struct mux *mux);
void mux_parts_free(struct mux *mux); // memory alone: the next start lets go of the layers

// In compaction's turn: `merged` has been put in the run's place everywhere, and the merge still
// has its references to the run.
int mux_parts_note(struct mux *mux, const uint64_t *run, size_t count, uint64_t merged);
// Whether the layer is taken apart: then it may not change in place, for its parts would not.
bool mux_parts_has(struct mux *mux, uint64_t layer);
// In compaction's turn: lets go of what nobody is behind by any more.
int mux_parts_sweep(struct mux *mux);
// A stack may have lost its last view: has the thread sweep. Waits for nothing.
void mux_parts_wake(struct mux *mux);
// The same tree as `layers`, merged ones taken apart; to be freed. Inside the transaction that
// reads them.
int mux_parts_expand(struct mux *mux, struct mux_layers layers, struct mux_layer_list *ret);

#endif
