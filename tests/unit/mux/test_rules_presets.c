// The presets do what their names promise, path by path, and cannot be made to grow.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"
#include "mux/presets.h"

static struct rules *compile_preset(const char *name)
{
    const struct preset *preset = presets_get(name);
    struct rules *rules;
    struct af_error err;
    assert_non_null(preset);
    if (rules_compile(preset->rules, preset->n_rules, &rules, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    return rules;
}

struct expected {
    const char *path;
    enum rules_level level;
};

static void check(const char *name, const struct expected *list, size_t n)
{
    struct rules *rules = compile_preset(name);
    for (size_t i = 0; i < n; i++)
        test_level(rules, list[i].path, list[i].level);
    rules_unref(rules);
}
#define CHECK(name, ...)                                                                           \
    check(name, (const struct expected[]){__VA_ARGS__},                                            \
          sizeof((const struct expected[]){__VA_ARGS__}) / sizeof(struct expected))

static void test_P1_agent_safe(void **state)
{
    (void)state;
    CHECK("agent-safe", {"/", READ}, {"/src/main.py", READ}, {"/output", WRITE},
          {"/output/a/b", WRITE}, {"/tmp", WRITE}, {"/tmp/x", WRITE}, {"/src/tmp/x", READ},
          {"/.env", NONE}, {"/a/.env.local", NONE}, {"/output/.env", NONE}, {"/secrets", NONE},
          {"/secrets/db.json", NONE}, {"/a/b/secrets/c/d", NONE}, {"/output/secrets/x", NONE},
          {"/id.key", NONE}, {"/a/b.pem", NONE}, {"/credentials.json", NONE},
          {"/a/credentials", NONE}, {"/.git", NONE}, {"/.git/config", NONE},
          {"/tmp/repo/.git/HEAD", NONE}, {"/.gitignore", READ}, {"/keyboard", READ});
}

static void test_the_other_presets(void **state)
{
    (void)state;
    CHECK("read-only", {"/", READ}, {"/a/b", READ}, {"/secrets/x", READ});
    CHECK("full-access", {"/", WRITE}, {"/a/b", WRITE}, {"/.env", WRITE});
    CHECK("view-only", {"/", VIEW}, {"/a/b", VIEW}, {"/.env", VIEW});
    CHECK("development", {"/", WRITE}, {"/a/b", WRITE}, {"/.env", NONE}, {"/a/secrets/x", NONE},
          {"/a/x.key", NONE}, {"/x.pem", NONE}, {"/.git/config", WRITE}, {"/credentials", WRITE});
}

static void test_presets_are_listed_in_order(void **state)
{
    (void)state;
    const char *names[] = {"agent-safe", "read-only", "full-access", "view-only", "development"};
    size_t n;
    const struct preset *all = presets_list(&n);
    assert_int_equal(n, AF_ARRAY_LEN(names));
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(all[i].name, names[i]);
        assert_true(strlen(all[i].summary) > 10);
        assert_ptr_equal(presets_get(names[i]), &all[i]);
    }
    assert_null(presets_get("agent_safe"));
    assert_null(presets_get(""));
}

// A client's extra rules after a preset's.
static void test_a_rule_after_the_preset_replaces_its_base(void **state)
{
    (void)state;
    const struct preset *preset = presets_get("view-only");
    struct rules_input list[] = {preset->rules[0], {"**/*", 4, 0, READ, 0}};
    struct rules *rules;
    struct af_error err;
    assert_int_equal(rules_compile(list, 2, &rules, &err), 0);
    test_level(rules, "/a", READ);
    rules_unref(rules);
}

// All names that could lead anywhere new: no tree makes a preset's automaton large.
static void test_no_tree_makes_many_states_of_a_preset(void **state)
{
    (void)state;
    static const char *const names[] = {"output", "tmp",      ".env",           "secrets",
                                        "a.key",  "a.pem",    "credentials",    ".git",
                                        "x",      ".env.key", "credentials.pem"};
    size_t n;
    const struct preset *all = presets_list(&n);
    for (size_t i = 0; i < n; i++) {
        struct rules *rules = compile_preset(all[i].name);
        struct rules_stats stats;
        rules_state known[256] = {rules_root(rules)};
        size_t n_known = 1;
        for (size_t at = 0; at < n_known; at++) {
            for (size_t k = 0; k < AF_ARRAY_LEN(names); k++) {
                rules_state s = rules_step(rules, known[at], names[k], strlen(names[k]));
                size_t j = 0;
                while (j < n_known && known[j] != s)
                    j++;
                assert_true(j < AF_ARRAY_LEN(known));
                known[j] = s;
                n_known += j == n_known;
            }
        }
        rules_get_stats(rules, &stats);
        print_message("%s: %zu states, %zu bytes\n", all[i].name, stats.states_resident,
                      stats.state_bytes);
        assert_true(stats.states_resident < 64);
        assert_int_equal(stats.states_overflow, 0);
        rules_unref(rules);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P1_agent_safe),
        cmocka_unit_test(test_the_other_presets),
        cmocka_unit_test(test_presets_are_listed_in_order),
        cmocka_unit_test(test_a_rule_after_the_preset_replaces_its_base),
        cmocka_unit_test(test_no_tree_makes_many_states_of_a_preset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
