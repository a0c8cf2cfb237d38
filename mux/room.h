// Making room before -ENOSPC or -EDQUOT is the answer. Internal to mux. Read next: room.c.
#ifndef AF_MUX_ROOM_H
#define AF_MUX_ROOM_H

#include "mux/mux_priv.h"
#include "mux/ops.h"

// After an operation on this nodeid's view answered *rc. True: room may have been made, do the
// operation again. False: *rc is the answer, MUX_SLOW where making room takes longer than the
// caller may. *tried, false at first, bounds it to one time per operation. Takes the view's lock.
bool mux_made_room(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, int *rc,
                   bool *tried);

#endif
