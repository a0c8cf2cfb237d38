// What a step costs once its states are there. Prints figures; fails only on what is not a figure.
//
//   make unit VARIANT=release T=tests/unit/mux/test_rules_speed.c
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/presets.h"

#include <malloc.h>

#define ROUNDS 2000000

static const char *const names[] = {"src",          "main.c",   "README.md",          "a",
                                    "node_modules", "index.js", "test_rules_speed.c", "lib"};

// Nanoseconds a step from `from`; names: of any of the list (NULL: those above).
static double step_ns(struct rules *rules, const char *from, const char *only)
{
    size_t lens[AF_ARRAY_LEN(names)], only_len = only ? strlen(only) : 0;
    rules_state at = rules_walk(rules, from, strlen(from)), sum = 0;
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        lens[i] = strlen(names[i]);
        sum += rules_step(rules, at, names[i], lens[i]);
    }
    if (only)
        sum += rules_step(rules, at, only, only_len);
    struct rules_stats before, after;
    rules_get_stats(rules, &before);
    size_t heap = mallinfo2().uordblks;
    int64_t start = af_monotonic_ns();
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t k = i % AF_ARRAY_LEN(names);
        sum +=
            only ? rules_step(rules, at, only, only_len) : rules_step(rules, at, names[k], lens[k]);
    }
    double ns = (double)(af_monotonic_ns() - start) / ROUNDS;
    assert_int_equal(mallinfo2().uordblks, heap);
    rules_get_stats(rules, &after);
    assert_int_equal(after.states_resident, before.states_resident);
    assert_int_equal(after.states_overflow, 0);
    assert_int_not_equal(sum, 1);
    return ns;
}

static void test_warm_steps_make_no_states_and_allocate_nothing(void **state)
{
    (void)state;
    const struct preset *preset = presets_get("agent-safe");
    struct rules *rules;
    struct af_error err;
    assert_int_equal(rules_compile(preset->rules, preset->n_rules, &rules, &err), 0);
    print_message("agent-safe, ordinary names in /src: %.0f ns\n", step_ns(rules, "/src", NULL));
    print_message("agent-safe, \"secrets\" (one matcher): %.0f ns\n",
                  step_ns(rules, "/src", "secrets"));
    print_message("agent-safe, \".env.key\" (two matchers, no memo): %.0f ns\n",
                  step_ns(rules, "/src", ".env.key"));
    print_message("agent-safe, below /secrets: %.0f ns\n", step_ns(rules, "/secrets", NULL));
    rules_unref(rules);
}

static void test_a_thousand_rules(void **state)
{
    (void)state;
    static char texts[AF_RULES_MAX][64];
    static struct rules_input list[AF_RULES_MAX];
    const char *const forms[] = {"/dir%zu/**", "**/*.ext%zu", "**/pre%zu*", "**/*mid%zu*"};
    struct rules *rules;
    struct af_error err;
    for (size_t f = 0; f < AF_ARRAY_LEN(forms); f++) {
        for (size_t i = 0; i < AF_RULES_MAX; i++) {
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(texts[i], sizeof texts[i], forms[f], i);
            list[i] = (struct rules_input){texts[i], strlen(texts[i]), 0, READ, 0};
        }
        int64_t start = af_monotonic_ns();
        assert_int_equal(rules_compile(list, AF_RULES_MAX, &rules, &err), 0);
        int64_t compile_ns = af_monotonic_ns() - start;
        print_message("%d rules \"%s\": compiled in %lld us, a step from / %.0f ns\n", AF_RULES_MAX,
                      forms[f], (long long)compile_ns / 1000, step_ns(rules, "/", NULL));
        rules_unref(rules);
    }
}

static void test_compiling_a_known_preset(void **state)
{
    (void)state;
    const struct preset *preset = presets_get("agent-safe");
    struct rules *first, *again;
    struct af_error err;
    assert_int_equal(rules_compile(preset->rules, preset->n_rules, &first, &err), 0);
    int64_t start = af_monotonic_ns();
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(rules_compile(preset->rules, preset->n_rules, &again, &err), 0);
        rules_unref(again);
    }
    print_message("agent-safe compiled again: %lld ns\n",
                  (long long)(af_monotonic_ns() - start) / 10000);
    rules_unref(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warm_steps_make_no_states_and_allocate_nothing),
        cmocka_unit_test(test_a_thousand_rules),
        cmocka_unit_test(test_compiling_a_known_preset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
