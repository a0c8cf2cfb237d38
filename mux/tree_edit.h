// Putting objects into a codebase's tree by path: what uploads and imports have in common.
//
// Internal to mux. Works in the caller's write transaction on a live layer (layers.ids[0]) over
// frozen ones. Symbolic links are never followed, neither as parents nor as the last component
// (E1, E7): a link in the way of a file is replaced. Nothing is owned, nothing locks. Errors: an
// af_error; the caller aborts the transaction. Read next: upload.c, import.c.
#ifndef AF_MUX_TREE_EDIT_H
#define AF_MUX_TREE_EDIT_H

#include "mux/content.h"
#include "mux/fid_map.h"
#include "mux/host_call.h"
#include "mux/resolve.h"

struct mux_tree_edit {
    struct store *store;
    struct store_txn *txn;
    struct mux_layers layers; // ids[0] takes the records
    uint64_t root_fid;
    int64_t now_ns;
    // Import only, else NULL: objects recorded in the live layer that were not given by name
    // (parents, files that lost a name), so that an explicit entry for them may still come while
    // no path may be given twice.
    struct mux_fid_map *implied;
    // What the edit adds to the codebase's counters.
    int64_t bytes_delta, files_delta;
};

struct mux_tree_object {
    mode_t mode; // type and permission bits
    int64_t mtime_ns;
    const struct mux_content *content; // regular files and symlink targets, else NULL
};

// The directory that holds the path's last component, made (0755) where missing. The path is
// normalised and not the root.
int mux_tree_edit_parent(struct mux_tree_edit *edit, const char *path, size_t len,
                         uint64_t *ret_parent, struct af_error *err);
// Puts the object at the path, whose parent is known. A regular file that replaces one keeps its
// fid. *ret_blob: the blob that the record refers to (0: none).
int mux_tree_edit_put(struct mux_tree_edit *edit, uint64_t parent, const char *path, size_t len,
                      const struct mux_tree_object *object, uint64_t *ret_blob,
                      struct af_error *err);
// The explicit entry for the root directory itself (import).
int mux_tree_edit_put_root(struct mux_tree_edit *edit, mode_t mode, int64_t mtime_ns,
                           struct af_error *err);

// Where the last component of a normalised path begins.
size_t mux_path_name_start(const char *path, size_t len);

#endif
