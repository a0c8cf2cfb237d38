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
#include "mux/source.h"

#define MUX_TREE_EDIT_PUTS_MAX 64 // by one edit of an import

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
    // Import only, else NULL: objects of the base that are as they were given, and so have no
    // record.
    const struct mux_fid_map *kept;
    // Import only, else NULL: every directory that mux_tree_edit_parent went through.
    struct mux_fid_map *ancestors;
    // Of `implied`, what this edit has taken out: mux_tree_edit_undo puts it back.
    uint64_t given[MUX_TREE_EDIT_PUTS_MAX];
    size_t n_given;
    // Set with the error of a put: so many bytes of its path name an object of another kind that is
    // in the way and was not given; once it is gone, the put may be tried again.
    size_t clash_len;
    // What the edit adds to the codebase's counters.
    int64_t bytes_delta, files_delta;
};

struct mux_tree_object {
    mode_t mode; // type and permission bits
    int64_t mtime_ns;
    const struct mux_content *content; // regular files and symlink targets, else NULL
    const struct mux_source *source;   // what a regular file was read from, or NULL
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
// One more name for the file at `target`, a normalised path. Directories have no second names.
int mux_tree_edit_link(struct mux_tree_edit *edit, uint64_t parent, const char *path, size_t len,
                       const char *target, size_t target_len, struct af_error *err);
// Takes the name at the path out of the tree, if it is there. What a directory holds must have been
// dealt with: it cannot be reached afterwards. -errno.
int mux_tree_edit_drop(struct mux_tree_edit *edit, const char *path, size_t len);
// The transaction was aborted: an import's memory of what it was given is as before the edit.
void mux_tree_edit_undo(struct mux_tree_edit *edit);
// Whether an import has recorded this object because it was told to, not on the way to another.
bool mux_tree_edit_is_given(const struct mux_tree_edit *edit, uint64_t fid);
// The explicit entry for the root directory itself (import).
int mux_tree_edit_put_root(struct mux_tree_edit *edit, mode_t mode, int64_t mtime_ns,
                           struct af_error *err);

// Where the last component of a normalised path begins.
size_t mux_path_name_start(const char *path, size_t len);

#endif
