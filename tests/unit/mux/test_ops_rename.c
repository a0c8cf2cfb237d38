// Renaming: whole trees in one step, and never around a rule.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/nodeid.h"
#include "mux/subtree.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

static const struct base_file tree[] = {
    {.path = "dir/sub/deep.txt", .text = "deep"},
    {.path = "dir/a", .text = "alpha"},
    {.path = "other/b", .text = "beta"},
    {.path = "file", .text = "file"},
    {.path = "empty", .mode = S_IFDIR | 0755},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "/etc/cron.d"},
    {0},
};

static struct view start(void **state)
{
    return ops_view(*state, ops_codebase(*state, tree), "**/*=write");
}

static void test_D5_B7_a_base_directory_moves_whole_in_constant_data(void **state)
{
    struct view v = start(state);
    ops_put(&v, "dir/new", "new");
    struct stat before = ops_stat(&v, "dir"), child = ops_stat(&v, "dir/sub/deep.txt");
    struct store_stats had = stats_of(*state), has;
    assert_int_equal(ops_rename(&v, "dir", "other/moved", 0), 0);
    has = stats_of(*state);
    assert_true(has.inodes <= had.inodes + 2);
    assert_true(has.entries <= had.entries + 2);
    assert_false(ops_exists(&v, "dir"));
    assert_names(&v, "", "empty file link other");
    assert_names(&v, "other/moved", "a new sub");
    assert_text(&v, "other/moved/sub/deep.txt", "deep");
    assert_text(&v, "other/moved/new", "new");
    assert_int_equal(ops_stat(&v, "other/moved").st_ino, before.st_ino);
    assert_int_equal(ops_stat(&v, "other/moved/sub/deep.txt").st_ino, child.st_ino);
    // The old name is free, and empty.
    assert_int_equal(ops_mkdir(&v, "dir", 0755), 0);
    assert_names(&v, "dir", "");
    // The same after a restart.
    ops_reopen_sized(*state, 2);
    ops_attach(&v);
    assert_text(&v, "other/moved/sub/deep.txt", "deep");
    assert_names(&v, "dir", "");
    assert_accounting(&v);
}

static void test_E4_a_moved_symlink_stays_a_symlink(void **state)
{
    struct view v = start(state);
    char target[AF_SYMLINK_MAX + 1];
    assert_int_equal(ops_rename(&v, "link", "dir/l", 0), 0);
    assert_int_equal(mux_readlink(v.fixture->mux, &v.ctx, ops_nodeid(&v, "dir/l"), target), 0);
    assert_string_equal(target, "/etc/cron.d");
}

static void test_a_moved_file_keeps_its_content_and_the_base_its_own(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = ops_codebase(f, tree);
    ops_upload_big(f, codebase, "big", 50000, 1);
    struct view v = ops_view(f, codebase, "**/*=write");
    assert_int_equal(ops_rename(&v, "big", "dir/big", 0), 0);
    // Its record is the view's now, its blob is not: writing must copy.
    assert_int_equal(ops_write(&v, "dir/big", "mine", 4, 0), 0);
    struct view other = ops_view(f, codebase, "**/*=write");
    unsigned char buf[4];
    assert_int_equal(ops_read(&other, "big", buf, 4, 0), 4);
    assert_int_equal(buf[1], ops_byte(1, 1));
    assert_int_equal(ops_read(&v, "dir/big", buf, 4, 0), 4);
    assert_memory_equal(buf, "mine", 4);
    assert_accounting(&v);
}

static void test_replacing_follows_posix(void **state)
{
    struct view v = start(state);
    assert_int_equal(ops_rename(&v, "file", "other/b", 0), 0);
    assert_text(&v, "other/b", "file");
    assert_names(&v, "other", "b");
    assert_int_equal(ops_rename(&v, "other/b", "dir", 0), -EISDIR);
    assert_int_equal(ops_rename(&v, "dir", "other/b", 0), -ENOTDIR);
    assert_int_equal(ops_rename(&v, "dir", "other", 0), -ENOTEMPTY);
    assert_int_equal(ops_rename(&v, "dir", "empty", 0), 0);
    assert_text(&v, "empty/a", "alpha");
    assert_int_equal(ops_rename(&v, "absent", "x", 0), -ENOENT);
    assert_int_equal(ops_rename(&v, "other/b", "other/b", 0), 0);
    assert_text(&v, "other/b", "file");
    assert_int_equal(ops_rename(&v, "other", "other/b2/c", 0), -ENOENT);
}

static void test_a_replaced_file_lives_while_it_is_open(void **state)
{
    struct view v = start(state);
    uint64_t old = ops_nodeid(&v, "other/b");
    char buf[8];
    assert_int_equal(ops_rename(&v, "file", "other/b", 0), 0);
    assert_int_equal(ops_read_node(&v, old, buf, 8, 0), 4);
    assert_memory_equal(buf, "beta", 4);
    assert_int_equal(stats_of(*state).orphans, 1);
    mux_forget(v.fixture->mux, old);
    ops_detach(&v);
    assert_int_equal(stats_of(*state).orphans, 0);
}

static void test_a_directory_never_moves_into_itself(void **state)
{
    struct view v = start(state);
    assert_int_equal(ops_rename(&v, "dir", "dir/sub/x", 0), -EINVAL);
    assert_int_equal(ops_rename(&v, "dir", "dir/x", 0), -EINVAL);
    assert_int_equal(ops_rename(&v, "dir", "dir/sub", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(ops_rename(&v, "dir/sub", "dir", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(ops_rename(&v, "dir/sub", "dir", 0), -ENOTEMPTY);
    assert_text(&v, "dir/sub/deep.txt", "deep");
}

static void test_D7_noreplace_and_exchange(void **state)
{
    struct view v = start(state);
    assert_int_equal(ops_rename(&v, "file", "other/b", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(ops_rename(&v, "file", "other/c", RENAME_NOREPLACE), 0);
    assert_int_equal(ops_rename(&v, "other/c", "absent", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(ops_rename(&v, "other/c", "other/b", RENAME_EXCHANGE), 0);
    assert_text(&v, "other/b", "file");
    assert_text(&v, "other/c", "beta");
    // A directory and a file, a base directory and an own one.
    assert_int_equal(ops_rename(&v, "dir", "other/b", RENAME_EXCHANGE), 0);
    assert_text(&v, "dir", "file");
    assert_text(&v, "other/b/sub/deep.txt", "deep");
    assert_int_equal(ops_mkdir(&v, "own", 0755), 0);
    ops_put(&v, "own/x", "x");
    assert_int_equal(ops_rename(&v, "own", "other/b/sub", RENAME_EXCHANGE), 0);
    assert_text(&v, "own/deep.txt", "deep");
    assert_text(&v, "other/b/sub/x", "x");
    assert_int_equal(ops_rename(&v, "own", "x", RENAME_EXCHANGE | RENAME_NOREPLACE), -EINVAL);
    assert_int_equal(ops_rename(&v, "own", "x", RENAME_WHITEOUT), -EINVAL);
    ops_reopen_sized(*state, 1);
    ops_attach(&v);
    assert_text(&v, "own/deep.txt", "deep");
    assert_text(&v, "other/b/sub/x", "x");
    assert_accounting(&v);
}

static const struct base_file guarded[] = {
    {.path = "work/plain/x", .text = "x"},
    {.path = "work/hidden/.env", .text = "KEY"},
    {.path = "work/locked/ro.lock", .text = "1"},
    {.path = "work/far/a/b/c/.env", .text = "KEY"},
    {.path = "src/y", .text = "y"},
    {0},
};
static const char guard_rules[] = "**/*=write /src/**=read@1 **/.env=none@9 **/*.lock=read@9";

static void test_P6_a_directory_with_hidden_or_protected_names_stays(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, guarded), guard_rules);
    static const char *const stay[] = {"work/hidden", "work/locked", "work/far", "work/far/a"};
    assert_names(&v, "work/hidden", "");
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ops_rename(&v, stay[i], "elsewhere", 0), -EACCES);
        assert_int_equal(ops_rename(&v, stay[i], "work/plain", RENAME_EXCHANGE), -EACCES);
        assert_int_equal(ops_rename(&v, "work/plain", stay[i], RENAME_EXCHANGE), -EACCES);
        assert_int_equal(ops_rename(&v, "work/plain", stay[i], 0), -ENOTEMPTY);
        assert_int_equal(ops_rmdir(&v, stay[i]), -ENOTEMPTY);
    }
    assert_int_equal(ops_unlink(&v, "work/locked/ro.lock"), -EACCES);
    assert_int_equal(ops_unlink(&v, "work/hidden/.env"), -ENOENT);
    assert_int_equal(ops_rename(&v, "work", "w", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "work/plain", "work/moved", 0), 0);
    assert_text(&v, "work/moved/x", "x");
}

static void test_P6_P8_a_name_cannot_take_on_another_level(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, guarded), guard_rules);
    assert_int_equal(ops_rename(&v, "work/plain/x", "work/plain/.env", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "work/plain/x", "work/hidden/.env", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "work/plain/x", "work/hidden/.env", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(ops_rename(&v, "work/plain/x", "work/plain/x.lock", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "work/plain/x", "src/x", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "src/y", "work/y", 0), -EACCES);
    assert_int_equal(ops_rename(&v, "work/hidden/.env", "work/env", 0), -ENOENT);
    assert_int_equal(ops_rename(&v, "work/plain", "src/plain", 0), -EACCES);
    assert_text(&v, "work/plain/x", "x");
}

static void test_P6_rules_below_the_target_count_too(void **state)
{
    // The same name is writable in one place and not in the other.
    struct view v = ops_view(*state, ops_codebase(*state, guarded),
                             "**/*=write /vault/*/x=read@5 /vault/*/h=none@5");
    assert_int_equal(ops_mkdir(&v, "vault", 0755), 0);
    assert_int_equal(ops_rename(&v, "work/plain", "vault/p", 0), -EACCES);
    assert_int_equal(ops_mkdir(&v, "fine", 0755), 0);
    ops_put(&v, "fine/z", "z");
    assert_int_equal(ops_rename(&v, "fine", "vault/fine", 0), 0);
    // What the cache knew of the moved directory's rules is void.
    assert_int_equal(ops_create(&v, "vault/fine/x", 0644), -EACCES);
    assert_int_equal(ops_create(&v, "vault/fine/h", 0644), -EACCES);
    assert_int_equal(ops_rename(&v, "vault/fine", "back", 0), 0);
    assert_int_equal(ops_create(&v, "back/x", 0644), 0);
}

static void test_P6_a_large_tree_is_checked_off_the_worker(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, guarded), "**/*=write **/.env=none@9");
    char path[64];
    assert_int_equal(ops_mkdir(&v, "many", 0755), 0);
    for (unsigned i = 0; i < MUX_SUBTREE_FAST + 10; i++) {
        snprintf(path, sizeof path, "many/%u", i);
        assert_int_equal(ops_create(&v, path, 0644), 0);
    }
    assert_int_equal(mux_rename(v.fixture->mux, &v.ctx, v.root, "many", v.root, "m", 0), MUX_SLOW);
    assert_true(ops_exists(&v, "many/0"));
    assert_int_equal(ops_rename(&v, "many", "m", 0), 0);
    assert_int_equal(v.slow, 1);
    assert_true(ops_exists(&v, "m/0"));
    assert_int_equal(ops_rename(&v, "work/hidden", "m/hidden", 0), -EACCES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_D5_B7_a_base_directory_moves_whole_in_constant_data),
        fixture_test(test_E4_a_moved_symlink_stays_a_symlink),
        fixture_test(test_a_moved_file_keeps_its_content_and_the_base_its_own),
        fixture_test(test_replacing_follows_posix),
        fixture_test(test_a_replaced_file_lives_while_it_is_open),
        fixture_test(test_a_directory_never_moves_into_itself),
        fixture_test(test_D7_noreplace_and_exchange),
        fixture_test(test_P6_a_directory_with_hidden_or_protected_names_stays),
        fixture_test(test_P6_P8_a_name_cannot_take_on_another_level),
        fixture_test(test_P6_rules_below_the_target_count_too),
        fixture_test(test_P6_a_large_tree_is_checked_off_the_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
