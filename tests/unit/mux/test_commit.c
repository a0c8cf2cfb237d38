// Commits of views that are attached, at the level of operations: what the codebase has afterwards,
// what the view still knows, what other writers keep. Rebases: test_rebase.c. Merges against a
// model: test_commit_random.c.
#include "mux/commit.h"
#include "mux/store/store.h"
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

static const struct base_file small_base[] = {
    {"a", 0, "a0"}, {"b", 0, "b0"}, {"d/x", 0, "x0"}, {"d/y", 0, "y0"}, {"d/e/z", 0, "z0"}, {0}};

// ---- pushing onto an unmoved head

static void test_a_command_s_output_is_seen_by_the_next_download(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, "out.txt", "hi\n");
    ops_put(&v, "d/x", "changed");
    assert_int_equal(ops_unlink(&v, "b"), 0);
    struct mux_commit_result result = ops_commit(&v);
    assert_true(result.changed && !result.merged && result.conflicts == 0);
    assert_download(&v, "out.txt", "hi\n");
    assert_download(&v, "d/x", "changed");
    assert_listing(*state, v.codebase, "a\nd/\nd/e/\nd/e/z\nd/x\nd/y\nout.txt\n");
    assert_counters(*state, v.codebase);
    assert_text(&v, "out.txt", "hi\n");
    assert_false(ops_look(&v).changed || ops_look(&v).behind);
}

static void test_D1_a_commit_applies_changes_once(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, "a", "mine");
    assert_int_equal(ops_unlink(&v, "b"), 0);
    ops_commit(&v);
    upload(*state, v.codebase, "a", "theirs");
    upload(*state, v.codebase, "b", "again");
    uint64_t commits = stats_of(*state).commits;
    assert_false(ops_look(&v).changed);
    assert_int_equal(stats_of(*state).commits, commits);
    uint64_t entries;
    struct af_error err;
    assert_int_equal(mux_commit_count(v.fixture->mux, v.sandbox.text, &entries, &err), 0);
    assert_int_equal(entries, 0);
    assert_int_equal(ops_commit(&v).conflicts, 0);
    assert_download(&v, "a", "theirs");
    assert_download(&v, "b", "again");
}

static void test_a_large_delta_is_pushed_as_a_layer_and_a_small_one_into_the_top(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    char path[32];
    for (int i = 0; i < 300; i++) {
        snprintf(path, sizeof path, "d/f%03d", i);
        ops_put(&v, path, path);
    }
    ops_commit(&v);
    uint64_t records;
    store_gc_drain(mux_store(((struct fixture *)*state)->mux), &records);
    uint64_t layers = stats_of(*state).layers;
    for (int i = 0; i < 50; i++) {
        snprintf(path, sizeof path, "d/f%03d", i);
        ops_put(&v, path, "again");
        assert_int_equal(ops_rename(&v, path, "moved", 0), 0);
        assert_int_equal(ops_link(&v, "moved", path), 0);
        assert_int_equal(ops_unlink(&v, "moved"), 0);
        ops_commit(&v);
        assert_counters(*state, v.codebase);
    }
    store_gc_drain(mux_store(((struct fixture *)*state)->mux), &records);
    assert_int_equal(stats_of(*state).layers, layers);
    assert_download(&v, "d/f007", "again");
    assert_download(&v, "d/f299", "d/f299");
    assert_accounting(&v);
}

// A small delta by the number of its records, and yet with many names of one file.
static void test_a_file_with_many_names_is_pushed(void **state)
{
    enum { NAMES = 127 };
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    char path[32];
    ops_put(&v, "first", "a layer that the codebase and this view alone see");
    ops_commit(&v);
    for (int i = 0; i <= NAMES; i++) {
        snprintf(path, sizeof path, "d/l%03d", i);
        assert_int_equal(ops_link(&v, "a", path), 0);
    }
    ops_commit(&v);
    assert_int_equal(ops_stat(&v, "a").st_nlink, NAMES + 2);
    assert_download(&v, path, "a0");
    assert_int_equal(ops_unlink(&v, "a"), 0);
    for (int i = 0; i < NAMES; i++) {
        snprintf(path, sizeof path, "d/l%03d", i);
        assert_int_equal(ops_unlink(&v, path), 0);
        if (i % 50 == 0)
            ops_commit(&v);
    }
    ops_commit(&v);
    snprintf(path, sizeof path, "d/l%03d", NAMES);
    assert_int_equal(ops_stat(&v, path).st_nlink, 1);
    assert_download(&v, path, "a0");
    assert_counters(*state, v.codebase);
    assert_fsck_clean(*state);
}

static void test_what_is_removed_after_being_pushed_leaves_no_record(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    ops_put(&v, "keep", "1");
    ops_commit(&v);
    uint64_t records;
    store_gc_drain(mux_store(v.fixture->mux), &records);
    uint64_t before = stats_of(*state).inodes;
    for (int i = 0; i < 20; i++) {
        ops_put(&v, "t", "some text");
        ops_commit(&v);
        uint64_t nodeid = ops_nodeid(&v, "t");
        assert_int_equal(ops_unlink(&v, "t"), 0);
        mux_forget(v.fixture->mux, nodeid);
        ops_commit(&v);
    }
    ops_detach(&v);
    store_gc_drain(mux_store(v.fixture->mux), &records);
    assert_int_equal(stats_of(*state).inodes, before);
}

static void test_st_ino_and_nodeids_stay_over_commit_and_rebase(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, "new", "n");
    assert_int_equal(ops_mkdir(&v, "dir", 0755), 0);
    ops_put(&v, "dir/in", "i");
    struct stat before[3] = {ops_stat(&v, "new"), ops_stat(&v, "dir"), ops_stat(&v, "d/x")};
    uint64_t nodeids[3] = {ops_nodeid(&v, "new"), ops_nodeid(&v, "dir"), ops_nodeid(&v, "d/x")};
    ops_commit(&v);
    upload(*state, v.codebase, "other", "o");
    ops_put(&v, "dir/in2", "i");
    ops_rebase(&v);
    ops_commit(&v);
    assert_int_equal(ops_stat(&v, "new").st_ino, before[0].st_ino);
    assert_int_equal(ops_stat(&v, "dir").st_ino, before[1].st_ino);
    assert_int_equal(ops_stat(&v, "d/x").st_ino, before[2].st_ino);
    assert_int_equal(ops_nodeid(&v, "new"), nodeids[0]);
    assert_int_equal(ops_nodeid(&v, "dir"), nodeids[1]);
    assert_int_equal(ops_nodeid(&v, "d/x"), nodeids[2]);
    assert_true(ops_exists(&v, "other"));
}

static void test_an_open_unlinked_file_outlives_a_commit_and_is_not_pushed(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    char text[5000], back[5000];
    memset(text, 'q', sizeof text);
    assert_int_equal(ops_create(&v, "tmp", 0644), 0);
    uint64_t nodeid = ops_nodeid(&v, "tmp");
    assert_int_equal(ops_write_node(&v, nodeid, text, sizeof text, 0), 0);
    ops_put(&v, "shown", "s");
    assert_int_equal(ops_unlink(&v, "tmp"), 0);
    ops_commit(&v);
    assert_listing(*state, v.codebase, "a\nb\nd/\nd/e/\nd/e/z\nd/x\nd/y\nshown\n");
    assert_int_equal(ops_read_node(&v, nodeid, back, sizeof back, 0), sizeof back);
    assert_memory_equal(back, text, sizeof back);
    assert_int_equal(ops_write_node(&v, nodeid, "more", 4, 10), 0);
    for (int i = 0; i < 200; i++) { // and one that is pushed as a layer
        char path[16];
        snprintf(path, sizeof path, "n%d", i);
        ops_put(&v, path, "");
    }
    ops_commit(&v);
    assert_int_equal(ops_read_node(&v, nodeid, back, sizeof back, 0), sizeof back);
    assert_memory_equal(back + 10, "more", 4);
    assert_counters(*state, v.codebase);
    mux_forget(v.fixture->mux, nodeid);
    ops_detach(&v);
    assert_int_equal(stats_of(*state).orphans, 0);
}

static void test_a_file_written_on_after_a_commit_leaves_the_pushed_one_alone(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    char *big = malloc(100000);
    memset(big, 'x', 100000);
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    assert_int_equal(ops_write(&v, "log", big, 100000, 0), 0);
    ops_commit(&v);
    struct af_id other = new_sandbox(*state, v.codebase);
    assert_int_equal(ops_write(&v, "log", "YYYY", 4, 50000), 0);
    char *old = download(*state, v.codebase, "log");
    assert_int_equal(strlen(old), 100000);
    assert_null(strchr(old, 'Y'));
    free(old);
    ops_commit(&v);
    char *now = download(*state, v.codebase, "log");
    assert_memory_equal(now + 50000, "YYYY", 4);
    free(now);
    free(big);
    (void)other;
}

static void test_E2_no_name_is_magic_and_E4_links_stay_links(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, ".wh.a", "1");
    ops_put(&v, ".wh...", "2");
    ops_put(&v, ".wh..wh..opq", "3");
    ops_put(&v, "d/.wh..wh..opq", "4");
    assert_int_equal(ops_symlink(&v, "/etc", "link"), 0);
    assert_int_equal(ops_symlink(&v, "/etc/cron.d", "d/cron"), 0);
    assert_int_equal(ops_rename(&v, "link", "d/link", 0), 0);
    ops_commit(&v);
    upload(*state, v.codebase, "moved-on", "");
    ops_put(&v, ".wh.b", "5");
    assert_int_equal(ops_rename(&v, "d/link", "link2", 0), 0);
    ops_commit(&v);
    assert_listing(*state, v.codebase,
                   ".wh...\n.wh..wh..opq\n.wh.a\n.wh.b\na\nb\nd/\nd/.wh..wh..opq\nd/cron\nd/e/\n"
                   "d/e/z\nd/x\nd/y\nlink2\nmoved-on\n");
    char target[8];
    struct mux_ctx ctx = v.ctx;
    char buf[AF_SYMLINK_MAX + 1];
    assert_int_equal(mux_readlink(v.fixture->mux, &ctx, ops_nodeid(&v, "link2"), buf), 0);
    assert_string_equal(buf, "/etc");
    (void)target;
}

static void test_D4_D5_B6_B7_across_commits(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    assert_int_equal(ops_rename(&v, "d", "moved", 0), 0); // D5, B7
    ops_put(&v, "moved/new", "n");
    ops_commit(&v);
    assert_listing(*state, v.codebase,
                   "a\nb\nmoved/\nmoved/e/\nmoved/e/z\nmoved/new\nmoved/x\nmoved/y\n");
    assert_int_equal(ops_unlink(&v, "moved/e/z"), 0); // D4
    assert_int_equal(ops_rmdir(&v, "moved/e"), 0);
    assert_int_equal(ops_mkdir(&v, "moved/e", 0755), 0);
    assert_int_equal(ops_unlink(&v, "a"), 0); // B6: as another kind
    assert_int_equal(ops_mkdir(&v, "a", 0755), 0);
    ops_put(&v, "a/in", "1");
    upload(*state, v.codebase, "q", "");
    ops_commit(&v);
    assert_listing(*state, v.codebase,
                   "a/\na/in\nb\nmoved/\nmoved/e/\nmoved/new\nmoved/x\nmoved/y\nq\n");
    assert_counters(*state, v.codebase);
}

// ---- the head has moved on

static void test_two_writers_lose_none_of_each_other_s_files(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    ops_put(&a, "a", "by A");
    ops_put(&a, "d/new-a", "A");
    assert_int_equal(ops_mkdir(&a, "both", 0755), 0);
    ops_put(&a, "both/a", "A");
    ops_put(&b, "b", "by B");
    ops_put(&b, "d/new-b", "B");
    assert_int_equal(ops_mkdir(&b, "both", 0700), 0);
    ops_put(&b, "both/b", "B");
    ops_commit(&a);
    struct mux_commit_result result = ops_commit(&b);
    assert_true(result.merged);
    assert_int_equal(result.conflicts, 0);
    upload(*state, codebase, "up", "U");
    ops_put(&a, "a2", "A2");
    assert_true(ops_look(&a).behind);
    ops_commit(&a);
    assert_listing(*state, codebase,
                   "a\na2\nb\nboth/\nboth/a\nboth/b\nd/\nd/e/\nd/e/z\nd/new-a\nd/new-b\nd/x\nd/y\n"
                   "up\n");
    assert_download(&a, "a", "by A");
    assert_download(&a, "b", "by B");
    assert_text(&a, "both/b", "B");
    ops_rebase(&b);
    assert_text(&b, "both/a", "A");
    assert_text(&b, "up", "U");
    assert_counters(*state, codebase);
}

static void test_a_file_added_to_a_directory_that_another_recreated_is_kept(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    ops_put(&b, "d/added", "B");
    ops_commit(&b);
    for (const char *const *p = (const char *const[]){"d/x", "d/y", "d/e/z", NULL}; *p; p++)
        assert_int_equal(ops_unlink(&a, *p), 0);
    assert_int_equal(ops_rmdir(&a, "d/e"), 0);
    assert_int_equal(ops_rmdir(&a, "d"), 0);
    assert_int_equal(ops_mkdir(&a, "d", 0755), 0);
    ops_put(&a, "d/mine", "A");
    ops_commit(&a);
    assert_listing(*state, codebase, "a\nb\nd/\nd/added\nd/mine\n");
    assert_names(&a, "d", "added mine");
    assert_counters(*state, codebase);
}

static void test_last_writer_wins_by_name_and_a_deletion_spares_what_it_has_not_seen(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    ops_put(&a, "a", "by A");
    ops_put(&a, "b", "by A");
    ops_put(&a, "new", "by A");
    assert_int_equal(ops_unlink(&a, "d/x"), 0);
    ops_put(&a, "d/y", "by A");
    ops_commit(&a);
    ops_put(&b, "a", "by B");                 // both wrote: the last one
    assert_int_equal(ops_unlink(&b, "b"), 0); // removed here, written there: stays
    ops_put(&b, "new", "by B");               // both made it
    ops_put(&b, "d/x", "by B");               // removed there, written here: back
    assert_int_equal(ops_chmod(&b, "d/y", 0755), 0);
    struct mux_commit_result result = ops_commit(&b);
    assert_int_equal(result.conflicts, 4);
    assert_listing(*state, codebase, "a\nb\nd/\nd/e/\nd/e/z\nd/x\nd/y\nnew\n");
    assert_download(&b, "a", "by B");
    assert_download(&b, "b", "by A");
    assert_download(&b, "new", "by B");
    assert_download(&b, "d/x", "by B");
    assert_download(&b, "d/y", "by A"); // A's bytes, B's mode
    assert_int_equal(ops_stat(&b, "d/y").st_mode & 07777, 0755);
    assert_counters(*state, codebase);
}

static void test_E3_a_refused_conflict_changes_nothing(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    struct af_error err;
    ops_put(&a, "a", "by A");
    ops_commit(&a);
    ops_put(&b, "a", "by B");
    ops_put(&b, "other", "by B");
    int rc = mux_commit(a.fixture->mux, b.sandbox.text, MUX_CONFLICTS_REFUSED, NULL, &err);
    expect_error(rc, &err, AF_ABORTED, "nothing was done");
    assert_download(&a, "a", "by A");
    assert_listing(*state, codebase, "a\nb\nd/\nd/e/\nd/e/z\nd/x\nd/y\n");
    assert_text(&b, "a", "by B");
    assert_text(&b, "other", "by B");
    assert_counters(*state, codebase);
    ops_put(&b, "a", "by A"); // still another content record, and a conflict
    ops_commit(&b);
    assert_download(&a, "other", "by B");
}

static void test_opposing_moves_make_no_cycle(void **state)
{
    struct af_id codebase =
        ops_codebase(*state, (struct base_file[]){{"p/f", 0, "p"}, {"q/g", 0, "q"}, {0}});
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    assert_int_equal(ops_rename(&a, "p", "q/p", 0), 0);
    assert_int_equal(ops_rename(&b, "q", "p/q", 0), 0);
    ops_commit(&a);
    ops_commit(&b);
    assert_listing(*state, codebase, "p/\np/f\np/q/\np/q/g\n");
    assert_text(&b, "p/q/g", "q");
    ops_rebase(&a);
    assert_text(&a, "p/q/g", "q");
    assert_false(ops_exists(&a, "q"));
    assert_counters(*state, codebase);
}

static void test_double_moves_leave_one_name(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    assert_int_equal(ops_rename(&a, "a", "a-by-a", 0), 0);
    assert_int_equal(ops_rename(&a, "d", "d-by-a", 0), 0);
    assert_int_equal(ops_rename(&b, "a", "a-by-b", 0), 0);
    assert_int_equal(ops_rename(&b, "d", "d-by-b", 0), 0);
    ops_put(&a, "d-by-a/x", "changed by A");
    ops_commit(&a);
    assert_int_equal(ops_commit(&b).conflicts, 2);
    assert_listing(*state, codebase,
                   "a-by-b\nb\nd-by-b/\nd-by-b/e/\nd-by-b/e/z\nd-by-b/x\nd-by-b/y\n");
    assert_download(&a, "d-by-b/x", "changed by A");
    assert_int_equal(ops_stat(&b, "a-by-b").st_nlink, 1);
    assert_counters(*state, codebase);
}

static void test_a_move_and_a_write_by_two_writers_are_both(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    ops_put(&a, "d/x", "written by A");
    ops_put(&a, "d/e/deep", "A");
    assert_int_equal(ops_rename(&b, "d/x", "x2", 0), 0);
    assert_int_equal(ops_rename(&b, "d/e", "e2", 0), 0);
    ops_commit(&a);
    assert_int_equal(ops_commit(&b).conflicts, 0);
    assert_listing(*state, codebase, "a\nb\nd/\nd/y\ne2/\ne2/deep\ne2/z\nx2\n");
    assert_download(&b, "x2", "written by A");
}

static void test_a_file_and_a_directory_of_one_name_both_stay(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    ops_put(&a, "one", "file of A");
    assert_int_equal(ops_mkdir(&a, "two", 0755), 0);
    ops_put(&a, "two/in", "A");
    assert_int_equal(ops_mkdir(&b, "one", 0755), 0);
    ops_put(&b, "one/in", "B");
    ops_put(&b, "two", "file of B");
    ops_commit(&a);
    assert_int_equal(ops_commit(&b).conflicts, 2);
    assert_listing(*state, codebase,
                   "a\nb\nd/\nd/e/\nd/e/z\nd/x\nd/y\none/\none/in\none.conflict\ntwo/\ntwo/in\n"
                   "two.conflict\n");
    assert_download(&a, "one.conflict", "file of A");
    assert_download(&a, "two.conflict", "file of B");
    assert_counters(*state, codebase);
}

static void test_hard_links_and_xattrs_are_merged_whole(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    assert_int_equal(ops_link(&a, "a", "d/a-too"), 0);
    assert_int_equal(
        mux_setxattr(a.fixture->mux, &a.ctx, ops_nodeid(&a, "a"), "user.who", "A", 1, 0), 0);
    assert_int_equal(ops_link(&b, "a", "a-three"), 0);
    ops_put(&b, "n1", "n");
    assert_int_equal(ops_link(&b, "n1", "d/n2"), 0);
    ops_commit(&a);
    ops_commit(&b);
    assert_int_equal(ops_stat(&b, "a").st_nlink, 3);
    assert_int_equal(ops_stat(&b, "d/n2").st_nlink, 2);
    char value[4];
    size_t len;
    assert_int_equal(mux_getxattr(b.fixture->mux, &b.ctx, ops_nodeid(&b, "a-three"), "user.who",
                                  value, sizeof value, &len),
                     0);
    assert_int_equal(value[0], 'A');
    ops_put(&b, "d/a-too", "through one name");
    assert_int_equal(ops_unlink(&b, "a"), 0);
    ops_rebase(&a);
    assert_int_equal(ops_unlink(&a, "a-three"), 0);
    ops_commit(&b);
    ops_commit(&a);
    assert_listing(*state, codebase, "b\nd/\nd/a-too\nd/e/\nd/e/z\nd/n2\nd/x\nd/y\nn1\n");
    assert_int_equal(ops_stat(&a, "d/a-too").st_nlink, 1);
    assert_download(&a, "d/a-too", "through one name");
    assert_int_equal(get_codebase(*state, codebase).files, 6); // n1 has two names
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_command_s_output_is_seen_by_the_next_download),
        fixture_test(test_D1_a_commit_applies_changes_once),
        fixture_test(test_a_large_delta_is_pushed_as_a_layer_and_a_small_one_into_the_top),
        fixture_test(test_a_file_with_many_names_is_pushed),
        fixture_test(test_what_is_removed_after_being_pushed_leaves_no_record),
        fixture_test(test_st_ino_and_nodeids_stay_over_commit_and_rebase),
        fixture_test(test_an_open_unlinked_file_outlives_a_commit_and_is_not_pushed),
        fixture_test(test_a_file_written_on_after_a_commit_leaves_the_pushed_one_alone),
        fixture_test(test_E2_no_name_is_magic_and_E4_links_stay_links),
        fixture_test(test_D4_D5_B6_B7_across_commits),
        fixture_test(test_two_writers_lose_none_of_each_other_s_files),
        fixture_test(test_a_file_added_to_a_directory_that_another_recreated_is_kept),
        fixture_test(test_last_writer_wins_by_name_and_a_deletion_spares_what_it_has_not_seen),
        fixture_test(test_E3_a_refused_conflict_changes_nothing),
        fixture_test(test_opposing_moves_make_no_cycle),
        fixture_test(test_double_moves_leave_one_name),
        fixture_test(test_a_move_and_a_write_by_two_writers_are_both),
        fixture_test(test_a_file_and_a_directory_of_one_name_both_stay),
        fixture_test(test_hard_links_and_xattrs_are_merged_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
