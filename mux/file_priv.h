// Making a mux_file from an inode record. Internal to mux. Read next: file.c.
#ifndef AF_MUX_FILE_PRIV_H
#define AF_MUX_FILE_PRIV_H

#include "mux/codebase.h"
#include "mux/host_call.h"
#include "mux/store/store.h"

// Within the transaction of the record. -EISDIR for a directory, -EINVAL for what is no regular
// file, -ENOENT when the blob went away meanwhile (the record is out of date: resolve again).
int mux_file_open_inode(struct store *store, const struct store_inode *inode,
                        struct mux_file **ret);

// Resolves a path in a codebase's head or a sandbox's view with `load` and opens it, again when
// the content was replaced in between. `what` owns the failure text of load.
typedef int (*mux_file_load_fn)(struct store_txn *txn, const char *id, uint64_t *ret_live,
                                uint64_t *ret_stack, uint64_t *ret_root);
int mux_file_open_path(struct mux *mux, mux_file_load_fn load, const char *id,
                       const struct mux_path *path, struct mux_file **ret, struct af_error *err);

#endif
