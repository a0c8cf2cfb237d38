// Tests of the apply engine: links are never followed, conflicts stop everything, nothing is lost.
#include "tests/unit/tools/agentfense/apply_fixture.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/beneath.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int setup(void **state)
{
    struct pair *pair = pair_new();
    pair_dir(pair->base, "src", 0755);
    pair_file(pair->base, "src/a", "a", 0644);
    pair_file(pair->base, "src/b", "b", 0755);
    pair_dir(pair->base, "doc", 0755);
    pair_file(pair->base, "doc/x", "x", 0600);
    pair_link(pair->base, "link", "src/a");
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    pair_free(*state);
    return 0;
}

static void expect_applied(struct pair *pair)
{
    struct af_error err;
    if (pair_apply(pair, 0, NULL, &err) < 0)
        fail_msg("%s", err.text);
    pair_expect_equal(pair);
}

// Nothing may be applied, and that for the given number of reasons.
static void expect_conflicts(struct pair *pair, size_t conflicts)
{
    struct af_error err;
    size_t found;
    AF_CLEANUP_FREE char *before = pair_snapshot(pair->base);
    assert_int_equal(pair_apply(pair, 0, &found, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_int_equal(found, conflicts);
    AF_CLEANUP_FREE char *after = pair_snapshot(pair->base);
    assert_string_equal(before, after);
}

static void test_two_directories_can_swap_their_names(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_rename(pair, "src", "tmp");
    pair_rename(pair, "doc", "src");
    pair_rename(pair, "tmp", "doc");
    pair_remove(pair, "doc/b");
    pair_file(pair->view, "doc/a", "changed", 0600);
    expect_applied(pair);
}

static void test_a_directory_removed_and_made_again_is_empty(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_rename(pair, "src/a", "kept");
    pair_remove(pair, "src");
    pair_dir(pair->view, "src", 0700);
    pair_file(pair->view, "src/new", "new", 0644);
    expect_applied(pair);
}

static void test_a_link_gets_another_target_and_its_old_target_stays(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_remove(pair, "link");
    pair_link(pair->view, "link", "/etc/passwd");
    expect_applied(pair);
}

static void test_E1_a_directory_that_became_a_link_is_not_followed(void **state)
{
    struct pair *pair = *state;
    char out[80];
    pair_import(pair);
    pair_file(pair->view, "src/evil", "evil", 0644);
    pair_file(pair->view, "doc/x", "evil", 0600);
    // Somebody else replaces both by links to a directory outside.
    assert_int_equal(beneath_remove(pair->base, "src"), 0);
    assert_int_equal(beneath_remove(pair->base, "doc"), 0);
    snprintf(out, sizeof out, "%s/out", pair->dir);
    pair_link(pair->base, "src", out);
    pair_link(pair->base, "doc", out);
    struct af_error err;
    size_t conflicts;
    assert_int_equal(pair_apply(pair, 0, &conflicts, &err), -1);
    assert_int_equal(conflicts, 2);
    assert_int_equal(rmdir(out), 0); // still empty
    assert_int_equal(mkdir(out, 0755), 0);
}

static void test_E1_links_of_the_agent_are_made_not_followed(void **state)
{
    struct pair *pair = *state;
    char out[80], file[96];
    snprintf(out, sizeof out, "%s/out", pair->dir);
    snprintf(file, sizeof file, "%s/victim", out);
    pair_import(pair);
    int fd = open(file, O_WRONLY | O_CREAT, 0640);
    close(fd);
    pair_remove(pair, "src/a");
    pair_link(pair->view, "src/a", file); // a file becomes a link to the victim
    pair_link(pair->view, "out", out);
    pair_remove(pair, "doc");
    pair_link(pair->view, "doc", out); // a directory becomes a link
    expect_applied(pair);
    struct stat st;
    assert_int_equal(lstat(file, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0640);
    assert_int_equal(st.st_size, 0);
}

static void test_E1_beneath_leads_nowhere_else(void **state)
{
    struct pair *pair = *state;
    struct stat st;
    pair_link(pair->base, "up", "..");
    pair_link(pair->base, "root", "/");
    assert_int_equal(beneath_stat(pair->base, "root/etc", &st), -ELOOP);
    assert_int_equal(beneath_stat(pair->base, "up/base", &st), -ELOOP);
    assert_int_equal(beneath_stat(pair->base, "..", &st), -EXDEV);
    assert_int_equal(beneath_stat(pair->base, "src/../..", &st), -EXDEV);
    assert_int_equal(beneath_stat(pair->base, "/etc", &st), -EXDEV);
    assert_int_equal(beneath_open(pair->base, "link", O_RDONLY, 0), -ELOOP);
    assert_int_equal(beneath_stat(pair->base, "link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(beneath_mkdir(pair->base, "up/x", 0700), -ENOTDIR);
    assert_int_equal(beneath_mkdir(pair->base, "up/x/y", 0700), -ELOOP);
    assert_int_equal(beneath_rename(pair->base, "src/a", "root/x", 0), -ENOTDIR);
}

static void test_a_file_changed_on_both_sides_stops_everything(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_file(pair->view, "src/a", "agent", 0644);
    pair_file(pair->view, "src/b", "agent", 0755);
    pair_file(pair->base, "src/a", "user", 0644);
    expect_conflicts(pair, 1);
}

static void test_an_edit_that_puts_the_mtime_back_is_noticed(void **state)
{
    struct pair *pair = *state;
    struct stat st;
    pair_import(pair);
    assert_int_equal(beneath_stat(pair->base, "src/a", &st), 0);
    pair_file(pair->base, "src/a", "u", 0644); // the same size
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(pair->base, "src/a", times, 0), 0);
    pair_file(pair->view, "src/a", "agent", 0644);
    expect_conflicts(pair, 1);
}

static void test_what_appeared_in_a_removed_directory_is_not_lost(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_remove(pair, "src");
    pair_file(pair->base, "src/mine", "user", 0644);
    expect_conflicts(pair, 1);
}

static void test_a_name_taken_on_both_sides_is_a_conflict(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_file(pair->view, "new", "agent", 0644);
    pair_rename(pair, "src/a", "doc/moved");
    pair_file(pair->base, "new", "user", 0644);
    pair_file(pair->base, "doc/moved", "user", 0644);
    expect_conflicts(pair, 2);
}

static void test_a_changed_file_that_the_user_removed_is_a_conflict(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_file(pair->view, "src/a", "agent", 0644);
    pair_rename(pair, "src/b", "c");
    assert_int_equal(beneath_remove(pair->base, "src/a"), 0);
    assert_int_equal(beneath_remove(pair->base, "src/b"), 0);
    expect_conflicts(pair, 2);
}

static void test_a_file_removed_on_both_sides_is_no_conflict(void **state)
{
    struct pair *pair = *state;
    pair_import(pair);
    pair_remove(pair, "src/a");
    pair_file(pair->view, "doc/y", "y", 0644);
    assert_int_equal(beneath_remove(pair->base, "src/a"), 0);
    expect_applied(pair);
}

static void test_changes_elsewhere_are_no_conflict(void **state)
{
    struct pair *pair = *state;
    struct af_error err;
    pair_import(pair);
    pair_file(pair->view, "src/a", "agent", 0644);
    pair_file(pair->base, "doc/x", "user", 0600);
    assert_int_equal(pair_apply(pair, 0, NULL, &err), 0);
    AF_CLEANUP_FREE char *text = pair_snapshot(pair->base);
    assert_non_null(strstr(text, " agent\n"));
    assert_non_null(strstr(text, " user\n"));
}

static void test_a_socket_left_out_of_the_run_is_not_removed_with_its_directory(void **state)
{
    struct pair *pair = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/base/src/socket", pair->dir);
    AF_CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    pair_import(pair);
    pair_remove(pair, "src");
    expect_conflicts(pair, 1);
}

static void test_set_id_bits_of_the_agent_are_not_taken_over(void **state)
{
    struct pair *pair = *state;
    struct af_error err;
    struct stat st;
    pair_file(pair->base, "suid", "s", 0644);
    AF_CLEANUP_FD int fd = beneath_open(pair->base, "suid", O_RDONLY, 0);
    assert_int_equal(fchmod(fd, 04755), 0);
    pair_import(pair);
    pair_file(pair->view, "new", "n", 06755);
    pair_file(pair->view, "src/a", "a", 04755);   // its mode alone
    pair_file(pair->view, "suid", "evil", 04755); // other content for a set-id file
    assert_int_equal(pair_apply(pair, 0, NULL, &err), 0);
    static const char *const paths[] = {"new", "src/a", "suid"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(beneath_stat(pair->base, paths[i], &st), 0);
        assert_int_equal(st.st_mode, S_IFREG | 0755);
    }
}

static void test_owners_and_extended_attributes_stay(void **state)
{
    struct pair *pair = *state;
    struct af_error err;
    struct stat st;
    char path[96], value[8];
    if (geteuid() != 0) {
        print_message("skipped: needs root, to give files to others\n");
        skip();
    }
    assert_int_equal(fchownat(pair->base, "src/a", 1234, 1235, 0), 0);
    assert_int_equal(fchown(pair->base, 1236, 1237), 0);
    snprintf(path, sizeof path, "%s/base/src/a", pair->dir);
    bool has_xattrs = setxattr(path, "user.k", "v", 1, 0) == 0;
    pair_import(pair);
    pair_file(pair->view, "src/a", "agent", 0644);
    pair_dir(pair->view, "new", 0755);
    pair_file(pair->view, "new/f", "f", 0644);
    assert_int_equal(pair_apply(pair, 0, NULL, &err), 0);
    assert_int_equal(beneath_stat(pair->base, "src/a", &st), 0);
    assert_true(st.st_uid == 1234 && st.st_gid == 1235);
    assert_true(!has_xattrs || getxattr(path, "user.k", value, sizeof value) == 1);
    assert_int_equal(beneath_stat(pair->base, "new", &st), 0);
    assert_true(st.st_uid == 1236 && st.st_gid == 1237);
    assert_int_equal(beneath_stat(pair->base, "new/f", &st), 0);
    assert_true(st.st_uid == 1236 && st.st_gid == 1237);
}

static void test_names_of_any_bytes_are_applied(void **state)
{
    struct pair *pair = *state;
    char longest[256];
    memset(longest, 'n', 255);
    longest[255] = '\0';
    pair_file(pair->base, "a\nb", "1", 0644);
    pair_import(pair);
    pair_rename(pair, "a\nb", "\xFF\x1B[2J");
    pair_file(pair->view, longest, "2", 0644);
    pair_file(pair->view, ".wh.src", "3", 0644); // E2: no name is magic
    pair_file(pair->view, ".agentfense-apply-x", "4", 0644);
    expect_applied(pair);
}

// A content that is not as long as listed: something writes to it still.
static int fetch_too_short(void *arg, const char *path, int fd, struct af_error *err)
{
    (void)arg;
    (void)path;
    (void)err;
    return write(fd, "x", 1) == 1 ? 0 : -1;
}

static void test_content_of_another_size_than_listed_stops_everything(void **state)
{
    struct pair *pair = *state;
    struct plan plan;
    struct apply apply;
    struct af_error err;
    pair_import(pair);
    pair_file(pair->view, "src/a", "agent", 0644);
    struct changes changes = pair_changes(pair);
    AF_CLEANUP_FREE char *before = pair_snapshot(pair->base);
    assert_int_equal(plan_make(&changes, &pair->manifest, &plan, &err), 0);
    apply_init(&apply, pair->base, &plan, fetch_too_short, NULL);
    assert_int_equal(apply_prepare(&apply, &err), -1);
    assert_int_equal(err.status, AF_ABORTED);
    apply_fini(&apply);
    AF_CLEANUP_FREE char *after = pair_snapshot(pair->base);
    assert_string_equal(before, after); // the stage is gone, too
    plan_fini(&plan);
    changes_fini(&changes);
}

static void test_a_list_that_contradicts_the_import_is_refused(void **state)
{
    struct pair *pair = *state;
    struct af_error err;
    struct plan plan;
    pair_import(pair);
    static const struct change bad[] = {
        {.type = CHANGE_DELETED, .path = "nope", .mode = S_IFREG},
        {.type = CHANGE_MODIFIED, .path = "nope", .mode = S_IFREG | 0644},
        {.type = CHANGE_RENAMED, .path = "x", .old_path = "nope", .mode = S_IFREG | 0644},
        {.type = CHANGE_MODIFIED, .path = "src", .mode = S_IFREG | 0644},
        {.type = CHANGE_RENAMED, .path = "x", .old_path = "src", .mode = S_IFREG | 0644},
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(bad); i++) {
        struct change change = bad[i];
        struct changes changes = {.list = &change, .count = 1};
        assert_int_equal(plan_make(&changes, &pair->manifest, &plan, &err), -1);
        assert_int_equal(err.status, AF_INTERNAL);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_two_directories_can_swap_their_names),
        TEST(test_a_directory_removed_and_made_again_is_empty),
        TEST(test_a_link_gets_another_target_and_its_old_target_stays),
        TEST(test_E1_a_directory_that_became_a_link_is_not_followed),
        TEST(test_E1_links_of_the_agent_are_made_not_followed),
        TEST(test_E1_beneath_leads_nowhere_else),
        TEST(test_a_file_changed_on_both_sides_stops_everything),
        TEST(test_an_edit_that_puts_the_mtime_back_is_noticed),
        TEST(test_what_appeared_in_a_removed_directory_is_not_lost),
        TEST(test_a_name_taken_on_both_sides_is_a_conflict),
        TEST(test_a_changed_file_that_the_user_removed_is_a_conflict),
        TEST(test_a_file_removed_on_both_sides_is_no_conflict),
        TEST(test_changes_elsewhere_are_no_conflict),
        TEST(test_a_socket_left_out_of_the_run_is_not_removed_with_its_directory),
        TEST(test_set_id_bits_of_the_agent_are_not_taken_over),
        TEST(test_owners_and_extended_attributes_stay),
        TEST(test_names_of_any_bytes_are_applied),
        TEST(test_content_of_another_size_than_listed_stops_everything),
        TEST(test_a_list_that_contradicts_the_import_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
