// Merging layers: the records of a run of adjacent frozen layers, again, in one new layer.
//
// A stack's id names a tree; which layers tell that tree may change. A merge makes one layer that
// tells the same as a run of them: of each name and each inode the topmost record, in bounded
// transactions, while the layer is pending; then every stack that holds the run gets the one in its
// place, in place, so that ids of stacks stay true. Cookies, fids and versions are in the records
// and stay; blobs are counted, not copied. Records that no name leads to any more go, and where the
// run ends its stacks, so do whiteouts; until then a directory that was removed keeps its record,
// marked as an orphan, while the layer has whiteouts of names that it had in layers below. The
// pending mark names the run: a merge refers to its layers until it has ended, so that they stay as
// they are (a head is thawed only without other references) and readable by whoever still goes by
// them. store_open ends what a crash left. Reads are made in read transactions, for the run is
// frozen: the writer is held for the writing alone. Owns the merge; one thread at a time. Fails:
// -errno, -ENOSPC on a full disk; the merge can be tried again or ended. Read next: layer.c,
// mux/compact.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define BATCH_BYTES (256u << 10)
#define SUFFIX_MAX  (sizeof(struct key_entry) - sizeof(uint64_t))
#define LAYER_BYTES sizeof(uint64_t)

enum phase { PHASE_ENTRIES, PHASE_INODES, PHASE_LINKS, PHASE_DONE };

static const enum store_dbi phase_dbi[] = {STORE_DBI_ENTRY, STORE_DBI_INODE, STORE_DBI_LINK};

// A record to write: its key without the layer, then its value, both in the batch's bytes.
struct pick {
    enum store_dbi dbi;
    uint32_t key_at, key_len, value_at, value_len;
};

struct store_merge {
    struct store *store;
    uint64_t layer;
    bool is_bottom;
    enum phase phase;
    uint8_t after[SUFFIX_MAX]; // key, without the layer, of the last record of the phase
    size_t after_len;          // 0: none yet
    struct pick *picks;
    size_t n_picks, picks_capacity;
    uint8_t *bytes;
    size_t n_bytes, bytes_capacity;
    size_t count;
    uint64_t run[]; // top first
};

// ---- begin and end

// Once the merge holds a layer nobody makes it live again: but somebody may have, since the run was
// looked up, and what he writes would not be in the merged layer.
static int hold(struct store_txn *txn, uint64_t id)
{
    struct store_layer layer;
    int rc = store_layer_get(txn, id, &layer);
    if (rc == 0 && !layer.frozen)
        rc = -ENOENT;
    return rc == 0 ? store_layer_ref(txn, id) : rc;
}

static int begin_in_txn(struct store_txn *txn, struct store_merge *merge)
{
    int rc = store_layer_new(txn, &merge->layer);
    for (size_t i = 0; rc == 0 && i < merge->count; i++)
        rc = hold(txn, merge->run[i]);
    return rc < 0 ? rc : store_pending_put(txn, merge->layer, merge->run, merge->count);
}

int store_merge_begin(struct store *store, const uint64_t *run, size_t count, bool is_bottom,
                      struct store_merge **ret)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    if (count < 2 || count > STORE_MERGE_MAX)
        return -EINVAL;
    struct store_merge *merge = calloc(1, sizeof *merge + count * sizeof *run);
    struct store_txn *txn;
    int rc = merge ? store_write_begin(store, &txn) : -ENOMEM;
    if (rc < 0) {
        free(merge);
        return rc;
    }
    merge->store = store;
    merge->is_bottom = is_bottom;
    merge->count = count;
    memcpy(merge->run, run, count * sizeof *run);
    rc = begin_in_txn(txn, merge);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    if (rc < 0) {
        free(merge);
        return rc;
    }
    *ret = merge;
    return 0;
}

int store_merge_end(struct store_merge *merge)
{
    struct store_txn *txn;
    int rc = store_write_begin(merge->store, &txn);
    if (rc < 0)
        return rc;
    rc = store_pending_end(txn, merge->layer);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    return rc;
}

void store_merge_free(struct store_merge *merge)
{
    if (!merge)
        return;
    free(merge->picks);
    free(merge->bytes);
    free(merge);
}

uint64_t store_merge_layer(const struct store_merge *merge)
{
    return merge->layer;
}

bool store_merge_is_wanted(struct store_merge *merge)
{
    struct store_txn *txn;
    struct store_layer top;
    if (store_read_begin(merge->store, &txn) < 0)
        return true;
    int rc = store_layer_get(txn, merge->run[0], &top);
    store_read_end(txn);
    return rc < 0 || top.refs > 1;
}

// ---- reading: what the next transaction writes

static void *reserve_bytes(struct store_merge *merge, size_t len)
{
    if (merge->n_bytes + len > merge->bytes_capacity) {
        size_t capacity = (merge->n_bytes + len) * 2;
        uint8_t *bytes = realloc(merge->bytes, capacity);
        if (!bytes)
            return NULL;
        merge->bytes = bytes;
        merge->bytes_capacity = capacity;
    }
    void *at = merge->bytes + merge->n_bytes;
    merge->n_bytes += len;
    return at;
}

static int pick(struct store_merge *merge, enum store_dbi dbi, MDB_val suffix, MDB_val value)
{
    if (merge->n_picks == merge->picks_capacity) {
        size_t capacity = merge->picks_capacity ? merge->picks_capacity * 2 : 256;
        struct pick *picks = realloc(merge->picks, capacity * sizeof *picks);
        if (!picks)
            return -ENOMEM;
        merge->picks = picks;
        merge->picks_capacity = capacity;
    }
    struct pick picked = {
        .dbi = dbi,
        .key_at = (uint32_t)merge->n_bytes,
        .key_len = (uint32_t)suffix.mv_size,
        .value_at = (uint32_t)(merge->n_bytes + suffix.mv_size),
        .value_len = (uint32_t)value.mv_size,
    };
    uint8_t *at = reserve_bytes(merge, suffix.mv_size + value.mv_size);
    if (!at)
        return -ENOMEM;
    memcpy(at, suffix.mv_data, suffix.mv_size);
    memcpy(at + suffix.mv_size, value.mv_data, value.mv_size);
    merge->picks[merge->n_picks++] = picked;
    return 0;
}

struct source {
    uint64_t layer;
    MDB_cursor *cursor;
    bool ended;
    MDB_val suffix, value;
};

static int settle(struct source *source, MDB_val key, int mdb_rc)
{
    uint64_t layer_be = htobe64(source->layer);
    source->ended = mdb_rc == MDB_NOTFOUND;
    if (mdb_rc != 0)
        return source->ended ? 0 : store_errno(mdb_rc);
    if (key.mv_size <= LAYER_BYTES || key.mv_size > LAYER_BYTES + SUFFIX_MAX)
        return -EUCLEAN;
    source->ended = memcmp(key.mv_data, &layer_be, LAYER_BYTES) != 0;
    source->suffix = store_val((uint8_t *)key.mv_data + LAYER_BYTES, key.mv_size - LAYER_BYTES);
    return 0;
}

static int advance(struct source *source)
{
    MDB_val key;
    int mdb_rc = mdb_cursor_get(source->cursor, &key, &source->value, MDB_NEXT);
    return settle(source, key, mdb_rc);
}

static int compare(MDB_val a, MDB_val b)
{
    size_t len = a.mv_size < b.mv_size ? a.mv_size : b.mv_size;
    int order = memcmp(a.mv_data, b.mv_data, len);
    return order != 0 ? order : (a.mv_size > b.mv_size) - (a.mv_size < b.mv_size);
}

// Before the first record of the layer after the merge's position.
static int start(struct store_merge *merge, struct store_txn *txn, struct source *source)
{
    uint8_t from[LAYER_BYTES + SUFFIX_MAX];
    uint64_t layer_be = htobe64(source->layer);
    MDB_dbi dbi = txn->store->dbi[phase_dbi[merge->phase]];
    int rc = store_errno(mdb_cursor_open(txn->mdb, dbi, &source->cursor));
    if (rc < 0)
        return rc;
    memcpy(from, &layer_be, LAYER_BYTES);
    memcpy(from + LAYER_BYTES, merge->after, merge->after_len);
    MDB_val key = store_val(from, LAYER_BYTES + merge->after_len);
    rc = settle(source, key, mdb_cursor_get(source->cursor, &key, &source->value, MDB_SET_RANGE));
    if (rc == 0 && !source->ended) {
        source->suffix = store_val((uint8_t *)key.mv_data + LAYER_BYTES, key.mv_size - LAYER_BYTES);
        if (compare(source->suffix, store_val(merge->after, merge->after_len)) == 0)
            rc = advance(source);
    }
    return rc;
}

static uint64_t fid_of(MDB_val suffix)
{
    uint64_t be;
    memcpy(&be, suffix.mv_data, sizeof be);
    return be64toh(be);
}

// Names of one file, looked up in the merged tree, whose entries are all there already.
struct named {
    const struct store_merge *merge;
    struct store_txn *txn;
    uint64_t fid;
    bool found;
};

static int look_for_name(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    struct named *named = arg;
    struct store_entry entry;
    int rc = store_entry_get(named->txn, named->merge->layer, parent, name, name_len, &entry);
    if (rc == -ENOENT)
        named->found = !named->merge->is_bottom; // the name is in a layer below
    else if (rc == 0)
        named->found = entry.fid == named->fid;
    return rc == -ENOENT || rc == 0 ? named->found : rc;
}

// Whether the merged tree has a name that a record tells of, or the index of names: who loses the
// last of several names leaves the record that is below as it was.
static int is_named(const struct store_merge *merge, struct store_txn *txn,
                    const struct store_inode *inode, bool *ret)
{
    struct named named = {.merge = merge, .txn = txn, .fid = inode->fid};
    *ret = true;
    if (inode->parent == 0) // the root
        return 0;
    int rc = look_for_name(&named, inode->parent, inode->name, inode->name_len);
    for (size_t i = 0; rc == 0 && inode->nlink > 1 && i < merge->count; i++)
        rc = store_link_walk(txn, merge->run[i], inode->fid, look_for_name, &named);
    *ret = named.found;
    return rc < 0 ? rc : 0;
}

static int pick_inode(struct store_merge *merge, struct store_txn *txn, const struct source *source)
{
    struct store_inode inode;
    const uint8_t format = STORE_FORMAT;
    bool keep = true, holds = false;
    if (source->suffix.mv_size != sizeof(uint64_t))
        return -EUCLEAN;
    uint64_t fid = fid_of(source->suffix);
    int rc = store_inode_get(txn, source->layer, fid, &inode);
    if (rc == 0)
        rc = is_named(merge, txn, &inode, &keep);
    // What a removed directory held below is whited out here (in older stores it may have its names
    // still): such records belong to a directory until a merge at the bottom.
    if (rc == 0 && !keep && S_ISDIR(inode.mode))
        rc = store_dir_is_touched(txn, merge->layer, fid, &holds);
    if (rc < 0 || (!keep && !holds))
        return rc;
    rc = pick(merge, STORE_DBI_INODE, source->suffix, source->value);
    if (rc == 0 && !keep) // without a name, and known to be
        rc = pick(merge, STORE_DBI_ORPHAN, source->suffix, store_val(&format, sizeof format));
    if (rc == 0 && inode.xattr_bytes > 0) {
        MDB_val value = {0};
        const void *xattrs = NULL;
        rc = store_xattr_get(txn, source->layer, fid, &xattrs, &value.mv_size);
        value.mv_data = (void *)(uintptr_t)xattrs;
        if (rc == 0)
            rc = pick(merge, STORE_DBI_XATTR, source->suffix, value);
    }
    return rc;
}

// Names are indexed for files that have several; a record with one name knows it.
static int pick_link(struct store_merge *merge, struct store_txn *txn, const struct source *source)
{
    struct store_inode inode;
    if (source->suffix.mv_size <= KEY_LINK_PREFIX - LAYER_BYTES)
        return -EUCLEAN;
    int rc = store_inode_get(txn, merge->layer, fid_of(source->suffix), &inode);
    if (rc == -ENOENT)
        inode.nlink = merge->is_bottom ? 0 : 2;
    else if (rc < 0)
        return rc;
    return inode.nlink > 1 ? pick(merge, STORE_DBI_LINK, source->suffix, source->value) : 0;
}

static int pick_winner(struct store_merge *merge, struct store_txn *txn, const struct source *top)
{
    struct value_entry entry;
    switch (merge->phase) {
    case PHASE_ENTRIES:
        if (top->value.mv_size != sizeof entry)
            return -EUCLEAN;
        memcpy(&entry, top->value.mv_data, sizeof entry);
        if (entry.fid == 0 && merge->is_bottom) // a whiteout of nothing
            return 0;
        return pick(merge, STORE_DBI_ENTRY, top->suffix, top->value);
    case PHASE_INODES:
        return pick_inode(merge, txn, top);
    case PHASE_LINKS:
        return pick_link(merge, txn, top);
    case PHASE_DONE:
        break;
    }
    return 0;
}

// Takes the next key over all sources; *ret_more: there was one.
static int take_next(struct store_merge *merge, struct store_txn *txn, struct source *sources,
                     bool *ret_more)
{
    struct source *top = NULL;
    for (size_t i = 0; i < merge->count; i++)
        if (!sources[i].ended && (!top || compare(sources[i].suffix, top->suffix) < 0))
            top = &sources[i];
    *ret_more = top != NULL;
    if (!top)
        return 0;
    int rc = pick_winner(merge, txn, top);
    if (rc < 0)
        return rc;
    merge->after_len = top->suffix.mv_size;
    memcpy(merge->after, top->suffix.mv_data, top->suffix.mv_size);
    MDB_val taken = store_val(merge->after, merge->after_len);
    for (size_t i = 0; rc == 0 && i < merge->count; i++)
        if (!sources[i].ended && compare(sources[i].suffix, taken) == 0)
            rc = advance(&sources[i]);
    return rc;
}

// Fills the batch with up to `max` records of this phase; *ret_ended: the phase has no more.
static int read_batch(struct store_merge *merge, unsigned max, bool *ret_ended)
{
    struct store_txn *txn;
    struct source sources[STORE_MERGE_MAX] = {0};
    bool more = true;
    merge->n_picks = merge->n_bytes = 0;
    int rc = store_read_begin(merge->store, &txn);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < merge->count; i++) {
        sources[i].layer = merge->run[i];
        rc = start(merge, txn, &sources[i]);
    }
    // What is passed over counts too: a run of whiteouts must not make an endless step.
    for (unsigned seen = 0; rc == 0 && more && seen < 8 * max; seen++) {
        if (merge->n_picks >= max || merge->n_bytes >= BATCH_BYTES)
            break;
        rc = take_next(merge, txn, sources, &more);
    }
    for (size_t i = 0; i < merge->count; i++)
        if (sources[i].cursor)
            mdb_cursor_close(sources[i].cursor);
    store_read_end(txn);
    *ret_ended = !more;
    return rc;
}

// ---- writing

static int write_inode(struct store_txn *txn, const struct store_merge *merge, MDB_val key,
                       MDB_val value, uint64_t fid, struct store_layer_change *growth)
{
    struct value_inode v;
    memcpy(&v, value.mv_data, sizeof v);
    if (v.blob_owned == VALUE_OWNS_TAIL)
        value.mv_size -= sizeof(uint64_t); // blob_shared
    v.blob_owned = VALUE_OWNS_NOTHING;     // the record in the run may own it still
    memcpy(value.mv_data, &v, sizeof v);
    int rc = store_put(txn, STORE_DBI_INODE, key, value);
    if (rc == 0 && v.content == STORE_CONTENT_BLOB)
        rc = store_blob_take(txn, v.blob);
    if (rc == 0 && S_ISREG(v.mode)) {
        struct key_version version = key_of_version(v.version, merge->layer);
        rc = store_put(txn, STORE_DBI_VERSION, store_val(&version, sizeof version),
                       store_val(&fid, sizeof fid));
    }
    growth->inodes++;
    growth->bytes += (int64_t)((S_ISREG(v.mode) ? v.size : 0) + v.xattr_bytes);
    return rc;
}

static int write_batch(struct store_merge *merge)
{
    struct store_txn *txn;
    struct store_layer_change growth = {0};
    struct {
        uint64_t layer_be;
        uint8_t suffix[SUFFIX_MAX];
    } __attribute__((packed)) full = {.layer_be = htobe64(merge->layer)};
    int rc = store_write_begin(merge->store, &txn);
    if (rc < 0)
        return rc;
    rc = store_space_for_growth(txn);
    for (size_t i = 0; rc == 0 && i < merge->n_picks; i++) {
        const struct pick *picked = &merge->picks[i];
        memcpy(full.suffix, merge->bytes + picked->key_at, picked->key_len);
        MDB_val key = store_val(&full, LAYER_BYTES + picked->key_len);
        MDB_val value = store_val(merge->bytes + picked->value_at, picked->value_len);
        if (picked->dbi == STORE_DBI_INODE)
            rc = write_inode(txn, merge, key, value, fid_of(store_val(full.suffix, 8)), &growth);
        else
            rc = store_put(txn, picked->dbi, key, value);
    }
    if (rc == 0)
        rc = store_layer_count(txn, merge->layer, &growth);
    if (rc == 0)
        return store_commit(txn);
    store_abort(txn);
    return rc;
}

int store_merge_step(struct store_merge *merge, unsigned max, bool *ret_done)
{
    uint8_t after[SUFFIX_MAX];
    size_t after_len = merge->after_len;
    bool ended = false;
    memcpy(after, merge->after, after_len);
    int rc = merge->phase == PHASE_DONE ? 0 : read_batch(merge, max, &ended);
    if (rc == 0 && merge->n_picks > 0)
        rc = write_batch(merge);
    if (rc < 0) { // as before: it can be tried again
        memcpy(merge->after, after, after_len);
        merge->after_len = after_len;
        return rc;
    }
    merge->n_picks = 0;
    if (ended) {
        merge->phase++;
        merge->after_len = 0;
    }
    *ret_done = merge->phase == PHASE_DONE;
    return 0;
}

// ---- putting it in place

// Where the run is in a stack: an index, or -1.
static ssize_t find_run(const struct store_merge *merge, const uint8_t *ids, size_t count)
{
    size_t bytes = merge->count * sizeof *merge->run;
    for (size_t at = 0; at + merge->count <= count; at++) {
        if (memcmp(ids + at * sizeof *merge->run, merge->run, bytes) != 0)
            continue;
        return !merge->is_bottom || at + merge->count == count ? (ssize_t)at : -1;
    }
    return -1;
}

// The stacks that hold the run, newest first, for those are where it is: as many as refer to its
// top layer are looked for. At most `max`.
static int find_stacks(struct store_merge *merge, uint64_t *stacks, size_t max, size_t *ret_count)
{
    struct store_txn *txn;
    struct store_layer top;
    MDB_cursor *cursor = NULL;
    size_t count = 0;
    int rc = store_read_begin(merge->store, &txn);
    if (rc < 0)
        return rc;
    rc = store_layer_get(txn, merge->run[0], &top);
    if (rc == 0)
        rc = store_errno(mdb_cursor_open(txn->mdb, merge->store->dbi[STORE_DBI_STACK], &cursor));
    uint64_t left = rc == 0 ? top.refs - 1 : 0; // but the merge's own
    MDB_val key, value;
    int mdb_rc = rc == 0 ? mdb_cursor_get(cursor, &key, &value, MDB_LAST) : MDB_NOTFOUND;
    for (; mdb_rc == 0 && left > 0 && count < max;
         mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV)) {
        struct value_stack head;
        struct key_id id;
        if (key.mv_size != sizeof id || value.mv_size < sizeof head)
            continue;
        memcpy(&id, key.mv_data, sizeof id);
        memcpy(&head, value.mv_data, sizeof head);
        if (value.mv_size != sizeof head + head.count * sizeof(uint64_t))
            continue;
        if (find_run(merge, (const uint8_t *)value.mv_data + sizeof head, head.count) < 0)
            continue;
        stacks[count++] = be64toh(id.be);
        left--;
    }
    if (cursor)
        mdb_cursor_close(cursor);
    store_read_end(txn);
    *ret_count = count;
    return rc;
}

static int swap_in_txn(struct store_txn *txn, const struct store_merge *merge,
                       const uint64_t *stacks, size_t count)
{
    uint32_t swapped = 0;
    uint64_t ids[STORE_STACK_MAX];
    int rc = store_layer_freeze(txn, merge->layer);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        size_t n;
        rc = store_stack_get(txn, stacks[i], ids, STORE_STACK_MAX, &n);
        ssize_t at = rc == 0 ? find_run(merge, (const uint8_t *)ids, n) : -1;
        if (at < 0) { // gone, or another by now
            rc = rc == -ENOENT ? 0 : rc;
            continue;
        }
        size_t after = (size_t)at + merge->count;
        ids[at] = merge->layer;
        memmove(ids + at + 1, ids + after, (n - after) * sizeof *ids);
        rc = store_stack_replace(txn, stacks[i], ids, n - merge->count + 1);
        swapped++;
    }
    if (rc == 0)
        rc = store_layer_change_refs(txn, merge->layer, (int64_t)swapped);
    for (size_t i = 0; rc == 0 && i < merge->count; i++) // never the last one: the merge has one
        rc = store_layer_change_refs(txn, merge->run[i], -(int64_t)swapped);
    return rc;
}

int store_merge_swap(struct store_merge *merge, size_t *ret_stacks)
{
    uint64_t stacks[STORE_MERGE_STACKS];
    size_t count = 0;
    int rc = find_stacks(merge, stacks, STORE_MERGE_STACKS, &count);
    *ret_stacks = count;
    if (rc < 0 || count == 0)
        return rc;
    struct store_txn *txn;
    rc = store_write_begin(merge->store, &txn);
    if (rc < 0)
        return rc;
    rc = swap_in_txn(txn, merge, stacks, count);
    if (rc == 0)
        return store_commit(txn);
    store_abort(txn);
    return rc;
}
