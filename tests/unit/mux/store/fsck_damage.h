// Every kind of damage that fsck knows, planted in the store of fsck_fixture.h: in its records, or
// in its files when it is closed. Each row of `damages` names the kind that must be found.
#ifndef AF_TESTS_FSCK_DAMAGE_H
#define AF_TESTS_FSCK_DAMAGE_H

#include "tests/unit/mux/store/fsck_fixture.h"

// ---- planting, on an open store

static void put(struct store_txn *txn, enum store_dbi dbi, const void *key, size_t key_len,
                const void *value, size_t len)
{
    assert_int_equal(store_put(txn, dbi, store_val(key, key_len), store_val(value, len)), 0);
}

static void del(struct store_txn *txn, enum store_dbi dbi, const void *key, size_t key_len)
{
    assert_int_equal(store_del(txn, dbi, store_val(key, key_len)), 0);
}

static const uint8_t format_byte = STORE_FORMAT;

// A copy of a value, to be changed and put again.
static size_t get(struct store_txn *txn, enum store_dbi dbi, const void *key, size_t key_len,
                  void *buf)
{
    MDB_val value;
    assert_int_equal(store_get(txn, dbi, store_val(key, key_len), &value), 0);
    memcpy(buf, value.mv_data, value.mv_size);
    return value.mv_size;
}

#define PLANT(name) static void name(struct store_txn *txn, const struct tree *t)
#define CHANGE(dbi, key, type, statement)                                                          \
    do {                                                                                           \
        uint8_t bytes[4096];                                                                       \
        size_t len = get(txn, dbi, &(key), sizeof(key), bytes);                                    \
        type *v = (type *)bytes;                                                                   \
        statement;                                                                                 \
        put(txn, dbi, &(key), sizeof(key), bytes, len);                                            \
    } while (0)

PLANT(inode_value_short)
{
    struct key_inode key = key_of_inode(t->delta, t->inner);
    put(txn, STORE_DBI_INODE, &key, sizeof key, "junk", 4);
}
PLANT(inode_type_impossible)
{
    struct key_inode key = key_of_inode(t->delta, t->inner);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->mode = 0170000 | 0644);
}
PLANT(inode_key_short)
{
    (void)t;
    put(txn, STORE_DBI_INODE, "key", 3, "junk", 4);
}
PLANT(entry_in_the_wrong_place)
{
    struct key_entry key = {.layer_be = htobe64(t->delta), .parent_be = htobe64(t->root)};
    struct value_entry value = {.format = STORE_FORMAT, .type = DT_REG, .fid = t->own};
    memcpy(key.name, "own", 3);
    put(txn, STORE_DBI_ENTRY, &key, KEY_ENTRY_PREFIX + 3, &value, sizeof value);
}
PLANT(layer_value_damaged)
{
    struct key_id key = key_of_id(t->delta);
    put(txn, STORE_DBI_LAYER, &key, sizeof key, "junk", 4);
}
PLANT(blob_value_damaged)
{
    struct key_id key = key_of_id(t->own_blob);
    put(txn, STORE_DBI_BLOB, &key, sizeof key, "junk", 4);
}
PLANT(digest_value_damaged)
{
    uint8_t key[32] = {1};
    (void)t;
    put(txn, STORE_DBI_DIGEST, key, sizeof key, "junk", 4);
}
PLANT(link_value_damaged)
{
    put(txn, STORE_DBI_LINK, "junk", 4, &format_byte, 1);
    (void)t;
}
PLANT(entry_to_nowhere)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->root, "ghost", 5, t->orphan + 1, DT_REG), 0);
}
PLANT(entry_to_nowhere_over_a_base_name)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->root, "one", 3, t->orphan + 1, DT_REG), 0);
    uint64_t names = t->linked;
    struct store_inode inode;
    assert_int_equal(store_inode_get(txn, t->base, names, &inode), 0);
    inode.nlink = 1;
    inode.parent = t->dir;
    inode.name = "two";
    assert_int_equal(store_inode_put(txn, t->delta, &inode), 0);
}
PLANT(entry_type_wrong)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->root, "own", 3, t->own, DT_DIR), 0);
}
PLANT(entry_in_a_file)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->own, "below", 5, t->inner, DT_REG), 0);
}
PLANT(file_without_name)
{
    assert_int_equal(store_entry_del(txn, t->delta, t->own_dir, "inner", 5), 0);
}
PLANT(file_without_name_or_directory)
{
    struct key_inode key = key_of_inode(t->delta, t->inner);
    assert_int_equal(store_entry_del(txn, t->delta, t->own_dir, "inner", 5), 0);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->parent = t->own);
}
PLANT(large_file_without_name)
{
    assert_int_equal(store_entry_del(txn, t->delta, t->root, "own", 3), 0);
    assert_int_equal(store_entry_put(txn, t->delta, t->root, "own", 3, t->own_dir, DT_DIR), 0);
}
PLANT(base_file_without_name)
{
    assert_int_equal(store_entry_del(txn, t->base, t->dir, "big", 3), 0);
}
PLANT(link_count_high)
{
    struct key_inode key = key_of_inode(t->delta, t->own);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->nlink = 3);
}
PLANT(link_count_zero)
{
    struct key_inode key = key_of_inode(t->delta, t->own);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->nlink = 0);
}
PLANT(link_count_low_in_base)
{
    struct key_inode key = key_of_inode(t->base, t->linked);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->nlink = 1);
}
PLANT(base_name_taken_without_record)
{
    assert_int_equal(store_entry_put_whiteout(txn, t->delta, t->root, "one", 3), 0);
}
PLANT(link_index_incomplete)
{
    assert_int_equal(store_link_del(txn, t->base, t->linked, t->dir, "two", 3), 0);
}
PLANT(name_remembered_wrong)
{
    struct key_inode key = key_of_inode(t->delta, t->own);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->parent = t->own_dir);
}
PLANT(directory_with_two_names)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->root, "again", 5, t->own_dir, DT_DIR), 0);
}
PLANT(directory_in_itself)
{
    struct key_inode key = key_of_inode(t->delta, t->own_dir);
    assert_int_equal(store_entry_del(txn, t->delta, t->root, "own-dir", 7), 0);
    assert_int_equal(store_entry_put(txn, t->delta, t->own_dir, "own-dir", 7, t->own_dir, DT_DIR),
                     0);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->parent = t->own_dir);
}
PLANT(root_in_itself)
{
    assert_int_equal(store_entry_put(txn, t->delta, t->own_dir, "loop", 4, t->root, DT_DIR), 0);
}
PLANT(orphan_not_marked)
{
    assert_int_equal(store_orphan_del(txn, t->delta, t->orphan), 0);
}
PLANT(orphan_mark_of_a_named_file)
{
    assert_int_equal(store_orphan_put(txn, t->delta, t->own), 0);
}
PLANT(orphan_mark_of_nothing)
{
    assert_int_equal(store_orphan_put(txn, t->delta, t->orphan + 1), 0);
}
PLANT(version_not_indexed)
{
    struct store_inode inode;
    assert_int_equal(store_inode_get(txn, t->delta, t->own, &inode), 0);
    struct key_version key = key_of_version(inode.version, t->delta);
    del(txn, STORE_DBI_VERSION, &key, sizeof key);
}
PLANT(version_of_nothing)
{
    struct key_version key = key_of_version(t->orphan + 1, t->delta);
    put(txn, STORE_DBI_VERSION, &key, sizeof key, &t->own, sizeof t->own);
}
PLANT(version_twice)
{
    struct store_inode inode;
    struct key_inode key = key_of_inode(t->delta, t->inner);
    assert_int_equal(store_inode_get(txn, t->delta, t->own, &inode), 0);
    uint64_t version = inode.version;
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->version = version);
}
PLANT(xattrs_lost)
{
    assert_int_equal(store_xattr_del(txn, t->delta, t->own), 0);
}
PLANT(xattrs_of_another_size)
{
    assert_int_equal(store_xattr_put(txn, t->delta, t->own, "four", 4), 0);
}
PLANT(xattrs_of_nothing)
{
    assert_int_equal(store_xattr_put(txn, t->delta, t->orphan + 1, "four", 4), 0);
}
PLANT(inline_size_wrong)
{
    struct key_inode key = key_of_inode(t->delta, t->inner);
    CHANGE(STORE_DBI_INODE, key, struct value_inode, v->size = 77);
}
PLANT(layer_bytes_wrong)
{
    struct key_id key = key_of_id(t->delta);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->bytes++);
}
PLANT(layer_inodes_wrong)
{
    struct key_id key = key_of_id(t->base);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->inodes--);
}
PLANT(delta_files_wrong)
{
    struct key_id key = key_of_id(t->delta);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->tree_files--);
}
PLANT(delta_tree_bytes_wrong)
{
    struct key_id key = key_of_id(t->delta);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->tree_bytes++);
}
// The base file loses both its names, and with nobody who has it open its record goes, too.
PLANT(delta_that_does_not_count_a_removed_file)
{
    assert_int_equal(store_entry_put_whiteout(txn, t->delta, t->root, "one", 3), 0);
    assert_int_equal(store_entry_put_whiteout(txn, t->delta, t->dir, "two", 3), 0);
}
PLANT(layer_refs_high)
{
    struct key_id key = key_of_id(t->base);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->refs = 9);
}
PLANT(layer_refs_zero)
{
    struct key_id key = key_of_id(t->delta);
    CHANGE(STORE_DBI_LAYER, key, struct value_layer, v->refs = 0);
}
PLANT(layer_leaked)
{
    uint64_t id;
    (void)t;
    assert_int_equal(store_layer_new(txn, &id), 0);
}
PLANT(layer_gone)
{
    struct key_id key = key_of_id(t->base);
    del(txn, STORE_DBI_LAYER, &key, sizeof key);
}
PLANT(layer_of_nobody)
{
    struct key_id key = key_of_id(t->delta);
    del(txn, STORE_DBI_SANDBOX, t->sandbox, strlen(t->sandbox));
    del(txn, STORE_DBI_LAYER, &key, sizeof key);
}
PLANT(delta_frozen)
{
    assert_int_equal(store_layer_freeze(txn, t->delta), 0);
}
PLANT(base_not_frozen)
{
    assert_int_equal(store_layer_thaw(txn, t->base), 0);
}
PLANT(stack_refs_wrong)
{
    struct key_id key = key_of_id(t->stack);
    CHANGE(STORE_DBI_STACK, key, struct value_stack, v->refs = 1);
}
PLANT(stack_leaked)
{
    uint64_t id;
    assert_int_equal(store_stack_new(txn, &t->base, 1, &id), 0);
}
PLANT(blob_refs_wrong)
{
    struct key_id key = key_of_id(t->big_blob);
    CHANGE(STORE_DBI_BLOB, key, struct value_blob, v->refs = 4);
}
// Of a file in the delta.
static void own(struct store_txn *txn, const struct tree *t, uint64_t fid, uint64_t blob,
                uint64_t shared)
{
    struct store_inode inode;
    char name[16];
    assert_int_equal(store_inode_get(txn, t->delta, fid, &inode), 0);
    memcpy(name, inode.name, inode.name_len);
    inode.name = name;
    set_blob(&inode, blob);
    inode.blob_owned = true;
    inode.blob_shared = shared;
    assert_int_equal(store_inode_put(txn, t->delta, &inode), 0);
}
PLANT(blob_written_under_others)
{
    own(txn, t, t->own, t->big_blob, BLOB_BYTES - 1);
}
PLANT(blob_with_two_owners)
{
    own(txn, t, t->own, t->big_blob, BLOB_BYTES);
    own(txn, t, t->inner, t->big_blob, BLOB_BYTES);
}
PLANT(blob_shared_beyond_its_end)
{
    own(txn, t, t->own, t->own_blob, BLOB_BYTES + 1);
}
PLANT(blob_that_does_not_know_its_owner)
{
    struct key_id key = key_of_id(t->big_blob);
    own(txn, t, t->own, t->big_blob, BLOB_BYTES);
    CHANGE(STORE_DBI_BLOB, key, struct value_blob, v->owner_layer = t->base);
}
PLANT(blob_record_lost)
{
    struct key_id key = key_of_id(t->own_blob);
    del(txn, STORE_DBI_BLOB, &key, sizeof key);
}
PLANT(blob_of_nobody)
{
    struct key_id key = key_of_id(t->orphan + 1);
    struct value_blob value = {.format = STORE_FORMAT, .refs = 1};
    put(txn, STORE_DBI_BLOB, &key, sizeof key, &value, sizeof value);
}
PLANT(digest_not_indexed)
{
    struct key_id key = key_of_id(t->big_blob);
    uint8_t bytes[256];
    get(txn, STORE_DBI_BLOB, &key, sizeof key, bytes);
    del(txn, STORE_DBI_DIGEST, ((struct value_blob *)bytes)->sha256, 32);
}
PLANT(digest_of_nothing)
{
    uint8_t key[32] = {1};
    uint64_t blob = t->orphan + 1;
    put(txn, STORE_DBI_DIGEST, key, sizeof key, &blob, sizeof blob);
}
PLANT(garbage_in_use)
{
    struct key_id key = key_of_id(t->orphan + 1);
    put(txn, STORE_DBI_GARBAGE, &key, sizeof key, &format_byte, 1);
}
PLANT(content_in_use_waits_for_removal)
{
    struct key_id key = key_of_id(t->big_blob);
    put(txn, STORE_DBI_UNLINK, &key, sizeof key, &format_byte, 1);
}
PLANT(pending_layer_gone)
{
    struct key_id key = key_of_id(t->orphan + 1);
    put(txn, STORE_DBI_PENDING, &key, sizeof key, &format_byte, 1);
}
PLANT(codebase_counters_wrong)
{
    struct store_codebase codebase;
    assert_int_equal(store_codebase_get(txn, t->codebase, &codebase), 0);
    codebase.files = 17;
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
}
PLANT(head_said_empty)
{
    struct store_codebase codebase;
    assert_int_equal(store_codebase_get(txn, t->codebase, &codebase), 0);
    codebase.head_dirty = false;
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
}
PLANT(id_above_the_counter)
{
    assert_int_equal(store_link_put(txn, t->delta, UINT64_C(1) << 40, t->root, "elsewhere", 9), 0);
}

// ---- planting, on the files of a closed store

static void path_of(char path[512], const char *dir, uint64_t blob)
{
    snprintf(path, 512, "%s/blobs/%02x/%016llx", dir, (unsigned)(blob & 0xff),
             (unsigned long long)blob);
}

#define SPOIL(name) static void name(const char *dir, const struct tree *t)

SPOIL(blob_missing)
{
    char path[512];
    path_of(path, dir, t->own_blob);
    assert_int_equal(unlink(path), 0);
}
SPOIL(blob_short)
{
    char path[512];
    path_of(path, dir, t->big_blob);
    assert_int_equal(truncate(path, 100), 0);
}
SPOIL(blob_is_a_fifo)
{
    char path[512];
    path_of(path, dir, t->big_blob);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
}
SPOIL(blob_is_a_symlink)
{
    char path[512];
    path_of(path, dir, t->big_blob);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
}
SPOIL(blob_is_a_directory)
{
    char path[512];
    path_of(path, dir, t->big_blob);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
}
SPOIL(folder_of_blobs_is_a_file)
{
    char command[256];
    snprintf(command, sizeof command, "cd '%s/blobs' && rm -r %02x && echo x > %02x", dir,
             (unsigned)(t->own_blob & 0xff), (unsigned)(t->own_blob & 0xff));
    assert_int_equal(system(command), 0);
}
SPOIL(blob_changed)
{
    char path[512];
    path_of(path, dir, t->big_blob);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "y", 1, 17), 1);
    close(fd);
}
SPOIL(file_of_nobody)
{
    char path[512];
    path_of(path, dir, t->orphan + 1);
    close(open(path, O_WRONLY | O_CREAT, 0600));
}
SPOIL(file_with_another_name)
{
    char path[512];
    (void)t;
    snprintf(path, sizeof path, "%s/blobs/00/notes.txt", dir);
    close(open(path, O_WRONLY | O_CREAT, 0600));
}
static void scribble(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/store/%s", dir, name);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (off_t at = 0; at < 8192; at += 64)
        assert_int_equal(pwrite(fd, "scribble", 8, at), 8);
    close(fd);
}
SPOIL(ids_damaged)
{
    (void)t;
    scribble(dir, "ids");
}
SPOIL(ids_missing)
{
    char path[512];
    (void)t;
    snprintf(path, sizeof path, "%s/store/ids", dir);
    assert_int_equal(unlink(path), 0);
}
SPOIL(synced_meta_damaged)
{
    (void)t;
    scribble(dir, "synced.meta");
}

struct damage {
    const char *name, *kind;
    void (*plant)(struct store_txn *txn, const struct tree *t);
    void (*spoil)(const char *dir, const struct tree *t);
};

#define RECORD(name, kind)                                                                         \
    {                                                                                              \
#name, kind, name, NULL                                                                    \
    }
#define FILES(name, kind)                                                                          \
    {                                                                                              \
#name, kind, NULL, name                                                                    \
    }

static const struct damage damages[] = {
    RECORD(inode_value_short, "malformed"),
    RECORD(inode_type_impossible, "malformed"),
    RECORD(inode_key_short, "malformed"),
    RECORD(entry_in_the_wrong_place, "malformed"),
    RECORD(layer_value_damaged, "malformed"),
    RECORD(blob_value_damaged, "malformed"),
    RECORD(digest_value_damaged, "malformed"),
    RECORD(link_value_damaged, "malformed"),
    RECORD(entry_to_nowhere, "entry-target"),
    RECORD(entry_to_nowhere_over_a_base_name, "entry-target"),
    RECORD(entry_type_wrong, "entry-type"),
    RECORD(entry_in_a_file, "entry-parent"),
    RECORD(file_without_name, "unreachable"),
    RECORD(file_without_name_or_directory, "unreachable"),
    RECORD(large_file_without_name, "unreachable"),
    RECORD(base_file_without_name, "unreachable"),
    RECORD(link_count_high, "link-count"),
    RECORD(link_count_zero, "link-count"),
    RECORD(link_count_low_in_base, "link-count"),
    RECORD(base_name_taken_without_record, "link-count"),
    RECORD(link_index_incomplete, "name"),
    RECORD(name_remembered_wrong, "name"),
    RECORD(directory_with_two_names, "name"),
    RECORD(directory_in_itself, "unreachable"),
    RECORD(root_in_itself, "name"),
    RECORD(orphan_not_marked, "orphan"),
    RECORD(orphan_mark_of_a_named_file, "orphan"),
    RECORD(orphan_mark_of_nothing, "orphan"),
    RECORD(version_not_indexed, "version-index"),
    RECORD(version_of_nothing, "version-index"),
    RECORD(version_twice, "version-index"),
    RECORD(xattrs_lost, "xattrs"),
    RECORD(xattrs_of_another_size, "xattrs"),
    RECORD(xattrs_of_nothing, "xattrs"),
    RECORD(inline_size_wrong, "size"),
    RECORD(layer_bytes_wrong, "layer-counters"),
    RECORD(layer_inodes_wrong, "layer-counters"),
    RECORD(delta_files_wrong, "tree-counters"),
    RECORD(delta_tree_bytes_wrong, "tree-counters"),
    RECORD(delta_that_does_not_count_a_removed_file, "tree-counters"),
    RECORD(layer_refs_high, "layer-refs"),
    RECORD(layer_refs_zero, "layer-refs"),
    RECORD(layer_leaked, "layer-refs"),
    RECORD(layer_gone, "layer-missing"),
    RECORD(layer_of_nobody, "layer-missing"),
    RECORD(delta_frozen, "layer-state"),
    RECORD(base_not_frozen, "layer-state"),
    RECORD(stack_refs_wrong, "stack-refs"),
    RECORD(stack_leaked, "stack-refs"),
    RECORD(blob_refs_wrong, "blob-refs"),
    RECORD(blob_written_under_others, "blob-owner"),
    RECORD(blob_with_two_owners, "blob-owner"),
    RECORD(blob_shared_beyond_its_end, "blob-owner"),
    RECORD(blob_that_does_not_know_its_owner, "blob-owner"),
    RECORD(blob_record_lost, "blob-record"),
    RECORD(blob_of_nobody, "blob-refs"),
    RECORD(digest_not_indexed, "digest-index"),
    RECORD(digest_of_nothing, "digest-index"),
    RECORD(garbage_in_use, "garbage"),
    RECORD(content_in_use_waits_for_removal, "unlink-queue"),
    RECORD(pending_layer_gone, "pending"),
    RECORD(codebase_counters_wrong, "codebase-counters"),
    RECORD(head_said_empty, "codebase-counters"),
    RECORD(id_above_the_counter, "id-counter"),
    FILES(blob_missing, "blob-missing"),
    FILES(blob_short, "blob-short"),
    FILES(blob_is_a_fifo, "blob-irregular"),
    FILES(blob_is_a_symlink, "blob-irregular"),
    FILES(blob_is_a_directory, "blob-irregular"),
    FILES(folder_of_blobs_is_a_file, "blob-folder"),
    FILES(blob_changed, "digest-content"),
    FILES(file_of_nobody, "blob-stray"),
    FILES(file_with_another_name, "blob-stray"),
    FILES(ids_damaged, "id-counter"),
    FILES(ids_missing, "id-counter"),
    FILES(synced_meta_damaged, "synced-meta"),
};

#endif
