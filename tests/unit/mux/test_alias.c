// Two writers who make a directory of one name get one directory, and neither notices: who stands
// in his own goes on in the common one, under the numbers that the kernel has.
#include "tests/unit/mux/held_kernel.h"

#include "mux/alias.h"
#include "mux/nodeid.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const struct base_file base[] = {{"keep", 0, "kept"}, {"old/file", 0, "old"}, {0}};

struct pair {
    struct view first, second;
    struct kernel kernel;
};

static void start(struct pair *pair, struct fixture *fixture)
{
    struct af_id codebase = ops_codebase(fixture, base);
    pair->first = ops_view(fixture, codebase, "**/*=write");
    pair->second = ops_view(fixture, codebase, "**/*=write");
    kernel_start(&pair->kernel, fixture);
}

static uint64_t look_below(struct view *view, uint64_t dir, const char *name)
{
    struct mux_entry entry;
    assert_int_equal(mux_lookup(view->fixture->mux, &view->ctx, dir, name, &entry), 0);
    return entry.nodeid;
}

static uint64_t make_below(struct view *view, uint64_t dir, const char *name)
{
    struct mux_entry entry;
    assert_int_equal(mux_create(view->fixture->mux, &view->ctx, dir, name, 0644, &entry), 0);
    return entry.nodeid;
}

static void make_trees(struct pair *pair)
{
    assert_int_equal(ops_mkdir(&pair->first, "d", 0755), 0);
    assert_int_equal(ops_mkdir(&pair->first, "d/sub", 0755), 0);
    ops_put(&pair->first, "d/one", "1");
    ops_put(&pair->first, "d/sub/one", "1");
    assert_int_equal(ops_mkdir(&pair->second, "d", 0755), 0);
    assert_int_equal(ops_mkdir(&pair->second, "d/sub", 0755), 0);
    ops_put(&pair->second, "d/two", "2");
    ops_put(&pair->second, "d/sub/two", "2");
}

static void assert_joined(struct pair *pair, uint64_t dir, uint64_t sub, uint64_t file)
{
    struct view *second = &pair->second;
    assert_int_equal(ops_nodeid(second, "d"), dir);
    assert_int_equal(ops_nodeid(second, "d/sub"), sub);
    assert_int_equal(kernel_stat(second, dir).st_nlink, 1);
    assert_int_equal(kernel_stat(second, dir).st_ino, mux_nodeid_fid(dir));
    assert_int_equal(ops_stat(second, "d").st_ino, mux_nodeid_fid(dir));
    assert_int_equal(look_below(second, dir, "two"), file);
    assert_names(second, "d", "one sub two");
    assert_names(second, "d/sub", "one two");
    assert_text(second, "d/sub/one", "1");
}

static void use_it(struct pair *pair, uint64_t dir, uint64_t sub)
{
    struct view *second = &pair->second;
    uint64_t late = make_below(second, sub, "late");
    assert_int_equal(ops_write_node(second, late, "late", 4, 0), 0);
    assert_text(second, "d/sub/late", "late");
    assert_int_equal(mux_unlink(second->fixture->mux, &second->ctx, dir, "one"), 0);
    assert_false(ops_exists(second, "d/one"));
    assert_int_equal(ops_rename(second, "d/two", "d/sub/moved", 0), 0);
    ops_commit(second);
    ops_rebase(&pair->first);
    assert_names(&pair->first, "d", "sub");
    assert_names(&pair->first, "d/sub", "late moved one two");
    assert_download(second, "d/sub/late", "late");
}

static void test_who_stands_in_his_own_goes_on_in_the_common_one(void **state)
{
    struct pair pair;
    start(&pair, *state);
    make_trees(&pair);
    uint64_t dir = kernel_hold(&pair.kernel, &pair.second, "d");
    uint64_t sub = kernel_hold(&pair.kernel, &pair.second, "d/sub");
    uint64_t file = kernel_hold(&pair.kernel, &pair.second, "d/two");
    ops_commit(&pair.first);
    assert_int_equal(ops_commit(&pair.second).conflicts, 0);
    assert_joined(&pair, dir, sub, file);
    clean_up_all(*state);
    assert_joined(&pair, dir, sub, file);
    use_it(&pair, dir, sub);
    // Others remove it: as with any directory.
    assert_int_equal(ops_unlink(&pair.first, "d/sub/late"), 0);
    assert_int_equal(ops_unlink(&pair.first, "d/sub/moved"), 0);
    assert_int_equal(ops_unlink(&pair.first, "d/sub/one"), 0);
    assert_int_equal(ops_unlink(&pair.first, "d/sub/two"), 0);
    assert_int_equal(ops_rmdir(&pair.first, "d/sub"), 0);
    ops_commit(&pair.first);
    ops_rebase(&pair.second);
    clean_up_all(*state);
    assert_int_equal(kernel_stat(&pair.second, sub).st_nlink, 0);
    assert_int_equal(kernel_stat(&pair.second, sub).st_ino, mux_nodeid_fid(sub));
    assert_int_equal(kernel_stat(&pair.second, dir).st_nlink, 1);
    kernel_let_go(&pair.kernel, sub);
    struct stat st;
    int64_t ttl_ns;
    assert_int_equal(mux_getattr(pair.second.fixture->mux, &pair.second.ctx, sub, &st, &ttl_ns),
                     -ESTALE);
    kernel_stop(&pair.kernel);
}

static void test_a_rebase_joins_them_too(void **state)
{
    struct pair pair;
    start(&pair, *state);
    make_trees(&pair);
    uint64_t dir = kernel_hold(&pair.kernel, &pair.second, "d");
    uint64_t sub = kernel_hold(&pair.kernel, &pair.second, "d/sub");
    uint64_t file = kernel_hold(&pair.kernel, &pair.second, "d/two");
    ops_commit(&pair.first);
    ops_rebase(&pair.second);
    assert_joined(&pair, dir, sub, file);
    ops_commit(&pair.second);
    assert_joined(&pair, dir, sub, file);
    use_it(&pair, dir, sub);
    kernel_stop(&pair.kernel);
}

static void test_it_is_removed_and_made_again_by_its_number(void **state)
{
    struct pair pair;
    start(&pair, *state);
    make_trees(&pair);
    uint64_t sub = kernel_hold(&pair.kernel, &pair.second, "d/sub");
    ops_commit(&pair.first);
    ops_commit(&pair.second);
    assert_int_equal(ops_unlink(&pair.second, "d/sub/one"), 0);
    assert_int_equal(ops_unlink(&pair.second, "d/sub/two"), 0);
    assert_int_equal(ops_rmdir(&pair.second, "d/sub"), 0);
    assert_int_equal(kernel_stat(&pair.second, sub).st_nlink, 0);
    assert_int_equal(ops_mkdir(&pair.second, "d/sub", 0755), 0);
    assert_true(ops_nodeid(&pair.second, "d/sub") != sub);
    ops_commit(&pair.second);
    kernel_let_go(&pair.kernel, sub);
    ops_rebase(&pair.first);
    assert_names(&pair.first, "d/sub", "");
    kernel_stop(&pair.kernel);
}

// Nothing that is cached by one number would follow a change by the other one.
static void assert_nothing_is_cached(struct view *view, uint64_t dir)
{
    struct mux *mux = view->fixture->mux;
    struct mux_entry entry;
    struct stat st;
    int64_t ttl_ns;
    assert_int_equal(mux_lookup(mux, &view->ctx, dir, "file", &entry), 0);
    assert_true(entry.nodeid != 0 && entry.entry_ttl_ns == 0 && entry.attr_ttl_ns > 0);
    assert_int_equal(mux_lookup(mux, &view->ctx, dir, "absent", &entry), 0);
    assert_true(entry.nodeid == 0 && entry.entry_ttl_ns == 0);
    assert_int_equal(mux_getattr(mux, &view->ctx, dir, &st, &ttl_ns), 0);
    assert_int_equal(ttl_ns, 0);
    assert_int_equal(mux_setattr(mux, &view->ctx, dir, &st, MUX_SET_MODE, &st, &ttl_ns), 0);
    assert_int_equal(ttl_ns, 0);
    assert_int_equal(mux_create(mux, &view->ctx, dir, "made", 0644, &entry), 0);
    assert_int_equal(entry.entry_ttl_ns, 0);
    assert_int_equal(mux_link(mux, &view->ctx, entry.nodeid, dir, "linked", &entry), 0);
    assert_int_equal(entry.entry_ttl_ns, 0);
    assert_int_equal(mux_unlink(mux, &view->ctx, dir, "made"), 0);
    assert_int_equal(mux_unlink(mux, &view->ctx, dir, "linked"), 0);
}

// What the view had before keeps its own number: the kernel may stand in it.
static void test_one_that_others_moved_there_keeps_its_number(void **state)
{
    struct pair pair;
    start(&pair, *state);
    uint64_t old = kernel_hold(&pair.kernel, &pair.second, "old");
    assert_int_equal(ops_rename(&pair.first, "old", "d", 0), 0);
    assert_int_equal(ops_mkdir(&pair.second, "d", 0755), 0);
    ops_put(&pair.second, "d/two", "2");
    uint64_t mine = kernel_hold(&pair.kernel, &pair.second, "d");
    ops_commit(&pair.first);
    ops_commit(&pair.second);
    assert_int_equal(ops_nodeid(&pair.second, "d"), old);
    assert_int_equal(kernel_stat(&pair.second, mine).st_ino, mux_nodeid_fid(mine));
    assert_int_equal(kernel_stat(&pair.second, old).st_ino, mux_nodeid_fid(old));
    assert_names(&pair.second, "d", "file two");
    look_below(&pair.second, mine, "file"); // who stands in it has the same names
    look_below(&pair.second, old, "two");
    assert_nothing_is_cached(&pair.second, mine);
    assert_nothing_is_cached(&pair.second, old);
    struct mux_entry entry;
    assert_int_equal(ops_lookup(&pair.second, "keep", &entry), 0);
    assert_true(entry.entry_ttl_ns > 0 && entry.attr_ttl_ns > 0);
    int64_t ttl_ns; // of other directories what a change answers is remembered
    assert_int_equal(ops_mkdir(&pair.second, "plain", 0755), 0);
    assert_int_equal(ops_lookup(&pair.second, "plain", &entry), 0);
    assert_int_equal(mux_setattr(pair.second.fixture->mux, &pair.second.ctx, entry.nodeid,
                                 &entry.st, MUX_SET_MODE, &entry.st, &ttl_ns),
                     0);
    assert_int_equal(ttl_ns, entry.attr_ttl_ns);
    assert_true(ttl_ns > 0);
    kernel_stop(&pair.kernel);
}

// Who holds it by one number is not cut off when nobody has it by the other one any more.
static void test_one_with_two_numbers_stays_for_who_is_in_it_when_it_is_removed(void **state)
{
    for (int by_others = 0; by_others < 2; by_others++) {
        struct pair pair;
        start(&pair, *state);
        uint64_t old = ops_nodeid(&pair.second, "old");
        assert_int_equal(ops_rename(&pair.first, "old", "d", 0), 0);
        assert_int_equal(ops_mkdir(&pair.second, "d", 0755), 0);
        uint64_t mine = kernel_hold(&pair.kernel, &pair.second, "d");
        ops_commit(&pair.first);
        ops_commit(&pair.second);
        ops_rebase(&pair.first);
        assert_int_equal(kernel_stat(&pair.second, mine).st_ino, mux_nodeid_fid(mine));
        assert_int_equal(kernel_stat(&pair.second, old).st_ino, mux_nodeid_fid(old));
        struct view *remover = by_others ? &pair.first : &pair.second;
        assert_int_equal(ops_unlink(remover, "d/file"), 0);
        assert_int_equal(ops_rmdir(remover, "d"), 0);
        ops_commit(remover);
        ops_rebase(&pair.second);
        mux_forget(pair.second.fixture->mux, old);
        clean_up_all(pair.second.fixture);
        assert_int_equal(kernel_stat(&pair.second, mine).st_nlink, 0);
        kernel_let_go(&pair.kernel, mine);
        kernel_stop(&pair.kernel);
    }
}

// What became one with another's, since others had removed it, is put back by a third writer.
static void test_one_that_comes_back_is_not_the_one_it_had_become_one_with(void **state)
{
    struct pair pair;
    start(&pair, *state);
    struct view third = ops_view(*state, pair.second.codebase, "**/*=write");
    uint64_t old = kernel_hold(&pair.kernel, &pair.second, "old");
    assert_int_equal(ops_unlink(&pair.first, "old/file"), 0);
    assert_int_equal(ops_rmdir(&pair.first, "old"), 0);
    assert_int_equal(ops_mkdir(&pair.first, "old", 0755), 0);
    ops_commit(&pair.first);
    ops_put(&pair.second, "old/two", "2");
    ops_commit(&pair.second);
    assert_int_equal(ops_nodeid(&pair.second, "old"), old);
    assert_names(&pair.second, "old", "two");
    assert_int_equal(ops_rename(&third, "old", "new", 0), 0);
    ops_put(&third, "new/three", "3");
    ops_commit(&third);
    ops_rebase(&pair.second);
    assert_names(&pair.second, "old", "two");
    assert_names(&pair.second, "new", "three");
    assert_int_equal(ops_nodeid(&pair.second, "new"), old); // the number of what is there now
    assert_true(ops_nodeid(&pair.second, "old") != old);
    assert_int_equal(kernel_stat(&pair.second, old).st_nlink, 1);
    assert_int_equal(ops_unlink(&pair.second, "new/three"), 0);
    assert_int_equal(ops_rmdir(&pair.second, "new"), 0);
    ops_commit(&pair.second);
    ops_rebase(&third);
    assert_names(&third, "old", "two");
    assert_false(ops_exists(&third, "new"));
    kernel_stop(&pair.kernel);
}

static void test_numbers_lead_on_when_the_common_one_becomes_one_with_a_third(void **state)
{
    (void)state;
    struct mux_alias alias = {0};
    mux_alias_join(&alias, 10, 20, false);
    assert_false(mux_alias_is_doubled(&alias, 20));
    assert_int_equal(mux_alias_inside(&alias, 10), 20);
    assert_int_equal(mux_alias_shown(&alias, 20), 10);
    assert_int_equal(mux_alias_inside(&alias, 20), 20);
    mux_alias_join(&alias, 20, 30, false);
    assert_int_equal(mux_alias_inside(&alias, 10), 30);
    assert_int_equal(mux_alias_shown(&alias, 30), 10);
    assert_int_equal(mux_alias_shown(&alias, 20), 20);
    mux_alias_join(&alias, 11, 30, false); // a second one: reached, and shown as the first
    assert_int_equal(mux_alias_inside(&alias, 11), 30);
    assert_int_equal(mux_alias_shown(&alias, 30), 10);
    assert_true(mux_alias_is_doubled(&alias, 30));
    mux_alias_join(&alias, 30, 40, true);
    assert_int_equal(mux_alias_inside(&alias, 10), 40);
    assert_int_equal(mux_alias_inside(&alias, 11), 40);
    assert_int_equal(mux_alias_shown(&alias, 40), 40);
    uint64_t others[MUX_ALIAS_NUMBERS];
    assert_int_equal(mux_alias_others(&alias, 40, others), 2);
    assert_int_equal(others[0] + others[1], 10 + 11);
    for (uint64_t fid = 100; fid < 200; fid++) // bounded: what is beyond is as if removed
        mux_alias_join(&alias, fid, 40, true);
    assert_int_equal(mux_alias_others(&alias, 40, others), MUX_ALIAS_NUMBERS - 2);
    assert_int_equal(mux_alias_inside(&alias, 100), 40);
    assert_int_equal(mux_alias_inside(&alias, 199), 199);
    mux_alias_fini(&alias);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_who_stands_in_his_own_goes_on_in_the_common_one),
        fixture_test(test_a_rebase_joins_them_too),
        fixture_test(test_it_is_removed_and_made_again_by_its_number),
        fixture_test(test_one_that_others_moved_there_keeps_its_number),
        fixture_test(test_one_with_two_numbers_stays_for_who_is_in_it_when_it_is_removed),
        fixture_test(test_one_that_comes_back_is_not_the_one_it_had_become_one_with),
        cmocka_unit_test(test_numbers_lead_on_when_the_common_one_becomes_one_with_a_third),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
