// The collector: deletes the records of layers that nothing refers to, and the files of blobs.
//
// Works in bounded transactions, so that it never holds the writer lock for long; a restart goes on
// where it was, since the queues are records themselves. Read next: background.c.
#include "mux/store/store_priv.h"

#include <errno.h>

#define UNLINK_BATCH 256

// The first key of a database as an id; 1 when there is one.
static int first_id(struct store_txn *txn, enum store_dbi dbi, uint64_t *ret)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    MDB_val key, value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    if (mdb_rc == 0 && key.mv_size == sizeof(struct key_id)) {
        struct key_id id;
        memcpy(&id, key.mv_data, sizeof id);
        *ret = be64toh(id.be);
        rc = 1;
    } else if (mdb_rc != MDB_NOTFOUND) {
        rc = mdb_rc == 0 ? -EUCLEAN : store_errno(mdb_rc);
    }
    mdb_cursor_close(cursor);
    return rc;
}

struct batch {
    uint64_t fids[512];
    unsigned count, max;
};

static int collect_fid(void *arg, const struct store_inode *inode)
{
    struct batch *batch = arg;
    if (batch->count == batch->max)
        return 1;
    batch->fids[batch->count++] = inode->fid;
    return 0;
}

// Deletes the keys of one layer in a database, at most `max`.
static int delete_keys(struct store_txn *txn, enum store_dbi dbi, uint64_t layer, unsigned max,
                       unsigned *count)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    struct key_id prefix = key_of_id(layer);
    while (rc == 0 && *count < max) {
        MDB_val key = store_val(&prefix, sizeof prefix), value;
        int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (mdb_rc == MDB_NOTFOUND ||
            (mdb_rc == 0 &&
             (key.mv_size < sizeof prefix || memcmp(key.mv_data, &prefix, sizeof prefix) != 0)))
            break;
        txn->changed = true;
        rc = store_keep_error(txn, store_errno(mdb_rc != 0 ? mdb_rc : mdb_cursor_del(cursor, 0)));
        if (rc == 0)
            ++*count;
    }
    mdb_cursor_close(cursor);
    return rc;
}

// Deletes up to `max` records of the layer; when none are left, the layer itself.
static int collect_layer(struct store_txn *txn, uint64_t layer, unsigned max, unsigned *count)
{
    struct batch batch = {.max = max < 512 ? max : 512};
    int rc = store_layer_inodes(txn, layer, collect_fid, &batch);
    if (rc < 0)
        return rc;
    rc = 0;
    for (unsigned i = 0; rc == 0 && i < batch.count; i++, ++*count)
        rc = store_inode_del(txn, layer, batch.fids[i]);
    if (rc == 0 && *count < max)
        rc = delete_keys(txn, STORE_DBI_ENTRY, layer, max, count);
    if (rc == 0 && *count < max)
        rc = delete_keys(txn, STORE_DBI_ORPHAN, layer, max, count);
    if (rc == 0 && *count < max)
        rc = delete_keys(txn, STORE_DBI_LINK, layer, max, count);
    if (rc == 0 && *count < max) {
        struct key_id key = key_of_id(layer);
        rc = store_del(txn, STORE_DBI_LAYER, store_val(&key, sizeof key));
        if (rc == 0)
            rc = store_del(txn, STORE_DBI_GARBAGE, store_val(&key, sizeof key));
        ++*count;
    }
    return rc;
}

int store_gc_step(struct store *store, unsigned max, uint64_t *ret_removed)
{
    struct store_txn *txn;
    uint64_t layer = 0;
    unsigned count = 0;
    *ret_removed = 0;
    int rc = store_read_begin(store, &txn); // most steps find nothing: no write transaction
    if (rc < 0)
        return rc;
    rc = first_id(txn, STORE_DBI_GARBAGE, &layer);
    store_read_end(txn);
    if (rc <= 0)
        return rc;
    rc = store_write_begin(store, &txn);
    if (rc < 0)
        return rc;
    rc = collect_layer(txn, layer, max, &count);
    if (rc < 0) {
        store_abort(txn);
        return rc;
    }
    rc = store_commit(txn);
    if (rc == 0)
        *ret_removed = count;
    return rc;
}

// The next ids of the queue, as the last sync point shows it: their last references are gone from
// the disk, too. Blobs up to gc.unlinked_to have been unlinked already.
static int read_unlink_queue(struct store *store, uint64_t ids[UNLINK_BATCH])
{
    int count = 0;
    pthread_mutex_lock(&store->sync.point);
    uint64_t synced = atomic_load(&store->sync.synced);
    if (synced != store->gc.unlinked_sync)
        store->gc.unlinked_to = 0;
    store->gc.unlinked_sync = synced;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(store->sync.pinned, store->dbi[STORE_DBI_UNLINK], &cursor);
    if (rc == 0) {
        struct key_id id = key_of_id(store->gc.unlinked_to + 1);
        MDB_val key = store_val(&id, sizeof id), value;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        for (; rc == 0 && count < UNLINK_BATCH && key.mv_size == sizeof id;
             rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            memcpy(&id, key.mv_data, sizeof id);
            ids[count++] = be64toh(id.be);
        }
        mdb_cursor_close(cursor);
    }
    pthread_mutex_unlock(&store->sync.point);
    return rc != 0 && rc != MDB_NOTFOUND ? store_errno(rc) : count;
}

int store_gc_unlink(struct store *store)
{
    uint64_t ids[UNLINK_BATCH];
    int count = read_unlink_queue(store, ids);
    if (count <= 0)
        return count;
    store->gc.unlinked_to = ids[count - 1];
    bool failed[UNLINK_BATCH] = {false};
    for (int i = 0; i < count; i++)
        failed[i] = store_blob_unlink(store, ids[i]) < 0; // stays queued: tried again later
    struct store_txn *txn;
    int rc = store_write_begin(store, &txn);
    if (rc < 0)
        return rc;
    for (int i = 0; rc == 0 && i < count; i++) {
        struct key_id key = key_of_id(ids[i]);
        if (!failed[i])
            rc = store_del(txn, STORE_DBI_UNLINK, store_val(&key, sizeof key));
        if (rc == -ENOENT)
            rc = 0;
    }
    if (rc < 0) {
        store_abort(txn);
        return rc;
    }
    rc = store_commit(txn);
    return rc < 0 ? rc : count;
}

static bool has_any(struct store *store, bool with_files)
{
    struct store_txn *txn;
    uint64_t id;
    if (store_read_begin(store, &txn) < 0)
        return false;
    bool has = first_id(txn, STORE_DBI_GARBAGE, &id) > 0 ||
               (with_files && first_id(txn, STORE_DBI_UNLINK, &id) > 0);
    store_read_end(txn);
    return has;
}

int store_gc_drain(struct store *store, uint64_t *ret_records)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    uint64_t total = 0, removed;
    int rc, unlinked;
    pthread_mutex_lock(&store->gc.lock);
    do {
        do {
            rc = store_gc_step(store, GC_RECORDS_PER_STEP, &removed);
            total += removed;
        } while (rc == 0 && removed > 0);
        if (rc == 0)
            rc = store_sync(store);
        unlinked = rc == 0 ? store_gc_unlink(store) : 0;
        while (unlinked > 0 && (rc = store_gc_unlink(store)) > 0)
            ;
        rc = rc < 0 ? rc : unlinked < 0 ? unlinked : 0;
    } while (rc == 0 && unlinked > 0 && has_any(store, false));
    pthread_mutex_unlock(&store->gc.lock);
    *ret_records = total;
    return rc;
}

bool store_has_garbage(struct store *store)
{
    return has_any(store, true);
}
