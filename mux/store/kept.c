// Kept versions: what a kernel may still have open when the last record of it goes.
//
// A shared nodeid names a version of a file, and views that have left that version behind, or were
// told another one, may still have it open or mapped. So, while somebody listens, a version that
// was ever in a frozen layer does not end with its last record: the record moves into a layer of
// kept versions, under the version's own number (fids and versions are of one counter), with the
// fid where other records have their directory, the directory in the place of the origin, and the
// name, by which the rules go on to tell its level. The layer is pending: a crash
// ends the kernel's references too, and the next store_open hands it to the collector.
// Owns store->kept. Locks: kept.lock (a leaf) guards the listener; kept.layer changes under the
// writer lock. Fails: -errno; nothing new is refused for want of space, since a version is kept
// when something is deleted. Read next: inode.c, mux/kept.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

void store_kept_listen(struct store *store,
                       void (*fn)(void *arg, const uint64_t *versions, size_t count), void *arg)
{
    pthread_mutex_lock(&store->kept.lock);
    store->kept.fn = fn;
    store->kept.arg = arg;
    pthread_mutex_unlock(&store->kept.lock);
    atomic_store(&store->kept.wanted, fn != NULL);
}

void store_kept_tell(struct store_txn *txn)
{
    struct store *store = txn->store;
    if (txn->n_kept == 0)
        return;
    pthread_mutex_lock(&store->kept.lock);
    if (store->kept.fn)
        store->kept.fn(store->kept.arg, txn->kept, txn->n_kept);
    pthread_mutex_unlock(&store->kept.lock);
}

static int note(struct store_txn *txn, uint64_t version)
{
    if (txn->n_kept == txn->kept_capacity) {
        size_t capacity = txn->kept_capacity ? txn->kept_capacity * 2 : 16;
        uint64_t *kept = realloc(txn->kept, capacity * sizeof *kept);
        if (!kept)
            return store_keep_error(txn, -ENOMEM);
        txn->kept = kept;
        txn->kept_capacity = capacity;
    }
    txn->kept[txn->n_kept++] = version;
    return 0;
}

// Whether the version is found in another layer, one that was ever frozen as well: when its record
// there goes, this is asked again. What a view has of it for itself (of a file that has lost its
// names, mux/gone.h) and what a merge has begun to write may go without.
static int is_elsewhere(struct store_txn *txn, uint64_t layer, uint64_t version, bool *ret)
{
    MDB_cursor *cursor;
    struct key_version found, from = key_of_version(version, 0);
    MDB_val key = store_val(&from, sizeof from), value;
    *ret = false;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_VERSION], &cursor));
    if (rc < 0)
        return rc;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; mdb_rc == 0 && rc == 0 && !*ret && key.mv_size == sizeof found;
         mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct store_layer other;
        memcpy(&found, key.mv_data, sizeof found);
        if (found.version_be != from.version_be)
            break;
        if (be64toh(found.layer_be) == layer)
            continue;
        rc = store_layer_get(txn, be64toh(found.layer_be), &other);
        *ret = rc == 0 && other.refs > 0 && other.was_frozen;
        rc = rc == -ENOENT ? 0 : rc;
    }
    mdb_cursor_close(cursor);
    return rc;
}

// The layer of kept versions; a new one when there is none, or its transaction was not committed.
static int kept_layer(struct store_txn *txn, uint64_t *ret)
{
    struct store_layer layer;
    *ret = atomic_load(&txn->store->kept.layer);
    if (*ret != 0 && store_layer_get(txn, *ret, &layer) == 0 && layer.refs > 0)
        return 0;
    int rc = store_layer_new_kept(txn, ret);
    if (rc == 0)
        atomic_store(&txn->store->kept.layer, *ret);
    return rc;
}

static int keep_xattrs(struct store_txn *txn, uint64_t kept, const struct store_inode *inode)
{
    const void *found;
    size_t len;
    int rc = store_xattr_get(txn, inode->xattr_layer, inode->fid, &found, &len);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    AF_CLEANUP_FREE void *bytes = malloc(len); // the put may move the page it lies in
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, found, len);
    return store_xattr_put(txn, kept, inode->version, bytes, len);
}

int store_kept_save(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t version)
{
    struct store_layer from;
    struct store_inode inode;
    bool elsewhere;
    uint64_t kept;
    if (!atomic_load_explicit(&txn->store->kept.wanted, memory_order_relaxed) || fid == version)
        return 0;
    int rc = store_layer_get(txn, layer, &from);
    if (rc < 0 || !from.was_frozen)
        return rc;
    rc = is_elsewhere(txn, layer, version, &elsewhere);
    if (rc < 0 || elsewhere)
        return rc;
    rc = kept_layer(txn, &kept);
    if (rc == 0)
        rc = store_inode_get(txn, layer, fid, &inode);
    if (rc == 0 && inode.xattr_bytes > 0)
        rc = keep_xattrs(txn, kept, &inode);
    if (rc == 0) // read again: the put may have moved it
        rc = store_inode_get(txn, layer, fid, &inode);
    if (rc < 0)
        return store_keep_error(txn, rc);
    inode.origin = inode.parent;
    inode.parent = fid;
    inode.fid = version;
    inode.nlink = 0;
    inode.blob_owned = false;
    inode.xattr_layer = kept;
    rc = store_inode_put(txn, kept, &inode);
    return rc < 0 ? rc : note(txn, version);
}

int store_version_get(struct store_txn *txn, uint64_t version, struct store_inode *ret)
{
    uint64_t layer, fid;
    int rc = store_version_find(txn, version, &layer, &fid);
    if (rc == 0)
        rc = store_inode_get(txn, layer, fid, ret);
    return rc;
}

int store_kept_drop(struct store_txn *txn, const uint64_t *versions, size_t count)
{
    uint64_t layer = atomic_load(&txn->store->kept.layer);
    int rc = 0;
    for (size_t i = 0; (rc == 0 || rc == -ENOENT) && i < count; i++)
        rc = store_inode_del(txn, layer, versions[i]);
    return rc == -ENOENT ? 0 : rc;
}

int store_kept_drop_all(struct store *store)
{
    struct store_txn *txn;
    if (atomic_load(&store->kept.layer) == 0)
        return 0;
    int rc = store_write_begin(store, &txn);
    if (rc < 0)
        return rc;
    uint64_t layer = atomic_load(&store->kept.layer);
    rc = layer != 0 ? store_layer_unref(txn, layer) : 0;
    atomic_store(&store->kept.layer, 0);
    if (rc == 0)
        return store_commit(txn);
    store_abort(txn);
    return rc == -ENOENT ? 0 : rc;
}
