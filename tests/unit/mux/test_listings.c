// Listings of frozen directories that all views share: what a view lists is what its lookups say,
// whatever it and others have changed; a kept listing is never that of another tree.
//
// ops_list compares each entry with what lookups say, with what is kept and without
// (ops_fixture.c).
#include "tests/unit/mux/held_kernel.h"

#include "mux/layer_list.h"
#include "mux/listings.h"
#include "mux/mux_priv.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>

static const struct base_file tree[] = {
    {.path = "a", .text = "a"},
    {.path = "b", .mode = S_IFREG | 0755, .text = "#!/bin/sh\n"},
    {.path = "d/sub/x", .text = "x"},
    {.path = "d/y", .text = "y"},
    {.path = "d/z", .text = "z"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "d/y"},
    {.path = "secret/key", .text = "k"},
    {0},
};

static struct mux_listings_stats stats(const struct view *v)
{
    struct mux_listings_stats ret;
    mux_listings_stats(v->fixture->mux->listings, &ret);
    return ret;
}

// The names with attributes, once.
static void list(struct view *v, const char *path, const char *names)
{
    char *found = ops_list(v, path, 64);
    assert_string_equal(found, names);
    free(found);
}

static void test_a_second_view_lists_what_the_first_one_had_decoded(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view first = ops_view(*state, codebase, "**/*=write");
    struct view second = ops_view(*state, codebase, "**/*=write");
    list(&first, "d", "sub y z");
    struct mux_listings_stats before = stats(&first);
    assert_int_equal(before.count, 1);
    list(&second, "d", "sub y z");
    assert_int_equal(stats(&first).count, 1);
    assert_true(stats(&first).hits > before.hits);
}

static void test_each_view_has_its_own_rules_on_top(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view all = ops_view(*state, codebase, "**/*=write");
    struct view some = ops_view(*state, codebase, "**/*=read **/secret/**=none@9 /d/y=view@9");
    struct view deep = ops_view(*state, codebase, "/d/sub/**=read");
    for (int round = 0; round < 2; round++) {
        list(&all, "", "a b d link secret");
        list(&some, "", "a b d link");
        list(&deep, "", "d");
        list(&all, "d", "sub y z");
        list(&some, "d", "sub y z");
        list(&deep, "d", "sub");
    }
}

static void test_what_a_view_changes_is_listed_as_it_is(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=write");
    struct view other = ops_view(*state, codebase, "**/*=write");
    list(&v, "", "a b d link secret");
    list(&v, "d", "sub y z");
    assert_int_equal(ops_chmod(&v, "d/y", 0600), 0); // a record of the delta, no name
    list(&v, "d", "sub y z");
    assert_int_equal(ops_stat(&v, "d/y").st_mode & 07777, 0600);
    assert_int_equal(ops_unlink(&v, "d/z"), 0); // a whiteout
    list(&v, "d", "sub y");
    assert_int_equal(ops_create(&v, "d/new", 0644), 0);
    list(&v, "d", "new sub y");
    assert_int_equal(ops_rename(&v, "d/sub", "sub", 0), 0); // what is below moves along
    list(&v, "", "a b d link secret sub");
    list(&v, "sub", "x");
    assert_int_equal(ops_link(&v, "a", "sub/hard"), 0);
    list(&v, "sub", "hard x");
    list(&v, "", "a b d link secret sub");
    list(&other, "", "a b d link secret");
    list(&other, "d", "sub y z");
    list(&other, "d/sub", "x");
}

static void assert_absent(struct view *v, const char *path)
{
    struct mux_entry entry;
    assert_int_equal(ops_lookup(v, path, &entry), -ENOENT);
}

static void test_a_file_of_several_names_has_the_level_of_the_most_restricted(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=write");
    assert_int_equal(ops_link(&v, "a", "d/hard"), 0);
    ops_commit(&v);
    struct view some = ops_view(*state, codebase, "**/*=write /d/hard=read@9");
    list(&some, "", "a b d link secret");
    list(&some, "d", "hard sub y z");
    assert_int_equal(ops_stat(&some, "a").st_mode & 07777, 0444);
}

static void test_lookups_by_what_is_kept_are_those_of_the_store(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=write");
    struct view some = ops_view(*state, codebase, "**/*=read /d/y=none@9 /d/z=view@9");
    list(&v, "", "a b d link secret");
    list(&v, "d", "sub y z");
    assert_text(&some, "a", "a");
    assert_absent(&some, "d/y");
    assert_int_equal(ops_stat(&some, "d/z").st_mode & 07777, 0);
    assert_absent(&v, "d/none");
    assert_absent(&v, "none");
    for (int round = 0; round < 2; round++) { // an empty delta, then one that has something
        assert_text(&v, "d/y", "y");
        assert_text(&v, "d/sub/x", "x");
        assert_int_equal(ops_stat(&v, "b").st_mode & 07777, 0755);
        ops_put(&v, "secret/other", "o");
    }
    ops_put(&v, "d/y", "changed");
    assert_int_equal(ops_unlink(&v, "d/z"), 0);
    assert_int_equal(ops_create(&v, "d/none", 0640), 0);
    assert_text(&v, "d/y", "changed");
    assert_absent(&v, "d/z");
    assert_int_equal(ops_stat(&v, "d/none").st_mode & 07777, 0640);
    assert_int_equal(ops_rename(&v, "a", "d/z", 0), 0);
    assert_absent(&v, "a");
    assert_text(&v, "d/z", "a");
    assert_text(&some, "a", "a");
}

static void test_a_directory_in_which_many_names_are_looked_up_is_decoded(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=write");
    struct view some = ops_view(*state, codebase, "**/*=read /d/y=none@9 /d/z=view@9");
    uint64_t dir = ops_nodeid(&v, "d");
    struct mux_entry entry;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mux_lookup(v.fixture->mux, &v.ctx, dir, "none", &entry), 0);
        assert_int_equal(entry.nodeid, 0);
    }
    assert_int_equal(stats(&v).count, 0); // a few names are no reason
    assert_int_equal(mux_lookup(v.fixture->mux, &v.ctx, dir, "y", &entry), 0);
    assert_int_not_equal(entry.nodeid, 0);
    assert_int_equal(stats(&v).count, 1);
    assert_text(&v, "d/y", "y");
    assert_absent(&some, "d/y"); // its rules are its own
    assert_int_equal(ops_stat(&some, "d/z").st_mode & 07777, 0);
    ops_put(&v, "d/y", "changed");
    assert_text(&v, "d/y", "changed");
    list(&some, "d", "sub z");
}

static void test_a_removed_base_directory_lists_nothing(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    list(&v, "secret", "key");
    uint64_t dir = ops_nodeid(&v, "secret");
    assert_int_equal(ops_unlink(&v, "secret/key"), 0);
    list(&v, "secret", "");
    assert_int_equal(ops_rmdir(&v, "secret"), 0);
    list(&v, "", "a b d link");
    assert_int_equal(ops_mkdir(&v, "secret", 0755), 0);
    list(&v, "secret", "");
    assert_int_not_equal(ops_nodeid(&v, "secret"), dir);
}

static void test_views_on_another_stack_have_another_listing(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=write");
    struct view old = ops_view(*state, codebase, "**/*=write");
    list(&old, "d", "sub y z");
    ops_put(&v, "d/y", "longer than it was");
    ops_put(&v, "d/more", "m");
    ops_commit(&v);
    struct view fresh = ops_view(*state, codebase, "**/*=write");
    for (int round = 0; round < 2; round++) {
        list(&v, "d", "more sub y z");
        list(&fresh, "d", "more sub y z");
        assert_int_equal(ops_stat(&fresh, "d/y").st_size, 18);
        list(&old, "d", "sub y z");
    }
    ops_rebase(&old);
    list(&old, "d", "more sub y z");
}

// ---- views that others have taken something from that is open

// A view whose file "a", the nodeid returned, is gone from its tree and open.
static uint64_t lose_open_file(struct kernel *kernel, struct view *v)
{
    struct view other = ops_view(v->fixture, v->codebase, "**/*=write");
    kernel_start(kernel, v->fixture);
    uint64_t file = kernel_hold(kernel, v, "a");
    assert_int_equal(ops_unlink(&other, "a"), 0);
    ops_commit(&other);
    ops_rebase(v);
    list(v, "d", "sub y z");
    return file;
}

// Listings and lookups in "d" are by what is kept.
static void assert_goes_by_what_is_kept(struct view *v)
{
    uint64_t hits = stats(v).hits;
    list(v, "d", "sub y z");
    assert_true(stats(v).hits > hits);
    struct mux_entry entry;
    uint64_t dir = ops_nodeid(v, "d");
    hits = stats(v).hits;
    assert_int_equal(mux_lookup(v->fixture->mux, &v->ctx, dir, "y", &entry), 0);
    assert_int_equal(stats(v).hits, hits + 1);
}

static void test_a_view_that_lost_an_open_file_goes_on_by_what_is_kept(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct kernel kernel;
    uint64_t file = lose_open_file(&kernel, &v);
    assert_goes_by_what_is_kept(&v);
    assert_absent(&v, "a");
    for (int round = 0; round < 2; round++) { // cached, and from its record
        assert_int_equal(kernel_stat(&v, file).st_nlink, 0);
        assert_int_equal(kernel_stat(&v, file).st_mode & 0777, 0644);
        mux_node_cache_clear(v.fixture->mux->nodes, 0);
    }
    kernel_let_go(&kernel, file);
    assert_goes_by_what_is_kept(&v);
    kernel_stop(&kernel);
}

// Stores of older versions have names in removed directories: what is open under one is as it is
// by its nodeid, without a name and no more open than it was.
static void test_a_name_that_is_left_of_a_lost_file_says_what_its_record_says(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct kernel kernel;
    kernel_let_go(&kernel, lose_open_file(&kernel, &v));
    uint64_t dir = ops_nodeid(&v, "d"), file = ops_nodeid(&v, "d/y");
    struct mux_op op;
    struct store_inode inode;
    assert_int_equal(mux_op_enter_exclusive(v.fixture->mux, v.root, &op), 0);
    struct mux_gone *gone = &op.view->gone;
    uint64_t fid = mux_op_fid(&op, file);
    assert_int_equal(mux_op_write(&op), 0);
    assert_int_equal(mux_resolve_inode(op.txn, mux_op_layers(&op), fid, &inode, NULL), 0);
    assert_int_equal(store_inode_put(op.txn, gone->layer, &inode), 0);
    assert_int_equal(mux_op_commit(&op), 0);
    assert_int_equal(mux_fid_map_put(&gone->fids, fid, 0), 0);
    assert_int_equal(mux_fid_map_put(&gone->ceilings, fid, RULES_READ), 0);
    mux_op_leave(&op, 0);
    for (int round = 0; round < 4; round++) { // ops_list asks with attributes every other time
        mux_node_cache_clear(v.fixture->mux->nodes, 0);
        list(&v, "d", "sub y z");
        mux_node_cache_clear(v.fixture->mux->nodes, 0);
        struct mux_entry entry;
        assert_int_equal(mux_lookup(v.fixture->mux, &v.ctx, dir, "y", &entry), 0);
        assert_int_equal(entry.st.st_nlink, 0);
        assert_int_equal(entry.st.st_mode & 0777, 0444);
    }
    kernel_let_go(&kernel, file);
    assert_int_equal(ops_stat(&v, "d/y").st_nlink, 1);
    kernel_stop(&kernel);
}

static void test_a_push_into_the_top_layer_is_seen_by_who_goes_on_there(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view a = ops_view(*state, codebase, "**/*=write");
    struct view b = ops_view(*state, codebase, "**/*=write");
    struct af_error err;
    ops_put(&b, "d/of-b", "b");
    ops_commit(&b);
    list(&b, "d", "of-b sub y z");
    ops_detach(&b);
    assert_int_equal(mux_sandbox_destroy(b.fixture->mux, b.sandbox.text, &err), 0);
    ops_put(&a, "d/of-a", "a"); // nobody but the codebase has that stack now
    ops_put(&a, "d/y", "longer");
    ops_commit(&a);
    list(&a, "d", "of-a of-b sub y z");
    ops_put(&a, "d/more", "m"); // and now the codebase and this view
    ops_commit(&a);
    list(&a, "d", "more of-a of-b sub y z");
}

static void test_a_layer_that_was_thawed_and_changed_is_listed_anew(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct af_error err;
    for (unsigned round = 0; round < 3; round++) {
        char text[8], name[8], names[64] = "sub y z";
        struct view v = ops_view(*state, codebase, "**/*=read");
        for (unsigned i = 0; i < round; i++)
            sprintf(names + strlen(names), " z%u", i);
        list(&v, "d", names);
        list(&v, "d", names);
        ops_detach(&v);
        assert_int_equal(mux_sandbox_destroy(v.fixture->mux, v.sandbox.text, &err), 0);
        sprintf(name, "d/z%u", round); // nobody has the frozen head any more: it is written again
        sprintf(text, "%u", round);
        upload(*state, codebase, name, text);
    }
}

static void test_a_large_directory_is_listed_from_the_store(void **state)
{
    enum { COUNT = 700 };
    struct af_id codebase = new_codebase(*state);
    char name[32];
    for (int i = 0; i < COUNT; i++) {
        sprintf(name, "d/%04d", i);
        upload(*state, codebase, name, "");
    }
    struct view v = ops_view(*state, codebase, "**/*=read");
    for (size_t batch = 64; batch <= 4096; batch *= 64) {
        char *found = ops_list(&v, "d", batch);
        assert_int_equal(strlen(found), COUNT * 5 - 1);
        free(found);
    }
    assert_in_range(stats(&v).bytes, 1, 4096);
}

// ---- the table

static struct mux_layer_list base_of(struct fixture *fixture, struct af_id codebase)
{
    struct store_txn *txn;
    struct mux_layer_list ret;
    struct store_codebase record = get_codebase(fixture, codebase);
    assert_int_equal(store_read_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(mux_layer_list_load(txn, 0, record.stack, &ret), 0);
    store_read_end(txn);
    return ret;
}

static void test_it_is_bounded_and_what_is_in_use_stays(void **state)
{
    enum { DIRS = 300 };
    struct fixture *fixture = *state;
    struct af_id codebase = new_codebase(fixture);
    char path[32];
    for (int i = 0; i < DIRS; i++) {
        sprintf(path, "%03d/file", i);
        upload(fixture, codebase, path, "");
    }
    struct view v = ops_view(fixture, codebase, "**/*=read"); // freezes the head
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = base_of(fixture, codebase);
    struct mux_layers base = mux_layer_list_all(&layers);
    struct mux_listings *listings;
    struct mux_listing *first = NULL;
    struct mux_listings_stats now;
    const size_t bytes_max = 16 * 1024;
    assert_int_equal(mux_listings_new(bytes_max, &listings), 0);
    for (int i = 0; i < DIRS; i++) {
        sprintf(path, "%03d", i);
        uint64_t fid = ops_stat(&v, path).st_ino;
        struct store_txn *txn;
        assert_int_equal(store_read_begin(mux_store(fixture->mux), &txn), 0);
        assert_null(mux_listings_find(listings, 1, fid));
        struct mux_listing *made = mux_listings_make(listings, txn, 1, base, fid);
        store_read_end(txn);
        assert_non_null(made);
        assert_int_equal(made->count, 1);
        if (i == 0)
            first = made;
        else
            mux_listing_unref(made);
        mux_listings_stats(listings, &now);
        assert_in_range(now.bytes, 1, bytes_max);
    }
    assert_in_range(now.count, 16, DIRS / 2);
    mux_listings_free(listings);
    assert_memory_equal(first->names[0].entry.name, "file", 4);
    assert_int_equal(mux_listing_after(first, 0), 0);
    assert_int_equal(mux_listing_after(first, first->names[0].entry.cookie), 1);
    mux_listing_unref(first);
}

// ---- histories

static void random_change(struct prng *prng, struct view *v)
{
    static const char *const names[] = {"a",   "b",   "d",       "d/sub",  "d/sub/x",
                                        "d/y", "d/z", "link",    "secret", "secret/key",
                                        "n",   "d/n", "secret/n"};
    const char *from = names[prng_below(prng, AF_ARRAY_LEN(names))];
    const char *to = names[prng_below(prng, AF_ARRAY_LEN(names))];
    switch (prng_below(prng, 9)) {
    case 0:
        ops_chmod(v, from, 0700);
        break;
    case 1:
        ops_unlink(v, from);
        break;
    case 2:
        ops_rmdir(v, from);
        break;
    case 3:
        ops_mkdir(v, from, 0755);
        break;
    case 4:
        ops_create(v, from, 0644);
        break;
    case 5:
        ops_write(v, from, "more", 4, 0);
        break;
    case 6:
        ops_link(v, from, to);
        break;
    case 7:
        ops_rename(v, from, to, 0);
        break;
    default:
        if (prng_below(prng, 8) == 0)
            ops_commit(v);
        else if (prng_below(prng, 8) == 0)
            ops_rebase(v);
    }
}

static void check_below(struct view *v, const char *path)
{
    char *names = ops_list(v, path, 64), *rest = names, *name;
    while ((name = strsep(&rest, " ")) && *name) {
        char below[64];
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", name);
        if (S_ISDIR(ops_stat(v, below).st_mode))
            check_below(v, below);
    }
    free(names);
}

static void test_whatever_two_views_do_they_list_what_they_look_up(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view views[2] = {ops_view(*state, codebase, "**/*=write"),
                            ops_view(*state, codebase, "**/*=write /d/z=read@9")};
    struct prng prng = {.state = 11};
    for (int step = 0; step < 600; step++) {
        struct view *v = &views[prng_below(&prng, 2)];
        random_change(&prng, v);
        if (step % 97 == 0) { // nodes of before are gone
            ops_detach(v);
            ops_attach(v);
        }
        check_below(&views[0], "");
        check_below(&views[1], "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_second_view_lists_what_the_first_one_had_decoded),
        fixture_test(test_each_view_has_its_own_rules_on_top),
        fixture_test(test_what_a_view_changes_is_listed_as_it_is),
        fixture_test(test_a_file_of_several_names_has_the_level_of_the_most_restricted),
        fixture_test(test_lookups_by_what_is_kept_are_those_of_the_store),
        fixture_test(test_a_directory_in_which_many_names_are_looked_up_is_decoded),
        fixture_test(test_a_removed_base_directory_lists_nothing),
        fixture_test(test_views_on_another_stack_have_another_listing),
        fixture_test(test_a_view_that_lost_an_open_file_goes_on_by_what_is_kept),
        fixture_test(test_a_name_that_is_left_of_a_lost_file_says_what_its_record_says),
        fixture_test(test_a_push_into_the_top_layer_is_seen_by_who_goes_on_there),
        fixture_test(test_a_layer_that_was_thawed_and_changed_is_listed_anew),
        fixture_test(test_a_large_directory_is_listed_from_the_store),
        fixture_test(test_it_is_bounded_and_what_is_in_use_stays),
        fixture_test(test_whatever_two_views_do_they_list_what_they_look_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
