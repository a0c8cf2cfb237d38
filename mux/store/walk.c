// Walks over all layers and all blobs, for who looks at the store from outside.
// Owns nothing; runs inside the caller's read transaction. Errors: -errno. Read next: store.h.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

// Calls fn for each record with a greater id; its value other than 0 ends the walk.
static int walk_ids(struct store_txn *txn, enum store_dbi dbi, uint64_t after,
                    int (*fn)(void *arg, uint64_t id), void *arg)
{
    MDB_cursor *cursor;
    if (after == UINT64_MAX)
        return 0;
    struct key_id from = key_of_id(after + 1);
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    MDB_val key = store_val(&from, sizeof from), value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (mdb_rc == 0 && rc == 0) {
        struct key_id found;
        if (key.mv_size != sizeof found) {
            rc = -EUCLEAN;
            break;
        }
        memcpy(&found, key.mv_data, sizeof found);
        rc = fn(arg, be64toh(found.be));
        if (rc == 0)
            mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND ? store_errno(mdb_rc) : rc;
}

struct layer_walk {
    struct store_txn *txn;
    int (*fn)(void *arg, const struct store_layer *layer);
    void *arg;
};

static int visit_layer(void *arg, uint64_t id)
{
    struct layer_walk *walk = arg;
    struct store_layer layer;
    int rc = store_layer_get(walk->txn, id, &layer);
    return rc < 0 ? rc : walk->fn(walk->arg, &layer);
}

int store_layer_list(struct store_txn *txn, uint64_t after,
                     int (*fn)(void *arg, const struct store_layer *layer), void *arg)
{
    struct layer_walk walk = {txn, fn, arg};
    return walk_ids(txn, STORE_DBI_LAYER, after, visit_layer, &walk);
}

struct blob_walk {
    struct store_txn *txn;
    int (*fn)(void *arg, const struct store_blob_info *blob);
    void *arg;
};

static int visit_blob(void *arg, uint64_t id)
{
    struct blob_walk *walk = arg;
    struct store_blob_info info = {.id = id};
    struct stat st;
    char path[STORE_BLOB_PATH_MAX];
    int rc = store_blob_refs(walk->txn, id, &info.refs);
    if (rc < 0)
        return rc;
    store_blob_path(id, false, path);
    bool there = fstatat(walk->txn->store->blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!there) { // not settled yet
        store_blob_path(id, true, path);
        there = fstatat(walk->txn->store->new_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    if (there) {
        info.bytes = (uint64_t)st.st_size;
        info.disk_bytes = (uint64_t)st.st_blocks * 512;
    }
    return walk->fn(walk->arg, &info);
}

int store_blob_list(struct store_txn *txn, uint64_t after,
                    int (*fn)(void *arg, const struct store_blob_info *blob), void *arg)
{
    struct blob_walk walk = {txn, fn, arg};
    return walk_ids(txn, STORE_DBI_BLOB, after, visit_blob, &walk);
}
