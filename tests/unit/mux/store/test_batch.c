// Changes that share a transaction: each is there once it is acknowledged, for every reader, after
// a kill -9 and after faults of the disk, and each goes alone when it fails.
#include "tests/unit/mux/fault_shim.h"
#include "tests/unit/mux/store/batch_fixture.h"

#include <pthread.h>

#define LAYER   1
#define PARENT  2
#define CHANGES 40

// ---- words for changes

static void name_of(uint64_t i, char ret[32])
{
    snprintf(ret, 32, "name%llu", (unsigned long long)i);
}

static int put(struct store_txn *txn, uint64_t i)
{
    char name[32];
    name_of(i, name);
    return store_entry_put(txn, LAYER, PARENT, name, strlen(name), i, DT_REG);
}

static bool has(struct store_txn *txn, uint64_t i)
{
    char name[32];
    struct store_entry entry;
    name_of(i, name);
    int rc = store_entry_get(txn, LAYER, PARENT, name, strlen(name), &entry);
    assert_true(rc == 0 || rc == -ENOENT);
    if (rc == 0)
        assert_int_equal(entry.fid, i);
    return rc == 0;
}

static bool is_there(struct fixture *f, uint64_t i)
{
    struct store_txn *txn = begin_read(f);
    bool there = has(txn, i);
    store_read_end(txn);
    return there;
}

// Puts a record and deletes the one before the last, so that order matters. Returns the id.
static uint64_t make_change(struct fixture *f, uint64_t i)
{
    struct store_txn *txn = change(f);
    char name[32];
    assert_int_equal(put(txn, i), 0);
    if (i > 2) {
        name_of(i - 2, name);
        assert_int_equal(store_entry_del(txn, LAYER, PARENT, name, strlen(name)), 0);
    }
    uint64_t id = store_change_id(txn);
    commit(txn);
    return id;
}

static void assert_state_after(struct fixture *f, uint64_t last)
{
    struct store_txn *txn = begin_read(f);
    for (uint64_t i = 1; i <= CHANGES; i++)
        if (has(txn, i) != (i <= last && i + 2 > last))
            fail_msg("after %d changes: record %d", (int)last, (int)i);
    store_read_end(txn);
}

// ---- readers

static void test_a_change_is_seen_by_every_reader(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    uint64_t id = make_change(f, 1);
    assert_true(id != 0);
    struct store_txn *txn;
    assert_int_equal(store_look_begin(f->store, id, &txn), 0);
    assert_false(store_read_is_alone(txn));
    assert_true(has(txn, 1));
    struct store_txn *nested;
    assert_int_equal(store_read_begin(f->store, &nested), 0); // would wait for itself
    assert_true(has(nested, 1));
    store_read_end(nested);
    store_read_end(txn);
    assert_int_equal(atomic_load(&f->store->batch.pending), id);
    assert_int_equal(store_look_begin(f->store, 0, &txn), 0); // what is committed
    assert_true(store_read_is_alone(txn));
    assert_false(has(txn, 1));
    store_read_end(txn);
    assert_true(is_there(f, 1));
    assert_int_equal(atomic_load(&f->store->batch.pending), 0);
    assert_int_equal(store_look_begin(f->store, id, &txn), 0); // committed meanwhile
    assert_true(store_read_is_alone(txn));
    assert_true(has(txn, 1));
    store_read_end(txn);
}

static void test_a_lone_change_is_committed_by_itself(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(make_change(f, 1), 0);
    assert_int_equal(atomic_load(&f->store->batch.pending), 0);
}

static void test_a_batch_is_committed_by_itself_after_a_while(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    uint64_t id = make_change(f, 1);
    pthread_mutex_lock(&f->store->batch.lock);
    f->store->batch.due_ns = 0;
    pthread_cond_signal(&f->store->batch.wake);
    while (atomic_load(&f->store->batch.pending) == id)
        pthread_cond_wait(&f->store->batch.turned, &f->store->batch.lock);
    pthread_mutex_unlock(&f->store->batch.lock);
    struct store_txn *txn;
    assert_int_equal(store_look_begin(f->store, 0, &txn), 0);
    assert_true(has(txn, 1));
    store_read_end(txn);
}

static void test_whoever_writes_alone_sees_and_follows_the_changes(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    assert_true(make_change(f, 1) != 0);
    struct store_txn *txn = begin(f);
    assert_int_equal(store_change_id(txn), 0);
    assert_true(has(txn, 1));
    assert_int_equal(put(txn, 2), 0);
    commit(txn);
    make_change(f, 3);
    assert_state_after(f, 3);
}

static void test_a_large_batch_is_followed_by_another(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    uint64_t first = make_change(f, 1), i = 1;
    while (make_change(f, i + 1) == first)
        i++;
    struct store_txn *txn;
    assert_int_equal(store_look_begin(f->store, 0, &txn), 0);
    assert_true(has(txn, i)); // the last of the first batch is committed
    store_read_end(txn);
    assert_true(i <= STORE_BATCH_PUTS_MAX);
}

static void test_a_sync_has_the_changes_on_the_disk(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    uint64_t id = make_change(f, 1);
    assert_int_equal(store_sync(f->store), 0);
    assert_true(atomic_load(&f->store->sync.synced) >= id);
    assert_int_equal(atomic_load(&f->store->batch.pending), 0);
}

// ---- a kill -9

static bool make_changes(struct fixture *f, void *arg)
{
    const uint64_t *changes = arg;
    for (uint64_t i = 1; i <= *changes; i++)
        make_change(f, i);
    return true;
}

static void run_and_die(struct fixture *f, uint64_t changes)
{
    killed_run(f, make_changes, &changes);
}

static void shell(const char *format, const char *a, const char *b)
{
    char command[400];
    snprintf(command, sizeof command, format, a, b);
    assert_int_equal(system(command), 0);
}

static void test_changes_of_a_killed_run_are_there(void **state)
{
    struct fixture *f = *state;
    run_and_die(f, CHANGES);
    shell("cp -a '%s/store' '%s/saved'", f->dir, f->dir);
    shell("rm '%s/store/journal'%s", f->dir, "");
    fixture_open(f);
    assert_state_after(f, 0); // the journal alone has them
    store_close(f->store);
    shell("cd '%s' && rm -r store && mv saved store%s", f->dir, "");
    fixture_open(f);
    assert_state_after(f, CHANGES);
    fixture_reopen(f);
    assert_state_after(f, CHANGES);
}

static void test_a_run_that_is_killed_twice_loses_nothing(void **state)
{
    struct fixture *f = *state;
    run_and_die(f, 7);
    fixture_open(f);
    assert_state_after(f, 7);
    open_batch(f);
    struct store_txn *txn = change(f);
    assert_int_equal(put(txn, 8), 0);
    commit(txn);
    store_close(f->store);
    f->store = NULL;
    fixture_open(f);
    assert_true(is_there(f, 8) && is_there(f, 7) && is_there(f, 6));
}

// Where the whole records end, from the file.
static size_t ends_of_records(const uint8_t *bytes, size_t len, size_t ends[CHANGES])
{
    size_t at = 4096, count = 0;
    while (count < CHANGES && at + 24 <= len) {
        uint32_t more;
        memcpy(&more, bytes + at + 20, sizeof more);
        at += 24 + more;
        ends[count++] = at;
    }
    return count;
}

static size_t load(const char *path, uint8_t *bytes, size_t max)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t len = fread(bytes, 1, max, file);
    fclose(file);
    return len;
}

static void damage(const char *path, size_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static void test_a_torn_journal_is_taken_up_to_its_last_whole_record(void **state)
{
    struct fixture *f = *state;
    static uint8_t bytes[STORE_JOURNAL_BYTES];
    char path[128];
    size_t ends[CHANGES];
    run_and_die(f, CHANGES);
    snprintf(path, sizeof path, "%s/store/journal", f->dir);
    size_t len = load(path, bytes, sizeof bytes);
    assert_int_equal(ends_of_records(bytes, len, ends), CHANGES);
    shell("cp -a '%s/store' '%s/saved'", f->dir, f->dir);
    for (size_t at = 4096; at < ends[CHANGES - 1]; at += 131) {
        uint64_t whole = 0;
        while (ends[whole] <= at)
            whole++;
        damage(path, at);
        fixture_open(f);
        assert_state_after(f, whole);
        store_close(f->store);
        f->store = NULL;
        shell("cd '%s' && rm -r store && cp -a saved store%s", f->dir, "");
    }
    for (size_t k = 0; k < CHANGES; k += 9) { // and cut short
        assert_int_equal(truncate(path, (off_t)(ends[k] - 1)), 0);
        fixture_open(f);
        assert_state_after(f, k);
        store_close(f->store);
        f->store = NULL;
        shell("cd '%s' && rm -r store && cp -a saved store%s", f->dir, "");
    }
    damage(path, 30); // the head
    fixture_open(f);
    assert_state_after(f, 0);
}

static void test_a_journal_is_never_replayed_twice_nor_on_another_state(void **state)
{
    struct fixture *f = *state;
    run_and_die(f, 5);
    shell("cp '%s/store/journal' '%s/old'", f->dir, f->dir);
    fixture_open(f);
    struct store_txn *txn = begin(f);
    char name[32];
    name_of(5, name);
    assert_int_equal(store_entry_del(txn, LAYER, PARENT, name, strlen(name)), 0);
    commit(txn);
    store_close(f->store);
    shell("cp '%s/old' '%s/store/journal'", f->dir, f->dir);
    fixture_open(f);
    assert_false(is_there(f, 5));
    assert_true(is_there(f, 4));
}

static void test_a_power_cut_leaves_the_synced_state_without_the_journal(void **state)
{
    struct fixture *f = *state;
    run_and_die(f, 5);
    setenv("AGENTFENSE_TEST_BOOT_ID", "00000000-0000-0000-0000-000000000001", 1);
    fixture_open(f);
    assert_state_after(f, 0);
    open_batch(f);
    make_change(f, 1);
    assert_state_after(f, 1);
    unsetenv("AGENTFENSE_TEST_BOOT_ID");
}

// ---- failures

static void test_a_change_that_is_given_up_takes_nothing_with_it(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    make_change(f, 1);
    uint64_t id = make_change(f, 2);
    struct store_txn *txn = change(f);
    char name[32];
    name_of(1, name);
    assert_int_equal(put(txn, 30), 0);
    assert_int_equal(store_entry_del(txn, LAYER, PARENT, name, strlen(name)), 0);
    store_abort(txn);
    assert_int_equal(store_look_begin(f->store, id, &txn), 0);
    assert_false(store_read_is_alone(txn)); // the batch is still open
    assert_true(has(txn, 1) && has(txn, 2) && !has(txn, 30));
    store_read_end(txn);
    make_change(f, 3);
    assert_state_after(f, 3);
}

static void test_a_change_that_cannot_be_journaled_fails_alone(void **state)
{
    struct fixture *f = *state;
    int errors[] = {EIO, ENOSPC};
    uint64_t next = 1;
    for (size_t i = 0; i < AF_ARRAY_LEN(errors); i++) {
        open_batch(f);
        make_change(f, next++);
        struct store_txn *txn = change(f);
        assert_true(store_change_id(txn) != 0);
        assert_int_equal(put(txn, 30), 0);
        fault_arm(f->dir, 1, errors[i]);
        assert_int_equal(store_commit(txn), -errors[i]);
        assert_true(fault_disarm());
        make_change(f, next++);
        assert_state_after(f, next - 1);
    }
}

static void test_changes_wait_for_a_disk_that_takes_no_commit(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    make_change(f, 1);
    make_change(f, 2);
    atomic_store(&fault.stays, true);
    atomic_store(&fault.others, true); // the owner's calls
    fault_arm(f->dir, 1, EIO);
    assert_state_after(f, 2); // readable all the same
    struct store_txn *txn;
    assert_int_equal(store_change_begin(f->store, &txn), -EIO);
    assert_int_equal(store_write_begin(f->store, &txn), -EIO);
    assert_true(store_sync(f->store) < 0);
    assert_state_after(f, 2);
    assert_true(fault_disarm());
    atomic_store(&fault.others, false);
    make_change(f, 3);
    assert_state_after(f, 3);
    fixture_reopen(f);
    assert_state_after(f, 3);
}

// What a store that ends on such a disk has acknowledged is there when it is opened again.
static void test_changes_that_no_close_could_commit_are_in_the_journal(void **state)
{
    struct fixture *f = *state;
    open_batch(f);
    make_change(f, 1);
    make_change(f, 2);
    atomic_store(&fault.stays, true);
    atomic_store(&fault.others, true);
    fault_arm(f->dir, 1, EIO);
    store_close(f->store);
    assert_true(fault_disarm());
    atomic_store(&fault.others, false);
    fixture_open(f);
    assert_state_after(f, 2);
}

// ---- many threads

#define THREADS 4
#define ROUNDS  400

struct worker {
    struct fixture *f;
    uint64_t parent;
    unsigned seed;
    bool here[8];
    uint64_t changed_in;
};

static void look(struct worker *w, struct store_txn *txn)
{
    for (int i = 0; i < 8; i++) {
        struct store_entry entry;
        char name = (char)('a' + i);
        int rc = store_entry_get(txn, LAYER, w->parent, &name, 1, &entry);
        assert_int_equal(rc, w->here[i] ? 0 : -ENOENT);
    }
    store_read_end(txn);
}

static void change_one(struct worker *w, bool alone, bool gives_up)
{
    struct store_txn *txn;
    int i = (int)(rand_r(&w->seed) % 8);
    char name = (char)('a' + i);
    assert_int_equal(
        alone ? store_write_begin(w->f->store, &txn) : store_change_begin(w->f->store, &txn), 0);
    int rc = w->here[i] ? store_entry_del(txn, LAYER, w->parent, &name, 1)
                        : store_entry_put(txn, LAYER, w->parent, &name, 1, 99, DT_REG);
    assert_int_equal(rc, 0);
    if (gives_up) {
        store_abort(txn);
        return;
    }
    w->changed_in = store_change_id(txn);
    commit(txn);
    w->here[i] = !w->here[i];
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct store_txn *txn;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned dice = rand_r(&w->seed) % 40;
        change_one(w, dice == 0, dice == 1);
        assert_int_equal(dice == 2 ? store_read_begin(w->f->store, &txn)
                                   : store_look_begin(w->f->store, w->changed_in, &txn),
                         0);
        look(w, txn);
        if (dice == 3)
            assert_int_equal(store_sync(w->f->store), 0);
    }
    return NULL;
}

static void test_threads_see_their_own_changes_at_once(void **state)
{
    struct fixture *f = *state;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = f, .parent = 10 + (uint64_t)i, .seed = (unsigned)i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    fixture_reopen(f);
    for (int i = 0; i < THREADS; i++)
        look(&workers[i], begin_read(f));
}

#define test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_a_change_is_seen_by_every_reader),
        test(test_a_lone_change_is_committed_by_itself),
        test(test_a_batch_is_committed_by_itself_after_a_while),
        test(test_whoever_writes_alone_sees_and_follows_the_changes),
        test(test_a_large_batch_is_followed_by_another),
        test(test_a_sync_has_the_changes_on_the_disk),
        test(test_changes_of_a_killed_run_are_there),
        test(test_a_run_that_is_killed_twice_loses_nothing),
        test(test_a_torn_journal_is_taken_up_to_its_last_whole_record),
        test(test_a_journal_is_never_replayed_twice_nor_on_another_state),
        test(test_a_power_cut_leaves_the_synced_state_without_the_journal),
        test(test_a_change_that_is_given_up_takes_nothing_with_it),
        test(test_a_change_that_cannot_be_journaled_fails_alone),
        test(test_changes_wait_for_a_disk_that_takes_no_commit),
        test(test_changes_that_no_close_could_commit_are_in_the_journal),
        test(test_threads_see_their_own_changes_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
