// What unlink and rename share. Internal to mux; in an operation that holds the view exclusively.
// Nothing is owned. Errors: -errno. Read next: unlink.c.
#ifndef AF_MUX_REMOVE_H
#define AF_MUX_REMOVE_H

#include "mux/names.h"

// Takes the name out of the directory: deletes the delta's entry, or hides a lower layer's.
int mux_remove_name(struct mux_op *op, uint64_t dir, const struct mux_name *name);
// 0 or -ENOTEMPTY. Hidden names count: what the sandbox cannot see it cannot remove either.
int mux_check_empty(struct mux_op *op, uint64_t dir);
// Deletes the forgotten orphans (unlink.c).
int mux_delete_dead(struct mux_op *op);

#endif
