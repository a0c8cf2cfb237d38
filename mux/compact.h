// Compaction: a thread that keeps stacks of layers shallow. Internal to mux.
//
// What a tree is never changes by it, only how many layers tell it: ids of stacks, fids, versions
// and cookies stay, and the kernel need not be told. Read next: compact.c, docs/CODEBASES.md.
#ifndef AF_MUX_COMPACT_H
#define AF_MUX_COMPACT_H

#include "mux/mux_priv.h"

#include <errno.h>

// Starts the thread. With options.no_compaction none is started: mux_compact_drain works still.
int mux_compact_start(struct mux *mux, bool with_thread);
// Stops the thread; what was not finished is dropped. No view is needed any more.
void mux_compact_stop(struct mux *mux);

// Merges until nothing is left to merge. Blocks; for tests and for a codebase whose stack is full.
int mux_compact_drain(struct mux *mux);

// What a stack may be deep while layers are added: then those who add do the work. Stacks with
// nothing left to merge are shallower, whatever their layers weigh.
#define MUX_STACK_SOFT_MAX 64u
#define MUX_STACK_FULL     (-EXFULL) // they are told so, abort, call this, and try again

// One slice of work for who was told that a stack is full. Other than mux_compact_step it does not
// wait after an error. *ret_more false: nothing is left to merge.
int mux_compact_relieve(struct mux *mux, bool *ret_more);

// One slice of work, as the thread does it. *ret_more: there is more to do.
int mux_compact_step(struct mux *mux, bool *ret_more);

// Has the thread look again, for what is not a stack (kept.c). Waits for nothing.
void mux_compact_wake(struct mux *mux);

// While held, no merge is put in place: for work that goes by a list of layers over more than one
// transaction. Never while waiting for mux_compact_relieve.
void mux_compact_hold(struct mux *mux);
void mux_compact_release(struct mux *mux);

#endif
