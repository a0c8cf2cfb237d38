// Diffs: each kind of change is told as what it is, once, and in path order.
#include "tests/unit/mux/delta_writer.h"

#include <string.h>
#include <sys/stat.h>

static int print_change(void *arg, const struct mux_diff_entry *entry)
{
    static const char letters[] = "?AMDTR";
    fprintf(arg, "%c %s", letters[entry->change], entry->path);
    if (entry->old_path)
        fprintf(arg, " <- %s", entry->old_path);
    if (entry->symlink_target)
        fprintf(arg, " -> %s", entry->symlink_target);
    fputc('\n', arg);
    return 0;
}

static void assert_diff(struct delta_writer *w, const char *expected)
{
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    if (mux_inspect_diff(w->fixture->mux, w->sandbox.text, print_change, out, &err) < 0)
        fail_msg("%s", err.text);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

// A base of a few files and directories, and a view on it.
static struct delta_writer view_of(struct fixture *f)
{
    struct af_id id = new_codebase(f);
    static const char *const paths[] = {"a", "b", "d/x", "d/y", "d/sub/z", "e/only", "top.txt"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        upload(f, id, paths[i], paths[i]);
    return (struct delta_writer){.fixture = f, .sandbox = new_sandbox(f, id)};
}

#define OK(call) assert_int_equal(call, 0)

static void test_an_untouched_view_has_no_changes(void **state)
{
    struct delta_writer w = view_of(*state);
    assert_diff(&w, "");
}

static void test_added_modified_deleted_and_metadata(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_write(&w, "new", "n"));
    OK(delta_mkdir(&w, "nd"));
    OK(delta_write(&w, "nd/f", "n"));
    OK(delta_symlink(&w, "nd/l", "../a"));
    OK(delta_write(&w, "a", "changed"));
    OK(delta_chmod(&w, "b", 0600));
    OK(delta_chmod(&w, "d", 0700));
    OK(delta_unlink(&w, "d/x"));
    assert_diff(&w, "M a\nT b\nT d\nD d/x\nA nd\nA nd/f\nA nd/l -> ../a\nA new\n");
}

static void test_D3_a_deleted_directory_is_one_entry(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_write(&w, "d/y", "changed first"));
    OK(delta_unlink(&w, "d/x"));
    OK(delta_unlink(&w, "d/y"));
    OK(delta_unlink(&w, "d/sub/z"));
    OK(delta_rmdir(&w, "d/sub"));
    assert_diff(&w, "D d/sub\nD d/x\nD d/y\n");
    OK(delta_rmdir(&w, "d"));
    assert_diff(&w, "D d\n");
}

static void test_D4_a_directory_made_again_is_deleted_and_added(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_unlink(&w, "e/only"));
    OK(delta_rmdir(&w, "e"));
    OK(delta_mkdir(&w, "e"));
    OK(delta_write(&w, "e/other", "x"));
    assert_diff(&w, "D e\nA e\nA e/other\n");
}

static void test_a_file_made_again_is_modified_and_another_kind_is_not(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_unlink(&w, "a"));
    OK(delta_write(&w, "a", "again"));
    OK(delta_unlink(&w, "b"));
    OK(delta_symlink(&w, "b", "a"));
    OK(delta_unlink(&w, "top.txt"));
    OK(delta_mkdir(&w, "top.txt"));
    assert_diff(&w, "M a\nD b\nA b -> a\nD top.txt\nA top.txt\n");
}

static void test_D5_a_renamed_directory_is_one_entry(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_rename(&w, "d", "moved"));
    assert_diff(&w, "R moved <- d\n");
    // What changes in it is told at the new path.
    OK(delta_write(&w, "moved/x", "changed"));
    OK(delta_unlink(&w, "moved/y"));
    OK(delta_rename(&w, "moved/sub", "moved/s2"));
    OK(delta_write(&w, "moved/new", "n"));
    assert_diff(&w, "R moved <- d\nA moved/new\nR moved/s2 <- d/sub\nM moved/x\nD moved/y\n");
}

static void test_a_file_moved_and_changed_is_renamed_then_modified(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_rename(&w, "a", "d/a2"));
    OK(delta_write(&w, "d/a2", "changed"));
    OK(delta_rename(&w, "b", "b2"));
    OK(delta_chmod(&w, "b2", 0600));
    assert_diff(&w, "R b2 <- b\nT b2\nR d/a2 <- a\nM d/a2\n");
}

static void test_equal_bytes_written_again_change_the_times_only(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_write(&w, "a", "a"));
    assert_diff(&w, "T a\n");
}

static void test_renames_over_and_through_each_other(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_rename(&w, "a", "b")); // b's content is gone
    assert_diff(&w, "D b\nR b <- a\n");
    OK(delta_write(&w, "a", "new a")); // the name is free: a new file, not a change of the old
    assert_diff(&w, "A a\nD b\nR b <- a\n");
}

static void test_D7_an_exchange_is_two_renames(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_exchange(&w, "a", "b"));
    OK(delta_exchange(&w, "d", "e"));
    assert_diff(&w, "R a <- b\nR b <- a\nR d <- e\nR e <- d\n");
    OK(delta_exchange(&w, "a", "b"));
    OK(delta_exchange(&w, "d", "e"));
    assert_diff(&w, "");
}

static void test_moved_out_of_a_deleted_directory(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_rename(&w, "d/sub", "sub"));
    OK(delta_unlink(&w, "d/x"));
    OK(delta_unlink(&w, "d/y"));
    OK(delta_rmdir(&w, "d"));
    assert_diff(&w, "D d\nR sub <- d/sub\n");
}

static void test_moved_into_a_new_directory(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_mkdir(&w, "n"));
    OK(delta_rename(&w, "d", "n/d"));
    OK(delta_rename(&w, "n/d/x", "n/x"));
    assert_diff(&w, "A n\nR n/d <- d\nR n/x <- d/x\n");
}

static void test_what_undoes_itself_is_not_told(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_write(&w, "tmp", "x"));
    OK(delta_unlink(&w, "tmp"));
    OK(delta_mkdir(&w, "d/tmp"));
    OK(delta_write(&w, "d/tmp/f", "x"));
    OK(delta_unlink(&w, "d/tmp/f"));
    OK(delta_rmdir(&w, "d/tmp"));
    OK(delta_chmod(&w, "b", 0600));
    OK(delta_chmod(&w, "b", 0644));
    OK(delta_rename(&w, "d", "d2"));
    OK(delta_rename(&w, "d2", "d"));
    assert_diff(&w, "");
}

static void test_D8_a_hard_link_is_an_added_name(void **state)
{
    struct delta_writer w = view_of(*state);
    OK(delta_link(&w, "a", "d/link"));
    assert_diff(&w, "A d/link\n");
    OK(delta_write(&w, "d/link", "both"));
    assert_diff(&w, "M a\nA d/link\n");
    OK(delta_unlink(&w, "a")); // then it is a move
    assert_diff(&w, "R d/link <- a\nM d/link\n");
}

static void test_B8_names_of_any_bytes(void **state)
{
    struct delta_writer w = view_of(*state);
    char longest[AF_NAME_MAX + 1], expected[600];
    memset(longest, 'L', AF_NAME_MAX);
    longest[AF_NAME_MAX] = '\0';
    OK(delta_write(&w, longest, "x"));
    OK(delta_mkdir(&w, "n\n\xff"));
    OK(delta_write(&w, "n\n\xff/.wh.a", "x"));
    snprintf(expected, sizeof expected, "A %s\nA n\n\xff\nA n\n\xff/.wh.a\n", longest);
    assert_diff(&w, expected);
}

static int stop_at_second(void *arg, const struct mux_diff_entry *entry)
{
    (void)entry;
    return ++*(int *)arg == 2 ? 9 : 0;
}

static void test_a_callback_can_stop_it_and_errors_are_told(void **state)
{
    struct delta_writer w = view_of(*state);
    struct af_error err;
    int calls = 0;
    OK(delta_write(&w, "1", "x"));
    OK(delta_write(&w, "2", "x"));
    OK(delta_write(&w, "3", "x"));
    assert_int_equal(mux_inspect_diff(w.fixture->mux, w.sandbox.text, stop_at_second, &calls, &err),
                     9);
    assert_int_equal(calls, 2);
    expect_error(mux_inspect_diff(w.fixture->mux, UNKNOWN_SANDBOX, stop_at_second, &calls, &err),
                 &err, AF_NOT_FOUND, UNKNOWN_SANDBOX);
    expect_error(mux_inspect_diff(w.fixture->mux, "sb_", stop_at_second, &calls, &err), &err,
                 AF_INVALID_ARGUMENT, "sb_");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_an_untouched_view_has_no_changes),
        fixture_test(test_added_modified_deleted_and_metadata),
        fixture_test(test_D3_a_deleted_directory_is_one_entry),
        fixture_test(test_D4_a_directory_made_again_is_deleted_and_added),
        fixture_test(test_a_file_made_again_is_modified_and_another_kind_is_not),
        fixture_test(test_D5_a_renamed_directory_is_one_entry),
        fixture_test(test_a_file_moved_and_changed_is_renamed_then_modified),
        fixture_test(test_equal_bytes_written_again_change_the_times_only),
        fixture_test(test_renames_over_and_through_each_other),
        fixture_test(test_D7_an_exchange_is_two_renames),
        fixture_test(test_moved_out_of_a_deleted_directory),
        fixture_test(test_moved_into_a_new_directory),
        fixture_test(test_what_undoes_itself_is_not_told),
        fixture_test(test_D8_a_hard_link_is_an_added_name),
        fixture_test(test_B8_names_of_any_bytes),
        fixture_test(test_a_callback_can_stop_it_and_errors_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
