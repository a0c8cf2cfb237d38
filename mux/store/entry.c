// Directory entries and the merged iteration over layers.
//
// A name's cookie is its keyed 63-bit hash: the same in every layer, stable while anything else
// changes, and unguessable, so that nobody can make two names of a directory collide. Key order is
// (layer, parent, hash, name). Read next: siphash.h.
#include "mux/store/siphash.h"
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

uint64_t store_name_cookie(const struct store *store, const char *name, size_t len)
{
    uint64_t hash = store_siphash(store->hash_key, name, len) >> 1;
    return hash <= STORE_COOKIE_FIRST ? hash + STORE_COOKIE_FIRST + 1 : hash;
}

static size_t make_key(struct key_entry *key, const struct store *store, uint64_t layer,
                       uint64_t parent, const char *name, size_t len)
{
    key->layer_be = htobe64(layer);
    key->parent_be = htobe64(parent);
    key->hash_be = htobe64(store_name_cookie(store, name, len));
    memcpy(key->name, name, len);
    return KEY_ENTRY_PREFIX + len;
}

static int decode(MDB_val key, MDB_val value, struct store_entry *ret, uint64_t *ret_parent)
{
    struct value_entry entry;
    if (key.mv_size <= KEY_ENTRY_PREFIX || key.mv_size > sizeof(struct key_entry) ||
        value.mv_size != sizeof entry)
        return -EUCLEAN;
    uint64_t prefix[3];
    memcpy(prefix, key.mv_data, sizeof prefix);
    memcpy(&entry, value.mv_data, sizeof entry);
    if (entry.format != STORE_FORMAT || (entry.fid == 0 && entry.type != 0))
        return -EUCLEAN;
    *ret = (struct store_entry){
        .cookie = be64toh(prefix[2]),
        .fid = entry.fid,
        .type = entry.type,
        .name_len = (uint8_t)(key.mv_size - KEY_ENTRY_PREFIX),
        .name = (const char *)key.mv_data + KEY_ENTRY_PREFIX,
    };
    if (ret_parent)
        *ret_parent = be64toh(prefix[1]);
    return 0;
}

int store_entry_get(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len, struct store_entry *ret)
{
    struct key_entry key;
    if (name_len == 0 || name_len > sizeof key.name)
        return -ENOENT;
    size_t len = make_key(&key, txn->store, layer, parent, name, name_len);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_ENTRY, store_val(&key, len), &value);
    if (rc < 0)
        return rc;
    rc = decode(store_val(&key, len), value, ret, NULL);
    ret->name = name;
    return rc;
}

static int put_entry(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                     size_t name_len, uint64_t fid, uint8_t type)
{
    struct key_entry key;
    if (name_len == 0 || name_len > sizeof key.name)
        return -EINVAL;
    size_t len = make_key(&key, txn->store, layer, parent, name, name_len);
    // A whiteout is part of a deletion, and so may use the headroom of a full disk.
    int rc = fid == 0 ? 0 : store_space_for_growth(txn);
    if (rc < 0)
        return rc;
    struct value_entry value = {.format = STORE_FORMAT, .type = type, .fid = fid};
    return store_put(txn, STORE_DBI_ENTRY, store_val(&key, len), store_val(&value, sizeof value));
}

int store_entry_put(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len, uint64_t fid, uint8_t type)
{
    return fid == 0 ? -EINVAL : put_entry(txn, layer, parent, name, name_len, fid, type);
}

int store_entry_put_whiteout(struct store_txn *txn, uint64_t layer, uint64_t parent,
                             const char *name, size_t name_len)
{
    return put_entry(txn, layer, parent, name, name_len, 0, 0);
}

int store_entry_del(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len)
{
    struct key_entry key;
    if (name_len == 0 || name_len > sizeof key.name)
        return -ENOENT;
    size_t len = make_key(&key, txn->store, layer, parent, name, name_len);
    return store_del(txn, STORE_DBI_ENTRY, store_val(&key, len));
}

// ---- merged iteration

struct source {
    MDB_cursor *cursor;
    uint64_t layer;
    bool ended;
    MDB_val key, value;
};

struct store_dir_iter {
    struct store_txn *txn;
    uint64_t parent;
    size_t count;
    struct source **heap; // those that have not ended, the next entry's at the root
    size_t n_heap;
    struct source sources[]; // top layer first
};

// Ends a source that has left the directory.
static int settle(struct store_dir_iter *iter, struct source *source, int mdb_rc)
{
    if (mdb_rc != 0 && mdb_rc != MDB_NOTFOUND)
        return store_errno(mdb_rc);
    struct key_inode prefix = key_of_inode(source->layer, iter->parent);
    source->ended = mdb_rc == MDB_NOTFOUND || source->key.mv_size <= KEY_ENTRY_PREFIX ||
                    memcmp(source->key.mv_data, &prefix, sizeof prefix) != 0;
    return 0;
}

static int start_source(struct store_dir_iter *iter, struct source *source, uint64_t after_cookie)
{
    struct store_txn *txn = iter->txn;
    int rc = source->cursor
                 ? 0
                 : mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_ENTRY], &source->cursor);
    if (rc != 0)
        return store_errno(rc);
    uint64_t prefix[3] = {htobe64(source->layer), htobe64(iter->parent), htobe64(after_cookie + 1)};
    source->key = store_val(prefix, sizeof prefix);
    rc = mdb_cursor_get(source->cursor, &source->key, &source->value, MDB_SET_RANGE);
    return settle(iter, source, rc);
}

// Order of two keys of one directory: by what follows (layer, parent).
static int compare(const struct source *a, const struct source *b)
{
    size_t skip = 2 * sizeof(uint64_t);
    size_t a_len = a->key.mv_size - skip, b_len = b->key.mv_size - skip;
    int order = memcmp((const char *)a->key.mv_data + skip, (const char *)b->key.mv_data + skip,
                       a_len < b_len ? a_len : b_len);
    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

// By key, then by layer: of several with one name the topmost comes first.
static bool is_before(const struct source *a, const struct source *b)
{
    int order = compare(a, b);
    return order < 0 || (order == 0 && a < b);
}

static void sift_down(struct store_dir_iter *iter, size_t at)
{
    struct source **heap = iter->heap, *moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < iter->n_heap; at = child) {
        if (child + 1 < iter->n_heap && is_before(heap[child + 1], heap[child]))
            child++;
        if (!is_before(heap[child], moved))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

int store_dir_open(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t parent,
                   uint64_t after_cookie, struct store_dir_iter **ret)
{
    size_t each = sizeof(struct source) + sizeof(struct source *);
    struct store_dir_iter *iter = calloc(1, sizeof *iter + count * each);
    if (!iter)
        return -ENOMEM;
    iter->txn = txn;
    iter->parent = parent;
    iter->heap = (struct source **)&iter->sources[count];
    for (size_t i = 0; i < count; i++) {
        struct source *source = &iter->sources[iter->count];
        *source = (struct source){.layer = layers[i], .cursor = source->cursor};
        int rc = start_source(iter, source, after_cookie);
        if (rc < 0) {
            iter->count += source->cursor != NULL;
            store_dir_close(iter);
            return rc;
        }
        if (!source->ended) // most layers have nothing here: the next one takes the cursor
            iter->count++;
    }
    if (iter->count < count && iter->sources[iter->count].cursor)
        mdb_cursor_close(iter->sources[iter->count].cursor);
    for (size_t i = 0; i < iter->count; i++)
        iter->heap[iter->n_heap++] = &iter->sources[i];
    for (size_t i = iter->n_heap / 2; i-- > 0;)
        sift_down(iter, i);
    *ret = iter;
    return 0;
}

// Moves the source at the root on.
static int advance(struct store_dir_iter *iter)
{
    struct source *source = iter->heap[0];
    int rc = mdb_cursor_get(source->cursor, &source->key, &source->value, MDB_NEXT);
    rc = settle(iter, source, rc);
    if (rc < 0)
        return rc;
    if (source->ended)
        iter->heap[0] = iter->heap[--iter->n_heap];
    if (iter->n_heap > 1)
        sift_down(iter, 0);
    return 0;
}

int store_dir_next(struct store_dir_iter *iter, struct store_entry *ret, uint64_t *ret_layer)
{
    while (iter->n_heap > 0) {
        struct source winner = *iter->heap[0];
        struct store_entry entry;
        int rc = decode(winner.key, winner.value, &entry, NULL);
        do // past the same name in lower layers
            rc = rc == 0 ? advance(iter) : rc;
        while (rc == 0 && iter->n_heap > 0 && compare(iter->heap[0], &winner) == 0);
        if (rc < 0)
            return rc;
        if (entry.fid == 0)
            continue;
        *ret = entry;
        if (ret_layer)
            *ret_layer = winner.layer;
        return 0;
    }
    return -ENOENT;
}

void store_dir_close(struct store_dir_iter *iter)
{
    for (size_t i = 0; i < iter->count; i++)
        if (iter->sources[i].cursor)
            mdb_cursor_close(iter->sources[i].cursor);
    free(iter);
}

int store_dir_is_touched(struct store_txn *txn, uint64_t layer, uint64_t parent, bool *ret)
{
    struct key_inode prefix = key_of_inode(layer, parent);
    MDB_val key = store_val(&prefix, sizeof prefix);
    int rc = store_seek(txn, STORE_DBI_ENTRY, &key);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    *ret =
        rc == 0 && key.mv_size > sizeof prefix && memcmp(key.mv_data, &prefix, sizeof prefix) == 0;
    return 0;
}

int store_layer_entries(struct store_txn *txn, uint64_t layer,
                        int (*fn)(void *arg, uint64_t parent, const struct store_entry *entry),
                        void *arg)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_ENTRY], &cursor));
    if (rc < 0)
        return rc;
    struct key_id prefix = key_of_id(layer);
    MDB_val key = store_val(&prefix, sizeof prefix), value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (mdb_rc == 0 && key.mv_size > sizeof prefix &&
           memcmp(key.mv_data, &prefix, sizeof prefix) == 0) {
        struct store_entry entry;
        uint64_t parent;
        rc = decode(key, value, &entry, &parent);
        if (rc == 0)
            rc = fn(arg, parent, &entry);
        if (rc != 0)
            break;
        mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND)
        rc = store_errno(mdb_rc);
    return rc;
}
