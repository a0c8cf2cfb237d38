// Blob records: how many inode records refer to a blob, and its digest.
//
// A blob begins with its first reference, which must come from a blob just made (blob.c), and ends
// with its last: it is queued, and its file goes once that transaction is synced (gc.c). It also
// says which record was the last that might write the blob in place (store.h, blob_owned). Owns
// nothing; runs inside the caller's transaction. Errors: -errno, kept in the transaction.
// Read next: blob.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stddef.h>

#define WITHOUT_OWNER offsetof(struct value_blob, owner_layer)

int store_blob_decode(MDB_val value, struct value_blob *ret)
{
    struct value_blob v = {0};
    if (value.mv_size != sizeof v && value.mv_size != WITHOUT_OWNER)
        return -EUCLEAN;
    memcpy(&v, value.mv_data, value.mv_size);
    if (v.format != STORE_FORMAT)
        return -EUCLEAN;
    *ret = v;
    return 0;
}

MDB_val store_blob_encode(const struct value_blob *value)
{
    return store_val(value, value->owner_layer != 0 ? sizeof *value : WITHOUT_OWNER);
}

static int get_record(struct store_txn *txn, uint64_t id, struct value_blob *ret)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_BLOB, store_val(&key, sizeof key), &value);
    return rc < 0 ? rc : store_blob_decode(value, ret);
}

static int put_record(struct store_txn *txn, uint64_t id, const struct value_blob *value)
{
    struct key_id key = key_of_id(id);
    return store_put(txn, STORE_DBI_BLOB, store_val(&key, sizeof key), store_blob_encode(value));
}

int store_blob_take(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc == -ENOENT) {
        // Just made, or else collected since the caller looked: never to be recorded again.
        rc = store_blob_adopt(txn, id);
        value = (struct value_blob){.format = STORE_FORMAT};
    }
    if (rc == 0 && value.refs == UINT32_MAX)
        rc = -EMLINK;
    if (rc < 0)
        return store_keep_error(txn, rc);
    value.refs++;
    return put_record(txn, id, &value);
}

int store_blob_refs(struct store_txn *txn, uint64_t id, uint32_t *ret_refs)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc == 0)
        *ret_refs = value.refs;
    return rc;
}

int store_blob_is_recorded(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    return rc == -ENOENT ? 0 : rc < 0 ? rc : 1;
}

int store_blob_drop(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc < 0)
        return store_keep_error(txn, rc == -ENOENT ? -EUCLEAN : rc);
    if (value.refs > 1) {
        value.refs--;
        return put_record(txn, id, &value);
    }
    struct key_id key = key_of_id(id);
    uint8_t format = STORE_FORMAT;
    rc = store_del(txn, STORE_DBI_BLOB, store_val(&key, sizeof key));
    if (rc == 0 && value.has_digest)
        rc = store_del(txn, STORE_DBI_DIGEST, store_val(value.sha256, sizeof value.sha256));
    if (rc == 0)
        rc = store_put(txn, STORE_DBI_UNLINK, store_val(&key, sizeof key), store_val(&format, 1));
    return rc;
}

int store_blob_own(struct store_txn *txn, uint64_t id, uint64_t layer)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc < 0)
        return store_keep_error(txn, rc == -ENOENT ? -EUCLEAN : rc);
    if (value.owner_layer == layer)
        return 0;
    value.owner_layer = layer;
    return put_record(txn, id, &value);
}

int store_blob_disown(struct store_txn *txn, uint64_t id)
{
    return store_blob_own(txn, id, 0);
}

int store_blob_may_own(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    struct store_layer owner;
    int rc = get_record(txn, id, &value);
    if (rc < 0)
        return rc;
    if (value.has_digest) // found by its content, which must stay
        return 0;
    if (value.owner_layer == 0)
        return 1;
    rc = store_layer_get(txn, value.owner_layer, &owner);
    if (rc == -ENOENT)
        return 1;
    return rc < 0 ? rc : owner.frozen || owner.refs == 0;
}

int store_digest_find(struct store_txn *txn, const uint8_t sha256[32], uint64_t *ret_blob)
{
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_DIGEST, store_val(sha256, 32), &value);
    if (rc < 0)
        return rc;
    if (value.mv_size != sizeof *ret_blob)
        return -EUCLEAN;
    memcpy(ret_blob, value.mv_data, sizeof *ret_blob);
    return 0;
}

int store_digest_put(struct store_txn *txn, const uint8_t sha256[32], uint64_t blob)
{
    struct value_blob value;
    int rc = get_record(txn, blob, &value);
    if (rc < 0)
        return store_keep_error(txn, rc);
    uint64_t known;
    rc = store_digest_find(txn, sha256, &known);
    if (rc == 0) // the entry goes with its own blob, so it may have but one
        return known == blob ? 0 : -EEXIST;
    if (rc != -ENOENT)
        return rc;
    if (value.has_digest)
        return store_keep_error(txn, -EINVAL);
    value.has_digest = 1;
    memcpy(value.sha256, sha256, sizeof value.sha256);
    rc = put_record(txn, blob, &value);
    if (rc == 0)
        rc = store_put(txn, STORE_DBI_DIGEST, store_val(sha256, 32), store_val(&blob, sizeof blob));
    return rc;
}
