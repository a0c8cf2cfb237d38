// Stores of the schema before: upgraded when they are opened, whole, also after a crash in between;
// what is older still is refused.
#include "tests/unit/mux/store/store_fixture.h"

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
        TEST(test_a_schema_older_than_the_one_before_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
