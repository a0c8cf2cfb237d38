// What the journal says of a value in the place of one as long, and that a start makes the same of
// it.
#include "tests/unit/mux/store/batch_fixture.h"

#define PARENT     2
#define TEXT_BYTES 1500
#define EDITS      24

struct edited {
    char text[TEXT_BYTES];
    uint64_t fid, version;
    int64_t mtime_ns;
};

struct edits {
    struct edited *file;
    uint64_t layer;
};

static int put_edited(struct store_txn *txn, const struct edited *file, uint64_t layer)
{
    struct store_inode inode = {.fid = file->fid,
                                .mode = S_IFREG | 0644,
                                .nlink = 1,
                                .version = file->version,
                                .size = TEXT_BYTES,
                                .mtime_ns = file->mtime_ns,
                                .parent = PARENT,
                                .name = "edited",
                                .name_len = 6,
                                .content = STORE_CONTENT_INLINE,
                                .inline_data = file->text,
                                .inline_len = TEXT_BYTES};
    return store_inode_put(txn, layer, &inode);
}

// Times alone, a byte at the front, in the middle, or the last one; or nothing at all.
static void edit(struct edited *file, uint64_t i)
{
    static const size_t places[] = {0, TEXT_BYTES / 2, TEXT_BYTES - 1};
    if (i % 5 < AF_ARRAY_LEN(places))
        file->text[places[i % 5]] ^= (char)i;
    if (i % 5 != 4)
        file->mtime_ns = (int64_t)i * 1000000007;
}

// A change with the i-th edit in it. No assertions: its process holds a lock.
static int edited(struct fixture *f, struct edited *file, uint64_t i, uint64_t layer,
                  struct store_txn **ret)
{
    int rc = store_change_begin(f->store, ret);
    if (rc < 0)
        return rc;
    edit(file, i);
    return put_edited(*ret, file, layer);
}

// Whether all of it went well, and the journal has less than the values.
static bool edit_many(struct fixture *f, void *arg)
{
    struct edits *edits = arg;
    struct edited other;
    struct store_txn *txn;
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < EDITS; i++) {
        rc = edited(f, edits->file, i, edits->layer, &txn);
        if (rc == 0)
            rc = store_commit(txn);
        if (rc < 0 || i != EDITS / 2)
            continue;
        other = *edits->file; // what is taken back is done again, from the same journal
        rc = edited(f, &other, 0, edits->layer, &txn);
        if (rc == 0)
            store_abort(txn);
    }
    if (rc != 0)
        fprintf(stderr, "a change failed: %d\n", rc);
    return rc == 0 && f->store->batch.redo.used < EDITS * TEXT_BYTES;
}

static void test_changes_within_a_value_of_a_killed_run_are_there(void **state)
{
    struct fixture *f = *state;
    struct edited file;
    uint64_t layer;
    memset(file.text, 'a', sizeof file.text);
    file.fid = new_id(f);
    file.version = new_id(f);
    file.mtime_ns = 5;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    assert_int_equal(put_edited(txn, &file, layer), 0);
    commit(txn);
    killed_run(f, edit_many, &(struct edits){&file, layer});
    for (uint64_t i = 0; i < EDITS; i++)
        edit(&file, i);
    fixture_open(f);
    struct store_inode found;
    txn = begin_read(f);
    assert_int_equal(store_inode_get(txn, layer, file.fid, &found), 0);
    assert_int_equal(found.mtime_ns, file.mtime_ns);
    assert_int_equal(found.inline_len, TEXT_BYTES);
    assert_memory_equal(found.inline_data, file.text, TEXT_BYTES);
    store_read_end(txn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_changes_within_a_value_of_a_killed_run_are_there,
                                        fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
