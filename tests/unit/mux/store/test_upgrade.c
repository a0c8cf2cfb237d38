// Stores of the schema before: upgraded when they are opened, whole, also after a crash in between;
// what is older still is refused.
#include "tests/unit/mux/store/store_fixture.h"

#include "mux/store/siphash.h"
#include "mux/store/store_priv.h"

#include <fcntl.h>

// As a daemon of schema 6 leaves a store: the same bytes, with its number in both places.
static void make_older(struct fixture *f, uint64_t version)
{
    struct store_txn *txn = begin(f);
    struct synced_copy copy;
    struct sidefile file;
    assert_int_equal(
        store_put(txn, STORE_DBI_META, store_val("schema", 6), store_val(&version, sizeof version)),
        0);
    commit(txn);
    int dir = dup(f->store->store_fd);
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(sidefile_open(dir, "synced.meta", &file, &copy, sizeof copy), 0);
    copy.schema = (uint32_t)version;
    assert_int_equal(sidefile_write(&file, &copy, sizeof copy), 0);
    sidefile_close(&file);
    close(dir);
}

static uint64_t schema_in_database(struct fixture *f)
{
    struct store_txn *txn = begin_read(f);
    uint64_t version = 0;
    MDB_val value;
    assert_int_equal(store_get(txn, STORE_DBI_META, store_val("schema", 6), &value), 0);
    memcpy(&version, value.mv_data, sizeof version);
    store_read_end(txn);
    return version;
}

static uint32_t schema_in_synced_meta(struct fixture *f)
{
    struct synced_copy copy;
    struct sidefile file;
    assert_int_equal(sidefile_open(f->store->store_fd, "synced.meta", &file, &copy, sizeof copy),
                     0);
    sidefile_close(&file);
    return copy.schema;
}

static void test_a_store_of_the_schema_before_is_upgraded_with_all_its_records(void **state)
{
    struct fixture *f = *state;
    struct store_inode inode = regular(f, new_id(f), "");
    struct store_blob *blob;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = store_blob_id(blob);
    inode.blob_owned = true;
    struct store_txn *txn = begin(f);
    uint64_t layer;
    assert_int_equal(store_layer_new(txn, &layer), 0);
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    commit(txn);
    store_blob_release(blob);
    make_older(f, STORE_SCHEMA_OLDEST);
    fixture_open(f);
    assert_int_equal(schema_in_database(f), STORE_SCHEMA_VERSION);
    assert_int_equal(schema_in_synced_meta(f), STORE_SCHEMA_VERSION);
    struct store_inode found;
    txn = begin_read(f);
    assert_int_equal(store_inode_get(txn, layer, inode.fid, &found), 0);
    assert_int_equal(found.blob, inode.blob);
    assert_true(found.blob_owned);
    assert_int_equal(found.blob_shared, 0);
    store_read_end(txn);
    fixture_reopen(f);
}

// The first sync point comes first: from then on an older program refuses.
static void test_an_upgrade_that_a_crash_cut_short_is_finished(void **state)
{
    struct fixture *f = *state;
    make_older(f, STORE_SCHEMA_OLDEST);
    struct synced_copy copy;
    struct sidefile file;
    char path[128];
    snprintf(path, sizeof path, "%s/store", f->dir);
    AF_CLEANUP_FD int dir = open(path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(sidefile_open(dir, "synced.meta", &file, &copy, sizeof copy), 0);
    copy.schema = STORE_SCHEMA_VERSION;
    assert_int_equal(sidefile_write(&file, &copy, sizeof copy), 0);
    sidefile_close(&file);
    fixture_open(f);
    assert_int_equal(schema_in_database(f), STORE_SCHEMA_VERSION);
}

// The journal as schema 9 wrote it: whole values alone, and another checksum.
#define LAST_WHOLE 9

static void write_old_journal(struct fixture *f, uint32_t schema, uint64_t base)
{
    struct {
        uint64_t check, nonce[2];
        char magic[8], boot_id[BOOT_ID_LEN];
        uint32_t schema;
    } head = {.nonce = {3, 4}, .magic = "AFJRNL1", .schema = schema};
    struct {
        uint64_t check, base;
        uint32_t number, bytes;
        uint8_t dbi, deletes;
        uint16_t key_bytes;
        uint32_t value_bytes;
        char key[4], value[8];
    } record = {.base = base,
                .bytes = 20,
                .dbi = STORE_DBI_META,
                .key_bytes = sizeof record.key,
                .value_bytes = sizeof record.value,
                .key = "old",
                .value = "journal"};
    char path[128];
    assert_int_equal(sizeof head, 72);
    assert_int_equal(sizeof record, 48); // with 4 bytes behind the last
    assert_int_equal(store_read_boot_id(head.boot_id), 0);
    head.check = store_siphash(head.nonce, &head.nonce, sizeof head - 8);
    record.check = store_siphash(head.nonce, &record.base, 16 + record.bytes);
    snprintf(path, sizeof path, "%s/store/journal", f->dir);
    AF_CLEANUP_FD int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &head, sizeof head, 0), sizeof head);
    assert_int_equal(pwrite(fd, &record, 24 + record.bytes, 4096), 24 + record.bytes);
}

static void test_what_a_killed_older_program_acknowledged_is_there(void **state)
{
    struct fixture *f = *state;
    MDB_val value;
    make_older(f, LAST_WHOLE);
    fixture_open(f); // the transaction that it leaves is the one that the journal goes on from
    uint64_t last = atomic_load(&f->store->last_txn);
    store_close(f->store);
    f->store = NULL;
    write_old_journal(f, LAST_WHOLE, last);
    fixture_open(f);
    struct store_txn *txn = begin_read(f);
    assert_int_equal(store_get(txn, STORE_DBI_META, store_val("old", 4), &value), 0);
    assert_int_equal(value.mv_size, 8);
    assert_memory_equal(value.mv_data, "journal", 8);
    store_read_end(txn);
    assert_int_equal(schema_in_database(f), STORE_SCHEMA_VERSION);
}

static void test_a_schema_older_than_the_one_before_is_refused(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct store_options options = {.dir = f->dir};
    make_older(f, STORE_SCHEMA_OLDEST - 1);
    assert_int_equal(store_open(&options, &f->store, &err), -1);
    assert_non_null(strstr(err.text, "untouched"));
    f->store = NULL;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_store_of_the_schema_before_is_upgraded_with_all_its_records),
        TEST(test_an_upgrade_that_a_crash_cut_short_is_finished),
        TEST(test_what_a_killed_older_program_acknowledged_is_there),
        TEST(test_a_schema_older_than_the_one_before_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
