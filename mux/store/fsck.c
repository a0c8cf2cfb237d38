// Rounds of passes, findings, and walking over records that a repair changes.
//
// A check is one round. A repair makes rounds until one finds nothing that it could repair, then a
// last one that only looks: what that finds is left. Read next: fsck_priv.h.
#include "mux/store/fsck_priv.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>

// ---- findings

const char *fsck_quote(char buf[FSCK_QUOTED_MAX], const void *name, size_t len)
{
    const unsigned char *bytes = name;
    size_t n = 0;
    buf[n++] = '\'';
    for (size_t i = 0; i < len && n < FSCK_QUOTED_MAX - 6; i++)
        buf[n++] = (char)(isprint(bytes[i]) && bytes[i] != '\'' ? bytes[i] : '?');
    if (n >= FSCK_QUOTED_MAX - 6)
        n += (size_t)snprintf(buf + n, 4, "...");
    buf[n++] = '\'';
    buf[n] = '\0';
    return buf;
}

bool fsck_found(struct fsck *f, const char *kind, bool repairable, const char *fmt, ...)
{
    struct af_error text; // makes whatever was quoted printable
    va_list ap;
    if (f->stopped != 0)
        return false;
    va_start(ap, fmt);
    af_error_vset(&text, AF_DATA_LOSS, fmt, ap);
    va_end(ap);
    f->found++;
    bool repairs = f->repairing && repairable;
    struct store_finding finding = {
        .kind = kind, .text = text.text, .repairable = repairable, .repaired = repairs};
    f->result->repaired += repairs;
    if (f->options->fn && (repairs || f->reporting))
        f->stopped = f->options->fn(f->options->arg, &finding);
    return repairs && f->stopped == 0;
}

int fsck_stopped(const struct fsck *f)
{
    return f->stopped;
}

// ---- walking

struct walk {
    enum store_dbi dbi;
    MDB_val prefix;
    MDB_cursor *cursor;
    uint8_t at[FSCK_KEY_MAX]; // the key of the present record
    size_t at_len;
};

// After a change: a cursor of its own, at the first record behind the present one.
static int find_place(struct fsck *f, struct walk *walk, MDB_val *key, MDB_val *value)
{
    mdb_cursor_close(walk->cursor);
    walk->cursor = NULL;
    int rc = mdb_cursor_open(f->txn->mdb, f->store->dbi[walk->dbi], &walk->cursor);
    if (rc != 0)
        return rc;
    *key = store_val(walk->at, walk->at_len);
    rc = mdb_cursor_get(walk->cursor, key, value, MDB_SET_RANGE);
    if (rc == 0 && key->mv_size == walk->at_len &&
        memcmp(key->mv_data, walk->at, key->mv_size) == 0)
        rc = mdb_cursor_get(walk->cursor, key, value, MDB_NEXT);
    return rc;
}

static bool has_prefix(const struct walk *walk, const MDB_val *key)
{
    return walk->prefix.mv_size == 0 ||
           (key->mv_size >= walk->prefix.mv_size &&
            memcmp(key->mv_data, walk->prefix.mv_data, walk->prefix.mv_size) == 0);
}

int fsck_walk(struct fsck *f, enum store_dbi dbi, MDB_val prefix, fsck_record_fn fn, void *arg)
{
    struct walk walk = {.dbi = dbi, .prefix = prefix};
    MDB_val key = prefix, value;
    int rc = 0;
    int mdb_rc = mdb_cursor_open(f->txn->mdb, f->store->dbi[dbi], &walk.cursor);
    if (mdb_rc == 0)
        mdb_rc = mdb_cursor_get(walk.cursor, &key, &value,
                                prefix.mv_size > 0 ? MDB_SET_RANGE : MDB_FIRST);
    while (mdb_rc == 0 && rc == 0 && has_prefix(&walk, &key)) {
        uint64_t before = f->writes;
        walk.at_len = key.mv_size;
        memcpy(walk.at, key.mv_data, key.mv_size); // LMDB: at most 511 bytes
        rc = fn(f, store_val(walk.at, walk.at_len), value, arg);
        if (rc == 0)
            rc = f->stopped;
        if (rc == 0)
            mdb_rc = before == f->writes ? mdb_cursor_get(walk.cursor, &key, &value, MDB_NEXT)
                                         : find_place(f, &walk, &key, &value);
    }
    if (walk.cursor)
        mdb_cursor_close(walk.cursor);
    if (rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND)
        rc = store_errno(mdb_rc);
    return rc;
}

int fsck_put(struct fsck *f, enum store_dbi dbi, MDB_val key, MDB_val value)
{
    f->writes++;
    return store_put(f->txn, dbi, key, value);
}

int fsck_del(struct fsck *f, enum store_dbi dbi, MDB_val key)
{
    f->writes++;
    int rc = store_del(f->txn, dbi, key);
    return rc == -ENOENT ? 0 : rc;
}

int fsck_put_inode(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    f->writes++;
    return store_inode_put(f->txn, layer, inode);
}

int fsck_del_inode(struct fsck *f, uint64_t layer, uint64_t fid)
{
    f->writes++;
    return store_inode_del(f->txn, layer, fid);
}

// ---- rounds

static int (*const passes[])(struct fsck *f) = {
    fsck_pass_records, fsck_pass_owners, fsck_pass_blob_records, fsck_pass_indexes,
    fsck_pass_counts,  fsck_pass_refs,   fsck_pass_trees,        fsck_pass_tree_counters,
    fsck_pass_counts,  fsck_pass_refs,   fsck_pass_queues,       fsck_pass_blob_files,
};
// The second look at counts and references is for what the trees' repairs changed.
#define PASSES_ONLY_OF_REPAIRS(i) ((i) == 8 || (i) == 9)

static int run_pass(struct fsck *f, int (*pass)(struct fsck *f))
{
    if (!f->repairing)
        return pass(f);
    int rc = store_write_begin(f->store, &f->txn);
    if (rc < 0)
        return rc;
    rc = pass(f);
    if (rc == 0)
        return store_commit(f->txn);
    store_abort(f->txn);
    return rc;
}

static int run_round(struct fsck *f, bool repairing)
{
    f->found = 0;
    f->result->records = 0;
    f->repairing = repairing;
    f->reporting = !f->options->repair || !repairing;
    f->id_max = 0;
    f->lost_owner = false;
    idset_clear(&f->checked);
    fsck_forget_reachable(f);
    int rc = repairing ? 0 : store_read_begin(f->store, &f->txn);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < AF_ARRAY_LEN(passes); i++)
        if (repairing || !PASSES_ONLY_OF_REPAIRS(i))
            rc = run_pass(f, passes[i]);
    if (!repairing)
        store_read_end(f->txn);
    return rc == 0 ? f->stopped : rc;
}

// Until a round repairs nothing more.
static int repair(struct fsck *f)
{
    for (int round = 0; round < FSCK_ROUNDS_MAX; round++) {
        uint64_t before = f->result->repaired;
        int rc = run_round(f, true);
        if (round == 0)
            f->result->found = f->found;
        if (rc != 0)
            return rc;
        if (f->result->repaired == before)
            break;
    }
    return store_sync_point(f->store, atomic_load(&f->store->last_txn));
}

int store_fsck(struct store *store, const struct store_fsck_options *options,
               struct store_fsck_result *ret)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    struct store_fsck_result result = {0};
    struct fsck f = {
        .store = store,
        .options = options,
        .result = &result,
        .offline = store->fsck_only,
    };
    int rc = options->repair && !store->fsck_only ? -EBUSY : 0;
    if (rc == 0)
        rc = options->repair ? repair(&f) : 0;
    if (rc == 0)
        rc = run_round(&f, false);
    if (!options->repair)
        result.found = f.found;
    result.left = f.found;
    idset_clear(&f.checked);
    idset_clear(&f.deltas);
    fsck_forget_reachable(&f);
    *ret = result;
    return rc;
}
