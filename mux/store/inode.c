// Inode records, the version index, and orphans.
//
// Replacing or removing a record keeps everything that hangs on it right: the layer's counts, the
// version's place, the blob's references. Read next: blob.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define INODE_VALUE_MAX (sizeof(struct value_inode) + 255 + 65536)

int store_inode_decode(MDB_val value, uint64_t layer, uint64_t fid, struct store_inode *ret)
{
    struct value_inode v;
    if (value.mv_size < sizeof v)
        return -EUCLEAN;
    memcpy(&v, value.mv_data, sizeof v);
    if (v.format != STORE_FORMAT || value.mv_size < sizeof v + v.name_len)
        return -EUCLEAN;
    const char *name = (const char *)value.mv_data + sizeof v;
    const char *rest = name + v.name_len;
    size_t rest_len = value.mv_size - sizeof v - v.name_len;
    uint64_t shared = 0;
    if (v.blob_owned == VALUE_OWNS_TAIL) {
        if (v.content != STORE_CONTENT_BLOB || rest_len != sizeof shared)
            return -EUCLEAN;
        memcpy(&shared, rest, sizeof shared);
        rest_len = 0;
    }
    *ret = (struct store_inode){
        .fid = fid,
        .version = v.version,
        .mode = v.mode,
        .nlink = v.nlink,
        .size = v.size,
        .atime_ns = v.atime_ns,
        .mtime_ns = v.mtime_ns,
        .ctime_ns = v.ctime_ns,
        .btime_ns = v.btime_ns,
        .parent = v.parent,
        .name = name,
        .name_len = v.name_len,
        .content = (enum store_content)v.content,
        .blob = v.blob,
        .blob_owned = v.blob_owned != VALUE_OWNS_NOTHING,
        .blob_shared = shared,
        .origin = v.origin,
        .inline_data = rest,
        .inline_len = rest_len,
        .xattr_bytes = v.xattr_bytes,
        .xattr_layer = layer,
    };
    if (ret->content > STORE_CONTENT_BLOB ||
        (ret->content != STORE_CONTENT_INLINE && ret->inline_len > 0))
        return -EUCLEAN;
    return 0;
}

int store_inode_get(struct store_txn *txn, uint64_t layer, uint64_t fid, struct store_inode *ret)
{
    struct key_inode key = key_of_inode(layer, fid);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_INODE, store_val(&key, sizeof key), &value);
    return rc < 0 ? rc : store_inode_decode(value, layer, fid, ret);
}

int store_inode_find(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t fid,
                     struct store_inode *ret, size_t *ret_index)
{
    for (size_t i = 0; i < count; i++) {
        int rc = store_inode_get(txn, layers[i], fid, ret);
        if (rc == -ENOENT)
            continue;
        if (rc == 0)
            *ret_index = i;
        return rc;
    }
    return -ENOENT;
}

int store_inode_next(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t *ret_fid)
{
    struct key_inode from = key_of_inode(layer, fid), found;
    MDB_val key = store_val(&from, sizeof from);
    int rc = store_seek(txn, STORE_DBI_INODE, &key);
    if (rc < 0)
        return rc;
    if (key.mv_size != sizeof found)
        return -EUCLEAN;
    memcpy(&found, key.mv_data, sizeof found);
    if (found.layer_be != from.layer_be)
        return -ENOENT;
    *ret_fid = be64toh(found.fid_be);
    return 0;
}

// What of an old record the new one replaces.
struct former {
    bool exists;
    bool has_version;
    bool blob_owned;
    uint64_t version, blob, charge; // blob 0: none
    uint32_t xattr_bytes;
};

static int get_former(struct store_txn *txn, uint64_t layer, uint64_t fid, struct former *ret)
{
    struct store_inode old;
    *ret = (struct former){0};
    int rc = store_inode_get(txn, layer, fid, &old);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    ret->exists = true;
    ret->has_version = S_ISREG(old.mode);
    ret->version = old.version;
    ret->blob = old.content == STORE_CONTENT_BLOB ? old.blob : 0;
    ret->blob_owned = old.blob_owned;
    ret->charge = store_inode_charge(&old);
    ret->xattr_bytes = old.xattr_bytes;
    return 0;
}

// A version may be in several layers: compaction writes a record again before the old layer goes.
static int put_version(struct store_txn *txn, uint64_t version, uint64_t layer, uint64_t fid)
{
    struct key_version key = key_of_version(version, layer);
    return store_put(txn, STORE_DBI_VERSION, store_val(&key, sizeof key),
                     store_val(&fid, sizeof fid));
}

static int del_version(struct store_txn *txn, uint64_t version, uint64_t layer)
{
    struct key_version key = key_of_version(version, layer);
    int rc = store_del(txn, STORE_DBI_VERSION, store_val(&key, sizeof key));
    return rc == -ENOENT ? 0 : rc;
}

static int put_record(struct store_txn *txn, uint64_t layer, const struct store_inode *inode)
{
    bool owned = inode->content == STORE_CONTENT_BLOB && inode->blob_owned;
    bool owns_tail = owned && inode->blob_shared > 0;
    const void *rest = owns_tail ? &inode->blob_shared : inode->inline_data;
    size_t rest_len = owns_tail                                ? sizeof inode->blob_shared
                      : inode->content == STORE_CONTENT_INLINE ? inode->inline_len
                                                               : 0;
    struct value_inode v = {
        .format = STORE_FORMAT,
        .content = (uint8_t)inode->content,
        .blob_owned = owns_tail ? VALUE_OWNS_TAIL
                      : owned   ? VALUE_OWNS_ALL
                                : VALUE_OWNS_NOTHING,
        .name_len = inode->name_len,
        .mode = inode->mode,
        .nlink = inode->nlink,
        .xattr_bytes = inode->xattr_bytes,
        .version = inode->version,
        .size = inode->size,
        .parent = inode->parent,
        .blob = inode->content == STORE_CONTENT_BLOB ? inode->blob : 0,
        .origin = inode->origin,
        .atime_ns = inode->atime_ns,
        .mtime_ns = inode->mtime_ns,
        .ctime_ns = inode->ctime_ns,
        .btime_ns = inode->btime_ns,
    };
    size_t total = sizeof v + inode->name_len + rest_len;
    if (total > INODE_VALUE_MAX)
        return -EFBIG;
    // A copy: the names and contents of `inode` may lie in pages that the put moves.
    uint8_t small[4096], *bytes = total <= sizeof small ? small : malloc(total);
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, &v, sizeof v);
    if (inode->name_len > 0)
        memcpy(bytes + sizeof v, inode->name, inode->name_len);
    if (rest_len > 0)
        memcpy(bytes + sizeof v + inode->name_len, rest, rest_len);
    struct key_inode key = key_of_inode(layer, inode->fid);
    int rc = store_put(txn, STORE_DBI_INODE, store_val(&key, sizeof key), store_val(bytes, total));
    if (bytes != small)
        free(bytes);
    return rc;
}

// The attributes go where their record goes.
static int follow_xattrs(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t from_layer,
                         uint32_t bytes, const struct former *old)
{
    if (bytes > 0 && from_layer != layer)
        return store_xattr_copy(txn, from_layer, layer, fid, bytes);
    return bytes == 0 && old->xattr_bytes > 0 ? store_xattr_del(txn, layer, fid) : 0;
}

int store_inode_put(struct store_txn *txn, uint64_t layer, const struct store_inode *inode)
{
    struct former old;
    uint64_t blob = inode->content == STORE_CONTENT_BLOB ? inode->blob : 0;
    bool has_version = S_ISREG(inode->mode), owned = blob != 0 && inode->blob_owned;
    uint64_t version = inode->version, fid = inode->fid;
    uint64_t charge = store_inode_charge(inode), xattr_layer = inode->xattr_layer;
    uint32_t xattr_bytes = inode->xattr_bytes;
    struct store_layer_change change = {.tree_files = inode->tree_files,
                                        .tree_bytes = inode->tree_bytes};
    int rc = get_former(txn, layer, fid, &old);
    change.bytes = (int64_t)(charge - old.charge);
    change.inodes = old.exists ? 0 : 1;
    // On a full disk only what removes or shrinks may use the headroom; an orphan's record (no
    // names left) is part of an unlink.
    bool grows = inode->nlink > 0 && (!old.exists || charge > old.charge);
    bool same_version = old.has_version && has_version && old.version == version;
    if (rc == 0 && grows)
        rc = store_space_for_growth(txn);
    if (rc == 0 && old.has_version && !same_version)
        rc = store_kept_save(txn, layer, fid, old.version);
    if (rc == 0)
        rc = put_record(txn, layer, inode);
    if (rc == 0)
        rc = follow_xattrs(txn, layer, fid, xattr_layer, xattr_bytes, &old);
    if (rc == 0 && blob != old.blob && blob != 0)
        rc = store_blob_take(txn, blob);
    if (rc == 0 && blob != old.blob && old.blob != 0)
        rc = store_blob_drop(txn, old.blob);
    if (rc == 0 && blob != 0 && blob == old.blob)
        rc = store_blob_touch(txn, blob);
    if (rc == 0 && owned && (blob != old.blob || !old.blob_owned))
        rc = store_blob_own(txn, blob, layer);
    if (rc == 0 && old.has_version && !same_version)
        rc = del_version(txn, old.version, layer);
    if (rc == 0 && has_version && !same_version)
        rc = put_version(txn, version, layer, fid);
    if (rc == 0)
        rc = store_layer_count(txn, layer, &change);
    return store_keep_error(txn, rc);
}

int store_inode_del(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    struct former old;
    int rc = get_former(txn, layer, fid, &old);
    if (rc < 0)
        return rc;
    if (!old.exists)
        return -ENOENT;
    struct key_inode key = key_of_inode(layer, fid);
    struct store_layer_change change = {.bytes = -(int64_t)old.charge, .inodes = -1};
    rc = old.has_version ? store_kept_save(txn, layer, fid, old.version) : 0;
    if (rc == 0)
        rc = store_del(txn, STORE_DBI_INODE, store_val(&key, sizeof key));
    if (rc == 0 && old.blob != 0)
        rc = store_blob_drop(txn, old.blob);
    if (rc == 0 && old.has_version)
        rc = del_version(txn, old.version, layer);
    if (rc == 0 && old.xattr_bytes > 0)
        rc = store_xattr_del(txn, layer, fid);
    if (rc == 0)
        rc = store_layer_count(txn, layer, &change);
    return store_keep_error(txn, rc);
}

int store_version_find(struct store_txn *txn, uint64_t version, uint64_t *ret_layer,
                       uint64_t *ret_fid)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_VERSION], &cursor));
    if (rc < 0)
        return rc;
    struct key_version found, from = key_of_version(version, 0);
    MDB_val key = store_val(&from, sizeof from), value;
    rc = store_errno(mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE));
    if (rc == 0 && (key.mv_size != sizeof found || value.mv_size != sizeof *ret_fid))
        rc = -EUCLEAN;
    if (rc == 0) {
        memcpy(&found, key.mv_data, sizeof found);
        if (found.version_be != from.version_be) {
            rc = -ENOENT;
        } else {
            *ret_layer = be64toh(found.layer_be);
            memcpy(ret_fid, value.mv_data, sizeof *ret_fid);
        }
    }
    mdb_cursor_close(cursor);
    return rc;
}

// Walks the records of one layer in a database keyed by (layer, fid).
static int walk_layer(struct store_txn *txn, enum store_dbi dbi, uint64_t layer,
                      int (*fn)(void *arg, uint64_t fid, MDB_val value), void *arg)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    struct key_id prefix = key_of_id(layer);
    MDB_val key = store_val(&prefix, sizeof prefix), value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (mdb_rc == 0 && key.mv_size == sizeof(struct key_inode) &&
           memcmp(key.mv_data, &prefix, sizeof prefix) == 0) {
        struct key_inode place;
        memcpy(&place, key.mv_data, sizeof place);
        rc = fn(arg, be64toh(place.fid_be), value);
        if (rc != 0)
            break;
        mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND)
        rc = store_errno(mdb_rc);
    return rc;
}

struct inode_walk {
    int (*fn)(void *arg, const struct store_inode *inode);
    void *arg;
    uint64_t layer;
};

static int pass_inode(void *arg, uint64_t fid, MDB_val value)
{
    struct inode_walk *walk = arg;
    struct store_inode inode;
    int rc = store_inode_decode(value, walk->layer, fid, &inode);
    return rc < 0 ? rc : walk->fn(walk->arg, &inode);
}

int store_layer_inodes(struct store_txn *txn, uint64_t layer,
                       int (*fn)(void *arg, const struct store_inode *inode), void *arg)
{
    struct inode_walk walk = {.fn = fn, .arg = arg, .layer = layer};
    return walk_layer(txn, STORE_DBI_INODE, layer, pass_inode, &walk);
}

// ---- orphans

int store_orphan_put(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    struct key_inode key = key_of_inode(layer, fid);
    uint8_t format = STORE_FORMAT;
    return store_put(txn, STORE_DBI_ORPHAN, store_val(&key, sizeof key), store_val(&format, 1));
}

int store_orphan_del(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    struct key_inode key = key_of_inode(layer, fid);
    return store_del(txn, STORE_DBI_ORPHAN, store_val(&key, sizeof key));
}

bool store_orphan_has(struct store_txn *txn, uint64_t layer, uint64_t fid)
{
    struct key_inode key = key_of_inode(layer, fid);
    MDB_val value;
    return store_get(txn, STORE_DBI_ORPHAN, store_val(&key, sizeof key), &value) == 0;
}

int store_orphan_next(struct store_txn *txn, uint64_t layer, uint64_t after, uint64_t *ret_fid)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_ORPHAN], &cursor));
    if (rc < 0)
        return rc;
    struct key_inode place = key_of_inode(layer, after + 1);
    MDB_val key = store_val(&place, sizeof place), value;
    rc = store_errno(mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE));
    if (rc == 0 && key.mv_size != sizeof place)
        rc = -EUCLEAN;
    if (rc == 0) {
        memcpy(&place, key.mv_data, sizeof place);
        if (be64toh(place.layer_be) == layer)
            *ret_fid = be64toh(place.fid_be);
        else
            rc = -ENOENT;
    }
    mdb_cursor_close(cursor);
    return rc;
}

static int first_orphan(void *arg, uint64_t fid, MDB_val value)
{
    (void)value;
    *(uint64_t *)arg = fid;
    return 1;
}

int store_orphans_reap(struct store_txn *txn, uint64_t layer, uint64_t *ret_count)
{
    uint64_t count = 0, fid = 0;
    int rc;
    while ((rc = walk_layer(txn, STORE_DBI_ORPHAN, layer, first_orphan, &fid)) == 1) {
        rc = store_inode_del(txn, layer, fid);
        if (rc == 0 || rc == -ENOENT)
            rc = store_orphan_del(txn, layer, fid);
        if (rc < 0)
            return rc;
        count++;
    }
    if (rc == 0)
        *ret_count = count;
    return rc;
}
