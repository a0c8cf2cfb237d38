// Whether a tree of a view may move: every descendant writable where it is and where it would be.
//
// Internal to mux. By P6 a rename must respect every descendant and change no descendant's level;
// since all of them must have level write on both sides, "unchanged" is "write and write". The
// rules alone often answer (nothing below can be less than write). Otherwise what is really there
// is walked: a bounded number of names on the spot, more outside of the lock on one consistent
// state; rename.c says when such an answer still holds.
// Errors: -errno. Read next: subtree.c, rename.c.
#ifndef AF_MUX_SUBTREE_H
#define AF_MUX_SUBTREE_H

#include "mux/view.h"

#define MUX_SUBTREE_FAST 1024u      // names walked under the lock
#define MUX_SUBTREE_MAX  (1u << 20) // names walked at all; a larger tree stays where it is

// The rules' state of the tree's top where it is and where it would be.
struct mux_move {
    uint64_t dir; // fid
    rules_state from, to;
};

#define MUX_SUBTREE_UNKNOWN 1 // not an error: more names than `limit`

// 0: may move. -EACCES: something below may not. In any transaction of the operation.
int mux_subtree_check(struct mux_op *op, const struct mux_move *move, unsigned limit);

// Whether `dir` is `ancestor` or lies below it. -ENAMETOOLONG more than 65,536 levels down.
int mux_subtree_contains(struct mux_op *op, uint64_t ancestor, uint64_t dir, bool *ret);

#endif
