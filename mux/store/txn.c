// Transactions: pooled readers, the one writer, and what a commit drags along.
//
// Owns the reader pool (readers.lock, a leaf). A write transaction holds LMDB's writer lock from
// begin to commit or abort. Errors: -errno. Read next: env.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

int store_errno(int mdb_rc)
{
    if (mdb_rc == 0)
        return 0;
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

int store_get(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val *ret)
{
    return store_errno(mdb_get(txn->mdb, txn->store->dbi[dbi], &key, ret));
}

int store_put(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val value)
{
    return store_errno(mdb_put(txn->mdb, txn->store->dbi[dbi], &key, &value, 0));
}

int store_del(struct store_txn *txn, enum store_dbi dbi, MDB_val key)
{
    return store_errno(mdb_del(txn->mdb, txn->store->dbi[dbi], &key, NULL));
}

int store_read_begin(struct store *store, struct store_txn **ret)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
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
    txn->magic = STORE_TXN_MAGIC;
    *ret = txn;
    return 0;
}

void store_read_end(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    struct store *store = txn->store;
    txn->magic = 0;
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

int store_write_begin(struct store *store, struct store_txn **ret)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    struct store_txn *txn = calloc(1, sizeof *txn);
    if (!txn)
        return -ENOMEM;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn->mdb);
    if (rc != 0) {
        free(txn);
        return store_errno(rc);
    }
    txn->magic = STORE_TXN_MAGIC;
    txn->store = store;
    txn->write = true;
    *ret = txn;
    return 0;
}

int store_commit(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    struct store *store = txn->store;
    uint64_t limit = 0;
    int rc = 0;
    if (atomic_load(&store->id_limit) - atomic_load(&store->next_id) < STORE_ID_BLOCK / 2)
        rc = store_reserve_ids(txn, &limit);
    if (rc == 0)
        rc = store_errno(mdb_txn_commit(txn->mdb));
    else
        mdb_txn_abort(txn->mdb);
    if (rc == 0) {
        if (limit > 0)
            atomic_store(&store->id_limit, limit);
        atomic_fetch_add(&store->commits, 1);
        atomic_fetch_add(&store->dirty_commits, 1);
        store_reserve_space(store);
        if (store_has_outgrown(store))
            store_background_wake(store);
        store_blobs_committed(txn);
    } else {
        store_blobs_aborted(txn);
    }
    txn->magic = 0;
    free(txn);
    return rc;
}

void store_abort(struct store_txn *txn)
{
    AF_CHECK_MAGIC(txn, STORE_TXN_MAGIC);
    mdb_txn_abort(txn->mdb);
    store_blobs_aborted(txn);
    txn->magic = 0;
    free(txn);
}
