// Looking into a view: levels, where records are, which rule decides.
#include "tests/unit/mux/delta_writer.h"

#include <string.h>
#include <sys/stat.h>

static const struct store_rule rules[] = {
    {.pattern = "/src/app/**", .pattern_len = 11, .type = 1, .level = 3},
    {.pattern = "/out/**", .pattern_len = 7, .type = 1, .level = 4},
    {.pattern = "/seen", .pattern_len = 5, .type = 3, .level = 2},
    {.pattern = "**/*.key", .pattern_len = 8, .type = 1, .level = 1, .priority = 100},
};

static struct delta_writer view_of(struct fixture *f)
{
    struct af_id codebase = new_codebase(f), id;
    static const char *const paths[] = {"src/app/main.c", "src/app/k.key", "src/other/x",
                                        "out/o",          "seen",          "hidden"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        upload(f, codebase, paths[i], paths[i]);
    struct mux_sandbox_spec spec = {.codebase_id = codebase.text, .rules = rules, .n_rules = 4};
    struct af_error err;
    if (mux_sandbox_create(f->mux, &spec, &id, &err) < 0)
        fail_msg("%s", err.text);
    return (struct delta_writer){.fixture = f, .sandbox = id};
}

static int print_node(void *arg, const struct mux_tree_node *node)
{
    fprintf(arg, "%s %s%s%s%s\n", node->path, rules_level_name(node->level),
            node->traversable_only ? " traversable" : "", node->symlink_target ? " -> " : "",
            node->symlink_target ? node->symlink_target : "");
    return 0;
}

static void assert_tree(struct delta_writer *w, const char *path, uint32_t depth, bool all,
                        const char *expected)
{
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    if (mux_inspect_tree(w->fixture->mux, w->sandbox.text, path, strlen(path), depth, all,
                         print_node, out, &err) < 0)
        fail_msg("%s", err.text);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

static void test_P3_the_tree_is_what_the_sandbox_sees(void **state)
{
    struct delta_writer w = view_of(*state);
    assert_tree(&w, "", 0, false,
                "out write\nout/o write\nseen view\nsrc none traversable\nsrc/app read\n"
                "src/app/main.c read\n");
    assert_tree(&w, "", 1, false, "out write\nseen view\nsrc none traversable\n");
    assert_tree(&w, "/src/", 1, false, "src/app read\n");
    assert_tree(&w, "src", 0, true,
                "src/app read\nsrc/app/k.key none\nsrc/app/main.c read\n"
                "src/other none\nsrc/other/x none\n");
    assert_int_equal(delta_symlink(&w, "out/link", "/etc/passwd"), 0);
    assert_int_equal(delta_unlink(&w, "out/o"), 0);
    assert_tree(&w, "out", 0, false, "out/link write -> /etc/passwd\n");
}

static int never(void *arg, const struct mux_tree_node *node)
{
    (void)arg;
    (void)node;
    fail();
    return 0;
}

static int stop_with_3(void *arg, const struct mux_tree_node *node)
{
    (void)arg;
    (void)node;
    return 3;
}

static void test_tree_errors(void **state)
{
    struct delta_writer w = view_of(*state);
    struct mux *mux = w.fixture->mux;
    struct af_error err;
#define TREE(id, path) mux_inspect_tree(mux, id, path, strlen(path), 0, false, never, NULL, &err)
    expect_error(TREE(w.sandbox.text, "nope"), &err, AF_NOT_FOUND, "nope");
    expect_error(TREE(w.sandbox.text, "seen"), &err, AF_INVALID_ARGUMENT, "no directory");
    expect_error(TREE(w.sandbox.text, "src/other"), &err, AF_NOT_FOUND, "hidden");
    expect_error(TREE(w.sandbox.text, "../x"), &err, AF_INVALID_ARGUMENT, "'..'");
    expect_error(TREE(UNKNOWN_SANDBOX, ""), &err, AF_NOT_FOUND, UNKNOWN_SANDBOX);
    assert_int_equal(
        mux_inspect_tree(mux, w.sandbox.text, "", 0, 0, false, stop_with_3, NULL, &err), 3);
}

static struct mux_node_info stat_of(struct delta_writer *w, const char *path)
{
    struct mux_node_info info;
    struct af_error err;
    if (mux_inspect_stat(w->fixture->mux, w->sandbox.text, path, strlen(path), &info, &err) < 0)
        fail_msg("%s", err.text);
    return info;
}

static void test_stat_tells_level_layer_and_content(void **state)
{
    struct delta_writer w = view_of(*state);
    struct mux_node_info info = stat_of(&w, "src/app/main.c");
    assert_int_equal(info.mode, S_IFREG | 0644);
    assert_int_equal(info.level, RULES_READ);
    assert_int_equal(info.size, 14);
    assert_true(info.is_inline && !info.in_delta && info.blob == 0);
    assert_int_equal(info.nlink, 1);
    assert_int_equal(info.nodeid, 0); // not attached
    uint64_t fid = info.fid, layer = info.layer;
    assert_int_equal(delta_write(&w, "src/app/main.c", "changed"), 0);
    info = stat_of(&w, "/src/app/main.c");
    assert_true(info.in_delta && info.layer != layer);
    assert_int_equal(info.fid, fid); // D8: identity survives the change
    info = stat_of(&w, "src");
    assert_true(info.traversable_only && info.level == RULES_NONE);
    info = stat_of(&w, "src/other");
    assert_false(info.traversable_only);
    info = stat_of(&w, "");
    assert_true(S_ISDIR(info.mode));
    assert_int_equal(delta_symlink(&w, "out/l", "../x"), 0);
    info = stat_of(&w, "out/l");
    assert_string_equal(info.symlink_target, "../x");
    struct af_error err;
    expect_error(mux_inspect_stat(w.fixture->mux, w.sandbox.text, "out/l/x", 7, &info, &err), &err,
                 AF_INVALID_ARGUMENT, "not followed");
}

static void test_an_attached_view_has_a_slot_and_nodeids(void **state)
{
    struct delta_writer w = view_of(*state);
    struct mux_attachment attachment;
    struct af_error err;
    if (mux_view_attach(w.fixture->mux, w.sandbox.text, &attachment, &err) < 0)
        fail_msg("%s", err.text);
    struct mux_node_info info = stat_of(&w, "src");
    assert_true(info.nodeid != 0 && !info.shared);
    info = stat_of(&w, "src/app/main.c"); // unmodified, not writable: one for all views
    assert_true(info.nodeid != 0 && info.shared);
    info = stat_of(&w, "out/o");
    assert_true(info.nodeid != 0 && !info.shared);
    mux_view_detach(w.fixture->mux, w.sandbox.text);
    assert_int_equal(stat_of(&w, "src").nodeid, 0);
}

static void test_explain_names_the_winning_rule(void **state)
{
    struct delta_writer w = view_of(*state);
    struct rules_explanation why = {0};
    struct af_error err;
    bool exists;
#define EXPLAIN(path)                                                                              \
    mux_inspect_explain(w.fixture->mux, w.sandbox.text, path, strlen(path), &why, &exists, &err)
    assert_int_equal(EXPLAIN("src/app/k.key"), 0);
    assert_true(exists);
    assert_int_equal(why.level, RULES_NONE);
    assert_true(why.n_matches == 2 && why.matches[0].index == 3 && why.matches[1].index == 0);
    assert_false(why.traversable_only); // a file
    rules_explanation_fini(&why);
    assert_int_equal(EXPLAIN("src/app/none.key"), 0);
    assert_true(!exists && why.traversable_only); // it may become a directory
    rules_explanation_fini(&why);
    assert_int_equal(EXPLAIN("src/app/none/yet"), 0);
    assert_false(exists);
    assert_int_equal(why.level, RULES_READ);
    rules_explanation_fini(&why);
    assert_int_equal(EXPLAIN("seen/below/a/file"), 0);
    assert_false(exists);
    rules_explanation_fini(&why);
    expect_error(EXPLAIN("a/../b"), &err, AF_INVALID_ARGUMENT, "'..'");
}

struct found {
    struct mux_view_info info;
    size_t count;
};

static int find_view(void *arg, const struct mux_view_info *info)
{
    struct found *found = arg;
    found->info = *info;
    found->count++;
    return 0;
}

static void test_views_tell_their_sizes_and_slots(void **state)
{
    struct delta_writer w = view_of(*state);
    struct found found = {0};
    struct mux_attachment attachment;
    struct af_error err;
    assert_int_equal(delta_write(&w, "out/new", "12345"), 0);
    assert_int_equal(mux_inspect_views(w.fixture->mux, find_view, &found, &err), 0);
    assert_int_equal(found.count, 1);
    assert_string_equal(found.info.sandbox_id.text, w.sandbox.text);
    assert_int_equal(found.info.slot, 0);
    assert_int_equal(found.info.stack_depth, 1);
    assert_int_equal(found.info.n_rules, 4);
    assert_int_equal(found.info.delta_bytes, 5);
    assert_int_equal(found.info.delta_inodes, 1);
    assert_int_equal(mux_view_attach(w.fixture->mux, w.sandbox.text, &attachment, &err), 0);
    assert_int_equal(mux_inspect_views(w.fixture->mux, find_view, &found, &err), 0);
    assert_int_equal(found.info.slot, attachment.slot);
    assert_int_equal(found.info.uid, attachment.uid);
    mux_view_detach(w.fixture->mux, w.sandbox.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_P3_the_tree_is_what_the_sandbox_sees),
        fixture_test(test_tree_errors),
        fixture_test(test_stat_tells_level_layer_and_content),
        fixture_test(test_an_attached_view_has_a_slot_and_nodeids),
        fixture_test(test_explain_names_the_winning_rule),
        fixture_test(test_views_tell_their_sizes_and_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
