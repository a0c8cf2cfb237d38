// P5: what is malformed is refused, with a sentence that says which rule and why.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"

static const char *refusal(const void *pattern, size_t len, int type)
{
    static struct af_error err;
    struct rules *rules = (struct rules *)&err; // must stay untouched
    struct rules_input list[] = {{"**/*", 4, 0, READ, 0}, {pattern, len, type, WRITE, 0}};
    err = (struct af_error){0};
    if (rules_compile(list, 2, &rules, &err) == 0)
        fail_msg("accepted: %.*s", (int)len, (const char *)pattern);
    assert_ptr_equal(rules, &err);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    if (!strstr(err.text, "rule 1"))
        fail_msg("does not name the rule: %s", err.text);
    return err.text;
}

static void refused(const char *pattern, const char *because)
{
    const char *text = refusal(pattern, strlen(pattern), 0);
    if (!strstr(text, because))
        fail_msg("%s: \"%s\" does not say \"%s\"", pattern, text, because);
}

static void test_P5_malformed_patterns_are_refused(void **state)
{
    (void)state;
    refused("", "empty");
    refused("a//b", "empty");
    refused("//a", "empty");
    refused("//", "empty");
    refused("a//", "empty");
    refused(".", "\"..\"");
    refused("a/../b", "\"..\"");
    refused("/./a", "\"..\"");
    refused("a/..", "\"..\"");
    refused("/\\../a", "\"..\"");
    refused("{a,..}/b", "\"..\"");
    refused("[a", "'[' is not closed");
    refused("a/[]", "'[' is not closed");
    refused("[!]", "'[' is not closed");
    refused("[a\\]", "'[' is not closed");
    refused("[a/b]", "'/' inside");
    refused("[a\\/b]", "'/' inside");
    refused("[z-a]", "reversed");
    refused("[[:alpha:]]", "named classes");
    refused("{a,b", "'{' is not closed");
    refused("{a,{b}", "'{' is not closed");
    refused("{[},]", "'{' is not closed");
    refused("a}", "'}' without '{'");
    refused("{a,b}}", "'}' without '{'");
    refused("a\\", "backslash");
    refused("{a,b\\", "backslash");
    refused("a\\/b", "escaped");
    refused("{,a}", "empty");
    refused("a/{,b}/c", "empty");
    refused("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", "more than 64 patterns");
    assert_non_null(strstr(refusal("a\0b", 3, 0), "NUL"));
    assert_non_null(strstr(refusal("a/", 2, RULES_FILE), "file rule"));
}

static void test_P5_what_is_too_long_is_refused(void **state)
{
    (void)state;
    char text[AF_PATTERN_MAX + 2];
    memset(text, 'x', sizeof text);
    for (size_t i = 100; i < sizeof text; i += 100)
        text[i] = '/';
    assert_non_null(strstr(refusal(text, AF_PATTERN_MAX + 1, 0), "longer than 1024"));
    struct rules *rules;
    struct af_error err;
    struct rules_input longest = {text, AF_PATTERN_MAX, 0, READ, 0};
    assert_int_equal(rules_compile(&longest, 1, &rules, &err), 0);
    rules_unref(rules);
    memset(text, 'x', sizeof text);
    assert_non_null(strstr(refusal(text, AF_NAME_MAX + 1, 0), "longer than any name"));
    for (size_t i = 0; i < 130; i += 2)
        memcpy(text + i, "a/", 2);
    refusal(text, 129, 0); // 65 components
    assert_non_null(strstr(refusal(text, 129, 0), "64 components"));
    assert_non_null(strstr(refusal(text, 128, 0), "64 components")); // a trailing slash is `**`
    struct rules_input deepest = {text, 127, 0, READ, 0};
    assert_int_equal(rules_compile(&deepest, 1, &rules, &err), 0);
    rules_unref(rules);
}

static void test_P5_unknown_enums_are_refused(void **state)
{
    (void)state;
    struct rules *rules;
    struct af_error err;
    const int bad[] = {-1, 4, 5, 100};
    for (size_t i = 0; i < AF_ARRAY_LEN(bad); i++) {
        struct rules_input type = {"a", 1, bad[i], READ, 0}, level = {"a", 1, 0, bad[i], 0};
        assert_int_equal(rules_compile(&type, 1, &rules, &err), -1);
        assert_non_null(strstr(err.text, "rule 0"));
        if (bad[i] == 4)
            continue; // is write
        assert_int_equal(rules_compile(&level, 1, &rules, &err), -1);
        assert_non_null(strstr(err.text, "rule 0"));
    }
}

static void test_P5_too_many_rules_are_refused(void **state)
{
    (void)state;
    static struct rules_input list[AF_RULES_MAX + 1];
    static char texts[AF_RULES_MAX][512];
    struct rules *rules;
    struct af_error err;
    for (size_t i = 0; i <= AF_RULES_MAX; i++)
        list[i] = (struct rules_input){"**/*", 4, 0, READ, (int32_t)i};
    assert_int_equal(rules_compile(list, AF_RULES_MAX + 1, &rules, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_int_equal(rules_compile(list, AF_RULES_MAX, &rules, &err), 0);
    assert_int_equal(rules_count(rules), AF_RULES_MAX);
    test_level(rules, "/a/b", READ);
    rules_unref(rules);
    // As many rules as allowed, but too large an automaton together.
    for (size_t i = 0; i < AF_RULES_MAX; i++) {
        snprintf(texts[i], sizeof texts[i], "/%zu/{b,c}{d,e}{f,g}/h", i);
        list[i] = (struct rules_input){texts[i], strlen(texts[i]), 0, READ, 0};
    }
    assert_int_equal(rules_compile(list, AF_RULES_MAX, &rules, &err), -1);
    assert_non_null(strstr(err.text, "16384"));
    assert_int_equal(rules_compile(list, 512, &rules, &err), 0);
    test_level(rules, "/511/cdg/h", READ);
    test_level(rules, "/512/cdg/h", NONE);
    rules_unref(rules);
}

static void test_a_hostile_pattern_is_quoted_printably(void **state)
{
    (void)state;
    const char *text = refusal("\x1b[31m\n\xff[", 8, 0);
    for (; *text; text++)
        assert_true((unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f);
}

static void test_the_list_is_kept_as_given(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"/a/", WRITE, -5, RULES_DIRECTORY}, {"b{c,d}"});
    assert_int_equal(rules_count(rules), 2);
    struct rules_input first = rules_at(rules, 0), second = rules_at(rules, 1);
    assert_memory_equal(first.pattern, "/a/", 3);
    assert_int_equal(first.type, RULES_DIRECTORY);
    assert_int_equal(first.level, WRITE);
    assert_int_equal(first.priority, -5);
    assert_int_equal(second.pattern_len, 6);
    assert_int_equal(second.type, RULES_GLOB);
    assert_int_equal(second.level, NONE);
    rules_unref(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P5_malformed_patterns_are_refused),
        cmocka_unit_test(test_P5_what_is_too_long_is_refused),
        cmocka_unit_test(test_P5_unknown_enums_are_refused),
        cmocka_unit_test(test_P5_too_many_rules_are_refused),
        cmocka_unit_test(test_a_hostile_pattern_is_quoted_printably),
        cmocka_unit_test(test_the_list_is_kept_as_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
