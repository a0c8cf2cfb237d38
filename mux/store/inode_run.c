// The records of many fids, asked for in growing order, over a stack of layers.
//
// One cursor for each layer that has any of them; it stands at the layer's first record that has
// not been asked for yet. So a layer that has nothing of what is asked costs one search in all, and
// records that stand together, as those of a directory that was imported do, one step each.
// Owns the cursors; in a read transaction, or one that nothing is written in meanwhile.
// Read next: inode.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

struct source {
    MDB_cursor *cursor;
    uint64_t layer, at; // at: the fid it stands at; UINT64_MAX: nothing is left here
    MDB_val value;
};

struct store_inode_run {
    size_t count;
    struct source sources[]; // top layer first
};

static int move(struct source *source, MDB_cursor_op op, uint64_t fid)
{
    struct key_inode want = key_of_inode(source->layer, fid), found = {0};
    MDB_val key = store_val(&want, sizeof want);
    int rc = mdb_cursor_get(source->cursor, &key, &source->value, op);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return store_errno(rc);
    if (rc == 0 && key.mv_size != sizeof found)
        return -EUCLEAN;
    if (rc == 0)
        memcpy(&found, key.mv_data, sizeof found);
    bool is_here = rc == 0 && found.layer_be == want.layer_be;
    source->at = is_here ? be64toh(found.fid_be) : UINT64_MAX;
    return 0;
}

int store_inode_run_open(struct store_txn *txn, const uint64_t *layers, size_t count,
                         uint64_t first_fid, uint64_t last_fid, struct store_inode_run **ret)
{
    struct store_inode_run *run = calloc(1, sizeof *run + (count + 1) * sizeof run->sources[0]);
    int rc = run ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct source *source = &run->sources[run->count];
        source->layer = layers[i];
        if (!source->cursor)
            rc = store_errno(
                mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_INODE], &source->cursor));
        if (rc == 0)
            rc = move(source, MDB_SET_RANGE, first_fid);
        if (rc == 0 && source->at <= last_fid) // most layers have nothing here: the next one takes
            run->count++;                      // the cursor
    }
    if (rc < 0 && run)
        store_inode_run_close(run);
    else if (rc == 0)
        *ret = run;
    return rc;
}

// Has the source stand at its first record from the fid on.
static int reach(struct source *source, uint64_t fid)
{
    int rc = source->at < fid ? move(source, MDB_NEXT, fid) : 0;
    return rc == 0 && source->at < fid ? move(source, MDB_SET_RANGE, fid) : rc;
}

int store_inode_run_find(struct store_inode_run *run, uint64_t fid, struct store_inode *ret)
{
    for (size_t i = 0; i < run->count; i++) {
        struct source *source = &run->sources[i];
        int rc = reach(source, fid);
        if (rc < 0)
            return rc;
        if (source->at == fid)
            return store_inode_decode(source->value, source->layer, fid, ret);
    }
    return -ENOENT;
}

void store_inode_run_close(struct store_inode_run *run)
{
    for (size_t i = 0; i <= run->count; i++) // with the one that found no layer
        if (run->sources[i].cursor)
            mdb_cursor_close(run->sources[i].cursor);
    free(run);
}
