// Transactions: pooled readers, the one writer, and what a commit drags along.
//
// Owns the reader pool (readers.lock, a leaf). A write transaction holds the writer lock from begin
// to commit or abort; it is one of its own, or, for a change, the open batch's (batch.c). The first
// write that fails marks its transaction, and store_commit
// then refuses it: half a change is never committed because a caller overlooked an error.
// Errors: -errno. Read next: env.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int store_errno(int mdb_rc)
{
    if (mdb_rc == 0)
        return 0;
    if (mdb_rc == EDQUOT || mdb_rc == EFBIG) // quota, RLIMIT_FSIZE
        return -ENOSPC;
    if (mdb_rc > 0)
        return -mdb_rc;
    switch (mdb_rc) {
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_KEYEXIST:
        return -EEXIST;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
        return -ENOSPC;
    case MDB_READERS_FULL:
        return -EMFILE;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
        return -EUCLEAN;
    default:
        return -EIO;
    }
}

// ---- records

// A transaction that writes, or looks at one that does, has a cursor in each database: what is
// looked for, changed and counted under one key, or close to the last one, is searched for once.
// LMDB keeps them right while pages move, and frees them with the transaction.
static int cursor_of(struct store_txn *txn, enum store_dbi dbi, MDB_cursor **ret)
{
    MDB_cursor **place = &txn->cursors[dbi];
    int rc = *place ? 0 : mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], place);
    *ret = *place;
    return store_errno(rc);
}

static bool is_at(MDB_cursor *cursor, MDB_val key, MDB_val *ret)
{
    MDB_val here;
    return mdb_cursor_get(cursor, &here, ret, MDB_GET_CURRENT) == 0 &&
           here.mv_size == key.mv_size && memcmp(here.mv_data, key.mv_data, key.mv_size) == 0;
}

static int find(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_cursor **ret_cursor,
                MDB_val *ret)
{
    int rc = cursor_of(txn, dbi, ret_cursor);
    if (rc < 0 || is_at(*ret_cursor, key, ret))
        return rc;
    return store_errno(mdb_cursor_get(*ret_cursor, &key, ret, MDB_SET));
}

int store_get(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val *ret)
{
    MDB_cursor *cursor;
    if (txn->cursors)
        return find(txn, dbi, key, &cursor, ret);
    return store_errno(mdb_get(txn->mdb, txn->store->dbi[dbi], &key, ret));
}

int store_seek(struct store_txn *txn, enum store_dbi dbi, MDB_val *key)
{
    MDB_cursor *cursor;
    MDB_val value;
    int rc = mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor);
    if (rc != 0)
        return store_errno(rc);
    rc = mdb_cursor_get(cursor, key, &value, MDB_SET_RANGE);
    mdb_cursor_close(cursor);
    return store_errno(rc);
}

int store_keep_error(struct store_txn *txn, int rc)
{
    if (rc < 0 && txn->error == 0)
        txn->error = rc;
    return rc;
}

int store_put(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val value)
{
    if (!txn->write)
        return -EROFS;
    txn->changed = true;
    MDB_cursor *cursor;
    MDB_val old;
    int rc = cursor_of(txn, dbi, &cursor);
    bool replaces = rc == 0 && is_at(cursor, key, &old);
    if (rc == 0 && txn->batched) // first, for the put may move what the values lie in
        rc = store_batch_note_put(txn->store, dbi, key, replaces ? &old : NULL, value);
    if (rc == 0)
        rc = store_errno(mdb_cursor_put(cursor, &key, &value, replaces ? MDB_CURRENT : 0));
    return store_keep_error(txn, rc);
}

int store_del(struct store_txn *txn, enum store_dbi dbi, MDB_val key)
{
    if (!txn->write)
        return -EROFS;
    MDB_cursor *cursor;
    MDB_val old;
    int rc = find(txn, dbi, key, &cursor, &old);
    if (rc == -ENOENT)
        return rc;
    txn->changed = true;
    if (rc == 0 && txn->batched)
        rc = store_batch_note_del(txn->store, dbi, key);
    if (rc == 0)
        rc = store_errno(mdb_cursor_del(cursor, 0));
    return store_keep_error(txn, rc);
}

// What is committed, without any lock.
static int read_committed(struct store *store, struct store_txn **ret)
{
    pthread_mutex_lock(&store->readers.lock);
    struct store_txn *txn = store->readers.pool;
    if (txn) {
        store->readers.pool = txn->next;
        store->readers.pooled--;
    }
    pthread_mutex_unlock(&store->readers.lock);
    int rc;
    if (txn) {
        rc = mdb_txn_renew(txn->mdb);
        if (rc != 0) {
            mdb_txn_abort(txn->mdb);
            free(txn);
            return store_errno(rc);
        }
    } else {
        txn = calloc(1, sizeof *txn);
        if (!txn)
            return -ENOMEM;
        rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &txn->mdb);
        if (rc != 0) {
            free(txn);
            return store_errno(rc);
        }
        txn->store = store;
    }
    atomic_fetch_add_explicit(&store->reads, 1, memory_order_relaxed);
    txn->magic = STORE_TXN_MAGIC;
    *ret = txn;
    return 0;
}

int store_look_begin(struct store *store, uint64_t changed_in, struct store_txn **ret)
{
    MDB_txn *mdb;
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    int rc = store_batch_look(store, changed_in, &mdb);
    if (rc < 0 || !mdb)
        return rc < 0 ? rc : read_committed(store, ret);
    struct store_txn *txn = calloc(1, sizeof *txn);
    if (!txn) {
        store_batch_look_end(store);
        return -ENOMEM;
    }
    atomic_fetch_add_explicit(&store->reads, 1, memory_order_relaxed);
    *txn = (struct store_txn){.magic = STORE_TXN_MAGIC,
                              .store = store,
                              .mdb = mdb,
                              .cursors = store->batch.cursors,
                              .batched = true};
    *ret = txn;
    return 0;
}

int store_read_begin(struct store *store, struct store_txn **ret)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    uint64_t pending = atomic_load(&store->batch.pending);
    if (pending == 0)
        return read_committed(store, ret);
    // Within a change of one's own, before a fsck that may write nothing, and while the disk takes
    // no commit, what pends is looked at where it is.
    if (!store_batch_is_mine(store) && !store->read_only && store_batch_flush(store) == 0)
        return read_committed(store, ret);
    return store_look_begin(store, pending, ret);
}

bool store_read_is_alone(const struct store_txn *txn)
{
    return !txn->batched;
}

void store_read_end(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    struct store *store = txn->store;
    txn->magic = 0;
    if (txn->batched) {
        free(txn);
        store_batch_look_end(store);
        return;
    }
    mdb_txn_reset(txn->mdb);
    pthread_mutex_lock(&store->readers.lock);
    bool keep = store->readers.pooled < STORE_READERS_POOLED;
    if (keep) {
        txn->next = store->readers.pool;
        store->readers.pool = txn;
        store->readers.pooled++;
    }
    pthread_mutex_unlock(&store->readers.lock);
    if (!keep) {
        mdb_txn_abort(txn->mdb);
        free(txn);
    }
}

// Whether writing is possible at all; may make a sync point.
static int prepare_to_write(struct store *store)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    if (store_sync_is_behind(store)) // its error is sticky: seen just below
        store_sync_point(store, atomic_load(&store->last_txn));
    if (atomic_load(&store->sync.error) != 0)
        return -EIO;
    if (atomic_load(&store->full))
        store_space_when_full(store);
    return 0;
}

// Under the writer lock, which is given back on failure. `mdb`: the batch's, or NULL.
static int begin_locked(struct store *store, MDB_txn *mdb, struct store_txn **ret)
{
    struct store_txn *txn = calloc(1, sizeof *txn);
    int rc = txn ? 0 : -ENOMEM;
    bool batched = mdb != NULL;
    if (rc == 0 && !batched)
        rc = store_errno(mdb_txn_begin(store->env, NULL, 0, &mdb));
    if (rc < 0) {
        free(txn);
        if (batched)
            store_batch_leave(store, false, true);
        else
            store_writer_unlock(store);
        return rc;
    }
    *txn = (struct store_txn){.magic = STORE_TXN_MAGIC,
                              .store = store,
                              .mdb = mdb,
                              .cursors = batched ? store->batch.cursors : txn->own_cursors,
                              .write = true,
                              .batched = batched};
    *ret = txn;
    return 0;
}

int store_write_begin(struct store *store, struct store_txn **ret)
{
    int rc = prepare_to_write(store);
    atomic_fetch_add(&store->writers, 1);
    if (rc == 0)
        rc = store_writer_lock(store);
    if (rc == 0)
        rc = begin_locked(store, NULL, ret);
    if (rc < 0)
        atomic_fetch_sub(&store->writers, 1);
    return rc;
}

int store_change_begin(struct store *store, struct store_txn **ret)
{
    MDB_txn *mdb;
    int rc = prepare_to_write(store);
    atomic_fetch_add(&store->writers, 1);
    if (rc == 0)
        rc = store_batch_join(store, &mdb);
    if (rc == 0)
        rc = begin_locked(store, mdb, ret);
    if (rc < 0)
        atomic_fetch_sub(&store->writers, 1);
    return rc;
}

uint64_t store_change_id(const struct store_txn *txn)
{
    return txn->batched ? mdb_txn_id(txn->mdb) : 0;
}

// Only growing: commits can be noted in another order than they were made.
void store_note_commit(struct store *store, uint64_t id)
{
    uint64_t last = atomic_load(&store->last_txn);
    while (last < id && !atomic_compare_exchange_weak(&store->last_txn, &last, id))
        ;
    uint64_t dirty = atomic_fetch_add(&store->dirty_commits, 1);
    if (dirty % 16 == 15 && store_sync_is_due(store))
        store_background_wake(store, false);
}

static int commit_alone(struct store_txn *txn)
{
    struct store *store = txn->store;
    uint64_t id = mdb_txn_id(txn->mdb);
    int rc = store_errno(mdb_txn_commit(txn->mdb));
    store_writer_unlock(store);
    if (rc == 0) {
        store_note_commit(store, id);
        store_reserve_space(store);
    } else if (rc == -ENOSPC) {
        atomic_store(&store->full, true);
    }
    return rc;
}

int store_commit(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    struct store *store = txn->store;
    int rc = txn->error;
    if (rc == 0)
        rc = store_blobs_prepare(txn); // while the writer lock keeps sync points out
    if (rc < 0 || !txn->changed) {
        store_abort(txn);
        return rc;
    }
    store_kept_tell(txn);
    rc = txn->batched ? store_batch_leave(store, true, false) : commit_alone(txn);
    atomic_fetch_sub(&store->writers, 1);
    if (rc == 0) {
        store_blobs_committed(txn);
        atomic_fetch_add(&store->commits, 1);
        if (txn->garbage)
            store_background_wake(store, true);
        store_deep_committed(txn);
    } else {
        store_blobs_aborted(txn);
    }
    txn->magic = 0;
    free(txn->kept);
    free(txn);
    return rc;
}

void store_abort(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    struct store *store = txn->store;
    if (txn->batched) {
        store_batch_leave(store, txn->changed, true);
    } else {
        mdb_txn_abort(txn->mdb);
        store_writer_unlock(store);
    }
    atomic_fetch_sub(&store->writers, 1);
    store_blobs_aborted(txn);
    txn->magic = 0;
    free(txn->kept);
    free(txn);
}

bool store_has_writers(struct store *store)
{
    return atomic_load(&store->writers) > 0;
}
