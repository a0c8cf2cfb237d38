// fsck: every kind of damage, planted one at a time, is found, explained, repaired, and gone
// afterwards; an intact store is clean. AF_TEST_DAMAGE plants one alone.
#include "tests/unit/mux/store/fsck_damage.h"

// ---- the table

struct seen {
    char text[16384];
    const char *kind; // looked for
    bool found;
};

static int note(void *arg, const struct store_finding *finding)
{
    struct seen *seen = arg;
    size_t n = strlen(seen->text);
    snprintf(seen->text + n, sizeof seen->text - n, "\n  %s: %s", finding->kind, finding->text);
    seen->found = seen->found || (seen->kind && strcmp(finding->kind, seen->kind) == 0);
    return 0;
}

static struct store_fsck_result run(const char *dir, bool repair, struct seen *seen)
{
    struct store *store;
    struct af_error err;
    struct store_fsck_options options = {.repair = repair, .deep = true, .fn = note, .arg = seen};
    struct store_fsck_result result;
    if (store_open_for_fsck(dir, repair, &store, &err) < 0)
        fail_msg("%s", err.text);
    int rc = store_fsck(store, &options, &result);
    store_close(store);
    if (rc < 0)
        fail_msg("fsck: %s%s", strerror(-rc), seen->text);
    return result;
}

static void assert_clean(const char *what, const char *dir)
{
    struct seen seen = {0};
    struct store_fsck_result result = run(dir, false, &seen);
    if (result.found != 0)
        fail_msg("%s: not clean:%s", what, seen.text);
}

static void close_store(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
}

static void plant(struct fixture *f, const struct damage *damage)
{
    struct tree t = build_tree(f);
    if (damage->plant) {
        struct store_txn *txn = begin(f);
        damage->plant(txn, &t);
        commit(txn);
    }
    close_store(f);
    if (damage->spoil)
        damage->spoil(f->dir, &t);
}

static void test_every_kind_of_damage_is_found_explained_and_repaired(void **state)
{
    (void)state;
    const char *only = getenv("AF_TEST_DAMAGE");
    for (size_t i = 0; i < AF_ARRAY_LEN(damages); i++) {
        if (only && strcmp(only, damages[i].name) != 0)
            continue;
        struct fixture *f;
        struct seen seen = {.kind = damages[i].kind}, repairs = {0};
        fixture_setup((void **)&f);
        plant(f, &damages[i]);
        struct store_fsck_result result = run(f->dir, false, &seen);
        if (!seen.found)
            fail_msg("%s: no finding '%s':%s", damages[i].name, damages[i].kind, seen.text);
        assert_int_equal(result.repaired, 0);
        assert_int_equal(result.left, result.found);
        result = run(f->dir, true, &repairs);
        if (result.left != 0 || result.repaired == 0)
            fail_msg("%s: left after the repair:%s", damages[i].name, repairs.text);
        assert_clean(damages[i].name, f->dir);
        fixture_open(f); // and the daemon starts again
        uint64_t removed;
        assert_int_equal(store_gc_drain(f->store, &removed), 0);
        close_store(f);
        assert_clean(damages[i].name, f->dir);
        fixture_open(f);
        fixture_teardown((void **)&f);
    }
}

static void test_an_intact_store_is_clean_and_a_check_writes_nothing(void **state)
{
    struct fixture *f = *state;
    build_tree(f);
    close_store(f);
    char command[512];
    snprintf(
        command, sizeof command,
        "cd %s && find . -type f ! -name lock ! -name lock.mdb | sort | xargs sha256sum > %s.1",
        f->dir, f->dir);
    assert_int_equal(system(command), 0);
    assert_clean("intact", f->dir);
    snprintf(command, sizeof command,
             "cd %s && find . -type f ! -name lock ! -name lock.mdb | sort | xargs sha256sum | "
             "cmp - %s.1; rc=$?; rm -f %s.1; exit $rc",
             f->dir, f->dir, f->dir);
    assert_int_equal(system(command), 0);
    fixture_open(f);
}

static void test_a_check_beside_a_running_store_finds_nothing(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {0};
    struct store_fsck_options options = {.deep = true, .fn = note, .arg = &seen};
    struct store_fsck_result result;
    build_tree(f);
    assert_int_equal(store_fsck(f->store, &options, &result), 0);
    if (result.found != 0)
        fail_msg("%s", seen.text);
    assert_true(result.records > 20);
    options.repair = true;
    assert_int_equal(store_fsck(f->store, &options, &result), -EBUSY);
}

static void test_what_cannot_be_repaired_is_left_and_said(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {.kind = "stack-missing"};
    struct tree t = build_tree(f);
    struct store_txn *txn = begin(f);
    struct key_id key = key_of_id(t.stack);
    del(txn, STORE_DBI_STACK, &key, sizeof key);
    commit(txn);
    close_store(f);
    struct store_fsck_result result = run(f->dir, true, &seen);
    assert_true(result.left > 0);
    assert_true(seen.found);
    assert_non_null(strstr(seen.text, "restore the directory from a backup"));
    fixture_open(f);
}

// What an unreadable owner holds looks unused, and must not be given up for that.
static void test_a_sandbox_that_cannot_be_read_costs_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {.kind = "malformed"};
    struct tree t = build_tree(f);
    struct store_txn *txn = begin(f);
    struct store_inode inode;
    put(txn, STORE_DBI_SANDBOX, t.sandbox, strlen(t.sandbox), "junk", 4);
    commit(txn);
    close_store(f);
    struct store_fsck_result result = run(f->dir, true, &seen);
    assert_true(seen.found && result.left > 0);
    fixture_open(f);
    uint64_t removed;
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    txn = begin_read(f);
    assert_int_equal(store_inode_get(txn, t.delta, t.inner, &inode), 0);
    store_read_end(txn);
}

// Content that no name leads to is not thrown away.
static void test_a_file_that_cannot_be_put_back_is_in_lost_and_found(void **state)
{
    struct fixture *f = *state;
    struct seen seen = {0};
    char path[512], text[32] = "";
    struct tree t = build_tree(f);
    struct store_txn *txn = begin(f);
    file_without_name_or_directory(txn, &t);
    commit(txn);
    close_store(f);
    assert_int_equal(run(f->dir, true, &seen).left, 0);
    snprintf(path, sizeof path, "%s/lost+found/file-%llu-%llu", f->dir, (unsigned long long)t.delta,
             (unsigned long long)t.inner);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, sizeof text - 1), 10);
    assert_string_equal(text, "inner text");
    close(fd);
    fixture_open(f);
}

// A blob that lost its end reads as an error; a FIFO in its place never blocks.
static void test_a_damaged_blob_is_an_error_and_never_zeros_or_a_hang(void **state)
{
    struct fixture *f = *state;
    struct store_blob *blob;
    struct tree t = build_tree(f);
    fixture_reopen(f); // closes what is open
    blob_short(f->dir, &t);
    assert_int_equal(store_blob_open_sized(f->store, t.big_blob, BLOB_BYTES, &blob), -EIO);
    assert_int_equal(store_blob_open_sized(f->store, t.big_blob, 100, &blob), 0);
    store_blob_release(blob);
    fixture_reopen(f);
    blob_is_a_fifo(f->dir, &t);
    assert_int_equal(store_blob_open(f->store, t.big_blob, &blob), -EIO);
    char path[512];
    path_of(path, f->dir, t.big_blob);
    assert_int_equal(unlink(path), 0);
    blob_is_a_symlink(f->dir, &(struct tree){.big_blob = t.own_blob});
    assert_int_equal(store_blob_open(f->store, t.own_blob, &blob), -EIO);
    folder_of_blobs_is_a_file(f->dir, &t);
    assert_int_equal(store_blob_open(f->store, t.own_blob, &blob), -EIO);
}

static void test_a_lost_id_counter_is_refused_and_never_begun_again(void **state)
{
    struct fixture *f = *state;
    struct tree t = build_tree(f);
    struct af_error err;
    struct store_options options = {.dir = f->dir, .map_bytes = 1ULL << 30};
    struct store *store;
    close_store(f);
    ids_missing(f->dir, &t);
    assert_int_equal(store_open(&options, &store, &err), -1);
    struct seen seen = {0};
    assert_int_equal(run(f->dir, true, &seen).left, 0);
    fixture_open(f);
    assert_true(new_id(f) > t.orphan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_damage_is_found_explained_and_repaired),
        cmocka_unit_test_setup_teardown(test_an_intact_store_is_clean_and_a_check_writes_nothing,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_check_beside_a_running_store_finds_nothing,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_repaired_is_left_and_said,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_sandbox_that_cannot_be_read_costs_nothing_else,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_cannot_be_put_back_is_in_lost_and_found,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_damaged_blob_is_an_error_and_never_zeros_or_a_hang,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_lost_id_counter_is_refused_and_never_begun_again,
                                        fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
