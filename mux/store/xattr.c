// Extended attributes: all those of one record are one value, present only where the record says
// so.
//
// Within the caller's transaction; inode.c copies and deletes them with their record.
// Read next: inode.c, mux/xattr_set.h.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

int store_xattr_get(struct store_txn *txn, uint64_t layer, uint64_t fid, const void **ret,
                    size_t *ret_len)
{
    struct key_inode key = key_of_inode(layer, fid);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_XATTR, store_val(&key, sizeof key), &value);
    if (rc < 0)
        return rc;
    *ret = value.mv_data;
    *ret_len = value.mv_size;
    return 0;
}

int store_xattr_put(struct store_txn *txn, uint64_t layer, uint64_t fid, const void *bytes,
                    size_t len)
{
    struct key_inode key = key_of_inode(layer, fid);
    return store_put(txn, STORE_DBI_XATTR, store_val(&key, sizeof key), store_val(bytes, len));
}

int store_xattr_copy(struct store_txn *txn, uint64_t from_layer, uint64_t to_layer, uint64_t fid,
                     size_t len)
{
    const void *found;
    size_t found_len;
    int rc = store_xattr_get(txn, from_layer, fid, &found, &found_len);
    if (rc < 0 || found_len != len)
        return rc < 0 && rc != -ENOENT ? rc : -EUCLEAN;
    AF_CLEANUP_FREE void *bytes = malloc(len); // the put may move the page it lies in
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, found, len);
    return store_xattr_put(txn, to_layer, fid, bytes, len);
}

int store_xattr_del(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    struct key_inode key = key_of_inode(layer, fid);
    int rc = store_del(txn, STORE_DBI_XATTR, store_val(&key, sizeof key));
    return rc == -ENOENT ? 0 : rc;
}
