// Which stacks are deep, and how much a layer weighs: what compaction decides by.
//
// Every stack of STORE_STACK_DEEP layers or more that a commit makes is noted, for whoever listens;
// a full note says that some were missed, and the records are looked through. Lock: deep.lock (a
// leaf), held while the listener is called, which must only wake somebody. Read next: merge.c.
#include "mux/store/store_priv.h"

#include <errno.h>

static int count_one(void *arg, uint64_t parent, const struct store_entry *entry)
{
    (void)parent;
    (void)entry;
    uint64_t *left = arg;
    return --*left == 0;
}

int store_layer_weight(struct store_txn *txn, uint64_t id, uint64_t *ret)
{
    struct store_layer layer;
    int rc = store_layer_get(txn, id, &layer);
    if (rc < 0)
        return rc;
    uint64_t counted = layer.inodes;
    if (layer.inodes < STORE_WEIGH_MAX) { // whiteouts are not in the layer's own counts
        uint64_t left = STORE_WEIGH_MAX;
        rc = store_layer_entries(txn, id, count_one, &left);
        if (rc < 0)
            return rc;
        counted = STORE_WEIGH_MAX - left;
    }
    *ret = 1 + layer.inodes + counted + layer.bytes / STORE_WEIGHT_BYTES;
    return 0;
}

int store_deep_scan(struct store *store, uint64_t before, uint64_t *ids, size_t max,
                    size_t *ret_count)
{
    struct store_txn *txn;
    MDB_cursor *cursor;
    size_t count = 0;
    int rc = store_read_begin(store, &txn);
    if (rc < 0)
        return rc;
    rc = store_errno(mdb_cursor_open(txn->mdb, store->dbi[STORE_DBI_STACK], &cursor));
    if (rc == 0) {
        struct key_id from = key_of_id(before);
        MDB_val key = store_val(&from, sizeof from), value;
        int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        mdb_rc = mdb_cursor_get(cursor, &key, &value, mdb_rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
        for (; mdb_rc == 0 && count < max;
             mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV)) {
            struct value_stack head;
            if (key.mv_size != sizeof from || value.mv_size < sizeof head)
                continue;
            memcpy(&head, value.mv_data, sizeof head);
            memcpy(&from, key.mv_data, sizeof from);
            if (head.count >= STORE_STACK_DEEP)
                ids[count++] = be64toh(from.be);
        }
        mdb_cursor_close(cursor);
    }
    store_read_end(txn);
    *ret_count = count;
    return rc;
}

void store_note_deep(struct store_txn *txn, uint64_t stack)
{
    if (txn->n_deep < AF_ARRAY_LEN(txn->deep))
        txn->deep[txn->n_deep] = stack;
    txn->n_deep++; // more than fit: all are looked at
}

void store_deep_committed(struct store_txn *txn)
{
    struct store *store = txn->store;
    if (txn->n_deep == 0)
        return;
    pthread_mutex_lock(&store->deep.lock);
    for (size_t i = 0; i < txn->n_deep; i++) {
        if (i == AF_ARRAY_LEN(txn->deep) || store->deep.count == STORE_DEEP_MAX) {
            store->deep.missed = true;
            break;
        }
        store->deep.ids[store->deep.count++] = txn->deep[i];
    }
    if (store->deep.fn)
        store->deep.fn(store->deep.arg);
    pthread_mutex_unlock(&store->deep.lock);
}

void store_deep_listen(struct store *store, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&store->deep.lock);
    store->deep.fn = fn;
    store->deep.arg = arg;
    pthread_mutex_unlock(&store->deep.lock);
}

size_t store_deep_take(struct store *store, uint64_t ids[STORE_DEEP_MAX], bool *ret_missed)
{
    pthread_mutex_lock(&store->deep.lock);
    size_t count = store->deep.count;
    memcpy(ids, store->deep.ids, count * sizeof *ids);
    *ret_missed = store->deep.missed;
    store->deep.count = 0;
    store->deep.missed = false;
    pthread_mutex_unlock(&store->deep.lock);
    return count;
}
