// What the parts of mux that change a codebase share. Internal to mux; in the caller's transaction.
// Nothing is owned or locked. Errors: -errno. Read next: codebase.c.
#ifndef AF_MUX_CODEBASE_PRIV_H
#define AF_MUX_CODEBASE_PRIV_H

#include "mux/codebase.h"
#include "mux/store/store.h"
#include "mux/tree_edit.h"

// Makes everything in the codebase part of its stack: a dirty head is frozen and pushed, with an
// empty one in its place. Afterwards codebase->stack is the whole tree. Puts the record when it
// changed anything. MUX_STACK_FULL (compact.h) when layers must be merged first.
int mux_codebase_freeze_head(struct store_txn *txn, struct store_codebase *codebase);

// Before an edit: when the head is empty and no view holds the stack any more, its top layer
// becomes the head again, so that uploads and short-lived sandboxes taken in turn do not pile up
// layers. Changes *codebase; the edit that follows puts the record.
int mux_codebase_thaw_head(struct mux *mux, struct store_txn *txn, struct store_codebase *codebase);

// Adds an edit's counters to the record, marks the head dirty and puts it.
int mux_codebase_apply_edit(struct store_txn *txn, struct store_codebase *codebase,
                            const struct mux_tree_edit *edit);

#endif
