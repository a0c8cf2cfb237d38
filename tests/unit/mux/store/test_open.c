// Opening: one instance, schema versions, ids, and what a power cut leaves.
#include "tests/unit/mux/store/store_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static atomic_int whole_disk_syncs;

// In libc's place.
int syncfs(int fd)
{
    atomic_fetch_add(&whole_disk_syncs, 1);
    return (int)syscall(SYS_syncfs, fd);
}

static void test_O_second_instance_is_refused_and_names_the_holder(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    struct store *other;
    struct store_options options = {.dir = f->dir};
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    assert_int_equal(store_open(&options, &other, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, pid));
    assert_non_null(strstr(err.text, f->dir));
}

// Opens the store, forks a child that holds what it inherited, and dies as by kill -9.
static void die_with_a_child_between_fork_and_exec(struct fixture *f, int tell_fd, int hold_fd)
{
    struct store *store;
    struct af_error err;
    struct store_options options = {.dir = f->dir};
    char byte = 'x';
    if (store_open(&options, &store, &err) < 0)
        _exit(1);
    if (fork() == 0) {
        if (write(tell_fd, &byte, 1) == 1 && read(hold_fd, &byte, 1) == 1)
            usleep(50000); // the parent is in store_open by now, or finds the lock free
        _exit(0);
    }
    kill(getpid(), SIGKILL);
}

static void test_O_a_child_that_a_killed_daemon_left_does_not_keep_the_directory(void **state)
{
    struct fixture *f = *state;
    int tell[2], hold[2], status;
    char byte = 'x';
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(pipe(tell) | pipe(hold), 0);
    pid_t pid = fork();
    if (pid == 0)
        die_with_a_child_between_fork_and_exec(f, tell[1], hold[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(read(tell[0], &byte, 1), 1);
    assert_int_equal(write(hold[1], &byte, 1), 1);
    fixture_reopen(f);
    for (int i = 0; i < 2; i++) {
        close(tell[i]);
        close(hold[i]);
    }
}

static void test_ids_are_never_reused_over_reopen(void **state)
{
    struct fixture *f = *state;
    uint64_t last = 0;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++) {
            uint64_t id = new_id(f);
            assert_true(id > last && id > 16 && id < (1ULL << 44));
            last = id;
        }
        fixture_reopen(f);
    }
}

static void test_another_schema_version_is_refused_untouched(void **state)
{
    struct fixture *f = *state;
    char path[128], before[65536], after[65536];
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

    snprintf(path, sizeof path, "%s/store/data.mdb", f->dir);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY);
    ssize_t size = pread(fd, before, sizeof before, 0);
    struct af_error err;
    struct store_options options = {.dir = f->dir};
    assert_int_equal(store_open(&options, &f->store, &err), -1);
    assert_non_null(strstr(err.text, "77"));
    assert_int_equal(pread(fd, after, sizeof after, 0), size);
    assert_memory_equal(before, after, (size_t)size);
}

static void assert_refused(struct fixture *f, const char *words)
{
    struct af_error err;
    struct store_options options = {.dir = f->dir};
    if (store_open(&options, &f->store, &err) == 0)
        fail_msg("opened, not refused with: %s", words);
    if (!strstr(err.text, words))
        fail_msg("refused, but not with \"%s\": %s", words, err.text);
}

static void run_in(struct fixture *f, const char *format)
{
    char command[300];
    snprintf(command, sizeof command, format, f->dir, f->dir, f->dir);
    assert_int_equal(system(command), 0);
}

static void test_content_without_its_store_is_no_new_store(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    f->store = NULL;
    run_in(f, "mv '%s/store' '%s/away'");
    assert_refused(f, "store is missing");
    run_in(f, "test ! -e '%s/store' && mv '%s/away' '%s/store'");
    fixture_open(f);
}

static void test_no_symlink_in_the_place_of_a_file_is_followed(void **state)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "journal", "ids", "synced.meta"};
    struct fixture *f = *state;
    store_close(f->store);
    f->store = NULL;
    run_in(f, "echo precious > '%s/victim'");
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        char command[300];
        snprintf(command, sizeof command, "cd '%s/store' && mv %s away && ln -s ../victim %s",
                 f->dir, names[i], names[i]);
        assert_int_equal(system(command), 0);
        assert_refused(f, i < 3 ? names[i] : "symbolic link");
        snprintf(command, sizeof command, "cd '%s/store' && mv away %s", f->dir, names[i]);
        assert_int_equal(system(command), 0);
    }
    run_in(f, "test $(cat '%s/victim') = precious");
    fixture_open(f);
}

static void test_a_directory_that_others_may_write_to_is_refused(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(chmod(f->dir, 0777), 0);
    assert_refused(f, "mode 0777");
    assert_int_equal(chmod(f->dir, 0770), 0);
    assert_refused(f, "mode 0770");
    assert_int_equal(chmod(f->dir, 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(f->dir, 1, 1), 0);
        assert_refused(f, "owner 1");
        assert_int_equal(chown(f->dir, 0, 0), 0);
    }
    fixture_open(f);
}

static void test_the_whole_disk_is_synced_after_a_killed_run_only(void **state)
{
    struct fixture *f = *state;
    int status;
    store_close(f->store);
    f->store = NULL;
    run_in(f, "rm -r '%s'/*");
    atomic_store(&whole_disk_syncs, 0);
    fixture_open(f); // makes a new one
    fixture_reopen(f);
    assert_int_equal(atomic_load(&whole_disk_syncs), 0);
    store_close(f->store);
    f->store = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t layer;
        fixture_open(f);
        struct store_txn *txn = begin(f);
        assert_int_equal(store_layer_new(txn, &layer), 0);
        commit(txn);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    fixture_open(f);
    assert_int_equal(atomic_load(&whole_disk_syncs), 1);
}

static void test_must_exist_creates_nothing(void **state)
{
    (void)state;
    struct af_error err;
    struct store *store;
    struct store_options options = {.dir = "/tmp/af-store-nowhere", .must_exist = true};
    assert_int_equal(store_open(&options, &store, &err), -1);
    assert_int_equal(access("/tmp/af-store-nowhere", F_OK), -1);
}

// A child commits, telling each commit through a pipe, and is killed in the middle.
static void test_B9_kill_9_loses_no_acknowledged_commit(void **state)
{
    struct fixture *f = *state;
    int told[2];
    assert_int_equal(pipe(told), 0);
    store_close(f->store);
    f->store = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        fixture_open(f);
        for (uint64_t i = 1;; i++) {
            struct store_txn *txn = begin(f);
            store_entry_put(txn, 1, i, "name", 4, i, DT_REG);
            commit(txn);
            if (write(told[1], &i, sizeof i) != sizeof i)
                _exit(1);
        }
    }
    close(told[1]);
    uint64_t acknowledged = 0;
    while (acknowledged < 500)
        assert_int_equal(read(told[0], &acknowledged, sizeof acknowledged), sizeof acknowledged);
    kill(pid, SIGKILL);
    while (read(told[0], &acknowledged, sizeof acknowledged) == sizeof acknowledged)
        ;
    waitpid(pid, NULL, 0);
    close(told[0]);
    fixture_open(f);
    struct store_txn *txn = begin_read(f);
    for (uint64_t i = 1; i <= acknowledged; i++) {
        struct store_entry entry;
        assert_int_equal(store_entry_get(txn, 1, i, "name", 4, &entry), 0);
    }
    store_read_end(txn);
}

static void copy_file(const char *from, const char *to)
{
    char command[300];
    snprintf(command, sizeof command, "cp --sparse=always '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

// Applies a random subset of the pages that differ between the synced image and the live one: what
// a disk may hold after a power cut, meta pages included.
static void mix_pages(const char *synced, const char *live, const char *out, unsigned seed)
{
    copy_file(synced, out);
    AF_CLEANUP_FD int live_fd = open(live, O_RDONLY), out_fd = open(out, O_RDWR);
    char page[4096], old[4096];
    srandom(seed);
    for (off_t at = 0; pread(live_fd, page, sizeof page, at) == sizeof page; at += sizeof page) {
        bool differs =
            pread(out_fd, old, sizeof old, at) != sizeof old || memcmp(old, page, sizeof page) != 0;
        if (differs && random() % 2)
            assert_int_equal(pwrite(out_fd, page, sizeof page, at), sizeof page);
    }
}

static void put_many(struct fixture *f, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        struct store_txn *txn = begin(f);
        struct store_inode inode = regular(f, 1000 + i % 700, "some content to fill pages with");
        assert_int_equal(store_entry_put(txn, 1, i, "name", 4, i, DT_REG), 0);
        assert_int_equal(store_layer_new(txn, &inode.blob), 0);
        assert_int_equal(store_inode_put(txn, inode.blob, &inode), 0);
        commit(txn);
    }
}

static void test_a_power_cut_loses_nothing_synced_and_never_the_store(void **state)
{
    struct fixture *f = *state;
    char data[128], saved[128], live[128], meta[128];
    snprintf(data, sizeof data, "%s/store/data.mdb", f->dir);
    snprintf(saved, sizeof saved, "%s/synced", f->dir);
    snprintf(live, sizeof live, "%s/live", f->dir);
    snprintf(meta, sizeof meta, "%s/store/synced.meta", f->dir);
    for (unsigned seed = 0; seed < 12; seed++) {
        char keep_meta[140];
        snprintf(keep_meta, sizeof keep_meta, "%s/keep.meta", f->dir);
        uint64_t first = 1 + seed * 1000;
        put_many(f, first, first + 200);
        assert_int_equal(store_sync(f->store), 0);
        copy_file(data, saved);
        copy_file(meta, keep_meta);
        put_many(f, first + 200, first + 300); // never synced
        copy_file(data, live);
        store_close(f->store);
        f->store = NULL;
        mix_pages(saved, live, data, seed);
        copy_file(keep_meta, meta);
        setenv("AGENTFENSE_TEST_BOOT_ID", "00000000-0000-0000-0000-000000000001", 1);
        fixture_open(f);
        unsetenv("AGENTFENSE_TEST_BOOT_ID");
        struct store_txn *txn = begin_read(f);
        struct store_entry entry;
        for (uint64_t i = first; i < first + 200; i++)
            assert_int_equal(store_entry_get(txn, 1, i, "name", 4, &entry), 0);
        store_read_end(txn);
        put_many(f, first + 300, first + 400); // and it can be written
        fixture_reopen(f);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_O_second_instance_is_refused_and_names_the_holder),
        TEST(test_O_a_child_that_a_killed_daemon_left_does_not_keep_the_directory),
        TEST(test_ids_are_never_reused_over_reopen),
        TEST(test_another_schema_version_is_refused_untouched),
        TEST(test_content_without_its_store_is_no_new_store),
        TEST(test_no_symlink_in_the_place_of_a_file_is_followed),
        TEST(test_a_directory_that_others_may_write_to_is_refused),
        TEST(test_the_whole_disk_is_synced_after_a_killed_run_only),
        TEST(test_must_exist_creates_nothing),
        TEST(test_B9_kill_9_loses_no_acknowledged_commit),
        TEST(test_a_power_cut_loses_nothing_synced_and_never_the_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
