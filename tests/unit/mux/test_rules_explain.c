// What agentfense-fsctl explain tells: the winner, the losers, the reason.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"

#include <errno.h>

static struct rules_explanation explain(struct rules *rules, const char *path)
{
    struct rules_explanation e;
    int r = rules_explain(rules, path, strlen(path), &e);
    if (r < 0)
        fail_msg("%s: %s", path, strerror(-r));
    return e;
}

static void says(const struct rules_explanation *e, const char *text)
{
    if (!strstr(e->reason, text))
        fail_msg("\"%s\" does not say \"%s\"", e->reason, text);
}

static void test_the_winner_comes_first_with_original_indexes(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"**/*", READ}, {"/a/b", WRITE}, {"**/b", NONE, 5, RULES_FILE},
                                  {"/zzz", WRITE, 100});
    struct rules_explanation e = explain(rules, "/a/b");
    assert_int_equal(e.level, NONE);
    assert_int_equal(e.n_matches, 3);
    assert_int_equal(e.matches[0].index, 2);
    assert_int_equal(e.matches[1].index, 1);
    assert_int_equal(e.matches[2].index, 0);
    assert_string_equal(e.matches[0].pattern, "**/b");
    assert_int_equal(e.matches[0].pattern_len, 4);
    assert_int_equal(e.matches[0].type, RULES_FILE);
    assert_int_equal(e.matches[0].level, NONE);
    assert_int_equal(e.matches[0].priority, 5);
    assert_false(e.matches[0].replaced);
    assert_true(e.traversable_only); // /a/b/c is read
    says(&e, "rule 2 (**/b, file, none, priority 5) wins over rule 1 (/a/b, write): its priority");
    says(&e, "can be entered");
    rules_explanation_fini(&e);
    rules_explanation_fini(&e);
    rules_unref(rules);
}

static void test_every_criterion_has_its_reason(void **state)
{
    (void)state;
    const struct {
        struct test_rule a, b;
        const char *path, *reason;
    } cases[] = {
        {{"/a", READ, 1}, {"/a", READ, 2}, "a", "priority is higher"},
        {{"/a", READ}, {"/a", READ, 0, RULES_FILE}, "a", "a file rule goes before"},
        {{"**/a", READ}, {"/a", READ}, "a", "rooted"},
        {{"/a*", READ}, {"/ab*", READ}, "ab", "before its first wildcard"},
        {{"/a/**", READ}, {"/a", READ}, "a", "no wildcard"},
        {{"/a*b", READ}, {"/a*", READ}, "ab", "more literal bytes"},
        {{"/a*", READ}, {"/a?", NONE}, "ab", "most restrictive"},
        {{"/a*", READ}, {"/a?", READ}, "ab", "both say the same"},
        {{"/a*", READ}, {"/b", READ}, "ab", "the only one"},
        {{"/a", READ}, {"/b", READ}, "c", "no rule matches"},
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(cases); i++) {
        struct test_rule both[] = {cases[i].a, cases[i].b};
        struct rules *rules = test_compile(both, 2);
        struct rules_explanation e = explain(rules, cases[i].path);
        says(&e, cases[i].reason);
        rules_explanation_fini(&e);
        rules_unref(rules);
    }
}

static void test_replaced_rules_come_last_and_are_marked(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"**/*", WRITE}, {"/a", NONE, -1}, {"/**/*", READ});
    struct rules_explanation e = explain(rules, "a");
    assert_int_equal(e.level, READ);
    assert_int_equal(e.n_matches, 3);
    assert_int_equal(e.matches[0].index, 2);
    assert_int_equal(e.matches[1].index, 1);
    assert_int_equal(e.matches[2].index, 0);
    assert_true(e.matches[2].replaced);
    rules_explanation_fini(&e);
    rules_unref(rules);
}

static void test_a_rule_with_braces_is_named_once(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"{**/*,/a/*,/a/b}", READ});
    struct rules_explanation e = explain(rules, "/a/b");
    assert_int_equal(e.n_matches, 1);
    assert_string_equal(e.matches[0].pattern, "{**/*,/a/*,/a/b}");
    rules_explanation_fini(&e);
    rules_unref(rules);
}

static void test_paths_are_read_leniently_and_escapes_refused(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"/a/b", READ});
    const char *same[] = {"a/b", "/a/b", "//a/./b/", "a//b"};
    for (size_t i = 0; i < AF_ARRAY_LEN(same); i++) {
        struct rules_explanation e = explain(rules, same[i]);
        assert_int_equal(e.level, READ);
        rules_explanation_fini(&e);
    }
    struct rules_explanation root = explain(rules, "");
    assert_true(root.traversable_only);
    rules_explanation_fini(&root);
    struct rules_explanation e = {.n_matches = 77};
    static char long_path[AF_PATH_MAX + 2];
    memset(long_path, 'a', sizeof long_path);
    assert_int_equal(rules_explain(rules, "a/../b", 6, &e), -EINVAL);
    assert_int_equal(rules_explain(rules, "a\0b", 3, &e), -EINVAL);
    assert_int_equal(rules_explain(rules, long_path, sizeof long_path, &e), -ENAMETOOLONG);
    assert_int_equal(e.n_matches, 77);
    rules_unref(rules);
}

static void test_names_of_levels_and_types(void **state)
{
    (void)state;
    assert_string_equal(rules_level_name(WRITE), "write");
    assert_string_equal(rules_level_name(NONE), "none");
    assert_string_equal(rules_level_name((enum rules_level)0), "unknown");
    assert_string_equal(rules_level_name((enum rules_level)9), "unknown");
    assert_string_equal(rules_type_name(RULES_GLOB), "glob");
    assert_string_equal(rules_type_name((enum rules_type)4), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_winner_comes_first_with_original_indexes),
        cmocka_unit_test(test_every_criterion_has_its_reason),
        cmocka_unit_test(test_replaced_rules_come_last_and_are_marked),
        cmocka_unit_test(test_a_rule_with_braces_is_named_once),
        cmocka_unit_test(test_paths_are_read_leniently_and_escapes_refused),
        cmocka_unit_test(test_names_of_levels_and_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
