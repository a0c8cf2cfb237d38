// Two writers and one name: who moves a file, and who puts another where it was moved to, both have
// theirs afterwards.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"

#include <linux/fs.h>

static const struct base_file base[] = {{"1", 0, "one"}, {"2", 0, "two"}, {"d/in", 0, "in"}, {0}};

struct pair {
    struct fixture *fixture;
    struct af_id codebase;
    struct view first, last; // in this order they push
};

static struct pair writers_of(struct fixture *fixture, const struct base_file *files)
{
    struct pair pair = {.fixture = fixture, .codebase = ops_codebase(fixture, files)};
    pair.first = ops_view(fixture, pair.codebase, "**/*=write");
    pair.last = ops_view(fixture, pair.codebase, "**/*=write");
    return pair;
}

static struct pair two_writers(void **state)
{
    return writers_of(*state, base);
}

// Both push; then the first one's view shows what the codebase has.
static uint64_t push_both(struct pair *pair)
{
    ops_commit(&pair->first);
    uint64_t conflicts = ops_commit(&pair->last).conflicts;
    ops_rebase(&pair->first);
    return conflicts;
}

static void assert_both(struct pair *pair, const char *path, const char *text)
{
    assert_download(&pair->first, path, text);
    assert_text(&pair->first, path, text);
    assert_text(&pair->last, path, text);
    assert_int_equal(ops_stat(&pair->last, path).st_nlink, 1);
}

static int link_there(struct view *view)
{
    return ops_link(view, "1", "3");
}

static int make_there(struct view *view)
{
    ops_put(view, "3", "new");
    return 0;
}

static int move_there(struct view *view)
{
    return ops_rename(view, "1", "3", RENAME_NOREPLACE);
}

static int symlink_there(struct view *view)
{
    return ops_symlink(view, "x", "3");
}

static int move_back(struct view *view)
{
    int rc = ops_rename(view, "1", "2.old", 0);
    return rc < 0 ? rc : ops_rename(view, "2.old", "3", 0);
}

static void test_a_moved_file_stays_beside_what_another_writer_put_there(void **state)
{
    static int (*const puts[])(struct view * view) = {link_there, make_there, move_there,
                                                      symlink_there, move_back};
    for (size_t i = 0; i < 2 * sizeof puts / sizeof *puts; i++) {
        struct pair pair = two_writers(state);
        if (i % 2) // in batches
            pair.fixture->mux->merge_step_max = 0;
        ino_t number = ops_stat(&pair.first, "2").st_ino;
        assert_int_equal(ops_rename(&pair.first, "2", "3", 0), 0);
        assert_int_equal(puts[i / 2](&pair.last), 0);
        assert_int_equal(push_both(&pair), 1);
        assert_both(&pair, "3.conflict", "two");
        assert_int_equal(ops_stat(&pair.first, "3.conflict").st_ino, number);
        assert_true(ops_exists(&pair.last, "3"));
        assert_false(ops_exists(&pair.last, "2"));
    }
}

static void test_of_two_moves_to_one_name_both_files_stay(void **state)
{
    struct pair pair = two_writers(state);
    assert_int_equal(ops_rename(&pair.first, "2", "3", 0), 0);
    ops_put(&pair.last, "3.conflict", "taken");
    assert_int_equal(ops_rename(&pair.last, "1", "3", 0), 0);
    push_both(&pair);
    assert_both(&pair, "3", "one");
    assert_both(&pair, "3.conflict", "taken");
    assert_both(&pair, "3.conflict-2", "two");
}

// Three files in a ring, or two and a directory: no exchange replaces anything.
static void test_exchanges_of_two_writers_lose_no_file(void **state)
{
    for (int round = 0; round < 2; round++) {
        const char *third = round ? "d" : "3";
        struct pair pair = writers_of(
            *state, (struct base_file[]){
                        {"1", 0, "one"}, {"2", 0, "two"}, {round ? "d/in" : "3", 0, "in"}, {0}});
        assert_int_equal(ops_rename(&pair.first, "2", third, RENAME_EXCHANGE), 0);
        assert_int_equal(ops_rename(&pair.last, "1", third, RENAME_EXCHANGE), 0);
        assert_true(push_both(&pair) > 0);
        assert_both(&pair, third, "one");
        assert_both(&pair, round ? "d.conflict" : "3.conflict", "two");
        assert_both(&pair, round ? "1/in" : "1", "in");
    }
}

static void test_a_rebase_spares_them_as_well(void **state)
{
    struct pair pair = two_writers(state);
    assert_int_equal(ops_rename(&pair.first, "2", "3", 0), 0);
    ops_put(&pair.last, "3", "new");
    ops_commit(&pair.first);
    ops_rebase(&pair.last);
    assert_text(&pair.last, "3", "new");
    assert_text(&pair.last, "3.conflict", "two");
    ops_commit(&pair.last);
    assert_download(&pair.last, "3.conflict", "two");
    assert_counters(*state, pair.codebase);
}

// Written and moved by the first, then replaced by the last: a file that comes back takes no name
// of another one's last.
static void test_a_file_that_comes_back_takes_nothing_with_it(void **state)
{
    struct pair pair = two_writers(state);
    assert_int_equal(ops_rename(&pair.first, "2", "1", 0), 0);
    ops_put(&pair.last, "1", "written");
    push_both(&pair);
    assert_both(&pair, "1", "written");
    assert_both(&pair, "1.conflict", "two");
}

// What is replaced by who has seen it there goes, and so does what was new and made for that name;
// a file with another name needs no second one.
static void test_what_is_replaced_knowingly_leaves_nothing_beside_it(void **state)
{
    struct pair pair = two_writers(state);
    ops_put(&pair.first, "tmp", "new of first");
    ops_put(&pair.last, "d/tmp", "new in d");
    assert_int_equal(ops_rename(&pair.last, "d/tmp", "d/in", 0), 0);
    assert_int_equal(ops_rename(&pair.first, "tmp", "1", 0), 0);
    ops_put(&pair.last, "tmp", "new of last");
    assert_int_equal(ops_rename(&pair.last, "tmp", "1", 0), 0);
    assert_int_equal(ops_link(&pair.first, "2", "two"), 0);
    ops_put(&pair.last, "two", "new");
    push_both(&pair);
    assert_listing(*state, pair.codebase, "1\n2\nd/\nd/in\ntwo\n");
    assert_both(&pair, "1", "new of last");
    assert_both(&pair, "2", "two");
    assert_both(&pair, "two", "new");
}

// Both rotate the same logs: each file is where the last one has put it, and nowhere else.
static void test_names_that_both_pass_on_leave_no_copy(void **state)
{
    struct pair pair = two_writers(state);
    for (int i = 0; i < 2; i++) {
        struct view *view = i ? &pair.last : &pair.first;
        for (int round = 0; round <= i; round++) {
            if (round)
                assert_int_equal(ops_rename(view, "3", "4", 0), 0);
            assert_int_equal(ops_rename(view, "2", "3", 0), 0);
            assert_int_equal(ops_rename(view, "1", "2", 0), 0);
            ops_put(view, "1", i ? "last" : "first");
        }
    }
    push_both(&pair);
    assert_listing(*state, pair.codebase, "1\n2\n3\n4\nd/\nd/in\n");
    assert_both(&pair, "3", "one");
    assert_both(&pair, "4", "two");
}

// The last writer's directory is where the first one has moved another, in which he has a file of
// the same name.
static void make_in_two_directories_that_become_one(struct pair *pair)
{
    assert_int_equal(ops_rename(&pair->first, "d", "e", 0), 0);
    ops_put(&pair->last, "d/f", "in d");
    assert_int_equal(ops_mkdir(&pair->last, "e", 0755), 0);
    ops_put(&pair->last, "e/f", "in e");
}

static void test_files_of_one_name_in_directories_that_become_one_both_stay(void **state)
{
    for (int large = 0; large < 2; large++) {
        struct pair pair = two_writers(state);
        make_in_two_directories_that_become_one(&pair);
        if (large)
            pair.fixture->mux->merge_step_max = 0;
        assert_int_equal(push_both(&pair), 1);
        assert_both(&pair, "e/f", "in e");
        assert_both(&pair, "e/f.conflict", "in d");
        assert_listing(*state, pair.codebase, "1\n2\ne/\ne/f\ne/f.conflict\ne/in\n");
        assert_counters(*state, pair.codebase);
    }
}

static void test_a_rebase_spares_both_as_well(void **state)
{
    struct pair pair = two_writers(state);
    make_in_two_directories_that_become_one(&pair);
    ops_commit(&pair.first);
    ops_rebase(&pair.last);
    assert_text(&pair.last, "e/f", "in e");
    assert_text(&pair.last, "e/f.conflict", "in d");
}

static void test_a_refused_conflict_moves_nothing_aside(void **state)
{
    struct pair pair = two_writers(state);
    struct af_error err;
    assert_int_equal(ops_rename(&pair.first, "2", "3", 0), 0);
    ops_put(&pair.last, "3", "new");
    ops_commit(&pair.first);
    int rc =
        mux_commit(pair.fixture->mux, pair.last.sandbox.text, MUX_CONFLICTS_REFUSED, NULL, &err);
    expect_error(rc, &err, AF_ABORTED, "nothing was done");
    assert_download(&pair.first, "3", "two");
    assert_listing(*state, pair.codebase, "1\n3\nd/\nd/in\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_moved_file_stays_beside_what_another_writer_put_there),
        fixture_test(test_of_two_moves_to_one_name_both_files_stay),
        fixture_test(test_exchanges_of_two_writers_lose_no_file),
        fixture_test(test_a_rebase_spares_them_as_well),
        fixture_test(test_a_file_that_comes_back_takes_nothing_with_it),
        fixture_test(test_what_is_replaced_knowingly_leaves_nothing_beside_it),
        fixture_test(test_names_that_both_pass_on_leave_no_copy),
        fixture_test(test_files_of_one_name_in_directories_that_become_one_both_stay),
        fixture_test(test_a_rebase_spares_both_as_well),
        fixture_test(test_a_refused_conflict_moves_nothing_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
