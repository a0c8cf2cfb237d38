// Versions of files that views have left behind and a kernel may have open. Internal to mux.
//
// The store keeps such a version when its last record goes (mux/store/kept.c), whatever takes it.
// Then the kernel is asked whether it has the inode: never before every change of a view that was
// under way has been told, so that no lookup can bring it back. What it has not goes at once; what
// it has goes after its FORGET. So there is one entry for each such inode, and nothing for others.
// Locks: kept.asking while the notifier is asked by the sweep, before every other lock of mux;
// kept.lock, a leaf. Errors: -errno. Read next: kept.c.
#ifndef AF_MUX_KEPT_H
#define AF_MUX_KEPT_H

#include "mux/mux_priv.h"
#include "mux/rules.h"

int mux_kept_new(struct mux *mux);
void mux_kept_free(struct mux *mux);

// Before a view goes by these rules: unless they make everything writable, it may get shared
// nodeids.
void mux_kept_start(struct mux *mux, struct rules *rules);
// The last view has been detached.
void mux_kept_stop(struct mux *mux);

// Around a change of what names of a view lead to, from before its commit until the kernel has
// been told, or that is queued.
uint64_t mux_kept_begin_change(struct mux *mux);
void mux_kept_end_change(struct mux *mux, uint64_t turn);

// A FORGET of a shared nodeid; the kernel says that it has not got it. May be called on any thread.
void mux_kept_forget(struct mux *mux, uint64_t nodeid);
void mux_kept_forgotten(struct mux *mux, uint64_t nodeid);

// Asks about new ones, drops those that nobody has. *ret_more: some have not been asked about.
// Bounded transactions; on a thread that may block.
int mux_kept_sweep(struct mux *mux, bool *ret_more);

// Between the two the sweep does not ask: the notifier may change.
void mux_kept_pause_asking(struct mux *mux);
void mux_kept_resume_asking(struct mux *mux);

#endif
