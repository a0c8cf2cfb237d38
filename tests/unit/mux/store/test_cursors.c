// Records of many sizes put, read and deleted in any order, in transactions that keep their place
// from one to the next: what is found is what was put last, whatever pages have split, merged or
// moved since, and whoever else walks or deletes with a place of his own.
#define FIXTURE_SYNC_INTERVAL_NS INT64_C(3600000000000) // no batch is closed for a sync's sake

#include "tests/unit/mux/store/store_fixture.h"

#include "mux/store/store_priv.h"

#define KEYS      600
#define STEPS     60000
#define VALUE_MAX 6000 // beyond a page: records that have pages of their own
#define LAYER     7

// What the records are; len 0: there is none. Byte i of a value is seed + i.
struct model {
    uint16_t len[KEYS];
    uint8_t seed[KEYS];
};

static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % bound;
}

static uint16_t a_length(void)
{
    switch (below(8)) {
    case 0:
        return (uint16_t)(1 + below(VALUE_MAX));
    case 1:
        return (uint16_t)(1 + below(1500));
    default:
        return (uint16_t)(100 + below(3)); // often the same: replaced in place
    }
}

static void fill(uint8_t *value, uint8_t seed, size_t len)
{
    for (size_t i = 0; i < len; i++)
        value[i] = (uint8_t)(seed + i);
}

static void assert_record(struct store_txn *txn, const struct model *model, uint32_t number)
{
    struct key_inode key = key_of_inode(LAYER, number);
    uint8_t expected[VALUE_MAX];
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_INODE, store_val(&key, sizeof key), &value);
    if (model->len[number] == 0) {
        assert_int_equal(rc, -ENOENT);
        return;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(value.mv_size, model->len[number]);
    fill(expected, model->seed[number], value.mv_size);
    assert_memory_equal(value.mv_data, expected, value.mv_size);
}

static void put(struct store_txn *txn, struct model *model, uint32_t number)
{
    struct key_inode key = key_of_inode(LAYER, number);
    uint8_t value[VALUE_MAX];
    model->len[number] = a_length();
    model->seed[number] = (uint8_t)below(256);
    fill(value, model->seed[number], model->len[number]);
    assert_int_equal(store_put(txn, STORE_DBI_INODE, store_val(&key, sizeof key),
                               store_val(value, model->len[number])),
                     0);
}

static void del(struct store_txn *txn, struct model *model, uint32_t number)
{
    struct key_inode key = key_of_inode(LAYER, number);
    int rc = store_del(txn, STORE_DBI_INODE, store_val(&key, sizeof key));
    assert_int_equal(rc, model->len[number] > 0 ? 0 : -ENOENT);
    model->len[number] = 0;
}

// Another place in the same database: deletes the first record at or behind a number.
static void del_elsewhere(struct store_txn *txn, struct model *model, uint32_t number)
{
    MDB_cursor *cursor;
    struct key_inode place = key_of_inode(LAYER, number);
    MDB_val key = store_val(&place, sizeof place), value;
    assert_int_equal(mdb_cursor_open(txn->mdb, txn->store->dbi[STORE_DBI_INODE], &cursor), 0);
    if (mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) == 0) {
        memcpy(&place, key.mv_data, sizeof place);
        assert_int_equal(mdb_cursor_del(cursor, 0), 0);
        model->len[be64toh(place.fid_be)] = 0;
        txn->changed = true;
    }
    mdb_cursor_close(cursor);
}

static void step(struct store_txn *txn, struct model *model, uint32_t *number, bool alone)
{
    if (below(3) == 0) // else the same or the next one, where the cursor stands
        *number = below(KEYS);
    else if (below(2) == 0)
        *number = (*number + 1) % KEYS;
    switch (below(10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        put(txn, model, *number);
        break;
    case 4:
    case 5:
        del(txn, model, *number);
        break;
    case 6:
        if (alone) // a change of a batch is told to the journal
            del_elsewhere(txn, model, below(KEYS));
        break;
    default:
        assert_record(txn, model, *number);
    }
}

static void assert_all(struct store_txn *txn, const struct model *model)
{
    for (uint32_t i = 0; i < KEYS; i++)
        assert_record(txn, model, i);
}

// Empties the database now and then, which leaves a cursor with nothing to stand on.
static void clear(struct store_txn *txn, struct model *model)
{
    for (uint32_t i = 0; i < KEYS; i++)
        del(txn, model, i);
}

static void run(struct fixture *f, bool alone)
{
    static struct model model;
    struct model before;
    uint32_t number = 0;
    unsigned batched = 0;
    memset(&model, 0, sizeof model);
    random_state = alone ? 1 : 2;
    for (unsigned done = 0; done < STEPS;) {
        struct store_txn *txn;
        before = model;
        if (alone)
            txn = begin(f);
        else
            assert_int_equal(store_change_begin(f->store, &txn), 0);
        batched += store_change_id(txn) != 0;
        for (unsigned n = 1 + below(40); n > 0; n--, done++)
            step(txn, &model, &number, alone);
        if (below(200) == 0)
            clear(txn, &model);
        if (below(12) == 0) {
            store_abort(txn); // the others of its batch are done again
            model = before;
        } else {
            commit(txn);
        }
        if (below(100) == 0) {
            assert_int_equal(store_look_begin(f->store, UINT64_MAX, &txn), 0);
            store_read_end(txn);
            txn = begin_read(f); // has the batch committed
            assert_all(txn, &model);
            store_read_end(txn);
        }
    }
    assert_true(alone ? batched == 0 : batched > 100);
    fixture_reopen(f);
    struct store_txn *txn = begin_read(f);
    assert_all(txn, &model);
    store_read_end(txn);
    txn = begin(f); // they are no inodes: fsck is not asked about them
    clear(txn, &model);
    commit(txn);
}

static void test_records_are_found_where_transactions_of_their_own_left_them(void **state)
{
    run(*state, true);
}

static void test_records_are_found_where_changes_of_a_batch_left_them(void **state)
{
    run(*state, false);
}

// Only a handle that has seen the file long enough takes the record's word for it.
static void test_a_write_to_a_blob_that_lost_its_end_is_refused(void **state)
{
    struct fixture *f = *state;
    struct store_blob *blob;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    uint64_t id = store_blob_id(blob);
    assert_int_equal(ftruncate(store_blob_fd(blob), 100), 0);
    assert_int_equal(store_blob_open_owned(f->store, id, 101, &blob), -EIO);
    assert_int_equal(store_blob_open_owned(f->store, id, 100, &blob), 0);
    store_blob_extended(blob, 4096);
    store_blob_release(blob);
    assert_int_equal(store_blob_open_owned(f->store, id, 4096, &blob), 0);
    store_blob_release(blob);
    assert_int_equal(store_blob_open_owned(f->store, id, 4097, &blob), -EIO);
    assert_int_equal(store_blob_open_sized(f->store, id, 101, &blob), -EIO); // readers always look
    assert_int_equal(store_blob_open(f->store, id, &blob), 0);
    store_blob_release(blob);
    store_blob_discard(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
        TEST(test_records_are_found_where_transactions_of_their_own_left_them),
        TEST(test_records_are_found_where_changes_of_a_batch_left_them),
        TEST(test_a_write_to_a_blob_that_lost_its_end_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
