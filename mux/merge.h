// Merging a view's delta onto a head that has moved on: O(delta), by name, three ways.
//
// What the delta says against its base is done again on the head. Directories are followed by
// identity, else found by name, so those of one name made by two writers become one; files go by
// name, the last writer (the delta) wins. Nobody loses what he was not seen to remove: a deletion
// spares what has changed since, a directory with names that its remover did not know stays, and a
// file in the way of a directory, or one that was moved to where the view has another, is kept
// beside it. Each of these is a conflict, counted or
// refused. The result is written into the top layer of the head, which the caller owns: a
// codebase's open head, or a fresh layer (then in bounded transactions, `batch`). Internal to
// mux. Owns what one merge remembers, freed by mux_merge_fini. Errors: -errno; -ECANCELED for a
// conflict that is to be refused; the caller drops what was written. Read next: merge.c,
// docs/COMMIT.md.
#ifndef AF_MUX_MERGE_H
#define AF_MUX_MERGE_H

#include "mux/arena.h"
#include "mux/fid_map.h"
#include "mux/resolve.h"

struct mux_merge_name;
struct mux_merge_put;

struct mux_merge {
    struct store *store;
    struct store_txn *txn;  // a write transaction; another one after a batch
    unsigned batch;         // after so many steps: commit and begin anew; 0: never
    bool refuse;            // conflicts are refused
    struct mux_layers view; // ids[0]: the delta, then its base
    struct mux_layers head; // ids[0]: takes the result
    uint64_t root_fid;
    int64_t now_ns;
    // ---- the result
    uint64_t conflicts;
    int64_t tree_files, tree_bytes; // what the head's regular files have gained
    // ---- its own
    unsigned steps; // since the transaction began
    struct mux_arena arena;
    struct mux_merge_name *names; // the delta's entries that differ from the base
    size_t n_names, names_capacity;
    uint64_t *inodes; // fids that the delta records, unless without a name
    size_t n_inodes, inodes_capacity;
    uint64_t *fids; // to be recorded at the end
    size_t n_fids, fids_capacity;
    uint64_t *touched; // directories of the head in which names came or went
    size_t n_touched, touched_capacity;
    struct mux_merge_put *puts; // names given in the head
    size_t n_puts, puts_capacity;
    struct mux_merge_name *losers; // the files of the head that lost these names to the view's
    size_t n_losers, losers_capacity;
    struct mux_fid_map dirs;   // directory of the view -> that of the head
    struct mux_fid_map links;  // fid -> names before and what they gained, see merge_record.c
    struct mux_fid_map put_of; // fid -> 1 + index in puts
    struct mux_fid_map is_touched;
};

#define AF_CLEANUP_MERGE AF_CLEANUP(mux_merge_fini)

// store, view, head, root_fid, now_ns, batch and refuse are set by the caller, and txn: a write
// transaction that the caller ends. In batches txn is NULL before, and may be when this fails.
int mux_merge_run(struct mux_merge *merge);
void mux_merge_fini(struct mux_merge *merge);

#endif
