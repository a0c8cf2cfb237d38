// Looking at the store: counts. Read next: env.c.
#include "mux/store/store_priv.h"

static uint64_t entries_of(struct store_txn *txn, enum store_dbi dbi)
{
    MDB_stat stat;
    return mdb_stat(txn->mdb, txn->store->dbi[dbi], &stat) == 0 ? stat.ms_entries : 0;
}

static void add_layer_bytes(struct store_txn *txn, struct store_stats *ret)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    if (mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_LAYER], &cursor) != 0)
        return;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct value_layer layer;
        if (value.mv_size != sizeof layer)
            continue;
        memcpy(&layer, value.mv_data, sizeof layer);
        ret->blob_bytes += layer.bytes;
    }
    mdb_cursor_close(cursor);
}

int store_get_stats(struct store *store, struct store_stats *ret)
{
    struct store_txn *txn;
    int rc = store_read_begin(store, &txn);
    if (rc < 0)
        return rc;
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(store->env, &info);
    mdb_env_stat(store->env, &stat);
    *ret = (struct store_stats){
        .map_bytes = info.me_mapsize,
        .used_bytes = (info.me_last_pgno + 1) * stat.ms_psize,
        .entries = entries_of(txn, STORE_DBI_ENTRY),
        .inodes = entries_of(txn, STORE_DBI_INODE),
        .layers = entries_of(txn, STORE_DBI_LAYER),
        .stacks = entries_of(txn, STORE_DBI_STACK),
        .blobs = entries_of(txn, STORE_DBI_BLOB),
        .codebases = entries_of(txn, STORE_DBI_CODEBASE),
        .sandboxes = entries_of(txn, STORE_DBI_SANDBOX),
        .orphans = entries_of(txn, STORE_DBI_ORPHAN),
        .garbage_layers = entries_of(txn, STORE_DBI_GARBAGE),
        .commits = store->commits,
        .syncs = store->syncs,
        .reads = store->reads,
    };
    add_layer_bytes(txn, ret);
    store_read_end(txn);
    pthread_mutex_lock(&store->blobs.lock);
    ret->blob_fds = store->blobs.open;
    ret->blob_fds_max = store->blobs.max;
    ret->blob_fd_hits = store->blobs.hits;
    ret->blob_fd_misses = store->blobs.misses;
    pthread_mutex_unlock(&store->blobs.lock);
    return 0;
}
