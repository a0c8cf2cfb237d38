// States: bounds below, sharing, bounded memory under a hostile tree, many threads.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"
#include "mux/presets.h"

#include <pthread.h>
#include <stdatomic.h>

static struct rules *compile_preset(const char *name)
{
    const struct preset *preset = presets_get(name);
    struct rules *rules;
    struct af_error err;
    assert_non_null(preset);
    assert_int_equal(rules_compile(preset->rules, preset->n_rules, &rules, &err), 0);
    return rules;
}

static void bounds(struct rules *rules, const char *path, enum rules_level min,
                   enum rules_level max)
{
    struct test_facts facts = test_facts(rules, path);
    if (facts.below_min != min || facts.below_max != max)
        fail_msg("below %s: %s to %s, expected %s to %s", path, rules_level_name(facts.below_min),
                 rules_level_name(facts.below_max), rules_level_name(min), rules_level_name(max));
}

// ---- bounds

static void test_P8_a_dominated_subtree_is_closed(void **state)
{
    (void)state;
    struct rules *rules = compile_preset("agent-safe");
    bounds(rules, "/", NONE, WRITE);
    bounds(rules, "/src", NONE, READ);
    bounds(rules, "/output", NONE, WRITE);
    bounds(rules, "/secrets", NONE, NONE);
    bounds(rules, "/a/b/secrets/c", NONE, NONE);
    bounds(rules, "/output/secrets", NONE, NONE);
    bounds(rules, "/tmp/.git", NONE, NONE);
    assert_true(test_facts(rules, "/tmp/.git/config").hidden);
    assert_true(test_facts(rules, "/secrets").hidden);
    rules_unref(rules);
}

static void test_bounds_follow_domination(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"**/*", WRITE}, {"/a/**/*", READ, 1}, {"/b/*/**", VIEW, 1},
                                  {"/c/*", VIEW, 1}, {"/d", VIEW, 1, RULES_DIRECTORY});
    bounds(rules, "/a", READ, READ);
    bounds(rules, "/a/x/y", READ, READ);
    bounds(rules, "/b", VIEW, VIEW);
    bounds(rules, "/c", VIEW, WRITE); // deeper than one level only `**/*` matches
    bounds(rules, "/c/x", WRITE, WRITE);
    bounds(rules, "/d", VIEW, VIEW);
    bounds(rules, "/e", WRITE, WRITE);
    test_level(rules, "/a", WRITE);
    test_level(rules, "/b", WRITE);
    rules_unref(rules);
    rules = COMPILE({"/a/**", WRITE}, {"/a/b", NONE});
    bounds(rules, "/a", NONE, WRITE);
    bounds(rules, "/a/b", WRITE, WRITE);
    bounds(rules, "/a/c", WRITE, WRITE);
    bounds(rules, "/b", NONE, NONE);
    rules_unref(rules);
}

static void test_P6_equal_states_mean_equal_subtrees(void **state)
{
    (void)state;
    struct rules *rules = compile_preset("development");
    rules_state a = rules_walk(rules, "/a", 2), b = rules_walk(rules, "/b/c/d", 6);
    assert_int_equal(a, b);
    assert_int_not_equal(a, rules_walk(rules, "/secrets", 8));
    // A second rule that ends at a name adds nothing to the first, so it makes no state.
    assert_int_equal(rules_walk(rules, ".env", 4), rules_walk(rules, ".env.key", 8));
    assert_int_equal(rules_walk(rules, "", 0), rules_root(rules));
    assert_int_equal(rules_walk(rules, "/", 1), rules_root(rules));
    rules_unref(rules);
}

// ---- sharing

static void test_equal_lists_share_one_object(void **state)
{
    (void)state;
    struct rules *all[1000], *other = COMPILE({"**/*", READ, 1});
    for (size_t i = 0; i < AF_ARRAY_LEN(all); i++) {
        all[i] = compile_preset("agent-safe");
        assert_ptr_equal(all[i], all[0]);
        assert_ptr_not_equal(all[i], other);
    }
    assert_ptr_equal(rules_ref(all[0]), all[0]);
    rules_unref(all[0]);
    for (size_t i = 1; i < AF_ARRAY_LEN(all); i++)
        rules_unref(all[i]);
    test_level(all[0], "/output/x", WRITE);
    rules_unref(all[0]);
    rules_unref(other);
    rules_unref(NULL);
}

// ---- a hostile tree

#define LETTERS 14 // 2^14 sets of letters seen on the way

// `**/<letter>/**/x`: every subset of the letters seen is a state of its own.
static struct rules *compile_hostile(void)
{
    static char texts[LETTERS][16];
    struct test_rule list[LETTERS];
    for (int i = 0; i < LETTERS; i++) {
        snprintf(texts[i], sizeof texts[i], "**/%c/**/x%c", 'a' + i, 'a' + i);
        list[i] = (struct test_rule){texts[i], WRITE, i};
    }
    return test_compile(list, LETTERS);
}

// Answers stay right: "x<letter>" is visible exactly where <letter> is above.
static void check_subset(struct rules *rules, rules_state state, unsigned seen)
{
    for (int i = 0; i < LETTERS; i += 5) {
        char name[2] = {'x', (char)('a' + i)};
        rules_state child = rules_step(rules, state, name, 2);
        assert_int_equal(rules_level(rules, child), seen >> i & 1 ? WRITE : NONE);
        rules_state_release(rules, child);
    }
}

static size_t n_visited;

static void visit(struct rules *rules, rules_state state, unsigned seen, int from)
{
    check_subset(rules, state, seen);
    n_visited++;
    for (int i = from; i < LETTERS; i++) {
        char name = (char)('a' + i);
        rules_state child = rules_step(rules, state, &name, 1);
        assert_int_not_equal(child, RULES_STATE_INVALID);
        visit(rules, child, seen | 1u << i, i + 1);
        rules_state_release(rules, child);
    }
}

static void test_a_hostile_tree_costs_bounded_memory_and_gets_right_answers(void **state)
{
    (void)state;
    struct rules *rules = compile_hostile();
    struct rules_stats stats;
    n_visited = 0;
    visit(rules, rules_root(rules), 0, 0);
    assert_int_equal(n_visited, 1 << LETTERS);
    rules_get_stats(rules, &stats);
    assert_int_equal(stats.states_resident, RULES_STATES_RESIDENT);
    assert_int_equal(stats.states_overflow, 0); // all released
    assert_true(stats.state_bytes <= RULES_RESIDENT_BYTES);
    visit(rules, rules_root(rules), 0, 0); // and once more, on what is there
    rules_unref(rules);
}

static rules_state subset_state(struct rules *rules, unsigned subset)
{
    rules_state at = rules_root(rules);
    for (int i = 0; i < LETTERS; i++) {
        char name = (char)('a' + i);
        if (!(subset >> i & 1))
            continue;
        rules_state next = rules_step(rules, at, &name, 1);
        rules_state_release(rules, at);
        at = next;
    }
    return at;
}

static void test_counted_states_live_as_long_as_they_are_held(void **state)
{
    (void)state;
    struct rules *rules = compile_hostile();
    static rules_state held[1 << LETTERS];
    struct rules_stats stats;
    for (unsigned s = 0; s < 1 << LETTERS; s++)
        held[s] = subset_state(rules, s);
    rules_get_stats(rules, &stats);
    assert_in_range(stats.states_overflow, 10000, 1 << LETTERS);
    for (unsigned s = 0; s < 1 << LETTERS; s++) {
        rules_state again = subset_state(rules, s); // hash-consed, counted ones too
        assert_int_equal(again, held[s]);
        assert_int_equal(rules_state_ref(rules, again), again);
        rules_state_release(rules, again);
        rules_state_release(rules, again);
        check_subset(rules, held[s], s);
    }
    for (unsigned s = 0; s < 1 << LETTERS; s++)
        rules_state_release(rules, held[s]);
    rules_get_stats(rules, &stats);
    assert_int_equal(stats.states_overflow, 0);
    // An owner that forgets counted states leaks them only until the rules go.
    for (unsigned s = 0; s < 1 << LETTERS; s++)
        held[s] = subset_state(rules, s);
    rules_unref(rules);
}

static void test_no_state_means_closed(void **state)
{
    (void)state;
    struct rules *rules = COMPILE({"**/*", WRITE});
    assert_int_equal(rules_step(rules, RULES_STATE_INVALID, "a", 1), RULES_STATE_INVALID);
    assert_int_equal(rules_level(rules, RULES_STATE_INVALID), NONE);
    assert_int_equal(rules_below_max(rules, RULES_STATE_INVALID), NONE);
    assert_int_equal(rules_below_min(rules, RULES_STATE_INVALID), NONE);
    assert_true(rules_is_hidden(rules, RULES_STATE_INVALID));
    rules_state_release(rules, RULES_STATE_INVALID);
    rules_unref(rules);
}

// ---- threads

struct worker {
    pthread_t thread;
    struct rules *rules;
    unsigned seed;
    pthread_barrier_t *start;
};

static void *walk_at_random(void *arg)
{
    struct worker *w = arg;
    uint32_t r = w->seed * 2654435761u + 1;
    pthread_barrier_wait(w->start);
    for (int round = 0; round < 3000; round++) {
        rules_state at = rules_ref(w->rules) ? rules_root(w->rules) : 0;
        unsigned seen = 0;
        for (int depth = 0; depth < 12; depth++) {
            r = r * 1664525u + 1013904223u;
            unsigned letter = (r >> 16) % LETTERS;
            char name = (char)('a' + letter);
            rules_state next = rules_step(w->rules, at, &name, 1);
            rules_state_release(w->rules, at);
            at = next;
            seen |= 1u << letter;
        }
        check_subset(w->rules, at, seen);
        rules_state_release(w->rules, at);
        rules_unref(w->rules);
    }
    return NULL;
}

static void *compile_and_drop(void *arg)
{
    struct worker *w = arg;
    pthread_barrier_wait(w->start);
    for (int round = 0; round < 2000; round++) {
        struct rules *rules = compile_preset(round & 1 ? "agent-safe" : "development");
        rules_state s = rules_walk(rules, "/output/.env", 12);
        assert_int_equal(rules_level(rules, s), NONE);
        rules_unref(rules);
    }
    return NULL;
}

#define WORKERS 8

static void test_many_threads_step_compile_and_drop_at_once(void **state)
{
    (void)state;
    struct worker workers[WORKERS];
    pthread_barrier_t start;
    struct rules *rules = compile_hostile();
    pthread_barrier_init(&start, NULL, WORKERS);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.rules = rules, .seed = i, .start = &start};
        void *(*fn)(void *) = i % 2 ? compile_and_drop : walk_at_random;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, fn, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&start);
    struct rules_stats stats;
    rules_get_stats(rules, &stats);
    assert_int_equal(stats.states_overflow, 0);
    rules_unref(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P8_a_dominated_subtree_is_closed),
        cmocka_unit_test(test_bounds_follow_domination),
        cmocka_unit_test(test_P6_equal_states_mean_equal_subtrees),
        cmocka_unit_test(test_equal_lists_share_one_object),
        cmocka_unit_test(test_a_hostile_tree_costs_bounded_memory_and_gets_right_answers),
        cmocka_unit_test(test_counted_states_live_as_long_as_they_are_held),
        cmocka_unit_test(test_no_state_means_closed),
        cmocka_unit_test(test_many_threads_step_compile_and_drop_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
