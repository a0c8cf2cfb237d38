// Bringing a view's changes into its codebase, and the codebase's head into the view.
//
//   commit    pushes the delta onto the codebase's head; the view is then on that head
//   rebase    brings the view onto the head, its delta kept on top
//   rollback  drops the delta
// All work on a view that is attached and in use: open files, working directories and mappings
// stay, st_ino too. The kernel is told what changed through the notifier; whoever starts a command
// afterwards waits for that first (fs_invalidate_flush).
// All or nothing: on a failure codebase, view and delta are as they were. Committed, so a crash of
// the daemon loses nothing; not synced, unless asked for. Errors: an af_error; ABORTED for a
// conflict that is refused, FAILED_PRECONDITION when the codebase is gone (the delta stays).
// Threads: any that may block for some milliseconds, never a FUSE worker, exec's or the network's.
// Cost: a push onto an unmoved head and a rebase without a delta are O(1) transactions of a few
// records, beside reading what is new; a merge is O(delta). Read next: commit.c, docs/COMMIT.md.
#ifndef AF_MUX_COMMIT_H
#define AF_MUX_COMMIT_H

#include "mux/mux.h"

#include <stddef.h>

enum mux_conflicts {
    MUX_LAST_WRITER_WINS, // the view's version of a file replaces what came meanwhile
    MUX_CONFLICTS_REFUSED,
};

struct mux_commit_result {
    uint64_t conflicts; // names and files that others had changed as well
    bool changed;       // something was done: a head pushed, a view moved
    bool merged;        // the head had moved on
    bool told; // the kernel was told to forget: fs_invalidate_flush before a command starts
};

int mux_commit(struct mux *mux, const char *sandbox_id, enum mux_conflicts conflicts,
               struct mux_commit_result *ret, struct af_error *err);
int mux_rebase(struct mux *mux, const char *sandbox_id, enum mux_conflicts conflicts,
               struct mux_commit_result *ret, struct af_error *err);
// *ret_told as in struct mux_commit_result.
int mux_rollback(struct mux *mux, const char *sandbox_id, bool *ret_told, struct af_error *err);

// Two looks that cost a read transaction and no lock, for whoever would else commit or rebase for
// nothing. May be out of date when they return. Both false when the codebase is gone.
struct mux_commit_state {
    bool behind;  // the codebase's head is not the view's base
    bool changed; // the delta holds something to push
};
int mux_commit_look(struct mux *mux, const char *sandbox_id, struct mux_commit_state *ret,
                    struct af_error *err);
// How many names and files the delta changes: O(delta), in a read transaction.
int mux_commit_count(struct mux *mux, const char *sandbox_id, uint64_t *ret, struct af_error *err);

#endif
