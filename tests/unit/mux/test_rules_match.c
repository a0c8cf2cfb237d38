// What a pattern covers, and which of several wins. Names carry the ids of docs/RULES.md.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/clock.h"

static void test_P1_doublestar_is_zero_or_more_components(void **state)
{
    (void)state;
    const char *covered[] = {"/secrets", "/secrets/db.json", "/a/b/secrets", "/a/b/secrets/c/d"};
    for (size_t i = 0; i < 4; i++)
        test_covers("**/secrets/**", covered[i]);
    test_covers("**/.git/**", "/.git/config");
    test_covers("**/.git/**", "/.git");
    test_covers("/x/**", "/x");
    test_covers("/x/**", "/x/a/b/c");
    test_covers("/x/**/y", "/x/y");
    test_covers("/x/**/y", "/x/1/2/3/y");
    test_covers("/**/x", "/x");
    test_covers("**", "/a/b");
    test_covers("a/**/b/**/c", "/a/b/c");
    test_covers("a/**/b/**/c", "/a/b/1/b/2/c");
    test_covers_not("**/secrets/**", "/secret");
    test_covers_not("**/secrets/**", "/a/secrets2/b");
    test_covers_not("/x/**", "/xy");
    test_covers_not("/x/**/y", "/x/1/2/3/z");
    test_covers_not("/x/**/y", "/x/y/z");
}

static void test_P2_the_rest_after_doublestar_is_matched_whole(void **state)
{
    (void)state;
    test_covers("/src/**/test/*.py", "/src/test/a.py");
    test_covers("/src/**/test/*.py", "/src/1/2/test/a.py");
    test_covers_not("/src/**/test/*.py", "/src/a.py");
    test_covers_not("/src/**/test/*.py", "/src/1/a.py");
    test_covers_not("/src/**/test/*.py", "/src/test/deep/a.py");
    test_covers_not("/src/**/test/*.py", "/test/a.py");
}

static void test_P3_ancestors_of_what_may_be_visible_are_not_hidden(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"/src/app/**", READ});
    test_level(rules, "/", NONE);
    test_level(rules, "/src", NONE);
    test_level(rules, "/src/app", READ);
    assert_false(test_facts(rules, "/").hidden);
    assert_false(test_facts(rules, "/src").hidden);
    assert_int_equal(test_facts(rules, "/src").below_max, READ);
    assert_true(test_facts(rules, "/src/other").hidden);
    assert_true(test_facts(rules, "/lib").hidden);
    rules_unref(rules);
}

static void test_P4_a_rule_below_a_directory_grants_nothing_on_it(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"**/*", READ}, {"/keep/**/*.py", WRITE, 10});
    test_level(rules, "/keep", READ);
    test_level(rules, "/keep/x", READ);
    test_level(rules, "/keep/a.py", WRITE);
    test_level(rules, "/keep/x/y/a.py", WRITE);
    rules_unref(rules);
    rules = COMPILE({"/keep/**/*.py", WRITE});
    test_level(rules, "/keep", NONE);
    assert_false(test_facts(rules, "/keep").hidden);
    rules_unref(rules);
}

static void test_P5_different_patterns_in_a_full_tie_give_the_most_restrictive(void **state)
{
    (void)state;
    // The most restrictive is view; the order in which they are given does not matter.
    const struct test_rule ties[][2] = {
        {{"/src/mai*.py", WRITE}, {"/src/mai?.py", VIEW}},
        {{"/src/mai?.py", VIEW}, {"/src/mai*.py", WRITE}},
        {{"/src/*", VIEW}, {"/src/**", WRITE}},
        {{"/src/**", WRITE}, {"/src/*", VIEW}},
        {{"**/*", WRITE}, {"**", VIEW}},
        {{"**/m*", WRITE}, {"**/*m*", VIEW}},
    };
    for (size_t i = 0; i < sizeof ties / sizeof ties[0]; i++) {
        struct rules *rules = test_compile(ties[i], 2);
        test_level(rules, "/src/main.py", VIEW);
        rules_unref(rules);
    }
}

static void test_the_pattern_set_that_covers_the_root(void **state)
{
    (void)state;
    const char *root[] = {"**/*", "**", "/**", "/**/*", "**/**/*", "/"};
    for (size_t i = 0; i < 6; i++)
        test_covers(root[i], "/");
    const char *not_root[] = {"*", "/*", "**/a", "*/**", "**/*/*", "**/*/**", "?", "**/?"};
    for (size_t i = 0; i < 8; i++)
        test_covers_not(not_root[i], "/");
    assert_true(test_covers_as("/", RULES_DIRECTORY, "/"));
    assert_true(test_covers_as("/", RULES_DIRECTORY, "/a/b"));
    assert_true(test_covers_as("/", RULES_FILE, "/"));
    assert_false(test_covers_as("/", RULES_FILE, "/a"));
    test_covers_not("/", "/a");
}

static void test_a_pattern_without_slash_is_anchored_at_the_root(void **state)
{
    (void)state;
    test_covers("*.txt", "/a.txt");
    test_covers_not("*.txt", "/d/a.txt");
    test_covers(".env", "/.env");
    test_covers_not(".env", "/d/.env");
    test_covers("src/*.c", "/src/a.c");
    test_covers_not("src/*.c", "/x/src/a.c");
}

static void test_types_cover_exactly_or_everything_below(void **state)
{
    (void)state;
    assert_true(test_covers_as("/d", RULES_DIRECTORY, "/d"));
    assert_true(test_covers_as("d", RULES_DIRECTORY, "/d/e/f"));
    assert_true(test_covers_as("/d/", RULES_DIRECTORY, "/d/e"));
    assert_false(test_covers_as("/d", RULES_DIRECTORY, "/de"));
    assert_true(test_covers_as("**/node_modules", RULES_DIRECTORY, "/a/node_modules/b/c"));
    assert_true(test_covers_as("/d", RULES_FILE, "/d"));
    assert_false(test_covers_as("/d", RULES_FILE, "/d/e"));
    test_covers("/d", "/d");
    test_covers_not("/d", "/d/e");
    test_covers("/d/", "/d");
    test_covers("/d/", "/d/e/f");
}

static void test_wildcards_stay_within_one_component(void **state)
{
    (void)state;
    const struct {
        const char *pattern, *path;
        bool covers;
    } cases[] = {
        {"/a*", "/abc", true},
        {"/a*", "/a", true},
        {"/a*", "/a/b", false},
        {"/*", "/.hidden", true},
        {"/?", "/a", true},
        {"/?", "/ab", false},
        {"/?", "/\xc3\xa4", false},
        {"/??", "/\xc3\xa4", true},
        {"/[ab]c", "/ac", true},
        {"/[ab]c", "/cc", false},
        {"/[!ab]c", "/cc", true},
        {"/[^ab]c", "/ac", false},
        {"/[a-c]", "/b", true},
        {"/[a-c]", "/d", false},
        {"/[]]", "/]", true},
        {"/[!]]", "/]", false},
        {"/[]a]", "/a", true},
        {"/[a-]", "/-", true},
        {"/[-a]", "/-", true},
        {"/[\\]x]", "/]", true},
        {"/[\\]x]", "/\\", false},
        {"/[a\\-c]", "/b", false},
        {"/[a\\-c]", "/-", true},
        {"/\\*", "/*", true},
        {"/\\*", "/a", false},
        {"/\\[a]", "/[a]", true},
        {"/\\a", "/a", true},
        {"/a\\\\b", "/a\\b", true},
        {"/\\{a,b\\}", "/{a,b}", true},
        {"/a**b", "/axxb", true},
        {"/a**b", "/a/b", false},
        {"/***", "/abc", true},
        {"/***", "/a/b", false},
        {"/a]", "/a]", true},
        {"/a,b", "/a,b", true},
        {"/\\*\\*", "/a/b", false},
        {"/\\*\\*", "/**", true},
        {"/*a*b*c", "/1a2b3c", true},
        {"/*a*b*c", "/1a2c3b", false},
        {"/*ab", "/aab", true},
        {"/*ab*", "/aab", true},
        {"/a?*", "/a", false},
        {"/a?*", "/ab", true},
        {"/[\x80-\xff]*", "/\xc3\xa4", true},
        {"/*.k?y", "/a.key", true},
        {"/*\n*", "/a\nb", true},
        {"/ab*ba", "/aba", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (test_covers_as(cases[i].pattern, RULES_GLOB, cases[i].path) != cases[i].covers)
            fail_msg("case %zu: %s on %s", i, cases[i].pattern, cases[i].path);
    }
}

static void test_braces_are_alternatives(void **state)
{
    (void)state;
    test_covers("/{a,b}", "/a");
    test_covers("/{a,b}", "/b");
    test_covers_not("/{a,b}", "/c");
    test_covers("/{a,b{c,d}}e", "/bde");
    test_covers("/{a/b,c}/d", "/a/b/d");
    test_covers("/x{,.bak}", "/x");
    test_covers("/x{,.bak}", "/x.bak");
    test_covers("/{a}", "/a");
    test_covers("/{[,],b}", "/,");
    test_covers("/{\\,,b}", "/,");
    test_covers("/{[}],b}", "/}");
    test_covers("**/*.{key,pem}", "/d/x.pem");
    test_covers("{/a,/b}/**", "/b/c");
    // Each alternative has its own rank.
    struct rules *rules = COMPILE({"{/a/b/c,**/z}", READ}, {"/a/b/*", WRITE}, {"/*", WRITE});
    test_level(rules, "/a/b/c", READ);
    test_level(rules, "/z", WRITE);
    rules_unref(rules);
}

static void test_the_order_of_criteria(void **state)
{
    (void)state;
    // In each pair the first must win; both cover the path.
    const struct {
        struct test_rule winner, loser;
        const char *path;
    } cases[] = {
        {{"**/*", READ, 1}, {"/a/b", NONE, 0, RULES_FILE}, "/a/b"},
        {{"**/*", READ, -1}, {"/a/b", NONE, -2}, "/a/b"},
        {{"**/b", READ, 0, RULES_FILE}, {"/a/b", NONE, 0, RULES_DIRECTORY}, "/a/b"},
        {{"/a", READ, 0, RULES_DIRECTORY}, {"/a/b/c", NONE}, "/a/b/c"},
        {{"/*/b", READ}, {"**/b", NONE}, "/a/b"},
        {{"/a/*", READ}, {"/*/bbbbbb", NONE}, "/a/bbbbbb"},
        {{"/src/**", READ}, {"/src*/**", NONE}, "/src/a"},
        {{"/a/b", READ}, {"/a/b*", NONE}, "/a/b"},
        {{"/a", READ}, {"/a/**", NONE}, "/a"},
        {{"/a/*.min.js", READ}, {"/a/*.js", NONE}, "/a/x.min.js"},
        {{"**/x/*y", READ}, {"**/x/*", NONE}, "/x/y"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_rule both[2] = {cases[i].loser, cases[i].winner};
        struct rules *rules = test_compile(both, 2);
        test_level(rules, cases[i].path, (enum rules_level)cases[i].winner.level);
        rules_unref(rules);
    }
}

static void test_the_same_pattern_again_replaces_the_earlier(void **state)
{
    (void)state;
    struct rules *rules =
        COMPILE({"**/*", VIEW}, {"/**/*", READ}, {"/a/", NONE}, {"a/**", WRITE}, {"b", NONE},
                {"/b", WRITE}, {"/c", NONE, 1}, {"/c", WRITE}, {"/d", NONE, 0, RULES_FILE},
                {"/d", WRITE}, {"/{e,f}", NONE}, {"/e", WRITE});
    test_level(rules, "/x", READ);
    test_level(rules, "/a/1", WRITE);
    test_level(rules, "/b", WRITE);
    test_level(rules, "/c", NONE); // another priority: another rule
    test_level(rules, "/d", NONE); // another type
    test_level(rules, "/e", WRITE);
    test_level(rules, "/f", NONE);
    rules_unref(rules);
}

static void test_no_rule_and_unset_values_mean_none(void **state)
{
    (void)state;
    struct rules *rules = test_compile(NULL, 0);
    test_level(rules, "/", NONE);
    assert_true(test_facts(rules, "/").hidden);
    assert_true(test_facts(rules, "/a/b").hidden);
    rules_unref(rules);
    rules = COMPILE({"**/*", WRITE}, {"/a/**", 0, 1, 0});
    test_level(rules, "/a/b", NONE);
    test_level(rules, "/b", WRITE);
    rules_unref(rules);
}

static void test_hostile_stars_take_no_exponential_time(void **state)
{
    (void)state;
    char pattern[AF_NAME_MAX * 2 + 8] = "/", name[AF_NAME_MAX + 1];
    for (size_t i = 0; i < 200; i++)
        strcat(pattern, "*a");
    strcat(pattern, "*b");
    memset(name, 'a', AF_NAME_MAX);
    name[AF_NAME_MAX] = '\0';
    struct rules *rules = COMPILE({pattern, READ});
    int64_t start = af_monotonic_ns();
    for (int i = 0; i < 1000; i++)
        rules_state_release(rules, rules_step(rules, rules_root(rules), name, AF_NAME_MAX));
    int64_t took_ns = af_monotonic_ns() - start;
    test_level(rules, name, NONE);
    rules_unref(rules);
    // 65,025 byte comparisons at most each; backtracking would not end before the sun does.
    assert_true(took_ns < 30 * AF_NS_PER_SEC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P1_doublestar_is_zero_or_more_components),
        cmocka_unit_test(test_P2_the_rest_after_doublestar_is_matched_whole),
        cmocka_unit_test(test_P3_ancestors_of_what_may_be_visible_are_not_hidden),
        cmocka_unit_test(test_P4_a_rule_below_a_directory_grants_nothing_on_it),
        cmocka_unit_test(test_P5_different_patterns_in_a_full_tie_give_the_most_restrictive),
        cmocka_unit_test(test_the_pattern_set_that_covers_the_root),
        cmocka_unit_test(test_a_pattern_without_slash_is_anchored_at_the_root),
        cmocka_unit_test(test_types_cover_exactly_or_everything_below),
        cmocka_unit_test(test_wildcards_stay_within_one_component),
        cmocka_unit_test(test_braces_are_alternatives),
        cmocka_unit_test(test_the_order_of_criteria),
        cmocka_unit_test(test_the_same_pattern_again_replaces_the_earlier),
        cmocka_unit_test(test_no_rule_and_unset_values_mean_none),
        cmocka_unit_test(test_hostile_stars_take_no_exponential_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
