// What a power cut, a full disk and damaged records leave: never less than what was synced, never
// a store that does not open, never a crash.
#include "tests/unit/mux/store/store_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <lmdb.h>
#include <sys/mount.h>
#include <sys/wait.h>

static void shell(const char *format, const char *a, const char *b)
{
    char command[400];
    snprintf(command, sizeof command, format, a, b);
    assert_int_equal(system(command), 0);
}

static struct store_inode with_blob(struct fixture *f, uint64_t blob, uint64_t size)
{
    struct store_inode inode = regular(f, new_id(f), "");
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = blob;
    inode.size = size;
    return inode;
}

static uint64_t record_blob(struct fixture *f, uint64_t layer)
{
    struct store_blob *blob;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    assert_int_equal(pwrite(store_blob_fd(blob), "hello", 5, 0), 5);
    uint64_t id = store_blob_id(blob);
    struct store_inode inode = with_blob(f, id, 5);
    struct store_txn *txn = begin(f);
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    commit(txn);
    store_blob_release(blob);
    return id;
}

static uint64_t make_layer(struct fixture *f)
{
    uint64_t layer;
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    commit(txn);
    return layer;
}

static void open_after_reboot(struct fixture *f)
{
    setenv("AGENTFENSE_TEST_BOOT_ID", "00000000-0000-0000-0000-000000000001", 1);
    fixture_open(f);
    unsetenv("AGENTFENSE_TEST_BOOT_ID");
}

// Copies what a power cut would go back to: the database and its saved meta page. The blobs and
// the id file are synced apart.
static void save(struct fixture *f)
{
    shell("mkdir -p '%s/image%s'", f->dir, "");
    shell("cp --sparse=always '%s/store/data.mdb' '%s/image/'", f->dir, f->dir);
    shell("cp '%s/store/synced.meta' '%s/image/'", f->dir, f->dir);
}

static void cut_power(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
    shell("cp --sparse=always '%s/image/data.mdb' '%s/store/'", f->dir, f->dir);
    shell("cp '%s/image/synced.meta' '%s/store/'", f->dir, f->dir);
    open_after_reboot(f);
}

static void test_ids_are_never_reused_after_a_power_cut(void **state)
{
    struct fixture *f = *state;
    uint64_t last = 0;
    assert_int_equal(store_sync(f->store), 0);
    save(f);
    for (int i = 0; i < 1000; i++) {
        uint64_t layer = make_layer(f);
        assert_true(layer > last);
        last = layer;
    }
    cut_power(f);
    assert_true(new_id(f) > last);
}

static void test_a_blob_whose_record_a_power_cut_took_leaves_no_file(void **state)
{
    struct fixture *f = *state;
    uint64_t layer = make_layer(f);
    record_blob(f, layer);
    assert_int_equal(store_sync(f->store), 0);
    save(f);
    record_blob(f, layer); // never synced
    assert_int_equal(count_files(f->dir, "new"), 1);
    shell("cp -a '%s/new' '%s/new.then'", f->dir, f->dir);
    shell("cp -a '%s/blobs' '%s/blobs.then'", f->dir, f->dir);
    store_close(f->store);
    f->store = NULL;
    char command[400]; // closing synced and moved it: back to how it was
    snprintf(command, sizeof command,
             "cd '%s' && rm -rf new blobs && mv new.then new && mv blobs.then blobs && "
             "cp image/data.mdb image/synced.meta store/",
             f->dir);
    assert_int_equal(system(command), 0);
    open_after_reboot(f);
    assert_int_equal(count_files(f->dir, "new"), 0);
    assert_int_equal(count_files(f->dir, "blobs"), 1);
}

static void test_the_first_sync_point_of_a_start_comes_before_its_first_write(void **state)
{
    struct fixture *f = *state;
    int told[2];
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) { // leaves unsynced commits and an unpinned sync point behind
        fixture_open(f);
        for (uint64_t i = 1; i <= 3000; i++) {
            struct store_txn *txn = begin(f);
            store_entry_put(txn, 1, i % 900, "name", 4, i, DT_REG);
            store_commit(txn);
        }
        uint64_t done = 1;
        if (write(told[1], &done, sizeof done) == sizeof done)
            pause();
        _exit(0);
    }
    uint64_t done;
    assert_int_equal(read(told[0], &done, sizeof done), sizeof done);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(told[0]);
    close(told[1]);
    struct stat before, after;
    char meta[128];
    snprintf(meta, sizeof meta, "%s/store/synced.meta", f->dir);
    assert_int_equal(stat(meta, &before), 0);
    fixture_open(f);
    assert_int_equal(stat(meta, &after), 0);
    assert_true(after.st_mtim.tv_sec != before.st_mtim.tv_sec ||
                after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
    // What that sync point promises: all of the killed run's commits.
    save(f);
    for (int i = 0; i < 200; i++)
        make_layer(f);
    cut_power(f);
    struct store_txn *txn = begin_read(f);
    struct store_entry entry;
    for (uint64_t i = 0; i < 900; i++)
        assert_int_equal(store_entry_get(txn, 1, i, "name", 4, &entry), 0);
    store_read_end(txn);
}

static void digest_of(const char *dir, char *ret, size_t size)
{
    char command[300];
    snprintf(
        command, sizeof command,
        "cd '%s' && find . -printf '%%y %%p %%s %%T@\\n' | sort | sha256sum; cd '%s' && find . "
        "-type f -exec sha256sum {} + | sort | sha256sum",
        dir, dir);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(ret, 1, size - 1, pipe);
    ret[n] = '\0';
    pclose(pipe);
}

static void test_a_refused_schema_leaves_every_byte_and_time(void **state)
{
    struct fixture *f = *state;
    char path[128], before[300], after[300];
    store_close(f->store);
    f->store = NULL;
    snprintf(path, sizeof path, "%s/store", f->dir);
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    uint64_t version = 77;
    MDB_val key = {6, "schema"}, value = {sizeof version, &version};
    mdb_env_create(&env);
    mdb_env_set_maxdbs(env, 32);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_put(txn, meta, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    digest_of(f->dir, before, sizeof before);
    struct af_error err;
    struct store_options options = {.dir = f->dir};
    assert_int_equal(store_open(&options, &f->store, &err), -1);
    assert_non_null(strstr(err.text, "77"));
    digest_of(f->dir, after, sizeof after);
    assert_string_equal(before, after);
    f->store = NULL;
}

// ---- full

// Files of 2 KiB until nothing more goes in; the count.
static uint64_t fill(struct fixture *f, uint64_t layer, uint64_t *fids, uint64_t max)
{
    static char content[2048];
    memset(content, 'x', sizeof content);
    for (uint64_t n = 0; n < max; n++) {
        struct store_inode inode = regular(f, new_id(f), "");
        inode.size = inode.inline_len = sizeof content;
        inode.inline_data = content;
        struct store_txn *txn;
        int rc = store_write_begin(f->store, &txn);
        assert_int_equal(rc, 0);
        char name[24];
        int len = snprintf(name, sizeof name, "%lu", (unsigned long)n);
        rc = store_entry_put(txn, layer, 7, name, (size_t)len, inode.fid, DT_REG);
        if (rc == 0)
            rc = store_inode_put(txn, layer, &inode);
        if (rc == 0)
            rc = store_commit(txn);
        else
            store_abort(txn);
        if (rc < 0) {
            assert_int_equal(rc, -ENOSPC);
            return n;
        }
        fids[n] = inode.fid;
    }
    return max;
}

static void empty(struct fixture *f, uint64_t layer, const uint64_t *fids, uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        char name[24];
        int len = snprintf(name, sizeof name, "%lu", (unsigned long)n);
        struct store_txn *txn = begin(f);
        // As unlink does: a whiteout, the orphan, and then the inode.
        assert_int_equal(store_entry_put_whiteout(txn, layer, 7, name, (size_t)len), 0);
        assert_int_equal(store_orphan_put(txn, layer, fids[n]), 0);
        commit(txn);
        txn = begin(f);
        assert_int_equal(store_inode_del(txn, layer, fids[n]), 0);
        assert_int_equal(store_orphan_del(txn, layer, fids[n]), 0);
        assert_int_equal(store_entry_del(txn, layer, 7, name, (size_t)len), 0);
        commit(txn);
    }
}

#define FILL_MAX 60000

static void check_full(struct fixture *f)
{
    static uint64_t fids[FILL_MAX];
    uint64_t layer = make_layer(f), count = fill(f, layer, fids, FILL_MAX);
    assert_true(count > 100 && count < FILL_MAX);
    struct store_layer counts;
    struct store_txn *txn = begin_read(f);
    assert_int_equal(store_layer_get(txn, layer, &counts), 0);
    store_read_end(txn);
    assert_int_equal(counts.inodes, count); // nothing half-written
    assert_int_equal(counts.bytes, count * 2048);
    empty(f, layer, fids, count);
    assert_int_equal(store_sync(f->store), 0);
    assert_true(fill(f, layer, fids, 100) == 100); // there is room again
}

static void test_D6_a_full_map_refuses_new_files_and_allows_deletions(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    char dir[128];
    snprintf(dir, sizeof dir, "%s/small", f->dir);
    struct store_options options = {.dir = dir, .map_bytes = 16u << 20};
    struct af_error err;
    assert_int_equal(store_open(&options, &f->store, &err), 0);
    check_full(f);
}

static void test_D6_a_full_disk_refuses_new_files_and_allows_deletions(void **state)
{
    struct fixture *f = *state;
    char dir[128];
    snprintf(dir, sizeof dir, "%s/disk", f->dir);
    mkdir(dir, 0700);
    if (mount("tmpfs", dir, "tmpfs", 0, "size=40m,mode=0700") < 0) {
        print_message("skipped: no tmpfs here: %s\n", strerror(errno));
        skip();
    }
    store_close(f->store);
    struct store_options options = {.dir = dir};
    struct af_error err;
    assert_int_equal(store_open(&options, &f->store, &err), 0);
    check_full(f);
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(umount(dir), 0);
}

// ---- damaged records

#define DAMAGED 300

static int take_inode(void *arg, const struct store_inode *inode)
{
    (void)arg;
    volatile uint64_t sum = inode->size + inode->name_len; // and touch what it points at
    for (size_t i = 0; i < inode->name_len; i++)
        sum += (uint8_t)inode->name[i];
    for (size_t i = 0; i < inode->inline_len; i++)
        sum += ((const uint8_t *)inode->inline_data)[i];
    return 0;
}

static int take_entry(void *arg, uint64_t parent, const struct store_entry *entry)
{
    (void)arg;
    volatile uint64_t sum = parent + entry->name_len;
    for (size_t i = 0; i < entry->name_len; i++)
        sum += (uint8_t)entry->name[i];
    return 0;
}

static int take_codebase(void *arg, const struct store_codebase *codebase)
{
    (void)arg;
    return strlen(codebase->name) > AF_NAME_TEXT_MAX;
}

static int take_sandbox(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    volatile uint64_t sum = sandbox->user_data_len;
    for (size_t i = 0; i < sandbox->n_rules; i++)
        for (size_t j = 0; j < sandbox->rules[i].pattern_len; j++)
            sum += (uint8_t)sandbox->rules[i].pattern[j];
    return 0;
}

static size_t spoil(uint8_t *bytes, size_t len, size_t number)
{
    if (len == 0)
        return 0;
    switch (number % 3) {
    case 0: // each byte in its turn
        bytes[number / 3 % len] = number % 2 ? 0xff : bytes[number / 3 % len] + 1;
        return len;
    case 1: // each length
        return number / 3 % len;
    default:
        for (int n = (int)(random() % 4); n >= 0; n--)
            bytes[(size_t)random() % len] = (uint8_t)random();
        return random() % 2 ? len : len + (size_t)random() % 100;
    }
}

// Spoils every record of every database, through LMDB, while the store is closed.
static void damage(const char *dir, size_t round)
{
    static const char *const names[] = {"entry", "inode",    "version", "layer", "stack",
                                        "blob",  "codebase", "sandbox", "digest"};
    char path[128];
    snprintf(path, sizeof path, "%s/store", dir);
    MDB_env *env;
    MDB_txn *txn;
    mdb_env_create(&env);
    mdb_env_set_maxdbs(env, 32);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        MDB_dbi dbi;
        MDB_cursor *cursor;
        MDB_val key, value;
        assert_int_equal(mdb_dbi_open(txn, names[i], 0, &dbi), 0);
        assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
        size_t number = round * 100;
        int rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            uint8_t bytes[8192] = {0}, name[512]; // a key in the page may move with the put
            memcpy(name, key.mv_data, key.mv_size);
            key.mv_data = name;
            size_t len = value.mv_size < 4096 ? value.mv_size : 4096;
            memcpy(bytes, value.mv_data, len);
            MDB_val v = {spoil(bytes, len, number++), bytes};
            assert_int_equal(mdb_cursor_put(cursor, &key, &v, MDB_CURRENT), 0);
        }
        mdb_cursor_close(cursor);
    }
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void write_some_of_everything(struct fixture *f, uint64_t *layer, uint64_t *stack)
{
    *layer = make_layer(f);
    struct store_txn *txn = begin(f);
    struct store_rule rule = {.pattern = "/src/**", .pattern_len = 7};
    struct store_sandbox sandbox = {.access = STORE_ACCESS_NORMAL,
                                    .rules = &rule,
                                    .n_rules = 1,
                                    .owner = "o",
                                    .owner_len = 1,
                                    .user_data = "x",
                                    .user_data_len = 1};
    struct store_codebase codebase = {.files = 1};
    af_id_new("sb", &sandbox.id);
    af_id_new("cb", &codebase.id);
    for (uint64_t i = 0; i < DAMAGED; i++) {
        struct store_inode inode = regular(f, 500 + i, i % 2 ? "content" : "");
        assert_int_equal(store_inode_put(txn, *layer, &inode), 0);
        assert_int_equal(store_entry_put(txn, *layer, 7 + i, "name", 4, 500, DT_REG), 0);
    }
    assert_int_equal(store_stack_new(txn, layer, 1, stack), 0);
    assert_int_equal(store_sandbox_put(txn, &sandbox), 0);
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
    commit(txn);
    record_blob(f, *layer);
}

static void read_and_change_everything(struct fixture *f, uint64_t layer, uint64_t stack)
{
    struct store_txn *txn = begin(f);
    struct store_dir_iter *iter;
    struct store_inode inode;
    struct store_entry entry;
    uint64_t ids[4];
    size_t count;
    store_layer_inodes(txn, layer, take_inode, NULL);
    store_layer_entries(txn, layer, take_entry, NULL);
    store_codebase_list(txn, NULL, take_codebase, NULL);
    store_sandbox_list(txn, NULL, take_sandbox, NULL);
    store_stack_get(txn, stack, ids, 4, &count);
    for (uint64_t i = 0; i < DAMAGED; i++) {
        if (store_inode_get(txn, layer, 500 + i, &inode) == 0)
            take_inode(NULL, &inode);
        if (store_dir_open(txn, &layer, 1, 7 + i, 0, &iter) == 0) {
            while (store_dir_next(iter, &entry, NULL) == 0)
                take_entry(NULL, 7, &entry);
            store_dir_close(iter);
        }
    }
    store_stack_unref(txn, stack);
    store_layer_unref(txn, layer);
    if (store_commit(txn) < 0) {
        txn = begin(f);
        store_layer_unref(txn, layer);
        store_commit(txn);
    }
    uint64_t removed;
    store_gc_drain(f->store, &removed); // an error is fine, a crash is not
}

static void test_damaged_records_are_errors_never_crashes(void **state)
{
    struct fixture *f = *state;
    for (unsigned seed = 0; seed < 6; seed++) {
        uint64_t layer, stack;
        srandom(seed);
        write_some_of_everything(f, &layer, &stack);
        store_close(f->store);
        f->store = NULL;
        damage(f->dir, seed);
        struct af_error err;
        struct store_options options = {.dir = f->dir, .map_bytes = 1ULL << 30};
        if (store_open(&options, &f->store, &err) == 0)
            read_and_change_everything(f, layer, stack);
        store_close(f->store);
        f->store = NULL;
        shell("rm -rf '%s' && mkdir -m 700 '%s'", f->dir, f->dir);
        fixture_open(f);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_ids_are_never_reused_after_a_power_cut),
        TEST(test_a_blob_whose_record_a_power_cut_took_leaves_no_file),
        TEST(test_the_first_sync_point_of_a_start_comes_before_its_first_write),
        TEST(test_a_refused_schema_leaves_every_byte_and_time),
        TEST(test_D6_a_full_map_refuses_new_files_and_allows_deletions),
        TEST(test_D6_a_full_disk_refuses_new_files_and_allows_deletions),
        TEST(test_damaged_records_are_errors_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
