// The index of names of files that have several: see store.h.
//
// Keys alone; the value is a format byte. Within the caller's transaction. Read next: entry.c.
#include "mux/store/store_priv.h"

#include <errno.h>

static int make_key(struct key_link *key, uint64_t layer, uint64_t fid, uint64_t parent,
                    const char *name, size_t len, MDB_val *ret)
{
    if (len == 0 || len > sizeof key->name)
        return -EINVAL;
    key->layer_be = htobe64(layer);
    key->fid_be = htobe64(fid);
    key->parent_be = htobe64(parent);
    memcpy(key->name, name, len);
    *ret = store_val(key, KEY_LINK_PREFIX + len);
    return 0;
}

int store_link_put(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t parent,
                   const char *name, size_t name_len)
{
    struct key_link key;
    MDB_val val;
    uint8_t format = STORE_FORMAT;
    int rc = make_key(&key, layer, fid, parent, name, name_len, &val);
    return rc < 0 ? rc : store_put(txn, STORE_DBI_LINK, val, store_val(&format, 1));
}

int store_link_del(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t parent,
                   const char *name, size_t name_len)
{
    struct key_link key;
    MDB_val val;
    int rc = make_key(&key, layer, fid, parent, name, name_len, &val);
    if (rc == 0)
        rc = store_del(txn, STORE_DBI_LINK, val);
    return rc == -ENOENT ? 0 : rc;
}

static bool is_of(const MDB_val *key, const struct key_inode *prefix)
{
    return key->mv_size > KEY_LINK_PREFIX && key->mv_size <= sizeof(struct key_link) &&
           memcmp(key->mv_data, prefix, sizeof *prefix) == 0;
}

int store_link_clear(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_LINK], &cursor));
    if (rc < 0)
        return rc;
    struct key_inode prefix = key_of_inode(layer, fid);
    for (;;) {
        MDB_val key = store_val(&prefix, sizeof prefix), value;
        int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (mdb_rc == MDB_NOTFOUND || (mdb_rc == 0 && !is_of(&key, &prefix)))
            break;
        struct key_link found;
        if (mdb_rc == 0)
            memcpy(&found, key.mv_data, key.mv_size);
        rc = mdb_rc == 0 ? store_del(txn, STORE_DBI_LINK, store_val(&found, key.mv_size))
                         : store_keep_error(txn, store_errno(mdb_rc));
        if (rc < 0)
            break;
    }
    mdb_cursor_close(cursor);
    return rc;
}

int store_link_walk(struct store_txn *txn, uint64_t layer, uint64_t fid,
                    int (*fn)(void *arg, uint64_t parent, const char *name, size_t name_len),
                    void *arg)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_LINK], &cursor));
    if (rc < 0)
        return rc;
    struct key_inode prefix = key_of_inode(layer, fid);
    MDB_val key = store_val(&prefix, sizeof prefix), value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (mdb_rc == 0 && is_of(&key, &prefix)) {
        struct key_link link;
        memcpy(&link, key.mv_data, KEY_LINK_PREFIX);
        rc = fn(arg, be64toh(link.parent_be), (const char *)key.mv_data + KEY_LINK_PREFIX,
                key.mv_size - KEY_LINK_PREFIX);
        if (rc != 0)
            break;
        mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND)
        rc = store_errno(mdb_rc);
    return rc;
}
