// What the tests of the rules share: lists as tables, levels of paths in one call.
//
// Owns nothing; no locks. Every helper fails the running test when something it needs fails.
#ifndef AF_TESTS_UNIT_MUX_TEST_RULES_H
#define AF_TESTS_UNIT_MUX_TEST_RULES_H

#include "mux/rules.h"

// cmocka.h needs these four.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A rule of a test leaves out what it does not care about.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define NONE  RULES_NONE
#define VIEW  RULES_VIEW
#define READ  RULES_READ
#define WRITE RULES_WRITE

struct test_rule {
    const char *pattern;
    int level, priority, type; // type 0: glob
};

#define TEST_RULES_MAX 64
// compile((struct test_rule){...}, ...)
#define COMPILE(...)                                                                               \
    test_compile((const struct test_rule[]){__VA_ARGS__},                                          \
                 sizeof((const struct test_rule[]){__VA_ARGS__}) / sizeof(struct test_rule))

static inline size_t test_inputs(const struct test_rule *list, size_t n, struct rules_input *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (struct rules_input){list[i].pattern, strlen(list[i].pattern), list[i].type,
                                     list[i].level, list[i].priority};
    return n;
}

static inline struct rules *test_compile(const struct test_rule *list, size_t n)
{
    struct rules_input inputs[TEST_RULES_MAX];
    struct rules *rules = NULL;
    struct af_error err;
    if (n > TEST_RULES_MAX)
        fail_msg("more than %d rules in one test", TEST_RULES_MAX);
    if (rules_compile(inputs, test_inputs(list, n, inputs), &rules, &err) < 0)
        fail_msg("%s", err.text);
    return rules;
}

// Whether a path is hidden; its level; the bounds below it.
struct test_facts {
    enum rules_level level, below_max, below_min;
    bool hidden;
};

static inline struct test_facts test_facts(struct rules *rules, const char *path)
{
    rules_state state = rules_walk(rules, path, strlen(path));
    struct test_facts facts = {rules_level(rules, state), rules_below_max(rules, state),
                               rules_below_min(rules, state), rules_is_hidden(rules, state)};
    if (state == RULES_STATE_INVALID)
        fail_msg("no state for %s", path);
    rules_state_release(rules, state);
    return facts;
}

static inline void test_level(struct rules *rules, const char *path, enum rules_level level)
{
    enum rules_level found = test_facts(rules, path).level;
    if (found != level)
        fail_msg("%s is %s, expected %s", path, rules_level_name(found), rules_level_name(level));
}

// With one glob rule `pattern`: does it cover the path?
static inline bool test_covers_as(const char *pattern, int type, const char *path)
{
    struct rules *rules = COMPILE({pattern, READ, 0, type});
    bool covers = test_facts(rules, path).level == READ;
    rules_unref(rules);
    return covers;
}

static inline void test_covers(const char *pattern, const char *path)
{
    if (!test_covers_as(pattern, RULES_GLOB, path))
        fail_msg("%s does not cover %s", pattern, path);
}

static inline void test_covers_not(const char *pattern, const char *path)
{
    if (test_covers_as(pattern, RULES_GLOB, path))
        fail_msg("%s covers %s", pattern, path);
}

#endif
