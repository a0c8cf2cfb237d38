// Layers and stacks: counted records. A layer without references is the collector's and cannot be
// referred to again; its record stays until the collector is done. Read next: inode.c, gc.c.
#include "mux/store/store_priv.h"

#include <errno.h>

static int get_layer(struct store_txn *txn, uint64_t id, struct value_layer *ret)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_LAYER, store_val(&key, sizeof key), &value);
    if (rc < 0)
        return rc;
    if (value.mv_size != sizeof *ret || *(const uint8_t *)value.mv_data != STORE_FORMAT)
        return -EUCLEAN;
    memcpy(ret, value.mv_data, sizeof *ret);
    return 0;
}

// As get_layer, for one that something still refers to.
static int get_referred_layer(struct store_txn *txn, uint64_t id, struct value_layer *ret)
{
    int rc = get_layer(txn, id, ret);
    return rc == 0 && ret->refs == 0 ? -ENOENT : rc;
}

static int put_layer(struct store_txn *txn, uint64_t id, const struct value_layer *value)
{
    struct key_id key = key_of_id(id);
    return store_put(txn, STORE_DBI_LAYER, store_val(&key, sizeof key),
                     store_val(value, sizeof *value));
}

static int new_layer(struct store_txn *txn, uint64_t *ret_id)
{
    uint64_t id;
    int rc = store_new_id(txn->store, &id);
    if (rc < 0)
        return rc;
    struct value_layer value = {.format = STORE_FORMAT, .refs = 1};
    rc = put_layer(txn, id, &value);
    if (rc == 0)
        *ret_id = id;
    return rc;
}

int store_layer_new(struct store_txn *txn, uint64_t *ret_id)
{
    int rc = store_space_for_growth(txn);
    return rc < 0 ? rc : new_layer(txn, ret_id);
}

int store_layer_get(struct store_txn *txn, uint64_t id, struct store_layer *ret)
{
    struct value_layer value;
    int rc = get_layer(txn, id, &value);
    if (rc == 0)
        *ret = (struct store_layer){.id = id,
                                    .frozen = value.frozen == STORE_FROZEN,
                                    .was_frozen = value.frozen != STORE_NEVER_FROZEN,
                                    .refs = value.refs,
                                    .bytes = value.bytes,
                                    .inodes = value.inodes,
                                    .tree_files = value.tree_files,
                                    .tree_bytes = value.tree_bytes};
    return rc;
}

static int set_frozen(struct store_txn *txn, uint64_t id, uint8_t frozen)
{
    struct value_layer value;
    int rc = get_layer(txn, id, &value);
    if (rc < 0)
        return rc;
    value.frozen = frozen;
    return put_layer(txn, id, &value);
}

int store_layer_freeze(struct store_txn *txn, uint64_t id)
{
    return set_frozen(txn, id, STORE_FROZEN);
}

int store_layer_thaw(struct store_txn *txn, uint64_t id)
{
    return set_frozen(txn, id, STORE_THAWED);
}

int store_layer_ref(struct store_txn *txn, uint64_t id)
{
    struct value_layer value;
    int rc = get_referred_layer(txn, id, &value);
    if (rc < 0)
        return store_keep_error(txn, rc);
    if (value.refs == UINT32_MAX)
        return store_keep_error(txn, -EMLINK);
    value.refs++;
    return put_layer(txn, id, &value);
}

int store_layer_unref(struct store_txn *txn, uint64_t id)
{
    struct value_layer value;
    int rc = get_referred_layer(txn, id, &value);
    if (rc < 0)
        return store_keep_error(txn, rc);
    value.refs--;
    rc = put_layer(txn, id, &value);
    if (rc < 0 || value.refs > 0)
        return rc;
    struct key_id key = key_of_id(id);
    uint8_t format = STORE_FORMAT;
    rc = store_del(txn, STORE_DBI_PENDING, store_val(&key, sizeof key)); // an import that gave up
    if (rc == 0 || rc == -ENOENT)
        rc = store_put(txn, STORE_DBI_GARBAGE, store_val(&key, sizeof key), store_val(&format, 1));
    txn->garbage = true; // the collector is woken once this is committed
    return rc;
}

int store_layer_change_refs(struct store_txn *txn, uint64_t id, int64_t change)
{
    struct value_layer value;
    int rc = get_referred_layer(txn, id, &value);
    if (rc == 0 && ((int64_t)value.refs + change < 1 || (int64_t)value.refs + change > UINT32_MAX))
        rc = -EUCLEAN;
    if (rc < 0)
        return store_keep_error(txn, rc);
    value.refs = (uint32_t)((int64_t)value.refs + change);
    return put_layer(txn, id, &value);
}

int store_layer_count(struct store_txn *txn, uint64_t id, const struct store_layer_change *change)
{
    struct value_layer value;
    if (change->bytes == 0 && change->inodes == 0 && change->tree_files == 0 &&
        change->tree_bytes == 0)
        return 0;
    int rc = get_layer(txn, id, &value);
    if (rc < 0)
        return store_keep_error(txn, rc);
    value.bytes += (uint64_t)change->bytes;
    value.inodes += (uint64_t)change->inodes;
    value.tree_files += change->tree_files;
    value.tree_bytes += change->tree_bytes;
    return put_layer(txn, id, &value);
}

int store_layer_count_tree(struct store_txn *txn, uint64_t id, int64_t files, int64_t bytes)
{
    struct store_layer_change change = {.tree_files = files, .tree_bytes = bytes};
    return store_layer_count(txn, id, &change);
}

// ---- pending layers: a mark, and behind its format byte the layers that it refers to

int store_pending_put(struct store_txn *txn, uint64_t id, const uint64_t *run, size_t count)
{
    struct key_id key = key_of_id(id);
    uint8_t bytes[1 + STORE_STACK_MAX * sizeof *run];
    if (count > STORE_STACK_MAX)
        return store_keep_error(txn, -EINVAL);
    bytes[0] = STORE_FORMAT;
    if (count > 0)
        memcpy(bytes + 1, run, count * sizeof *run);
    return store_put(txn, STORE_DBI_PENDING, store_val(&key, sizeof key),
                     store_val(bytes, 1 + count * sizeof *run));
}

int store_layer_new_pending(struct store_txn *txn, uint64_t *ret_id)
{
    uint64_t id;
    int rc = store_layer_new(txn, &id);
    if (rc == 0)
        rc = store_pending_put(txn, id, NULL, 0);
    if (rc == 0)
        *ret_id = id;
    return rc;
}

int store_layer_new_kept(struct store_txn *txn, uint64_t *ret_id)
{
    int rc = new_layer(txn, ret_id);
    return rc < 0 ? store_keep_error(txn, rc) : store_pending_put(txn, *ret_id, NULL, 0);
}

int store_layers_pin(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t *ret)
{
    uint64_t id;
    int rc = store_layer_new(txn, &id);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = store_layer_ref(txn, layers[i]);
    if (rc == 0)
        rc = store_pending_put(txn, id, layers, count);
    if (rc == 0)
        *ret = id;
    return rc;
}

int store_layers_unpin(struct store_txn *txn, uint64_t pin)
{
    return store_pending_end(txn, pin);
}

int store_layer_adopt(struct store_txn *txn, uint64_t id)
{
    struct key_id key = key_of_id(id);
    return store_del(txn, STORE_DBI_PENDING, store_val(&key, sizeof key));
}

int store_pending_end(struct store_txn *txn, uint64_t id)
{
    struct key_id key = key_of_id(id);
    uint64_t run[STORE_STACK_MAX];
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_PENDING, store_val(&key, sizeof key), &value);
    if (rc < 0)
        return rc;
    size_t count = (value.mv_size - 1) / sizeof *run;
    if (value.mv_size != 1 + count * sizeof *run || count > STORE_STACK_MAX)
        return -EUCLEAN;
    if (count > 0)
        memcpy(run, (const uint8_t *)value.mv_data + 1, count * sizeof *run);
    rc = store_layer_adopt(txn, id);
    struct value_layer layer;
    if (rc == 0 && get_referred_layer(txn, id, &layer) == 0)
        rc = store_layer_unref(txn, id);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = store_layer_unref(txn, run[i]);
    return rc;
}

// One pending layer to the collector; -ENOENT when there is none.
static int drop_one_pending(struct store_txn *txn)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    struct key_id id = {0};
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_PENDING], &cursor));
    if (rc < 0)
        return rc;
    rc = store_errno(mdb_cursor_get(cursor, &key, &value, MDB_FIRST));
    if (rc == 0 && key.mv_size != sizeof id)
        rc = -EUCLEAN;
    if (rc == 0)
        memcpy(&id, key.mv_data, sizeof id);
    mdb_cursor_close(cursor);
    return rc < 0 ? rc : store_pending_end(txn, be64toh(id.be));
}

int store_layers_drop_pending(struct store *store)
{
    for (;;) {
        struct store_txn *txn;
        int rc = store_write_begin(store, &txn);
        if (rc < 0)
            return rc;
        rc = drop_one_pending(txn);
        if (rc < 0) {
            store_abort(txn);
            return rc == -ENOENT ? 0 : rc;
        }
        rc = store_commit(txn);
        if (rc < 0)
            return rc;
    }
}

// ---- stacks

// Value and ids of a stack, valid until the next write.
static int get_stack(struct store_txn *txn, uint64_t id, struct value_stack *ret,
                     const uint8_t **ret_ids)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_STACK, store_val(&key, sizeof key), &value);
    if (rc < 0)
        return rc;
    if (value.mv_size < sizeof *ret)
        return -EUCLEAN;
    memcpy(ret, value.mv_data, sizeof *ret);
    if (ret->count > STORE_STACK_MAX ||
        value.mv_size != sizeof *ret + ret->count * sizeof(uint64_t))
        return -EUCLEAN;
    *ret_ids = (const uint8_t *)value.mv_data + sizeof *ret;
    return 0;
}

static int put_stack(struct store_txn *txn, uint64_t id, struct value_stack head,
                     const uint64_t *layers)
{
    uint8_t bytes[sizeof head + STORE_STACK_MAX * sizeof *layers];
    memcpy(bytes, &head, sizeof head);
    if (head.count > 0)
        memcpy(bytes + sizeof head, layers, head.count * sizeof *layers);
    struct key_id key = key_of_id(id);
    return store_put(txn, STORE_DBI_STACK, store_val(&key, sizeof key),
                     store_val(bytes, sizeof head + head.count * sizeof *layers));
}

int store_stack_new(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t *ret_id)
{
    if (count > STORE_STACK_MAX)
        return -E2BIG;
    uint64_t id;
    int rc = store_space_for_growth(txn);
    if (rc == 0)
        rc = store_new_id(txn->store, &id);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = store_layer_ref(txn, layers[i]);
    struct value_stack head = {.format = STORE_FORMAT, .refs = 1, .count = (uint32_t)count};
    if (rc == 0)
        rc = put_stack(txn, id, head, layers);
    if (rc < 0)
        return rc;
    if (count >= STORE_STACK_DEEP)
        store_note_deep(txn, id);
    *ret_id = id;
    return 0;
}

int store_stack_replace(struct store_txn *txn, uint64_t id, const uint64_t *layers, size_t count)
{
    struct value_stack head;
    const uint8_t *ids;
    int rc = get_stack(txn, id, &head, &ids);
    head.count = (uint32_t)count;
    return rc < 0 ? rc : put_stack(txn, id, head, layers);
}

int store_stack_get(struct store_txn *txn, uint64_t id, uint64_t *layers, size_t capacity,
                    size_t *ret_count)
{
    struct value_stack head;
    const uint8_t *ids;
    int rc = get_stack(txn, id, &head, &ids);
    if (rc < 0)
        return rc;
    size_t copied = head.count < capacity ? head.count : capacity;
    if (copied > 0)
        memcpy(layers, ids, copied * sizeof *layers);
    *ret_count = head.count;
    return 0;
}

// Adds to the reference count; at zero releases the layers.
static int count_stack(struct store_txn *txn, uint64_t id, int change)
{
    struct value_stack head;
    const uint8_t *ids;
    uint64_t layers[STORE_STACK_MAX];
    int rc = get_stack(txn, id, &head, &ids);
    if (rc < 0)
        return store_keep_error(txn, rc);
    if (head.refs == 0 || (change > 0 && head.refs == UINT32_MAX))
        return store_keep_error(txn, -EUCLEAN);
    if (head.count > 0)
        memcpy(layers, ids, head.count * sizeof *layers);
    head.refs += (uint32_t)change;
    if (head.refs > 0)
        return put_stack(txn, id, head, layers);
    struct key_id key = key_of_id(id);
    rc = store_del(txn, STORE_DBI_STACK, store_val(&key, sizeof key));
    for (size_t i = 0; rc == 0 && i < head.count; i++)
        rc = store_layer_unref(txn, layers[i]);
    return rc;
}

int store_stack_refs(struct store_txn *txn, uint64_t id, uint32_t *ret_refs)
{
    struct value_stack head;
    const uint8_t *ids;
    int rc = get_stack(txn, id, &head, &ids);
    if (rc == 0)
        *ret_refs = head.refs;
    return rc;
}

int store_stack_ref(struct store_txn *txn, uint64_t id)
{
    return count_stack(txn, id, 1);
}

int store_stack_unref(struct store_txn *txn, uint64_t id)
{
    return count_stack(txn, id, -1);
}
