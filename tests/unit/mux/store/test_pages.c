// Damaged pages of the database: whatever a disk makes of one, LMDB is never led astray by it. A
// store is refused with a sentence, or it opens and fsck ends.
#include "tests/unit/mux/store/fsck_fixture.h"

#include <lmdb.h>
#include <sys/wait.h>

#define ROUNDS  300
#define FILES   2000
#define PAGE    4096
#define SECONDS 60 // of one check, which takes some milliseconds

static uint64_t random_state = 1;

static uint64_t below(uint64_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % limit;
}

// Trees of several levels, values on pages of their own, and a list of free pages.
static void fill(struct fixture *f)
{
    struct tree t = build_tree(f);
    static const char value[9000];
    for (int round = 0; round < 4; round++) {
        struct store_txn *txn = begin(f);
        for (int i = 0; i < FILES / 4; i++) {
            char name[32];
            snprintf(name, sizeof name, "file-%d-%d", round, i);
            struct store_inode inode = node(f, t.own_dir, name, S_IFREG | 0644);
            set_text(&inode, "of little content");
            if (i % 100 == 0) {
                inode.xattr_bytes = sizeof value;
                inode.xattr_layer = t.delta;
                assert_int_equal(store_xattr_put(txn, t.delta, inode.fid, value, sizeof value), 0);
            }
            add(txn, t.delta, &inode);
        }
        commit(txn);
        assert_int_equal(store_sync(f->store), 0);
    }
    store_close(f->store);
    f->store = NULL;
}

static void garble(uint8_t *page, const uint8_t *other)
{
    switch (below(5)) {
    case 0:
        page[below(PAGE)] ^= (uint8_t)(1 + below(255));
        break;
    case 1: // of its head, or of the table of its records
        page[below(64)] ^= (uint8_t)(1 + below(255));
        break;
    case 2:
        memset(page, 0, PAGE);
        break;
    case 3:
        for (size_t i = 0; i < PAGE; i++)
            page[i] = (uint8_t)below(256);
        break;
    default:
        memcpy(page, other, PAGE);
    }
}

// In a process of its own, for the worst case. Whether the store was refused.
static bool is_refused(const char *dir)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct store *store;
        struct af_error err;
        struct store_fsck_options options = {0};
        struct store_fsck_result result;
        alarm(SECONDS);
        if (store_open_for_fsck(dir, false, &store, &err) < 0)
            _exit(err.status == AF_DATA_LOSS && err.text[0] ? 1 : 2);
        store_fsck(store, &options, &result);
        store_close(store);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) || WEXITSTATUS(status) > 1)
        fail_msg("the check died: status %x", status);
    return WEXITSTATUS(status) == 1;
}

static void test_no_damaged_page_is_followed(void **state)
{
    struct fixture *f = *state;
    static uint8_t page[PAGE], other[PAGE], damaged[PAGE];
    char path[128];
    struct stat st;
    unsigned refused = 0;
    fill(f);
    snprintf(path, sizeof path, "%s/store/data.mdb", f->dir);
    AF_CLEANUP_FD int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_false(is_refused(f->dir));
    for (int i = 0; i < ROUNDS; i++) {
        off_t at = (off_t)(2 + below((uint64_t)st.st_size / PAGE - 2)) * PAGE;
        off_t from = (off_t)(2 + below((uint64_t)st.st_size / PAGE - 2)) * PAGE;
        assert_int_equal(pread(fd, page, PAGE, at), PAGE);
        assert_int_equal(pread(fd, other, PAGE, from), PAGE);
        if (page[10] == 0) // never used
            continue;
        memcpy(damaged, page, PAGE);
        garble(damaged, other);
        assert_int_equal(pwrite(fd, damaged, PAGE, at), PAGE);
        refused += is_refused(f->dir);
        assert_int_equal(pwrite(fd, page, PAGE, at), PAGE);
    }
    assert_false(is_refused(f->dir));
    print_message("%u refused\n", refused);
    assert_true(refused > ROUNDS / 10);
    fixture_open(f);
}

static void test_a_store_is_not_opened_on_a_damaged_page(void **state)
{
    struct fixture *f = *state;
    static uint8_t page[PAGE];
    char path[128];
    struct stat st;
    struct store *store;
    struct af_error err;
    struct store_options options = {.dir = f->dir, .map_bytes = 1ULL << 30};
    fill(f);
    snprintf(path, sizeof path, "%s/store/data.mdb", f->dir);
    AF_CLEANUP_FD int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t at = 2 * PAGE; at < st.st_size; at += PAGE) {
        assert_int_equal(pread(fd, page, PAGE, at), PAGE);
        if (!memmem(page, PAGE, "of little content", 17))
            continue;
        page[16] = 1; // the first record lies in the page's head
        page[17] = 0;
        assert_int_equal(pwrite(fd, page, PAGE, at), PAGE);
    }
    assert_int_equal(store_open(&options, &store, &err), -1);
    assert_int_equal(err.status, AF_DATA_LOSS);
    if (!strstr(err.text, "has a record outside of itself"))
        fail_msg("%s", err.text);
}

// A value of 4 MiB, put and taken away: its pages are free, in one list.
static void free_many_pages(const char *dir)
{
    char path[128];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    MDB_val key = {4, "many"};
    AF_CLEANUP_FREE char *bytes = calloc(1, 4 << 20);
    MDB_val value = {4 << 20, bytes};
    snprintf(path, sizeof path, "%s/store", dir);
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 32);
    mdb_env_set_mapsize(env, 1ULL << 30);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
        assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
        int rc = i == 0 ? mdb_put(txn, meta, &key, &value, 0) : mdb_del(txn, meta, &key, NULL);
        assert_int_equal(rc, 0);
        assert_int_equal(mdb_txn_commit(txn), 0);
    }
    mdb_env_close(env);
}

// Where the list of more than 1024 free pages begins: a count, then the pages, highest first.
static off_t find_list(int fd, uint64_t *ret_entries)
{
    uint64_t words[PAGE / 8];
    for (off_t at = 2 * PAGE; pread(fd, words, PAGE, at) == PAGE; at += PAGE) {
        if (words[2] > 1024 && words[2] < 1200 && words[3] > words[4] && words[4] > words[5]) {
            *ret_entries = words[2];
            return at + 16;
        }
    }
    fail_msg("no such list");
    return 0;
}

static void test_a_long_list_of_free_pages_is_checked_to_its_end(void **state)
{
    struct fixture *f = *state;
    char path[128];
    uint64_t entries, was, wrong = 1ULL << 40;
    store_close(f->store);
    f->store = NULL;
    free_many_pages(f->dir);
    snprintf(path, sizeof path, "%s/store/data.mdb", f->dir);
    AF_CLEANUP_FD int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_false(is_refused(f->dir));
    off_t list = find_list(fd, &entries);
    const uint64_t places[] = {1, 512, 513, 1024, 1025, entries};
    for (size_t i = 0; i < AF_ARRAY_LEN(places); i++) {
        off_t at = list + (off_t)places[i] * 8;
        assert_int_equal(pread(fd, &was, sizeof was, at), sizeof was);
        assert_int_equal(pwrite(fd, &wrong, sizeof wrong, at), sizeof wrong);
        assert_true(is_refused(f->dir));
        assert_int_equal(pwrite(fd, &was, sizeof was, at), sizeof was);
    }
    assert_false(is_refused(f->dir));
    fixture_open(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_damaged_page_is_followed, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_store_is_not_opened_on_a_damaged_page, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_long_list_of_free_pages_is_checked_to_its_end,
                                        fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
