// The end of a large file that is appended to after a commit: it changes hands, and nothing is
// copied.
//
// A record shows as many bytes of its blob as its size says. What comes after them is free to be
// written as long as one record alone does so: the one that owns the blob, from blob_shared on
// (store.h). Two things say that it is free. The blob's record names the last owner's layer: when
// that is frozen or gone, its owner writes no more. And the blob's file ends where the record does:
// it never gets shorter, so no record has more, nor has after a power cut. Then the view may become
// the owner, whichever layer its record was found in. Whoever finds it otherwise, and whoever
// changes bytes that others have, copies. Before a copy is made of a blob whose end is one's own
// the ownership is given up, for as long as the delta lives: what is copied does not change
// (copy_up.h).
//
// Under the view's exclusive lock, in a transaction of its own, before a byte is written: a crash
// leaves one owner or none. Errors: -errno. Read next: edit.h, body.c.
#include "mux/edit.h"

// Another view may have been first, though this one has looked: who looks sees what is committed.
static int take_over(struct mux_op *op, struct mux_record *record)
{
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = store_blob_may_own(op->txn, record->inode.blob);
    if (rc <= 0)
        return rc;
    record->inode.blob_owned = true;
    record->inode.blob_shared = record->inode.size;
    return mux_record_put(op, record);
}

static int give_up(struct mux_op *op, struct mux_record *record)
{
    record->inode.blob_owned = false;
    int rc = mux_op_write(op);
    return rc == 0 ? mux_record_put(op, record) : rc;
}

int mux_tail_settle(struct mux_op *op, uint64_t fid, bool *ret_has)
{
    struct mux_record record;
    int rc = mux_record_load_held(op, fid, &record);
    if (rc == 0)
        rc = record.inode.blob_owned ? give_up(op, &record) : take_over(op, &record);
    if (rc == 0 && op->writing)
        rc = mux_op_commit(op);
    *ret_has = rc == 0 && record.inode.blob_owned;
    return rc;
}
