// Passes that count again: bytes and inodes of layers; references to stacks, layers and blobs, and
// who owns what of a blob; the queues of the collector.
//
// References are counted a window of ids at a time, so that memory is bounded: each window costs
// one more look at all who refer. Read next: fsck_blobs.c.
#include "mux/store/fsck_priv.h"

#include <errno.h>
#include <inttypes.h>

static uint64_t id_of(MDB_val key)
{
    struct key_id id = {0};
    if (key.mv_size == sizeof id)
        memcpy(&id, key.mv_data, sizeof id);
    return be64toh(id.be);
}

int fsck_put_layer(struct fsck *f, const struct store_layer *layer)
{
    struct key_id key = key_of_id(layer->id);
    struct value_layer value = {.format = STORE_FORMAT,
                                .frozen = layer->frozen       ? STORE_FROZEN
                                          : layer->was_frozen ? STORE_THAWED
                                                              : STORE_NEVER_FROZEN,
                                .refs = layer->refs,
                                .bytes = layer->bytes,
                                .inodes = layer->inodes,
                                .tree_files = layer->tree_files,
                                .tree_bytes = layer->tree_bytes};
    return fsck_put(f, STORE_DBI_LAYER, store_val(&key, sizeof key),
                    store_val(&value, sizeof value));
}

// ---- bytes and inodes

struct sums {
    uint64_t bytes, inodes;
};

static int add_inode(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct sums *sums = arg;
    struct store_inode inode;
    (void)f;
    (void)key;
    if (store_inode_decode(value, 0, 1, &inode) < 0)
        return 0;
    sums->inodes++;
    sums->bytes += store_inode_charge(&inode);
    return 0;
}

static int count_layer(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct sums sums = {0};
    struct store_layer layer;
    (void)value;
    (void)arg;
    if (store_layer_get(f->txn, id_of(key), &layer) < 0)
        return 0;
    int rc = fsck_walk(f, STORE_DBI_INODE, key, add_inode, &sums);
    if (rc != 0 || (sums.bytes == layer.bytes && sums.inodes == layer.inodes))
        return rc;
    if (!fsck_found(f, "layer-counters", true,
                    "layer %" PRIu64 " says that it has %" PRIu64 " bytes in %" PRIu64
                    " records; it has %" PRIu64 " in %" PRIu64,
                    layer.id, layer.bytes, layer.inodes, sums.bytes, sums.inodes))
        return 0;
    layer.bytes = sums.bytes;
    layer.inodes = sums.inodes;
    return fsck_put_layer(f, &layer);
}

int fsck_pass_counts(struct fsck *f)
{
    return fsck_walk(f, STORE_DBI_LAYER, fsck_everything(), count_layer, NULL);
}

// ---- windows

// Of a blob: the records in deltas that own it, how many bytes the others may have, and have.
struct ownership {
    uint32_t owners;
    bool impossible; // one shares more than it has
    uint64_t layer;  // of an owner
    uint64_t shared, most;
};

struct window {
    uint64_t *ids;                // ascending
    uint32_t *counts;             // references found
    struct ownership *ownerships; // of blobs, else NULL
    size_t n;
    uint64_t layer;    // looked at last, ...
    bool layer_counts; // ... and whether it is a sandbox's or lasts
};

static uint32_t *slot_of(struct window *window, uint64_t id)
{
    size_t low = 0, high = window->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (window->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < window->n && window->ids[low] == id ? &window->counts[low] : NULL;
}

static void count_one(struct window *window, uint64_t id)
{
    uint32_t *count = slot_of(window, id);
    if (count && *count < UINT32_MAX)
        ++*count;
}

// The next ids of a database, from *next on; window->n is 0 at the end.
static int fill_window(struct fsck *f, enum store_dbi dbi, uint64_t *next, struct window *window)
{
    MDB_cursor *cursor;
    struct key_id from = key_of_id(*next);
    MDB_val key = store_val(&from, sizeof from), value;
    window->n = 0;
    int rc = store_errno(mdb_cursor_open(f->txn->mdb, f->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; mdb_rc == 0 && window->n < FSCK_WINDOW;
         mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (key.mv_size != sizeof from)
            continue;
        window->counts[window->n] = 0;
        if (window->ownerships)
            window->ownerships[window->n] = (struct ownership){0};
        window->ids[window->n++] = id_of(key);
        *next = id_of(key) + 1;
    }
    mdb_cursor_close(cursor);
    return mdb_rc != 0 && mdb_rc != MDB_NOTFOUND ? store_errno(mdb_rc) : 0;
}

static int recount(struct fsck *f, enum store_dbi dbi,
                   int (*count)(struct fsck *f, struct window *window),
                   int (*judge)(struct fsck *f, const struct window *window, size_t i))
{
    MDB_stat stat;
    int rc = store_errno(mdb_stat(f->txn->mdb, f->store->dbi[dbi], &stat));
    if (rc < 0 || stat.ms_entries == 0)
        return rc;
    size_t room = stat.ms_entries < FSCK_WINDOW ? stat.ms_entries : FSCK_WINDOW;
    AF_CLEANUP_FREE uint64_t *ids = calloc(room, sizeof *ids);
    AF_CLEANUP_FREE uint32_t *counts = calloc(room, sizeof *counts);
    AF_CLEANUP_FREE struct ownership *ownerships =
        dbi == STORE_DBI_BLOB ? calloc(room, sizeof *ownerships) : NULL;
    struct window window = {.ids = ids, .counts = counts, .ownerships = ownerships};
    uint64_t next = 0;
    if (!ids || !counts || (dbi == STORE_DBI_BLOB && !ownerships))
        return -ENOMEM;
    do {
        rc = fill_window(f, dbi, &next, &window);
        if (rc == 0 && window.n > 0)
            rc = count(f, &window);
        for (size_t i = 0; rc == 0 && i < window.n; i++)
            rc = judge(f, &window, i);
    } while (rc == 0 && window.n == FSCK_WINDOW);
    return rc;
}

// While an owner cannot be read, nothing is given up for want of references.
static bool may_set(const struct fsck *f, uint32_t from, uint32_t to)
{
    return to >= from || !f->lost_owner;
}

// ---- who refers to what

static int count_stack_of(struct fsck *f, const char *what, const char *id, uint64_t live,
                          uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    (void)f, (void)what, (void)id, (void)live, (void)root, (void)sandbox;
    count_one(arg, stack);
    return 0;
}

static int count_stacks(struct fsck *f, struct window *window)
{
    return fsck_owners(f, count_stack_of, window);
}

static int judge_stack(struct fsck *f, const struct window *window, size_t i)
{
    uint64_t id = window->ids[i];
    uint32_t refs = window->counts[i];
    struct key_id key = key_of_id(id);
    MDB_val val = store_val(&key, sizeof key), value;
    struct value_stack head;
    if (store_get(f->txn, STORE_DBI_STACK, val, &value) < 0 || value.mv_size < sizeof head)
        return 0;
    memcpy(&head, value.mv_data, sizeof head);
    if (head.refs == refs)
        return 0;
    if (!fsck_found(f, "stack-refs", may_set(f, head.refs, refs),
                    "stack %" PRIu64 " counts %" PRIu32 " references; there are %" PRIu32, id,
                    head.refs, refs))
        return 0;
    if (refs == 0)
        return fsck_del(f, STORE_DBI_STACK, val); // its layers are counted next
    AF_CLEANUP_FREE uint8_t *bytes = malloc(value.mv_size);
    if (!bytes)
        return -ENOMEM;
    head.refs = refs;
    memcpy(bytes, value.mv_data, value.mv_size);
    memcpy(bytes, &head, sizeof head);
    return fsck_put(f, STORE_DBI_STACK, val, store_val(bytes, value.mv_size));
}

static int count_layer_of(struct fsck *f, const char *what, const char *id, uint64_t live,
                          uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    (void)f, (void)what, (void)id, (void)stack, (void)root, (void)sandbox;
    count_one(arg, live);
    return 0;
}

static int count_layers_of_stack(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    uint64_t layer;
    struct value_stack head;
    size_t count;
    if (store_stack_get(f->txn, id_of(key), &layer, 0, &count) < 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(&layer, (const char *)value.mv_data + sizeof head + i * sizeof layer, sizeof layer);
        count_one(arg, layer);
    }
    return 0;
}

static int count_pending(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    (void)f;
    count_one(arg, id_of(key));
    for (size_t at = 1; at + sizeof(uint64_t) <= value.mv_size; at += sizeof(uint64_t)) {
        uint64_t layer; // that a merge refers to
        memcpy(&layer, (const uint8_t *)value.mv_data + at, sizeof layer);
        count_one(arg, layer);
    }
    return 0;
}

static int count_layers(struct fsck *f, struct window *window)
{
    int rc = fsck_owners(f, count_layer_of, window);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_STACK, fsck_everything(), count_layers_of_stack, window);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_PENDING, fsck_everything(), count_pending, window);
    return rc;
}

static int judge_layer(struct fsck *f, const struct window *window, size_t i)
{
    uint64_t id = window->ids[i];
    uint32_t refs = window->counts[i];
    struct store_layer layer;
    if (store_layer_get(f->txn, id, &layer) < 0 || layer.refs == refs)
        return 0;
    if (!fsck_found(f, "layer-refs", may_set(f, layer.refs, refs),
                    "layer %" PRIu64 " counts %" PRIu32 " references; there are %" PRIu32, id,
                    layer.refs, refs))
        return 0;
    layer.refs = refs; // the pass over the queues gives it to the collector, or takes it back
    return fsck_put_layer(f, &layer);
}

// Not so of a delta that a view has left behind, or of work under way.
static bool layer_counts(struct fsck *f, struct window *window, uint64_t id)
{
    struct store_layer layer;
    if (window->layer != id)
        window->layer_counts =
            idset_has(&f->deltas, id) ||
            (store_layer_get(f->txn, id, &layer) == 0 && layer.refs > 0 && layer.frozen);
    window->layer = id;
    return window->layer_counts;
}

// Only a sandbox writes in place, and only into its delta.
static void count_owner(struct fsck *f, struct window *window, uint64_t layer, MDB_val value,
                        struct ownership *ownership)
{
    struct store_inode inode;
    if (!layer_counts(f, window, layer) || store_inode_decode(value, layer, 1, &inode) < 0)
        return;
    ownership->impossible |= inode.blob_shared > inode.size;
    if (!inode.blob_owned || !idset_has(&f->deltas, layer)) {
        if (inode.size > ownership->most)
            ownership->most = inode.size;
        return;
    }
    ownership->owners++;
    ownership->layer = layer;
    ownership->shared = inode.blob_shared;
}

static int count_blob_of(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct window *window = arg;
    struct value_inode v;
    struct key_inode place;
    if (value.mv_size < sizeof v)
        return 0;
    memcpy(&v, value.mv_data, sizeof v);
    uint32_t *count = v.content == STORE_CONTENT_BLOB ? slot_of(window, v.blob) : NULL;
    if (!count)
        return 0;
    count_one(window, v.blob);
    if (key.mv_size == sizeof place) {
        memcpy(&place, key.mv_data, sizeof place);
        count_owner(f, window, be64toh(place.layer_be), value,
                    &window->ownerships[count - window->counts]);
    }
    return 0;
}

static int count_blobs(struct fsck *f, struct window *window)
{
    return fsck_walk(f, STORE_DBI_INODE, fsck_everything(), count_blob_of, window);
}

static int judge_refs_of_blob(struct fsck *f, uint64_t id, uint32_t refs)
{
    struct key_id key = key_of_id(id);
    MDB_val val = store_val(&key, sizeof key), value;
    struct value_blob blob;
    if (store_get(f->txn, STORE_DBI_BLOB, val, &value) < 0 || store_blob_decode(value, &blob) < 0)
        return 0;
    if (blob.refs == refs)
        return 0;
    if (!fsck_found(f, "blob-refs", may_set(f, blob.refs, refs),
                    "content %" PRIu64 " counts %" PRIu32 " references; there are %" PRIu32, id,
                    blob.refs, refs))
        return 0;
    if (refs == 0) // its file is found by the pass over the files and saved
        return fsck_del(f, STORE_DBI_BLOB, val);
    blob.refs = refs;
    return fsck_put(f, STORE_DBI_BLOB, val, store_blob_encode(&blob));
}

static int disown(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    const uint64_t *blob = arg;
    struct value_inode v;
    uint8_t bytes[sizeof v + UINT8_MAX];
    struct store_inode inode;
    if (store_inode_decode(value, 0, 1, &inode) < 0 || !inode.blob_owned || inode.blob != *blob)
        return 0;
    memcpy(bytes, value.mv_data, sizeof v + inode.name_len);
    memcpy(&v, bytes, sizeof v);
    v.blob_owned = VALUE_OWNS_NOTHING;
    memcpy(bytes, &v, sizeof v);
    return fsck_put(f, STORE_DBI_INODE, key, store_val(bytes, sizeof v + inode.name_len));
}

// An owner of whom the blob does not know, as of schema 7, is one that no other record knows of.
static bool is_owned_well(struct fsck *f, uint64_t id, const struct ownership *ownership)
{
    struct key_id key = key_of_id(id);
    struct value_blob blob;
    MDB_val value;
    if (ownership->owners == 0 || ownership->impossible)
        return !ownership->impossible;
    if (ownership->owners > 1 || ownership->most > ownership->shared)
        return false;
    if (store_get(f->txn, STORE_DBI_BLOB, store_val(&key, sizeof key), &value) < 0 ||
        store_blob_decode(value, &blob) < 0)
        return true; // said already
    return ownership->shared == 0 || blob.owner_layer == ownership->layer;
}

// What is nobody's own is copied before it is written.
static int judge_blob(struct fsck *f, const struct window *window, size_t i)
{
    uint64_t id = window->ids[i];
    int rc = judge_refs_of_blob(f, id, window->counts[i]);
    if (rc != 0 || is_owned_well(f, id, &window->ownerships[i]))
        return rc;
    if (!fsck_found(f, "blob-owner", true,
                    "a file may write in place what others have of content %" PRIu64, id))
        return 0;
    return fsck_walk(f, STORE_DBI_INODE, fsck_everything(), disown, &id);
}

static int note_delta(struct fsck *f, const char *what, const char *id, uint64_t live,
                      uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    (void)what, (void)id, (void)stack, (void)root, (void)arg;
    return sandbox && live != 0 ? idset_add(&f->deltas, live) : 0;
}

int fsck_pass_refs(struct fsck *f)
{
    int rc = recount(f, STORE_DBI_STACK, count_stacks, judge_stack);
    if (rc == 0)
        rc = recount(f, STORE_DBI_LAYER, count_layers, judge_layer);
    idset_clear(&f->deltas);
    if (rc == 0)
        rc = fsck_owners(f, note_delta, NULL);
    if (rc == 0)
        rc = recount(f, STORE_DBI_BLOB, count_blobs, judge_blob);
    return rc;
}

// ---- queues

static bool has(struct fsck *f, enum store_dbi dbi, MDB_val key)
{
    MDB_val value;
    return store_get(f->txn, dbi, key, &value) == 0;
}

static int check_garbage_mark(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct store_layer layer;
    (void)value, (void)arg;
    int rc = store_layer_get(f->txn, id_of(key), &layer);
    if (rc == 0 && layer.refs == 0)
        return 0;
    if (!fsck_found(f, "garbage", true, "layer %" PRIu64 " waits for the collector, but %s",
                    id_of(key), rc == 0 ? "is in use" : "is not there"))
        return 0;
    return fsck_del(f, STORE_DBI_GARBAGE, key);
}

static int check_layer_queued(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct store_layer layer;
    uint8_t format = STORE_FORMAT;
    (void)value, (void)arg;
    if (store_layer_get(f->txn, id_of(key), &layer) < 0 || layer.refs > 0 ||
        has(f, STORE_DBI_GARBAGE, key))
        return 0;
    if (!fsck_found(f, "garbage", true,
                    "nothing refers to layer %" PRIu64 ", and the collector does not know",
                    layer.id))
        return 0;
    return fsck_put(f, STORE_DBI_GARBAGE, key, store_val(&format, 1));
}

static int check_unlink_mark(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    (void)value, (void)arg;
    if (!has(f, STORE_DBI_BLOB, key))
        return 0;
    if (!fsck_found(f, "unlink-queue", true,
                    "content %" PRIu64 " is in use, but waits for its removal", id_of(key)))
        return 0;
    return fsck_del(f, STORE_DBI_UNLINK, key);
}

static int check_pending_mark(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    (void)value, (void)arg;
    if (has(f, STORE_DBI_LAYER, key))
        return 0;
    if (!fsck_found(f, "pending", true, "layer %" PRIu64 " of an import is not there", id_of(key)))
        return 0;
    return fsck_del(f, STORE_DBI_PENDING, key);
}

int fsck_pass_queues(struct fsck *f)
{
    int rc = fsck_walk(f, STORE_DBI_GARBAGE, fsck_everything(), check_garbage_mark, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_LAYER, fsck_everything(), check_layer_queued, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_UNLINK, fsck_everything(), check_unlink_mark, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_PENDING, fsck_everything(), check_pending_mark, NULL);
    return rc;
}
