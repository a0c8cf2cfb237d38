// Slots: given in turn, returned, never confused with their former use; and the options of mux.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"
#include "mux/nodeid.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>

#define UID_BASE 700000

static struct mux_options options_of(struct fixture *f, uint32_t uid_count)
{
    return (struct mux_options){
        .state_dir = f->dir,
        .uid_base = UID_BASE,
        .uid_count = uid_count,
        .reserved_uid = UID_BASE - 1,
    };
}

static void reopen_with_slots(struct fixture *f, uint32_t uid_count)
{
    struct af_error err;
    struct mux_options options = options_of(f, uid_count);
    fixture_close(f);
    if (mux_open_sized(&options, 16, &f->mux, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_slots_run_out_and_come_back_longest_free_first(void **state)
{
    struct fixture *f = *state;
    reopen_with_slots(f, 3);
    struct af_id codebase = ops_codebase(f, NULL);
    struct view views[3];
    struct mux_attachment at;
    struct af_error err;
    for (uint32_t i = 0; i < 3; i++) {
        views[i] = ops_view(f, codebase, "**/*=write");
        assert_int_equal(views[i].at.slot, i + 1);
        assert_int_equal(views[i].at.uid, UID_BASE + i + 1);
    }
    struct af_id fourth = new_sandbox(f, codebase);
    expect_error(mux_view_attach(f->mux, fourth.text, &at, &err), &err, AF_RESOURCE_EXHAUSTED,
                 "slots");
    expect_error(mux_view_attach(f->mux, views[0].sandbox.text, &at, &err), &err,
                 AF_FAILED_PRECONDITION, "attached already");
    expect_error(mux_view_attach(f->mux, UNKNOWN_SANDBOX, &at, &err), &err, AF_NOT_FOUND, "");
    expect_error(mux_view_attach(f->mux, "no id", &at, &err), &err, AF_INVALID_ARGUMENT, "");
    ops_detach(&views[1]);
    ops_detach(&views[0]);
    ops_detach(&views[0]); // no error
    mux_view_detach(f->mux, UNKNOWN_SANDBOX);
    assert_int_equal(mux_view_attach(f->mux, fourth.text, &at, &err), 0);
    assert_int_equal(at.slot, 2);
    ops_attach(&views[0]);
    assert_int_equal(views[0].at.slot, 1);
}

static void test_a_route_comes_back_after_eight_turns_an_epoch_never(void **state)
{
    struct fixture *f = *state;
    reopen_with_slots(f, 1);
    struct view v = ops_view(f, ops_codebase(f, NULL), "**/*=write");
    uint64_t routes[9], generations[9];
    for (int i = 0; i < 9; i++) {
        struct mux_entry entry;
        struct mux_ctx root = {0};
        assert_int_equal(mux_lookup(f->mux, &root, MUX_NODEID_TOP, v.sandbox.text, &entry), 0);
        assert_int_equal(entry.entry_ttl_ns, 0);
        routes[i] = mux_nodeid_route(entry.nodeid);
        generations[i] = entry.generation;
        for (int j = 0; j < i; j++) {
            assert_int_equal(routes[i] == routes[j], i - j == 8);
            assert_int_not_equal(generations[i], generations[j]);
        }
        ops_detach(&v);
        ops_attach(&v);
    }
}

struct notes {
    char text[512];
};

static void note_entry(void *arg, uint64_t parent, const char *name, size_t len)
{
    struct notes *notes = arg;
    size_t used = strlen(notes->text);
    snprintf(notes->text + used, sizeof notes->text - used, "entry %lu %.*s\n",
             (unsigned long)parent, (int)len, name);
}

static void note_inode(void *arg, uint64_t nodeid, int64_t offset, int64_t len)
{
    struct notes *notes = arg;
    size_t used = strlen(notes->text);
    snprintf(notes->text + used, sizeof notes->text - used, "inode %lx %ld %ld\n",
             (unsigned long)nodeid, (long)offset, (long)len);
}

static void test_the_kernel_is_told_what_it_cannot_know(void **state)
{
    struct fixture *f = *state;
    static const struct base_file tree[] = {
        {.path = "f", .text = "x"}, {.path = "run", .mode = S_IFREG | 04755, .text = "#!"}, {0}};
    static const struct mux_notifier notifier = {.inval_entry = note_entry,
                                                 .inval_inode = note_inode};
    struct notes notes = {0};
    char expected[512];
    mux_set_notifier(f->mux, &notifier, &notes);
    struct view v = ops_view(f, ops_codebase(f, tree), "**/*=write /f=read@1");
    uint64_t shared = ops_nodeid(&v, "f"), suid = ops_nodeid(&v, "run");
    assert_int_equal(ops_write_node(&v, shared, "y", 1, 0), -EACCES);
    assert_int_equal(ops_write_node(&v, suid, "y", 1, 0), 0);
    assert_int_equal(ops_write_node(&v, suid, "y", 1, 0), 0); // nothing new
    ops_detach(&v);
    snprintf(expected, sizeof expected, "inode %lx 0 0\ninode %lx -1 0\nentry 1 %s\n",
             (unsigned long)shared, (unsigned long)suid, v.sandbox.text);
    assert_string_equal(notes.text, expected);
}

static void test_options_that_make_no_sense_are_refused(void **state)
{
    struct fixture *f = *state;
    struct mux *mux;
    struct af_error err;
    fixture_close(f);
    struct mux_options options = options_of(f, 0);
    expect_error(mux_open(&options, &mux, &err), &err, AF_INVALID_ARGUMENT, "1 to 65536");
    options = options_of(f, AF_SLOT_COUNT + 1);
    expect_error(mux_open(&options, &mux, &err), &err, AF_INVALID_ARGUMENT, "1 to 65536");
    options = options_of(f, 10);
    options.reserved_uid = UID_BASE + 10;
    expect_error(mux_open(&options, &mux, &err), &err, AF_INVALID_ARGUMENT, "reserved");
    options = options_of(f, 10);
    options.uid_base = 0;
    expect_error(mux_open(&options, &mux, &err), &err, AF_INVALID_ARGUMENT, "root");
    options.uid_base = UINT32_MAX - 5;
    expect_error(mux_open(&options, &mux, &err), &err, AF_INVALID_ARGUMENT, "last uid");
    fixture_open(f);
}

static void test_a_sandbox_without_rules_sees_an_empty_root(void **state)
{
    static const struct base_file tree[] = {{.path = "f", .text = "x"}, {0}};
    struct view v = ops_view(*state, ops_codebase(*state, tree), "");
    assert_names(&v, "", "");
    assert_int_equal(ops_stat(&v, "").st_mode, S_IFDIR | 0555);
    assert_int_equal(ops_create(&v, "x", 0644), -EACCES);
    assert_int_equal(ops_create(&v, "f", 0644), -EACCES);
}

static void test_a_view_moves_to_a_reserved_uid_until_somebody_has_seen_it(void **state)
{
    struct fixture *f = *state;
    reopen_with_slots(f, 3);
    struct af_id codebase = ops_codebase(f, NULL), sandbox = new_sandbox(f, codebase);
    struct mux_attachment at;
    struct af_error err;
    uid_t reserved, uid, again;
    struct mux_entry before, after;
    const struct mux_ctx ctx = {0};
    assert_int_equal(mux_view_attach(f->mux, sandbox.text, &at, &err), 0);
    assert_int_equal(mux_uid_reserve(f->mux, &reserved, &err), 0);
    assert_true(mux_view_can_move(f->mux, sandbox.text));
    assert_int_equal(mux_view_move(f->mux, sandbox.text, reserved, &err), 0);
    assert_true(mux_view_uid(f->mux, sandbox.text, &uid));
    assert_int_equal(uid, reserved);
    assert_int_equal(mux_uid_reserve(f->mux, &again, &err), 0); // the third
    assert_int_equal(mux_uid_reserve(f->mux, &again, &err), 0); // its former one
    assert_int_equal(again, at.uid);
    assert_int_equal(mux_lookup(f->mux, &ctx, MUX_NODEID_TOP, sandbox.text, &before), 0);
    assert_int_equal(before.st.st_uid, reserved);
    // From now on somebody may hold what is below.
    assert_false(mux_view_can_move(f->mux, sandbox.text));
    expect_error(mux_view_move(f->mux, sandbox.text, again, &err), &err, AF_FAILED_PRECONDITION,
                 "in use");
    assert_int_equal(mux_lookup(f->mux, &ctx, MUX_NODEID_TOP, sandbox.text, &after), 0);
    assert_int_equal(after.nodeid, before.nodeid);
    assert_false(mux_view_can_move(f->mux, UNKNOWN_SANDBOX));
    expect_error(mux_view_move(f->mux, UNKNOWN_SANDBOX, again, &err), &err, AF_FAILED_PRECONDITION,
                 "not attached");
    mux_view_detach(f->mux, sandbox.text);
    mux_uid_release(f->mux, again);
    assert_int_equal(mux_view_attach_as(f->mux, sandbox.text, 0, &at, &err), 0);
    assert_int_equal(at.uid, reserved); // free for longest
}

// ---- the node cache by itself

static struct mux_node node_of(uint64_t nodeid, uint64_t stamp)
{
    return (struct mux_node){.nodeid = nodeid, .stamp = stamp, .size = nodeid, .level = RULES_READ};
}

static uint64_t nodes_in(struct mux_node_cache *cache)
{
    struct mux_node_cache_stats stats;
    mux_node_cache_stats(cache, &stats);
    assert_int_equal(stats.capacity, 100);
    return stats.count;
}

static void test_node_cache_is_bounded_and_pure(void **state)
{
    (void)state;
    struct mux_node_cache *cache;
    struct mux_node node;
    assert_int_equal(mux_node_cache_new(100, &cache), 0);
    for (uint64_t i = 1; i <= 1000; i++) {
        node = node_of(i, 7);
        mux_node_cache_put(cache, NULL, &node);
        assert_true(mux_node_cache_get(cache, NULL, i, 7, &node));
        assert_int_equal(node.size, i);
        assert_true(nodes_in(cache) <= 100);
    }
    assert_int_equal(nodes_in(cache), 100);
    assert_false(mux_node_cache_get(cache, NULL, 1, 7, &node));    // evicted
    assert_false(mux_node_cache_get(cache, NULL, 1000, 8, &node)); // out of date
    node = node_of(1000, 9);
    node.size = 5;
    node.level = RULES_WRITE;
    mux_node_cache_update(cache, &node);
    assert_true(mux_node_cache_get(cache, NULL, 1000, 7, &node));
    assert_int_equal(node.size, 5);
    assert_int_equal(node.level, RULES_READ);
    mux_node_cache_drop(cache, 1000);
    mux_node_cache_drop(cache, 1000);
    assert_false(mux_node_cache_get(cache, NULL, 1000, 7, &node));
    assert_int_equal(nodes_in(cache), 99);
    node = node_of(1000, 7);
    mux_node_cache_update(cache, &node); // never inserts
    assert_int_equal(nodes_in(cache), 99);
    mux_node_cache_free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_slots_run_out_and_come_back_longest_free_first),
        fixture_test(test_a_route_comes_back_after_eight_turns_an_epoch_never),
        fixture_test(test_the_kernel_is_told_what_it_cannot_know),
        fixture_test(test_options_that_make_no_sense_are_refused),
        fixture_test(test_a_sandbox_without_rules_sees_an_empty_root),
        fixture_test(test_a_view_moves_to_a_reserved_uid_until_somebody_has_seen_it),
        cmocka_unit_test(test_node_cache_is_bounded_and_pure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
