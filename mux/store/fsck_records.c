// Passes over single records: keys and values well-formed, ids given out by the counter, and the
// indexes beside the inode records: versions, orphans, extended attributes.
//
// A record that cannot be read is removed; what hung on it is found by the passes that follow. A
// codebase, a sandbox or a stack is never removed: that would drop everything it holds.
// Read next: fsck_tree.c.
#include "mux/store/fsck_priv.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#define ID_MAX (UINT64_C(1) << AF_FID_BITS)

static uint64_t u64_be(const void *bytes, size_t at)
{
    uint64_t be;
    memcpy(&be, (const char *)bytes + at, sizeof be);
    return be64toh(be);
}

static bool is_id(uint64_t id)
{
    return id > 0 && id <= ID_MAX;
}

// ---- what is wrong with one record; NULL when nothing is

static bool has_ids(MDB_val key, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!is_id(u64_be(key.mv_data, i * sizeof(uint64_t))))
            return false;
    return true;
}

static bool is_type(uint8_t type)
{
    return type == DT_REG || type == DT_DIR || type == DT_LNK || type == DT_FIFO || type == DT_SOCK;
}

static bool is_name(const char *name, size_t len)
{
    bool dots = (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.');
    return len > 0 && len <= AF_NAME_MAX && !dots && !memchr(name, '/', len) &&
           !memchr(name, '\0', len);
}

static const char *bad_entry(struct fsck *f, MDB_val key, MDB_val value)
{
    struct value_entry v;
    if (key.mv_size <= KEY_ENTRY_PREFIX || key.mv_size > sizeof(struct key_entry) ||
        value.mv_size != sizeof v || !has_ids(key, 2))
        return "its size or its ids are impossible";
    memcpy(&v, value.mv_data, sizeof v);
    const char *name = (const char *)key.mv_data + KEY_ENTRY_PREFIX;
    size_t len = key.mv_size - KEY_ENTRY_PREFIX;
    if (!is_name(name, len))
        return "its name is none";
    if (u64_be(key.mv_data, offsetof(struct key_entry, hash_be)) !=
        store_name_cookie(f->store, name, len))
        return "its place in the directory is not that of its name";
    if (v.format != STORE_FORMAT || v.fid > ID_MAX || (v.fid == 0) != (v.type == 0) ||
        (v.type != 0 && !is_type(v.type)))
        return "its value is impossible";
    return NULL;
}

static const char *bad_inode(struct fsck *f, MDB_val key, MDB_val value)
{
    struct store_inode inode;
    (void)f;
    if (key.mv_size != sizeof(struct key_inode) || !has_ids(key, 2))
        return "its key is impossible";
    if (store_inode_decode(value, 0, 1, &inode) < 0)
        return "it cannot be read";
    if (!is_type((uint8_t)IFTODT(inode.mode)) || !is_id(inode.version))
        return "its type or version is impossible";
    if (inode.content == STORE_CONTENT_BLOB && (!S_ISREG(inode.mode) || !is_id(inode.blob)))
        return "it has content that its type cannot have";
    if (inode.name_len > 0 && !is_name(inode.name, inode.name_len))
        return "its name is none";
    return NULL;
}

static const char *bad_version(struct fsck *f, MDB_val key, MDB_val value)
{
    uint64_t fid;
    (void)f;
    if (key.mv_size != sizeof(struct key_version) || value.mv_size != sizeof fid ||
        !has_ids(key, 2))
        return "its size or its ids are impossible";
    memcpy(&fid, value.mv_data, sizeof fid);
    return is_id(fid) ? NULL : "its file is impossible";
}

static bool is_mark(MDB_val value)
{
    return value.mv_size == 1 && *(const uint8_t *)value.mv_data == STORE_FORMAT;
}

static const char *bad_pair_mark(struct fsck *f, MDB_val key, MDB_val value)
{
    (void)f;
    return key.mv_size == sizeof(struct key_inode) && has_ids(key, 2) && is_mark(value)
               ? NULL
               : "it is no mark of a file";
}

static const char *bad_id_mark(struct fsck *f, MDB_val key, MDB_val value)
{
    (void)f;
    return key.mv_size == sizeof(struct key_id) && has_ids(key, 1) && is_mark(value)
               ? NULL
               : "it is no mark";
}

// Behind its format byte: the layers that a merge or a pin refers to.
static const char *bad_pending(struct fsck *f, MDB_val key, MDB_val value)
{
    (void)f;
    bool is_list = value.mv_size % sizeof(uint64_t) == 1 &&
                   value.mv_size <= 1 + STORE_STACK_MAX * sizeof(uint64_t) &&
                   *(const uint8_t *)value.mv_data == STORE_FORMAT;
    return key.mv_size == sizeof(struct key_id) && has_ids(key, 1) && is_list ? NULL
                                                                              : "it is no mark";
}

static const char *bad_layer(struct fsck *f, MDB_val key, MDB_val value)
{
    struct value_layer v;
    (void)f;
    if (key.mv_size != sizeof(struct key_id) || !has_ids(key, 1) || value.mv_size != sizeof v)
        return "its size or its id is impossible";
    memcpy(&v, value.mv_data, sizeof v);
    return v.format == STORE_FORMAT && v.frozen <= STORE_THAWED ? NULL : "its value is impossible";
}

static const char *bad_stack(struct fsck *f, MDB_val key, MDB_val value)
{
    uint64_t none;
    size_t count;
    if (key.mv_size != sizeof(struct key_id) || !has_ids(key, 1) ||
        *(const uint8_t *)value.mv_data != STORE_FORMAT ||
        store_stack_get(f->txn, u64_be(key.mv_data, 0), &none, 0, &count) < 0)
        return "it cannot be read";
    return NULL;
}

static const char *bad_blob(struct fsck *f, MDB_val key, MDB_val value)
{
    struct value_blob v;
    (void)f;
    if (key.mv_size != sizeof(struct key_id) || !has_ids(key, 1))
        return "its id is impossible";
    return store_blob_decode(value, &v) == 0 && v.has_digest <= 1 ? NULL
                                                                  : "its value is impossible";
}

static const char *bad_digest(struct fsck *f, MDB_val key, MDB_val value)
{
    uint64_t blob = 0;
    (void)f;
    if (value.mv_size == sizeof blob)
        memcpy(&blob, value.mv_data, sizeof blob);
    return key.mv_size == 32 && is_id(blob) ? NULL : "its size or its blob is impossible";
}

static const char *bad_codebase(struct fsck *f, MDB_val key, MDB_val value)
{
    struct store_codebase codebase;
    (void)f;
    return store_codebase_decode(key, value, &codebase) < 0 ? "it cannot be read" : NULL;
}

static const char *bad_sandbox(struct fsck *f, MDB_val key, MDB_val value)
{
    struct store_sandbox sandbox;
    (void)f;
    if (store_sandbox_decode(key, value, &sandbox) < 0)
        return "it cannot be read";
    store_sandbox_free_rules(&sandbox);
    return NULL;
}

static const char *bad_link(struct fsck *f, MDB_val key, MDB_val value)
{
    (void)f;
    if (key.mv_size <= KEY_LINK_PREFIX || key.mv_size > sizeof(struct key_link) ||
        !has_ids(key, 3) || !is_mark(value) ||
        !is_name((const char *)key.mv_data + KEY_LINK_PREFIX, key.mv_size - KEY_LINK_PREFIX))
        return "it is no name of a file";
    return NULL;
}

static const char *bad_xattr(struct fsck *f, MDB_val key, MDB_val value)
{
    (void)f;
    if (key.mv_size != sizeof(struct key_inode) || !has_ids(key, 2) || value.mv_size == 0 ||
        value.mv_size > UINT32_MAX)
        return "its size or its ids are impossible";
    return NULL;
}

static const struct {
    const char *what;
    const char *(*bad)(struct fsck *f, MDB_val key, MDB_val value);
    bool removable;
    size_t ids; // that the key begins with
} formats[STORE_DBI_COUNT] = {
    [STORE_DBI_ENTRY] = {"directory entry", bad_entry, true, 2},
    [STORE_DBI_INODE] = {"inode record", bad_inode, true, 2},
    [STORE_DBI_VERSION] = {"version", bad_version, true, 2},
    [STORE_DBI_ORPHAN] = {"mark of an unlinked file", bad_pair_mark, true, 2},
    [STORE_DBI_LAYER] = {"layer", bad_layer, true, 1},
    [STORE_DBI_STACK] = {"stack of layers", bad_stack, false, 1},
    [STORE_DBI_BLOB] = {"content record", bad_blob, true, 1},
    [STORE_DBI_DIGEST] = {"digest", bad_digest, true, 0},
    [STORE_DBI_CODEBASE] = {"codebase", bad_codebase, false, 0},
    [STORE_DBI_SANDBOX] = {"sandbox", bad_sandbox, false, 0},
    [STORE_DBI_GARBAGE] = {"layer waiting for the collector", bad_id_mark, true, 1},
    [STORE_DBI_UNLINK] = {"content waiting for its removal", bad_id_mark, true, 1},
    [STORE_DBI_PENDING] = {"layer of work under way", bad_pending, true, 1},
    [STORE_DBI_LINK] = {"name of a file with several", bad_link, true, 3},
    [STORE_DBI_XATTR] = {"set of extended attributes", bad_xattr, true, 2},
};

static const char *key_text(char buf[FSCK_QUOTED_MAX], enum store_dbi dbi, MDB_val key)
{
    if (dbi == STORE_DBI_CODEBASE || dbi == STORE_DBI_SANDBOX)
        return fsck_quote(buf, key.mv_data, key.mv_size);
    int n = 0;
    for (size_t at = 0; at + 8 <= key.mv_size && at < 16; at += 8)
        n += snprintf(buf + n, FSCK_QUOTED_MAX - (size_t)n, "%s%" PRIu64, at ? "/" : "",
                      u64_be(key.mv_data, at));
    if (n == 0)
        snprintf(buf, FSCK_QUOTED_MAX, "of %zu bytes", key.mv_size);
    return buf;
}

static void note_id(struct fsck *f, uint64_t id)
{
    if (id <= ID_MAX && id > f->id_max)
        f->id_max = id;
}

static int check_record(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    enum store_dbi dbi = *(enum store_dbi *)arg;
    char text[FSCK_QUOTED_MAX];
    f->result->records++;
    const char *bad = formats[dbi].bad(f, key, value);
    if (bad) {
        f->lost_owner = f->lost_owner || !formats[dbi].removable;
        if (fsck_found(f, "malformed", formats[dbi].removable, "the %s %s is damaged: %s%s",
                       formats[dbi].what, key_text(text, dbi, key), bad,
                       formats[dbi].removable ? "" : "; restore the directory from a backup"))
            return fsck_del(f, dbi, key);
        return 0;
    }
    for (size_t i = 0; i < formats[dbi].ids; i++)
        note_id(f, u64_be(key.mv_data, i * 8));
    if (dbi == STORE_DBI_INODE) {
        struct store_inode inode;
        store_inode_decode(value, 0, 1, &inode);
        note_id(f, inode.version);
    }
    return 0;
}

// The counter's file: every id in use must be below what is given out next.
static int check_counter(struct fsck *f)
{
    struct store *store = f->store;
    pthread_mutex_lock(&store->ids.lock);
    uint64_t limit = store->ids.limit;
    bool is_there = store->ids.file.fd >= 0;
    pthread_mutex_unlock(&store->ids.lock);
    if (is_there && f->id_max < limit)
        return 0;
    bool repair = is_there
                      ? fsck_found(f, "id-counter", true,
                                   "the id counter stands at %" PRIu64 ", though %" PRIu64
                                   " is in use: ids would come twice",
                                   limit, f->id_max)
                      : fsck_found(f, "id-counter", true,
                                   "the id counter (store/ids) is damaged; the largest id in use "
                                   "is %" PRIu64,
                                   f->id_max);
    if (!repair)
        return 0;
    // Beyond all that may have been given out since the largest one was recorded.
    return store_ids_restart(store, f->id_max + 2 * (uint64_t)STORE_ID_BLOCK);
}

int fsck_pass_records(struct fsck *f)
{
    int rc = 0;
    for (enum store_dbi dbi = STORE_DBI_ENTRY; rc == 0 && dbi < STORE_DBI_COUNT; dbi++)
        if (formats[dbi].bad)
            rc = fsck_walk(f, dbi, fsck_everything(), check_record, &dbi);
    if (rc == 0)
        rc = check_counter(f);
    if (rc == 0 && f->store->synced_damaged &&
        fsck_found(f, "synced-meta", true,
                   "the copy of the last sync point (store/synced.meta) is damaged: a power cut "
                   "before the next one would cost the store"))
        f->store->synced_damaged = false; // the first sync point of the repair made it anew
    return rc;
}

// ---- indexes

// The version index leads to this record.
static int check_version(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    struct key_version key = key_of_version(inode->version, layer);
    MDB_val value;
    uint64_t fid = 0;
    int rc = store_get(f->txn, STORE_DBI_VERSION, store_val(&key, sizeof key), &value);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0 && value.mv_size == sizeof fid)
        memcpy(&fid, value.mv_data, sizeof fid);
    if (fid == inode->fid)
        return 0;
    struct store_inode other;
    bool taken = fid != 0 && store_inode_get(f->txn, layer, fid, &other) == 0 &&
                 S_ISREG(other.mode) && other.version == inode->version;
    if (!fsck_found(f, "version-index", true,
                    "version %" PRIu64 " of file %" PRIu64 " in layer %" PRIu64
                    " is not in the index of versions%s",
                    inode->version, inode->fid, layer, taken ? ": another file has it" : ""))
        return 0;
    if (!taken)
        return fsck_put(f, STORE_DBI_VERSION, store_val(&key, sizeof key),
                        store_val(&inode->fid, sizeof inode->fid));
    struct store_inode renewed = *inode;
    rc = store_new_id(f->store, &renewed.version);
    if (rc == 0)
        rc = fsck_put_inode(f, layer, &renewed);
    // The put has taken the index entry of the other one away.
    return rc == 0 ? fsck_put(f, STORE_DBI_VERSION, store_val(&key, sizeof key),
                              store_val(&fid, sizeof fid))
                   : rc;
}

static int check_xattrs(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    const void *bytes;
    size_t len = 0;
    int rc = store_xattr_get(f->txn, layer, inode->fid, &bytes, &len);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (len == inode->xattr_bytes)
        return 0;
    if (!fsck_found(f, "xattrs", true,
                    "file %" PRIu64 " in layer %" PRIu64 " says that it has %" PRIu32
                    " bytes of extended attributes, and %zu are there",
                    inode->fid, layer, inode->xattr_bytes, len))
        return 0;
    struct store_inode right = *inode;
    right.xattr_bytes = (uint32_t)len;
    return fsck_put_inode(f, layer, &right);
}

static int check_size(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    uint64_t size = inode->content == STORE_CONTENT_INLINE ? inode->inline_len : 0;
    if (inode->content == STORE_CONTENT_BLOB || inode->size == size ||
        (!S_ISREG(inode->mode) && !S_ISLNK(inode->mode)))
        return 0;
    if (!fsck_found(f, "size", true,
                    "file %" PRIu64 " in layer %" PRIu64 " says that it has %" PRIu64
                    " bytes, and %" PRIu64 " are in its record",
                    inode->fid, layer, inode->size, size))
        return 0;
    struct store_inode right = *inode;
    right.size = size;
    return fsck_put_inode(f, layer, &right);
}

static int check_inode(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    uint64_t layer = u64_be(key.mv_data, 0), fid = u64_be(key.mv_data, 8);
    struct store_inode inode;
    (void)arg;
    if (key.mv_size != sizeof(struct key_inode) ||
        store_inode_decode(value, layer, fid, &inode) < 0)
        return 0; // said already
    int rc = S_ISREG(inode.mode) ? check_version(f, layer, &inode) : 0;
    // Each may have changed the record.
    if (rc == 0 && store_inode_get(f->txn, layer, fid, &inode) == 0)
        rc = check_xattrs(f, layer, &inode);
    if (rc == 0 && store_inode_get(f->txn, layer, fid, &inode) == 0)
        rc = check_size(f, layer, &inode);
    return rc;
}

static int check_version_entry(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct store_inode inode;
    uint64_t fid;
    (void)arg;
    if (key.mv_size != sizeof(struct key_version) || value.mv_size != sizeof fid)
        return 0;
    uint64_t version = u64_be(key.mv_data, 0), layer = u64_be(key.mv_data, 8);
    memcpy(&fid, value.mv_data, sizeof fid);
    int rc = store_inode_get(f->txn, layer, fid, &inode);
    if (rc == 0 && S_ISREG(inode.mode) && inode.version == version)
        return 0;
    if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
        return rc;
    if (!fsck_found(f, "version-index", true,
                    "the index of versions leads from version %" PRIu64 " to file %" PRIu64
                    " in layer %" PRIu64 ", which has another or is not there",
                    version, fid, layer))
        return 0;
    return fsck_del(f, STORE_DBI_VERSION, key);
}

// A merge's layer is pending with the layers that it merges.
static bool is_being_merged(struct fsck *f, uint64_t layer)
{
    struct key_id key = key_of_id(layer);
    MDB_val value;
    return store_get(f->txn, STORE_DBI_PENDING, store_val(&key, sizeof key), &value) == 0 &&
           value.mv_size > 1;
}

// Layers that wait for the collector; frozen ones and those of merges under way, for a merge marks
// what it keeps without a name, and may be looked at before it is in place.
static bool may_have_marks(struct fsck *f, uint64_t layer, bool has_record)
{
    struct store_layer found;
    return store_layer_get(f->txn, layer, &found) == 0 &&
           (found.refs == 0 || (has_record && (found.frozen || is_being_merged(f, layer))));
}

static int check_orphan(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct store_inode inode;
    (void)value;
    (void)arg;
    if (key.mv_size != sizeof(struct key_inode))
        return 0;
    uint64_t layer = u64_be(key.mv_data, 0), fid = u64_be(key.mv_data, 8);
    int rc = store_inode_get(f->txn, layer, fid, &inode);
    if ((rc == 0 && inode.nlink == 0) || may_have_marks(f, layer, rc == 0))
        return 0;
    if (!fsck_found(f, "orphan", true,
                    "file %" PRIu64 " in layer %" PRIu64 " is marked as unlinked, but %s", fid,
                    layer, rc == 0 ? "has names" : "is not there"))
        return 0;
    return fsck_del(f, STORE_DBI_ORPHAN, key);
}

static int check_xattr_owner(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct store_inode inode;
    (void)value;
    (void)arg;
    if (key.mv_size != sizeof(struct key_inode))
        return 0;
    uint64_t layer = u64_be(key.mv_data, 0), fid = u64_be(key.mv_data, 8);
    if (store_inode_get(f->txn, layer, fid, &inode) != -ENOENT)
        return 0;
    if (!fsck_found(f, "xattrs", true,
                    "there are extended attributes of file %" PRIu64 " in layer %" PRIu64
                    ", which has no such file",
                    fid, layer))
        return 0;
    return fsck_del(f, STORE_DBI_XATTR, key);
}

int fsck_pass_indexes(struct fsck *f)
{
    int rc = fsck_walk(f, STORE_DBI_INODE, fsck_everything(), check_inode, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_VERSION, fsck_everything(), check_version_entry, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_ORPHAN, fsck_everything(), check_orphan, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_XATTR, fsck_everything(), check_xattr_owner, NULL);
    return rc;
}
