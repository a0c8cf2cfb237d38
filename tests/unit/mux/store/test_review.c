// Cases that a review of the store turned up: each failed once.
#include "tests/unit/mux/store/store_fixture.h"

#include <dirent.h>
#include <fcntl.h>

static void test_an_aborted_import_does_not_stop_the_next_start(void **state)
{
    struct fixture *f = *state;
    uint64_t pending, other;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new_pending(txn, &pending), 0);
    assert_int_equal(store_layer_new_pending(txn, &other), 0);
    commit(txn);
    txn = begin(f);
    assert_int_equal(store_layer_unref(txn, pending), 0); // the import gave up
    commit(txn);
    fixture_reopen(f);
    uint64_t removed;
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    struct store_layer layer;
    txn = begin_read(f);
    assert_int_equal(store_layer_get(txn, pending, &layer), -ENOENT);
    assert_int_equal(store_layer_get(txn, other, &layer), -ENOENT);
    store_read_end(txn);
}

static void test_a_version_in_two_layers_survives_the_end_of_one(void **state)
{
    struct fixture *f = *state;
    uint64_t old, young, layer, fid;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &old), 0);
    assert_int_equal(store_layer_new(txn, &young), 0);
    struct store_inode inode = regular(f, new_id(f), "moved by compaction");
    assert_int_equal(store_inode_put(txn, old, &inode), 0);
    assert_int_equal(store_inode_put(txn, young, &inode), 0);
    assert_int_equal(store_inode_del(txn, old, inode.fid), 0);
    assert_int_equal(store_version_find(txn, inode.version, &layer, &fid), 0);
    assert_int_equal(layer, young);
    commit(txn);
}

static void test_a_collected_layer_cannot_be_referred_to_again(void **state)
{
    struct fixture *f = *state;
    uint64_t layer, stack;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    assert_int_equal(store_layer_unref(txn, layer), 0);
    assert_int_equal(store_layer_ref(txn, layer), -ENOENT);
    assert_int_equal(store_stack_new(txn, &layer, 1, &stack), -ENOENT);
    store_abort(txn);
}

static void test_a_failed_write_is_never_committed(void **state)
{
    struct fixture *f = *state;
    uint64_t layer;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    struct store_inode inode = regular(f, new_id(f), "");
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = 4242; // there is no such blob
    assert_true(store_inode_put(txn, layer, &inode) < 0);
    assert_true(store_commit(txn) < 0);
    struct store_stats stats;
    assert_int_equal(store_get_stats(f->store, &stats), 0);
    assert_int_equal(stats.layers + stats.inodes, 0);
}

static void test_drain_unlinks_every_dead_blob(void **state)
{
    struct fixture *f = *state;
    uint64_t layer, removed;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    for (int i = 0; i < 900; i++) {
        struct store_blob *blob;
        assert_int_equal(store_blob_new(f->store, &blob), 0);
        struct store_inode inode = regular(f, new_id(f), "");
        inode.content = STORE_CONTENT_BLOB;
        inode.blob = store_blob_id(blob);
        assert_int_equal(store_inode_put(txn, layer, &inode), 0);
        store_blob_release(blob);
    }
    commit(txn);
    assert_int_equal(count_files(f->dir, "blobs") + count_files(f->dir, "new"), 900);
    txn = begin(f);
    assert_int_equal(store_layer_unref(txn, layer), 0);
    commit(txn);
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    assert_int_equal(count_files(f->dir, "blobs"), 0);
}

static void test_a_discarded_blob_cannot_be_recorded(void **state)
{
    struct fixture *f = *state;
    struct store_blob *blob, *again;
    uint64_t layer;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    uint64_t id = store_blob_id(blob);
    store_blob_discard(blob);
    assert_int_equal(store_blob_open(f->store, id, &again), -ENOENT);
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    struct store_inode inode = regular(f, new_id(f), "");
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = id;
    assert_true(store_inode_put(txn, layer, &inode) < 0);
    store_abort(txn);
}

static void test_must_exist_leaves_a_foreign_directory_as_it_is(void **state)
{
    (void)state;
    char dir[] = "/tmp/af-foreign-XXXXXX", command[128];
    assert_non_null(mkdtemp(dir));
    struct store_options options = {.dir = dir, .must_exist = true};
    struct store *store;
    struct af_error err;
    assert_int_equal(store_open(&options, &store, &err), -1);
    assert_int_equal(rmdir(dir), 0); // still empty
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_an_aborted_import_does_not_stop_the_next_start),
        TEST(test_a_version_in_two_layers_survives_the_end_of_one),
        TEST(test_a_collected_layer_cannot_be_referred_to_again),
        TEST(test_a_failed_write_is_never_committed),
        TEST(test_drain_unlinks_every_dead_blob),
        TEST(test_a_discarded_blob_cannot_be_recorded),
        TEST(test_must_exist_leaves_a_foreign_directory_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
