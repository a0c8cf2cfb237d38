// An import under way: the state that import.c (entries in) and import_apply.c (batches into the
// store) share. Internal to mux. Thread: one at a time per import. Read next: import.c.
#ifndef AF_MUX_IMPORT_PRIV_H
#define AF_MUX_IMPORT_PRIV_H

#include "mux/codebase_priv.h"
#include "mux/import_copies.h"
#include "mux/layer_list.h"
#include "mux/tree_edit.h"

#define MUX_IMPORT_MAGIC 0x6d70696d

// One batch is one write transaction, in which nobody else can write: keep it to a millisecond or
// so. Each entry may hold an open blob.
#define MUX_IMPORT_BATCH_ENTRIES MUX_TREE_EDIT_PUTS_MAX
#define MUX_IMPORT_BATCH_BYTES   (512u << 10) // paths, targets and inline content

// One entry that waits for its batch.
struct mux_import_item {
    char *path;
    size_t path_len;
    mode_t mode;
    int64_t mtime_ns;
    struct mux_content content;
    bool has_source; // a file that mux_import_file read
    bool is_shared;  // its content took no copy
    struct mux_source source;
    struct mux_import_copy *copy; // under way into `content`, or NULL
    char *link_target;            // a hard link to this path, else NULL
    size_t link_target_len;
};

struct mux_import {
    uint32_t magic;
    struct mux *mux;
    struct store *store;
    struct af_id codebase_id;
    uint64_t layer; // ours, pending: nothing refers to it until the commit
    uint64_t base_head, base_stack, root_fid;
    int64_t base_updated_ns;
    bool base_is_empty;           // the head is not frozen, for it holds the root's record alone
    struct mux_layer_list layers; // ours on top of the base

    struct mux_fid_map implied;   // see tree_edit.h
    struct mux_fid_map ancestors; // kept when `replace`: directories above what was sent
    struct mux_fid_map kept;      // of the base: objects that stay as they are
    bool has_changed;             // something was put or removed
    bool replace;
    struct mux_path replaced; // below this directory
    int64_t bytes_delta, files_delta;
    struct mux_import_totals totals;

    struct mux_import_item items[MUX_IMPORT_BATCH_ENTRIES];
    size_t n_items;
    size_t batch_bytes;
    bool is_receiving; // the last item is a regular file whose data comes in through `sink`
    struct mux_content_sink sink;

    // The directory of the entry before, for entries come grouped by directory.
    struct mux_path parent_path;
    uint64_t parent_fid; // 0: none
    // The same for mux_import_keep: a directory that is in the base.
    struct mux_path kept_path;
    uint64_t kept_parent;             // 0: none
    bool clones;                      // the file system shares extents, as far as is known
    struct mux_import_copies *copies; // NULL: none was needed so far

    bool failed; // then every further call gives `failure`
    struct af_error failure;
};

// Creates the pending layer, makes the base fixed and loads it.
int mux_import_open_layer(struct mux_import *import, struct mux *mux, struct af_error *err);
// Puts the waiting items into the layer, in one transaction, and empties the queue.
int mux_import_flush(struct mux_import *import, struct af_error *err);
// Makes the layer the codebase's head. The queue is empty.
int mux_import_adopt(struct mux_import *import, struct af_error *err);
// ABORTED when the codebase is another than at the begin. Loads `layers` anew: compaction may have
// told the same tree by other ones. First thing in every transaction that looks at them.
int mux_import_check_base(struct mux_import *import, struct store_txn *txn,
                          struct store_codebase *ret, struct af_error *err);
// Begins the frame of an edit in a transaction, the base checked.
int mux_import_edit(struct mux_import *import, struct store_txn *txn, struct mux_tree_edit *ret,
                    struct af_error *err);
void mux_import_edited(struct mux_import *import, const struct mux_tree_edit *edit);
// import_host.c: the copies under way have ended, and the items have what came of them.
int mux_import_settle(struct mux_import *import, struct af_error *err);
// import.c: the steps that every entry takes, for import_host.c.
int mux_import_ready(struct mux_import *import, const void *path, size_t path_len,
                     struct mux_path *ret, struct af_error *err);
int mux_import_fail(struct mux_import *import, const struct af_error *err);
// import_remove.c: takes the path and what is below it out, in bounded transactions; and, at the
// end of an import that replaces, everything that was not sent. The queue is empty.
int mux_import_remove_tree(struct mux_import *import, const char *path, size_t len,
                           struct af_error *err);
int mux_import_remove_rest(struct mux_import *import, struct af_error *err);
// Hands the layer to the collector.
void mux_import_drop_layer(struct mux_import *import);

#endif
