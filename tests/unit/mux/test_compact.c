// Compaction over random histories: the tree is the same before and after in every sandbox, old and
// new, attached and not, in the middle of a listing too; nothing is lost and nothing stays behind.
#include "tests/unit/mux/layers.h"
#include "tests/unit/mux/ops_fixture.h"

#include "mux/compact.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define HISTORIES  12
#define PUSHES     14
#define OLD_MAX    6
#define DEPTH_FINE 8 // layers of a stack with nothing left to merge, for what is tried here

static void drain(struct fixture *fixture)
{
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
}

static void change_view(struct delta_writer *writer, struct prng *prng)
{
    char a[64], b[64], text[64];
    prng_path(prng, a);
    prng_path(prng, b);
    snprintf(text, sizeof text, "%lu", (unsigned long)prng_next(prng));
    switch (prng_below(prng, 10)) {
    case 0:
    case 1:
        view_mkdir(writer, a);
        break;
    case 2:
    case 3:
    case 4:
        view_write(writer, a, text);
        break;
    case 5:
        view_unlink(writer, a);
        break;
    case 6:
        view_rmdir(writer, a);
        break;
    case 7:
        view_rename(writer, a, b);
        break;
    case 8:
        view_exchange(writer, a, b);
        break;
    default:
        view_chmod(writer, a, prng_below(prng, 2) ? 0600 : 0755);
    }
}

// More than the view_writer knows: links, attributes, large files.
static void change_more(struct fixture *fixture, struct af_id sandbox, struct mux_attachment at,
                        struct prng *prng)
{
    uint64_t root;
    assert_true(mux_view_find(fixture->mux, sandbox.text, &root));
    struct view view = {
        .fixture = fixture,
        .sandbox = sandbox,
        .at = at,
        .root = root,
        .ctx = {.uid = at.uid, .gid = at.gid},
    };
    char a[64], b[64], big[8192];
    struct mux_entry entry;
    prng_path(prng, a);
    prng_path(prng, b);
    ops_link(&view, a, b);
    prng_path(prng, a);
    memset(big, (int)prng_below(prng, 256), sizeof big);
    ops_create(&view, a, 0644);
    ops_write(&view, a, big, sizeof big, 0);
    prng_path(prng, a);
    if (ops_lookup(&view, a, &entry) == 0 && entry.nodeid)
        mux_setxattr(fixture->mux, &view.ctx, entry.nodeid, "user.note", b, strlen(b), 0);
}

static void push_changes(struct fixture *fixture, struct af_id codebase, struct prng *prng)
{
    struct af_id id = new_sandbox(fixture, codebase);
    struct delta_writer writer = {fixture, id};
    struct mux_attachment at;
    struct af_error err;
    assert_int_equal(mux_view_attach(fixture->mux, id.text, &at, &err), 0);
    for (size_t n = prng_below(prng, 12); n > 0; n--)
        change_view(&writer, prng);
    change_more(fixture, id, at, prng);
    mux_view_detach(fixture->mux, id.text);
    layers_push(fixture, codebase, id);
}

struct old {
    struct af_id sandbox;
    char *told;
};

static void assert_same(struct fixture *fixture, const struct old *old)
{
    char *now = layers_tell(fixture, old->sandbox);
    assert_string_equal(now, old->told);
    free(now);
}

// As heavy as a thousand records, so that what is pushed is merged above it.
static void put_heavy_base(struct fixture *fixture, struct af_id codebase)
{
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err;
    assert_int_equal(mux_import_begin(fixture->mux, codebase.text, &import, &err), 0);
    static const char *const names[] = {"a/heavy", "a/b", "b/c/d", "c/a", "d/b"};
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        assert_int_equal(
            mux_import_entry(import, names[i], strlen(names[i]), S_IFREG | 0644, 1, NULL, 0, &err),
            0);
        if (i == 0)
            assert_int_equal(mux_import_hole(import, 64 << 20, &err), 0);
    }
    assert_int_equal(mux_import_commit(import, &totals, &err), 0);
}

static void run_history(struct fixture *fixture, uint64_t seed)
{
    struct prng prng = {seed};
    struct af_id codebase = new_codebase(fixture);
    struct old olds[OLD_MAX];
    struct af_error err;
    size_t n_olds = 0;
    if (seed % 2 == 0)
        put_heavy_base(fixture, codebase);
    else
        upload(fixture, codebase, "a/b", "base");
    for (int i = 0; i < PUSHES; i++) {
        if (n_olds < OLD_MAX && prng_below(&prng, 3) == 0) {
            olds[n_olds].sandbox = new_sandbox(fixture, codebase);
            if (prng_below(&prng, 2) == 0) {
                layers_attach(fixture, olds[n_olds].sandbox);
                struct delta_writer writer = {fixture, olds[n_olds].sandbox};
                for (int n = 0; n < 4; n++)
                    change_view(&writer, &prng);
            }
            olds[n_olds].told = layers_tell(fixture, olds[n_olds].sandbox);
            n_olds++;
        }
        mux_sandbox_destroy(fixture->mux, new_sandbox(fixture, codebase).text, &err);
        push_changes(fixture, codebase, &prng);
        if (prng_below(&prng, 4) == 0)
            drain(fixture);
        for (size_t k = 0; k < n_olds; k++)
            assert_same(fixture, &olds[k]);
    }
    struct old last = {.sandbox = new_sandbox(fixture, codebase)};
    last.told = layers_tell(fixture, last.sandbox);
    drain(fixture);
    assert_same(fixture, &last);
    assert_true(layers_depth(fixture, codebase) < DEPTH_FINE);
    layers_reopen(fixture, false);
    assert_same(fixture, &last);
    for (size_t k = 0; k < n_olds; k++) {
        assert_same(fixture, &olds[k]);
        free(olds[k].told);
        assert_int_equal(mux_sandbox_destroy(fixture->mux, olds[k].sandbox.text, &err), 0);
    }
    free(last.told);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, last.sandbox.text, &err), 0);
    assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
    assert_no_garbage(fixture, 0, 0, 0);
}

static void test_random_histories_tell_the_same_tree(void **state)
{
    struct fixture *fixture = *state;
    const char *given = getenv("AGENTFENSE_TEST_SEED");
    layers_reopen(fixture, false);
    for (uint64_t seed = 1; seed <= HISTORIES; seed++)
        run_history(fixture, given ? strtoull(given, NULL, 0) : seed);
}

// ---- views that are attached

struct listed {
    char names[256];
    size_t count, room;
    uint64_t cookie;
};

static bool add_name(void *arg, const char *name, size_t len, uint64_t cookie,
                     const struct mux_entry *entry)
{
    struct listed *listed = arg;
    (void)entry;
    if (listed->room == 0)
        return false;
    listed->room--;
    listed->count++;
    listed->cookie = cookie;
    strncat(listed->names, name, len);
    strcat(listed->names, " ");
    return true;
}

// A codebase of `layers` layers: each adds one file and takes the one before the last away.
static struct af_id deep_codebase(struct fixture *fixture, size_t layers)
{
    struct af_id codebase = new_codebase(fixture);
    char path[64];
    upload(fixture, codebase, "dir/base", "base");
    for (size_t i = 0; i < layers; i++) {
        struct view view = ops_view(fixture, codebase, "**=write");
        snprintf(path, sizeof path, "dir/f%zu", i);
        ops_put(&view, path, path);
        if (i >= 2) {
            snprintf(path, sizeof path, "dir/f%zu", i - 2);
            assert_int_equal(ops_unlink(&view, path), 0);
        }
        ops_detach(&view);
        layers_push(fixture, codebase, view.sandbox);
    }
    return codebase;
}

static void test_a_listing_goes_on_where_it_was(void **state)
{
    struct fixture *fixture = *state;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 12);
    struct view view = ops_view(fixture, codebase, "**=write");
    ops_put(&view, "dir/own", "mine");
    uint64_t dir = ops_nodeid(&view, "dir");
    for (size_t cut = 1; cut < 6; cut++) {
        struct listed whole = {.room = 100}, parts = {.room = cut};
        assert_int_equal(mux_readdir(fixture->mux, &view.ctx, dir, 0, true, add_name, &whole), 0);
        assert_int_equal(whole.count, 6); // ".", "..", base, own, f10, f11
        assert_int_equal(mux_readdir(fixture->mux, &view.ctx, dir, 0, true, add_name, &parts), 0);
        if (cut == 3)
            drain(fixture);
        parts.room = 100;
        assert_int_equal(
            mux_readdir(fixture->mux, &view.ctx, dir, parts.cookie, true, add_name, &parts), 0);
        assert_string_equal(parts.names, whole.names);
    }
    assert_in_range(layers_depth_of_sandbox(fixture, view.sandbox), 1, 3);
    assert_text(&view, "dir/f11", "dir/f11");
    assert_text(&view, "dir/own", "mine");
}

static void test_an_attached_view_keeps_its_nodeids_and_open_files(void **state)
{
    struct fixture *fixture = *state;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 9);
    struct view reader = ops_view(fixture, codebase, "**=read");
    struct view writer = ops_view(fixture, codebase, "**=write");
    uint64_t shared = ops_nodeid(&reader, "dir/f8"), own = ops_nodeid(&writer, "dir/f8");
    struct stat before = ops_stat(&reader, "dir/f8");
    assert_true(mux_nodeid_is_shared(shared));
    drain(fixture);
    assert_in_range(layers_depth_of_sandbox(fixture, reader.sandbox), 1, 3);
    char buf[64] = "";
    assert_int_equal(ops_read_node(&reader, shared, buf, sizeof buf, 0), 6);
    assert_string_equal(buf, "dir/f8");
    assert_int_equal(ops_nodeid(&reader, "dir/f8"), shared);
    assert_int_equal(ops_nodeid(&writer, "dir/f8"), own);
    struct stat after = ops_stat(&reader, "dir/f8");
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(ops_write_node(&writer, own, "new", 3, 0), 0);
    assert_text(&writer, "dir/f8", "new/f8");
    assert_text(&reader, "dir/f8", "dir/f8");
    assert_accounting(&writer);
}

static void test_the_last_record_without_a_name_goes_with_its_view(void **state)
{
    struct fixture *fixture = *state;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 9);
    struct view view = ops_view(fixture, codebase, "**=write");
    drain(fixture); // with a view: what is removed stays readable
    struct store_stats with = stats_of(fixture);
    mux_view_detach(fixture->mux, view.sandbox.text);
    struct af_error err;
    assert_int_equal(mux_sandbox_destroy(fixture->mux, view.sandbox.text, &err), 0);
    for (int i = 0; i < 4; i++) {
        view = ops_view(fixture, codebase, "**=write");
        ops_put(&view, "dir/again", "x");
        ops_detach(&view);
        layers_push(fixture, codebase, view.sandbox);
    }
    drain(fixture);
    uint64_t removed;
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    assert_true(with.inodes > 10);
    assert_int_equal(layers_depth(fixture, codebase), 1);
    assert_int_equal(stats_of(fixture).inodes, 6); // root, dir, base, f7, f8, again
}

// ---- with others at work

static void test_an_import_under_way_is_not_disturbed(void **state)
{
    struct fixture *fixture = *state;
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 9);
    assert_int_equal(mux_import_begin(fixture->mux, codebase.text, &import, &err), 0);
    for (int i = 0; i < 200; i++) {
        char path[32];
        int len = snprintf(path, sizeof path, "dir/new%d", i);
        if (i == 100)
            drain(fixture);
        int rc = mux_import_entry(import, path, (size_t)len, S_IFREG | 0644, 0, NULL, 0, &err);
        if (rc == 0)
            rc = mux_import_data(import, path, (size_t)len, &err);
        if (rc < 0)
            fail_msg("%s", err.text);
    }
    uint64_t removed;
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    if (mux_import_commit(import, &totals, &err) < 0)
        fail_msg("%s", err.text);
    char *text = download(fixture, codebase, "dir/new150");
    assert_string_equal(text, "dir/new150");
    free(text);
    text = download(fixture, codebase, "dir/f8");
    assert_string_equal(text, "dir/f8");
    free(text);
}

static void import_step(struct fixture *fixture, struct af_id codebase, bool has_names)
{
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err = {0};
    int rc = mux_import_begin(fixture->mux, codebase.text, &import, &err);
    if (rc == 0 && has_names)
        rc = mux_import_entry(import, "one", 3, S_IFREG | 0644, 0, NULL, 0, &err);
    if (rc == 0 && has_names)
        rc = mux_import_link(import, "dir/two", 7, "one", 3, &err);
    if (rc == 0 && !has_names)
        rc = mux_import_remove(import, "one", 3, &err);
    if (rc == 0 && !has_names)
        rc = mux_import_remove(import, "dir/two", 7, &err);
    if (rc == 0)
        rc = mux_import_commit(import, &totals, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
}

// A record that counts two names stays below when both are taken away above it.
static void test_a_file_that_lost_all_of_its_names_does_not_come_back(void **state)
{
    struct fixture *fixture = *state;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 3);
    import_step(fixture, codebase, true);
    uint64_t before = stats_of(fixture).inodes;
    import_step(fixture, codebase, false);
    for (size_t i = 0; i < 2 * DEPTH_FINE; i++) {
        struct view view = ops_view(fixture, codebase, "**=write");
        ops_put(&view, "dir/last", "text");
        ops_detach(&view);
        layers_push(fixture, codebase, view.sandbox);
    }
    drain(fixture);
    uint64_t removed;
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    assert_true(stats_of(fixture).inodes < before);
    assert_fsck_clean(fixture);
}

static void remove_by_name(struct fixture *fixture, struct af_id codebase, const char *path)
{
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err = {0};
    int rc = mux_import_begin(fixture->mux, codebase.text, &import, &err);
    if (rc == 0)
        rc = mux_import_remove(import, path, strlen(path), &err);
    if (rc == 0)
        rc = mux_import_commit(import, &totals, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
}

// What is written so far is legal at every step: also the mark of a directory that keeps its record
// without a name, for the sake of the whiteouts that it holds.
static void test_fsck_finds_nothing_in_a_merge_under_way(void **state)
{
    struct fixture *fixture = *state;
    struct store *store;
    struct store_txn *txn;
    struct store_merge *merge;
    uint64_t layers[STORE_MERGE_MAX];
    size_t count, stacks = 0;
    bool done = false;
    layers_reopen(fixture, false);
    store = mux_store(fixture->mux);
    struct af_id codebase = deep_codebase(fixture, 3); // the lowest layer stays out of the merge
    import_step(fixture, codebase, true);
    remove_by_name(fixture, codebase, "dir");
    new_sandbox(fixture, codebase); // so that the head is frozen
    assert_int_equal(store_read_begin(store, &txn), 0);
    assert_int_equal(store_stack_get(txn, get_codebase(fixture, codebase).stack, layers,
                                     STORE_MERGE_MAX, &count),
                     0);
    store_read_end(txn);
    assert_int_equal(store_merge_begin(store, layers, count - 1, false, &merge), 0);
    while (!done) {
        assert_int_equal(store_merge_step(merge, 1, &done), 0);
        assert_fsck_clean(fixture);
    }
    assert_int_equal(stats_of(fixture).orphans, 1);
    assert_int_equal(store_merge_swap(merge, &stacks), 0);
    assert_int_equal(stacks, 1);
    assert_fsck_clean(fixture);
    assert_int_equal(store_merge_end(merge), 0);
    store_merge_free(merge);
}

static void test_a_head_is_not_thawed_while_it_is_merged(void **state)
{
    struct fixture *fixture = *state;
    struct af_error err;
    bool more = true;
    layers_reopen(fixture, false);
    struct af_id codebase = deep_codebase(fixture, 9);
    struct af_id last = new_sandbox(fixture, codebase);
    assert_int_equal(mux_compact_step(fixture->mux, &more), 0); // the merge has begun
    assert_int_equal(mux_sandbox_destroy(fixture->mux, last.text, &err), 0);
    upload(fixture, codebase, "dir/f8", "uploaded meanwhile");
    last = new_sandbox(fixture, codebase);
    drain(fixture);
    char *text = download(fixture, codebase, "dir/f8");
    assert_string_equal(text, "uploaded meanwhile");
    free(text);
}

// Between the plan of a merge and its beginning an upload made the top layer the head again: what
// comes into it is in no merged layer.
static void test_a_head_that_was_thawed_is_not_merged(void **state)
{
    struct fixture *fixture = *state;
    struct store *store;
    struct store_txn *txn;
    struct store_merge *merge;
    struct af_error err;
    uint64_t planned[STORE_MERGE_MAX];
    size_t count;
    layers_reopen(fixture, false);
    store = mux_store(fixture->mux);
    struct af_id codebase = deep_codebase(fixture, 3);
    struct af_id last = new_sandbox(fixture, codebase);
    assert_int_equal(store_read_begin(store, &txn), 0);
    assert_int_equal(store_stack_get(txn, get_codebase(fixture, codebase).stack, planned,
                                     STORE_MERGE_MAX, &count),
                     0);
    store_read_end(txn);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, last.text, &err), 0);
    upload(fixture, codebase, "dir/f2", "uploaded meanwhile");
    assert_int_equal(get_codebase(fixture, codebase).head, planned[0]);
    assert_int_equal(store_merge_begin(store, planned, count, true, &merge), -ENOENT);
    assert_int_equal(store_merge_begin(store, planned + 1, count - 1, true, &merge), 0);
    assert_int_equal(store_merge_end(merge), 0);
    store_merge_free(merge);
    assert_fsck_clean(fixture);
}

static void test_a_codebase_deleted_during_its_merge_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct af_error err;
    for (int steps = 0; steps < 8; steps++) {
        layers_reopen(fixture, false);
        struct af_id codebase = deep_codebase(fixture, 9);
        bool more;
        for (int i = 0; i < steps; i++)
            assert_int_equal(mux_compact_step(fixture->mux, &more), 0);
        assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
        drain(fixture);
        assert_no_garbage(fixture, 0, 0, 0);
    }
}

// A stack that holds as many layers as there may be: making a sandbox merges, and is not refused.
static void test_a_full_stack_refuses_no_sandbox(void **state)
{
    struct fixture *fixture = *state;
    layers_reopen(fixture, false);
    struct af_id codebase_id = deep_codebase(fixture, 1);
    struct store *store = mux_store(fixture->mux);
    struct store_codebase codebase = get_codebase(fixture, codebase_id);
    struct store_txn *txn;
    static uint64_t layers[STORE_STACK_MAX];
    uint64_t stack;
    size_t count;
    assert_int_equal(store_write_begin(store, &txn), 0);
    assert_int_equal(store_stack_get(txn, codebase.stack, layers, STORE_STACK_MAX, &count), 0);
    memmove(layers + STORE_STACK_MAX - count, layers, count * sizeof *layers);
    for (size_t i = 0; i < STORE_STACK_MAX - count; i++) {
        assert_int_equal(store_layer_new(txn, &layers[i]), 0);
        assert_int_equal(store_layer_freeze(txn, layers[i]), 0);
    }
    assert_int_equal(store_stack_new(txn, layers, STORE_STACK_MAX, &stack), 0);
    for (size_t i = 0; i < STORE_STACK_MAX - count; i++)
        assert_int_equal(store_layer_unref(txn, layers[i]), 0);
    assert_int_equal(store_stack_unref(txn, codebase.stack), 0);
    codebase.stack = stack;
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
    assert_int_equal(store_commit(txn), 0);
    new_sandbox(fixture, codebase_id); // has the stack, so that its top cannot be the head again
    upload(fixture, codebase_id, "dir/new", "new");
    struct af_id sandbox = new_sandbox(fixture, codebase_id);
    assert_in_range(layers_depth_of_sandbox(fixture, sandbox), 1, MUX_STACK_SOFT_MAX);
    drain(fixture);
    assert_in_range(layers_depth_of_sandbox(fixture, sandbox), 1, DEPTH_FINE);
    char *told = layers_tell(fixture, sandbox);
    assert_non_null(strstr(told, "dir/new "));
    assert_non_null(strstr(told, "dir/f0 "));
    free(told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_random_histories_tell_the_same_tree),
        fixture_test(test_a_listing_goes_on_where_it_was),
        fixture_test(test_an_attached_view_keeps_its_nodeids_and_open_files),
        fixture_test(test_the_last_record_without_a_name_goes_with_its_view),
        fixture_test(test_an_import_under_way_is_not_disturbed),
        fixture_test(test_a_file_that_lost_all_of_its_names_does_not_come_back),
        fixture_test(test_fsck_finds_nothing_in_a_merge_under_way),
        fixture_test(test_a_head_is_not_thawed_while_it_is_merged),
        fixture_test(test_a_head_that_was_thawed_is_not_merged),
        fixture_test(test_a_codebase_deleted_during_its_merge_leaves_nothing),
        fixture_test(test_a_full_stack_refuses_no_sandbox),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
