// Hard links: names that come and go while the file stays one file.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/layer_list.h"
#include "mux/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#define BIG      200000
#define OK(call) assert_int_equal(call, 0)

static const struct base_file tree[] = {
    {.path = "dir/a", .text = "alpha"},
    {.path = "dir/b", .text = "beta"},
    {.path = "pub/x", .text = "shared"},
    {.path = "secrets/key", .text = "key"},
    {.path = "ro/f", .text = "fixed"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "dir/a"},
    {0},
};

static struct view start_with(void **state, const char *rules)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    return ops_view(*state, codebase, rules);
}

static struct view start(void **state)
{
    return start_with(state, "**/*=write");
}

static void assert_names_of(struct view *v, ino_t ino, nlink_t count, const char *const *paths)
{
    for (; *paths; paths++) {
        struct stat st;
        int64_t ttl;
        uint64_t nodeid = ops_nodeid(v, *paths);
        // Out of a small cache, so that the way up is found by what the record remembers.
        ops_nodeid(v, "link");
        OK(mux_getattr(v->fixture->mux, &v->ctx, nodeid, &st, &ttl));
        assert_int_equal(st.st_ino, ino);
        assert_int_equal(st.st_nlink, count);
    }
}

#define ASSERT_NAMES_OF(v, ino, count, ...)                                                        \
    assert_names_of(v, ino, count, (const char *const[]){__VA_ARGS__, NULL})

// A restart of the daemon, with no more than a handful of cached nodes afterwards.
static void restart(struct view *v)
{
    ops_detach(v);
    ops_reopen_sized(v->fixture, 1);
    ops_attach(v);
}

static void test_D8_all_names_follow_a_copy_up(void **state)
{
    struct view v = start(state);
    ino_t ino = ops_stat(&v, "big").st_ino;
    OK(ops_link(&v, "big", "dir/big2"));
    OK(ops_link(&v, "dir/big2", "big3"));
    ASSERT_NAMES_OF(&v, ino, 3, "big", "dir/big2", "big3");
    OK(ops_write(&v, "dir/big2", "XX", 2, 1000));
    char byte[2];
    const char *const paths[] = {"big", "dir/big2", "big3"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ops_read(&v, paths[i], byte, 2, 1000), 2);
        assert_memory_equal(byte, "XX", 2);
    }
    ASSERT_NAMES_OF(&v, ino, 3, "big", "dir/big2", "big3");
    assert_accounting(&v);
    restart(&v);
    ASSERT_NAMES_OF(&v, ino, 3, "big", "dir/big2", "big3");
    assert_accounting(&v);
}

static void test_D8_the_file_outlives_the_name_that_its_record_remembers(void **state)
{
    struct view v = start(state);
    ino_t ino = ops_stat(&v, "dir/a").st_ino;
    OK(ops_mkdir(&v, "other", 0755));
    OK(ops_link(&v, "dir/a", "other/a2"));
    OK(ops_unlink(&v, "dir/a"));
    OK(ops_unlink(&v, "dir/b"));
    OK(ops_rmdir(&v, "dir")); // a way up that went through it would be lost
    restart(&v);
    ASSERT_NAMES_OF(&v, ino, 1, "other/a2");
    assert_text(&v, "other/a2", "alpha");
    OK(ops_link(&v, "other/a2", "third"));
    OK(ops_link(&v, "other/a2", "fourth"));
    OK(ops_unlink(&v, "other/a2"));
    OK(ops_unlink(&v, "third"));
    OK(ops_rmdir(&v, "other"));
    restart(&v);
    ASSERT_NAMES_OF(&v, ino, 1, "fourth");
    OK(ops_write(&v, "fourth", "A", 1, 0));
    assert_text(&v, "fourth", "Alpha");
    OK(ops_mkdir(&v, "mine", 0755)); // no base has it, so nothing is left of it
    ops_put(&v, "mine/f", "text");
    OK(ops_link(&v, "mine/f", "f"));
    OK(ops_unlink(&v, "mine/f"));
    OK(ops_rmdir(&v, "mine"));
    restart(&v);
    ASSERT_NAMES_OF(&v, ops_stat(&v, "f").st_ino, 1, "f");
    uint64_t nodeid = ops_nodeid(&v, "fourth");
    OK(ops_unlink(&v, "fourth"));
    mux_forget(v.fixture->mux, nodeid);
    assert_accounting(&v);
}

static void test_D8_renames_move_one_name(void **state)
{
    struct view v = start(state);
    ino_t ino = ops_stat(&v, "dir/a").st_ino, other = ops_stat(&v, "dir/b").st_ino;
    OK(ops_link(&v, "dir/a", "a2"));
    OK(ops_rename(&v, "dir/a", "a2", 0)); // two names of one file: nothing happens
    ASSERT_NAMES_OF(&v, ino, 2, "dir/a", "a2");
    OK(ops_rename(&v, "dir/a", "pub/a", 0));
    OK(ops_rename(&v, "a2", "pub/a2", 0));
    assert_int_equal(ops_rename(&v, "pub/a", "pub/a2", RENAME_NOREPLACE), -EEXIST);
    OK(ops_rename(&v, "pub", "moved", 0));
    restart(&v);
    ASSERT_NAMES_OF(&v, ino, 2, "moved/a", "moved/a2");
    OK(ops_rename(&v, "moved/a", "dir/b", RENAME_EXCHANGE));
    ASSERT_NAMES_OF(&v, ino, 2, "dir/b", "moved/a2");
    ASSERT_NAMES_OF(&v, other, 1, "moved/a");
    OK(ops_rename(&v, "moved/a", "dir/b", 0)); // takes a name away from the linked file
    restart(&v);
    ASSERT_NAMES_OF(&v, ino, 1, "moved/a2");
    assert_text(&v, "moved/a2", "alpha");
    assert_text(&v, "dir/b", "beta");
    assert_accounting(&v);
}

static void test_S1_what_cannot_be_linked(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct mux_entry entry;
    assert_int_equal(ops_link(&v, "dir", "d2"), -EPERM);
    assert_int_equal(ops_link(&v, "dir/a", "dir/b"), -EEXIST);
    assert_int_equal(ops_link(&v, "absent", "x"), -ENOENT);
    assert_int_equal(ops_link(&v, "dir/a", "link/x"), -ENOTDIR);
    OK(ops_link(&v, "link", "link2"));
    assert_int_equal(ops_stat(&v, "link2").st_mode, S_IFLNK | 0777);
    OK(ops_mkfifo(&v, "fifo", 0600));
    OK(ops_link(&v, "fifo", "fifo2"));
    struct view other = ops_view(v.fixture, v.codebase, "**/*=write");
    uint64_t nodeid = ops_nodeid(&v, "dir/a");
    assert_int_equal(mux_link(mux, &v.ctx, nodeid, other.root, "x", &entry), -EXDEV);
    OK(ops_mkdir(&v, "gone", 0755));
    uint64_t gone = ops_nodeid(&v, "gone");
    OK(ops_rmdir(&v, "gone"));
    assert_int_equal(mux_link(mux, &v.ctx, nodeid, gone, "x", &entry), -ENOENT);
    OK(ops_unlink(&v, "dir/a"));
    mux_forget(mux, nodeid);
    assert_true(mux_link(mux, &v.ctx, nodeid, v.root, "x", &entry) < 0);
    assert_accounting(&v);
}

static void test_S1_a_file_has_a_largest_number_of_names(void **state)
{
    struct view v = start(state);
    char path[64];
    OK(ops_mkdir(&v, "many", 0755));
    for (unsigned i = 1; i < AF_LINKS_MAX; i++) {
        snprintf(path, sizeof path, "many/%u", i);
        OK(ops_link(&v, "dir/a", path));
    }
    assert_int_equal(ops_link(&v, "dir/a", "one-more"), -EMLINK);
    OK(ops_unlink(&v, "dir/a"));
    OK(ops_link(&v, "many/7", "one-more"));
    assert_int_equal(ops_stat(&v, "many/7").st_nlink, AF_LINKS_MAX);
}

static void test_P8_links_need_write_on_both_sides(void **state)
{
    struct view v = start_with(state, "**/*=write /ro/**=read@5 /secrets/**=none@9");
    assert_int_equal(ops_link(&v, "ro/f", "f2"), -EACCES);
    assert_int_equal(ops_link(&v, "dir/a", "ro/new"), -EACCES);
    assert_int_equal(ops_link(&v, "dir/a", "ro/f"), -EACCES); // there or not
    assert_int_equal(ops_link(&v, "dir/a", "secrets/key"), -ENOENT);
    assert_int_equal(ops_link(&v, "secrets/key", "mine"), -ENOENT);
    assert_false(ops_exists(&v, "mine"));
    assert_accounting(&v);
}

static void test_quota_and_counts_follow_links(void **state)
{
    struct view v = start(state);
    struct view q = ops_view_quota(v.fixture, v.codebase, "**/*=write", 100000, 4);
    assert_int_equal(ops_link(&q, "big", "big2"), -EDQUOT); // its record would count in the delta
    OK(ops_link(&q, "dir/a", "dir/a2"));                    // the root, dir and the file
    assert_accounting(&q);
    OK(ops_link(&q, "dir/a", "dir/a3")); // a further name costs no inode
    OK(ops_link(&q, "dir/a", "dir/a4"));
    assert_accounting(&q);
    OK(ops_unlink(&q, "dir/a"));
    OK(ops_unlink(&q, "dir/a2"));
    OK(ops_unlink(&q, "dir/a3"));
    assert_accounting(&q);
}

static int print_change(void *arg, const struct mux_diff_entry *entry)
{
    fprintf(arg, "%c %s%s%s\n", "?AMDTR"[entry->change], entry -> path,
            entry -> old_path ? " <- " : "", entry->old_path ? entry->old_path : "");
    return 0;
}

static void assert_diff(struct view *v, const char *expected)
{
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    OK(mux_inspect_diff(v->fixture->mux, v->sandbox.text, print_change, out, &err));
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

static void test_the_diff_tells_links_as_added_and_moved_names(void **state)
{
    struct view v = start(state);
    OK(ops_link(&v, "dir/a", "a2"));
    assert_diff(&v, "A a2\n");
    OK(ops_unlink(&v, "dir/a"));
    assert_diff(&v, "R a2 <- dir/a\n");
    OK(ops_link(&v, "a2", "a3"));
    OK(ops_write(&v, "a3", "A", 1, 0));
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    OK(mux_inspect_diff(v.fixture->mux, v.sandbox.text, print_change, out, &err));
    fclose(out);
    assert_non_null(strstr(text, "<- dir/a\n"));
    free(text);
}

// A base in which pub/x and secrets/x are one file.
static void link_in_base(struct fixture *fixture, struct af_id codebase, const char *dir,
                         const char *name)
{
    struct store_codebase base = get_codebase(fixture, codebase);
    struct store_txn *txn;
    struct mux_layer_list layers = {0};
    struct store_inode inode, to;
    OK(store_write_begin(mux_store(fixture->mux), &txn));
    OK(mux_layer_list_load(txn, base.head, base.stack, &layers));
    struct mux_layers all = mux_layer_list_all(&layers);
    OK(mux_resolve_path(txn, all, base.root_fid, dir, strlen(dir), &to, NULL));
    OK(mux_resolve_path(txn, all, base.root_fid, "pub/x", 5, &inode, NULL));
    char hint[256], data[64];
    memcpy(hint, inode.name, inode.name_len);
    memcpy(data, inode.inline_data, inode.inline_len);
    inode.name = hint;
    inode.inline_data = data;
    inode.nlink++;
    OK(store_inode_put(txn, base.head, &inode));
    OK(store_entry_put(txn, base.head, to.fid, name, strlen(name), inode.fid, DT_REG));
    OK(store_link_put(txn, base.head, inode.fid, inode.parent, hint, inode.name_len));
    OK(store_link_put(txn, base.head, inode.fid, to.fid, name, strlen(name)));
    OK(store_commit(txn));
    mux_layer_list_fini(&layers);
}

static void test_P5_a_file_is_as_closed_as_its_most_restricted_name(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, tree);
    link_in_base(fixture, codebase, "secrets", "x");
    struct view v = ops_view(fixture, codebase, "**/*=write /secrets/**=none@9");
    char buf[8];
    assert_int_equal(ops_stat(&v, "pub/x").st_mode & 07777, 0);
    assert_int_equal(ops_read(&v, "pub/x", buf, sizeof buf, 0), -EACCES);
    assert_int_equal(ops_write(&v, "pub/x", "y", 1, 0), -EACCES);
    assert_int_equal(ops_link(&v, "pub/x", "pub/y"), -EACCES);
    assert_false(ops_exists(&v, "secrets/x"));
    struct view r = ops_view(fixture, codebase, "**/*=write /secrets/**=read@9");
    assert_text(&r, "pub/x", "shared");
    assert_int_equal(ops_write(&r, "pub/x", "y", 1, 0), -EACCES);
    assert_int_equal(ops_stat(&r, "pub/x").st_mode & 07777, 0444);
    struct view w = ops_view(fixture, codebase, "**/*=write");
    OK(ops_write(&w, "pub/x", "S", 1, 0));
    assert_text(&w, "secrets/x", "Shared");
    OK(ops_unlink(&w, "pub/x"));
    restart(&w);
    assert_text(&w, "secrets/x", "Shared");
    assert_int_equal(ops_stat(&w, "secrets/x").st_nlink, 1);
    ops_attach(&r);
    assert_text(&r, "pub/x", "shared");
}

static void test_a_linked_name_that_an_upload_replaces(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, tree);
    link_in_base(fixture, codebase, "dir", "x");
    upload(fixture, codebase, "dir/x", "both");
    struct view v = ops_view(fixture, codebase, "**/*=write");
    assert_text(&v, "pub/x", "both"); // a replaced file keeps its identity, hence its names
    assert_int_equal(ops_stat(&v, "pub/x").st_ino, ops_stat(&v, "dir/x").st_ino);
}

// ---- a random history, compared with a table of names

#define NAMES 12
#define FILES 600

static void name_of(size_t i, char *path, size_t size)
{
    static const char *const dirs[] = {"dir", "pub", "made"};
    snprintf(path, size, "%s/n%zu", dirs[i % 3], i);
}

static void assert_table(struct view *v, const int *names, const char *first)
{
    char path[32], byte;
    ino_t inos[NAMES] = {0};
    for (size_t i = 0; i < NAMES; i++) {
        name_of(i, path, sizeof path);
        assert_int_equal(ops_exists(v, path), names[i] >= 0);
        if (names[i] < 0)
            continue;
        nlink_t count = 0;
        for (size_t k = 0; k < NAMES; k++)
            count += names[k] == names[i];
        uint64_t nodeid = ops_nodeid(v, path);
        ops_nodeid(v, "link");
        assert_int_equal(ops_read_node(v, nodeid, &byte, 1, 0), 1);
        assert_int_equal(byte, first[names[i]]);
        struct stat st = ops_stat(v, path);
        assert_int_equal(st.st_nlink, count);
        inos[i] = st.st_ino;
        for (size_t k = 0; k < i; k++)
            if (names[k] >= 0)
                assert_int_equal(inos[k] == inos[i], names[k] == names[i]);
    }
    assert_accounting(v);
}

static void test_D8_a_random_history_of_names(void **state)
{
    struct view v = start(state);
    struct prng prng = {.state = 8};
    int names[NAMES], files = 0;
    char first[FILES] = {0}, a[32], b[32];
    OK(ops_mkdir(&v, "made", 0755));
    for (size_t i = 0; i < NAMES; i++)
        names[i] = -1;
    for (unsigned step = 0; step < FILES; step++) {
        size_t from = prng_below(&prng, NAMES), to = prng_below(&prng, NAMES);
        int old = names[from];
        name_of(from, a, sizeof a);
        name_of(to, b, sizeof b);
        switch (prng_below(&prng, 6)) {
        case 0:
            assert_int_equal(ops_create(&v, a, 0644), old < 0 ? 0 : -EEXIST);
            if (old < 0)
                names[from] = files++;
            // fallthrough
        case 1:
            if (names[from] < 0)
                break;
            first[names[from]] = (char)('a' + step % 26);
            OK(ops_write(&v, a, &first[names[from]], 1, 0));
            break;
        case 2:
            assert_int_equal(ops_unlink(&v, a), old < 0 ? -ENOENT : 0);
            names[from] = -1;
            break;
        case 3:
            assert_int_equal(ops_rename(&v, a, b, 0), old < 0 ? -ENOENT : 0);
            if (old >= 0 && names[to] != old) {
                names[to] = old;
                names[from] = -1;
            }
            break;
        default:
            assert_int_equal(ops_link(&v, a, b), old < 0 ? -ENOENT : names[to] >= 0 ? -EEXIST : 0);
            if (old >= 0 && names[to] < 0)
                names[to] = old;
        }
        if (step % 50 == 49)
            restart(&v);
        if (step % 10 == 9)
            assert_table(&v, names, first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_D8_all_names_follow_a_copy_up),
        fixture_test(test_D8_the_file_outlives_the_name_that_its_record_remembers),
        fixture_test(test_D8_renames_move_one_name),
        fixture_test(test_S1_what_cannot_be_linked),
        fixture_test(test_S1_a_file_has_a_largest_number_of_names),
        fixture_test(test_P8_links_need_write_on_both_sides),
        fixture_test(test_quota_and_counts_follow_links),
        fixture_test(test_the_diff_tells_links_as_added_and_moved_names),
        fixture_test(test_P5_a_file_is_as_closed_as_its_most_restricted_name),
        fixture_test(test_a_linked_name_that_an_upload_replaces),
        fixture_test(test_D8_a_random_history_of_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
