// Rebase and rollback of attached views, codebases that are gone, and merges of many records.
#include "mux/commit_priv.h"
#include "mux/nodeid.h"
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <string.h>

static void rollback(struct view *view)
{
    struct af_error err;
    bool told;
    if (mux_rollback(view->fixture->mux, view->sandbox.text, &told, &err) < 0)
        fail_msg("rollback: %s", err.text);
}

static const struct base_file small_base[] = {
    {"a", 0, "a0"}, {"b", 0, "b0"}, {"d/x", 0, "x0"}, {"d/y", 0, "y0"}, {"d/e/z", 0, "z0"}, {0}};

// ---- what the kernel is told

static void note(char *told, const char *what, const char *name, size_t len)
{
    size_t at = strlen(told);
    snprintf(told + at, 512 - at, "%s %.*s;", what, (int)len, name);
}

static void note_inval(void *arg, uint64_t parent, const char *name, size_t len)
{
    (void)parent;
    note(arg, "inval", name, len);
}

static void note_expire(void *arg, uint64_t parent, const char *name, size_t len)
{
    (void)parent;
    note(arg, "expire", name, len);
}

static void note_moved(void *arg, uint64_t parent, const char *name, size_t len, uint64_t nodeid)
{
    char what[64];
    snprintf(what, sizeof what, "%d/%d moved from", (int)mux_nodeid_fid(parent),
             (int)mux_nodeid_fid(nodeid));
    note(arg, what, name, len);
}

static const struct mux_notifier kernel = {
    .inval_entry = note_inval, .expire_entry = note_expire, .moved_directory = note_moved};

// The kernel has one name of a directory, and would have to be rid of the old one to learn the new
// one. A removed one is looked up again like any name; whoever stands in it stays there.
static void test_the_kernel_forgets_the_old_name_of_a_directory_that_others_moved(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(
        *state,
        (struct base_file[]){{"p/d/f", 0, "f"}, {"p/gone/f", 0, "f"}, {"p/file", 0, "f"}, {0}});
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    char told[512] = "", moved[64];
    snprintf(moved, sizeof moved, "%d/%d moved from d;", (int)mux_nodeid_fid(ops_nodeid(&b, "p")),
             (int)mux_nodeid_fid(ops_nodeid(&b, "p/d")));
    assert_int_equal(ops_rename(&a, "p/d", "d2", 0), 0);
    assert_int_equal(ops_rename(&a, "p/file", "file2", 0), 0);
    assert_int_equal(ops_unlink(&a, "p/gone/f"), 0);
    assert_int_equal(ops_rmdir(&a, "p/gone"), 0);
    ops_commit(&a);
    mux_set_notifier(fixture->mux, &kernel, told);
    ops_rebase(&b);
    mux_set_notifier(fixture->mux, NULL, NULL);
    assert_non_null(strstr(told, moved));
    assert_non_null(strstr(told, "expire d2;"));
    assert_non_null(strstr(told, "inval file;"));
    assert_non_null(strstr(told, "expire gone;"));
    assert_null(strstr(told, "inval d;"));
}

// ---- rebase and rollback

static void test_an_upload_is_seen_after_a_rebase_and_the_delta_stays_on_top(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, "a", "mine");
    upload(*state, v.codebase, "d/e/up", "U");
    upload(*state, v.codebase, "b", "theirs");
    assert_false(ops_exists(&v, "d/e/up"));
    assert_true(ops_rebase(&v).changed);
    assert_text(&v, "d/e/up", "U");
    assert_text(&v, "b", "theirs");
    assert_text(&v, "a", "mine");
    assert_download(&v, "a", "a0");
    assert_true(ops_look(&v).changed);
    assert_false(ops_rebase(&v).changed);
    ops_commit(&v);
    assert_download(&v, "a", "mine");
    assert_counters(*state, v.codebase);
}

static void test_a_file_that_others_removed_stays_readable_and_writable_while_open(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    uint64_t file = ops_nodeid(&a, "d/x"), dir = ops_nodeid(&a, "d/e");
    assert_int_equal(ops_unlink(&b, "d/x"), 0);
    assert_int_equal(ops_unlink(&b, "d/e/z"), 0);
    assert_int_equal(ops_rmdir(&b, "d/e"), 0);
    ops_commit(&b);
    ops_rebase(&a);
    assert_false(ops_exists(&a, "d/x"));
    char buf[8];
    assert_int_equal(ops_read_node(&a, file, buf, sizeof buf, 0), 2);
    assert_int_equal(ops_write_node(&a, file, "gone", 4, 0), 0);
    assert_int_equal(ops_read_node(&a, file, buf, sizeof buf, 0), 4);
    struct mux_entry entry;
    assert_int_equal(mux_create(a.fixture->mux, &a.ctx, dir, "late", 0644, &entry), -ENOENT);
    assert_false(ops_look(&a).changed);
    ops_put(&a, "other", "o");
    ops_commit(&a);
    assert_listing(*state, codebase, "a\nb\nd/\nd/y\nother\n");
    assert_counters(*state, codebase);
    mux_forget(a.fixture->mux, file);
}

static void test_rollback_drops_the_delta_alone(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    ops_put(&v, "kept", "k");
    ops_commit(&v);
    ops_put(&v, "a", "mine");
    assert_int_equal(ops_rename(&v, "d", "dd", 0), 0);
    ops_put(&v, "dropped", "x");
    rollback(&v);
    assert_names(&v, "", "a b d kept");
    assert_text(&v, "a", "a0");
    assert_text(&v, "d/e/z", "z0");
    assert_false(ops_look(&v).changed);
    assert_accounting(&v);
    ops_put(&v, "a", "again");
    ops_commit(&v);
    assert_download(&v, "a", "again");
    assert_counters(*state, v.codebase);
}

static void test_a_deleted_codebase_is_a_clear_error_and_keeps_the_delta(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    struct af_error err;
    ops_put(&v, "a", "mine");
    assert_int_equal(mux_codebase_delete(v.fixture->mux, v.codebase.text, &err), 0);
    int rc = mux_commit(v.fixture->mux, v.sandbox.text, MUX_LAST_WRITER_WINS, NULL, &err);
    expect_error(rc, &err, AF_FAILED_PRECONDITION, "was deleted");
    rc = mux_rebase(v.fixture->mux, v.sandbox.text, MUX_LAST_WRITER_WINS, NULL, &err);
    expect_error(rc, &err, AF_FAILED_PRECONDITION, "was deleted");
    assert_false(ops_look(&v).changed || ops_look(&v).behind);
    assert_text(&v, "a", "mine");
    rollback(&v);
    assert_text(&v, "a", "a0");
}

static void test_a_stopped_sandbox_commits_as_well(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view v = ops_view(*state, codebase, "**/*=write");
    ops_put(&v, "a", "mine");
    ops_detach(&v);
    upload(*state, codebase, "up", "U");
    ops_commit(&v);
    assert_download(&v, "a", "mine");
    ops_attach(&v);
    assert_text(&v, "up", "U");
    assert_counters(*state, codebase);
}

// ---- large ones

static void test_a_large_merge_is_the_same_as_a_small_one(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    char path[32];
    assert_int_equal(ops_mkdir(&a, "many", 0755), 0);
    assert_int_equal(ops_mkdir(&b, "many", 0755), 0);
    for (int i = 0; i < 1500; i++) {
        snprintf(path, sizeof path, "many/a%04d", i);
        ops_put(&a, path, path);
        snprintf(path, sizeof path, "many/b%04d", i);
        if (i % 2)
            ops_put(&b, path, path);
    }
    uint64_t nodeid = ops_nodeid(&a, "many/a0007");
    assert_int_equal(ops_unlink(&a, "many/a0007"), 0);
    ops_commit(&b);
    struct mux_commit_result result = ops_commit(&a);
    assert_true(result.merged && result.changed);
    assert_int_equal(result.conflicts, 0);
    char buf[16];
    assert_int_equal(ops_read_node(&a, nodeid, buf, sizeof buf, 0), 10);
    assert_text(&a, "many/b0001", "many/b0001");
    assert_text(&a, "many/a1499", "many/a1499");
    assert_int_equal(get_codebase(*state, codebase).files, 5 + 1499 + 750);
    assert_counters(*state, codebase);
    assert_true(ops_rebase(&b).changed);
    assert_text(&b, "many/a0000", "many/a0000");
    mux_forget(a.fixture->mux, nodeid);
}

// ---- a push that has to wait

static int push_onto_a_full_stack(struct mux_move *move)
{
    int rc = mux_push(move);
    return rc < 0 ? rc : MUX_STACK_FULL;
}

static int merge(struct mux_move *move)
{
    return mux_move_merge(move, true);
}

static void test_who_overtakes_a_push_that_waits_is_told_to_the_kernel(void **state)
{
    struct af_id codebase = ops_codebase(*state, (struct base_file[]){{"f", 0, "old"}, {0}});
    struct view view = ops_view(*state, codebase, "**/*=write");
    struct view other = ops_view(*state, codebase, "**/*=write");
    ops_put(&view, "mine", "1");
    ops_put(&other, "f", "new");
    struct mux_move move = {
        .mux = view.fixture->mux, .sandbox_id = view.sandbox.text, .push = true};
    assert_int_equal(mux_move_step(&move, push_onto_a_full_stack), MUX_STACK_FULL);
    ops_commit(&other);
    move.result = (struct mux_commit_result){0};
    assert_int_equal(mux_move_step(&move, merge), 0);
    assert_true(move.result.merged && move.result.told);
    assert_text(&view, "f", "new");
    assert_download(&view, "mine", "1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_the_kernel_forgets_the_old_name_of_a_directory_that_others_moved),
        fixture_test(test_an_upload_is_seen_after_a_rebase_and_the_delta_stays_on_top),
        fixture_test(test_a_file_that_others_removed_stays_readable_and_writable_while_open),
        fixture_test(test_rollback_drops_the_delta_alone),
        fixture_test(test_a_deleted_codebase_is_a_clear_error_and_keeps_the_delta),
        fixture_test(test_a_stopped_sandbox_commits_as_well),
        fixture_test(test_a_large_merge_is_the_same_as_a_small_one),
        fixture_test(test_who_overtakes_a_push_that_waits_is_told_to_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
