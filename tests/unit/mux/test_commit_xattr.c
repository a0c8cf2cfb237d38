// Extended attributes that two writers set on one file: by name, three ways.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"
#include "mux/xattr_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct base_file base[] = {{"f", 0, "f"}, {"d/g", 0, "g"}, {0}};

struct pair {
    struct fixture *fixture;
    struct af_id codebase;
    struct view first, last; // in this order they push
};

static void set(struct view *view, const char *path, const char *name, const char *value)
{
    uint64_t nodeid = ops_nodeid(view, path);
    int rc =
        value ? mux_setxattr(view->fixture->mux, &view->ctx, nodeid, name, value, strlen(value), 0)
              : mux_removexattr(view->fixture->mux, &view->ctx, nodeid, name);
    assert_int_equal(rc, 0);
}

// value NULL: it has none of the name.
static void assert_xattr(struct view *view, const char *path, const char *name, const char *value)
{
    char got[64] = "";
    size_t len = 0;
    int rc = mux_getxattr(view->fixture->mux, &view->ctx, ops_nodeid(view, path), name, got,
                          sizeof got - 1, &len);
    if (value) {
        assert_int_equal(rc, 0);
        got[len] = '\0';
        assert_string_equal(got, value);
    } else {
        assert_int_equal(rc, -ENODATA);
    }
}

static struct pair two_writers(void **state, bool in_batches)
{
    struct pair pair = {.fixture = *state, .codebase = ops_codebase(*state, base)};
    struct view before = ops_view(*state, pair.codebase, "**/*=write");
    for (int i = 0; i < 2; i++) {
        set(&before, i ? "d" : "f", "user.kept", "kept");
        set(&before, i ? "d" : "f", "user.changed", "0");
        set(&before, i ? "d" : "f", "user.removed", "0");
    }
    ops_commit(&before);
    if (in_batches)
        pair.fixture->mux->merge_step_max = 0;
    pair.first = ops_view(*state, pair.codebase, "**/*=write");
    pair.last = ops_view(*state, pair.codebase, "**/*=write");
    return pair;
}

static uint64_t push_both(struct pair *pair)
{
    ops_commit(&pair->first);
    uint64_t conflicts = ops_commit(&pair->last).conflicts;
    ops_rebase(&pair->first);
    assert_accounting(&pair->first);
    assert_accounting(&pair->last);
    assert_counters(pair->fixture, pair->codebase);
    return conflicts;
}

static void assert_both(struct pair *pair, const char *path, const char *name, const char *value)
{
    assert_xattr(&pair->first, path, name, value);
    assert_xattr(&pair->last, path, name, value);
}

static void test_what_two_writers_set_by_different_names_is_both_there(void **state)
{
    for (int round = 0; round < 4; round++) {
        struct pair pair = two_writers(state, round > 1);
        const char *path = round % 2 ? "d" : "f";
        set(&pair.first, path, "user.first", "1");
        set(&pair.first, path, "user.removed", NULL);
        set(&pair.last, path, "user.last", "2");
        set(&pair.last, path, "user.changed", "2");
        assert_int_equal(push_both(&pair), 0);
        assert_both(&pair, path, "user.first", "1");
        assert_both(&pair, path, "user.last", "2");
        assert_both(&pair, path, "user.kept", "kept");
        assert_both(&pair, path, "user.changed", "2");
        assert_both(&pair, path, "user.removed", NULL);
    }
}

static void test_of_one_name_that_two_writers_set_the_last_ones_value_stays(void **state)
{
    struct pair pair = two_writers(state, false);
    set(&pair.first, "f", "user.changed", "1");
    set(&pair.first, "f", "user.removed", "1"); // comes back for none: the last one removes it
    set(&pair.first, "f", "user.first", "1");
    set(&pair.last, "f", "user.changed", "2");
    set(&pair.last, "f", "user.removed", NULL);
    assert_int_equal(push_both(&pair), 1);
    assert_both(&pair, "f", "user.changed", "2");
    assert_both(&pair, "f", "user.removed", NULL);
    assert_both(&pair, "f", "user.first", "1");
}

static void test_all_attributes_may_go(void **state)
{
    struct pair pair = two_writers(state, false);
    set(&pair.first, "f", "user.kept", NULL);
    set(&pair.last, "f", "user.changed", NULL);
    set(&pair.last, "f", "user.removed", NULL);
    assert_int_equal(push_both(&pair), 0);
    assert_both(&pair, "f", "user.kept", NULL);
    assert_both(&pair, "f", "user.changed", NULL);
}

static void test_a_directory_that_two_writers_made_has_the_attributes_of_both(void **state)
{
    struct pair pair = two_writers(state, false);
    for (int i = 0; i < 2; i++) {
        struct view *view = i ? &pair.last : &pair.first;
        assert_int_equal(ops_mkdir(view, "made", 0755), 0);
        set(view, "made", i ? "user.last" : "user.first", "x");
        set(view, "made", "user.same", "same");
        assert_int_equal(ops_mkdir(view, "plain", 0755), 0);
    }
    set(&pair.last, "plain", "user.last", "x");
    push_both(&pair);
    assert_both(&pair, "made", "user.first", "x");
    assert_both(&pair, "made", "user.last", "x");
    assert_both(&pair, "made", "user.same", "same");
    assert_both(&pair, "plain", "user.last", "x");
}

static void test_a_set_that_would_be_too_large_is_the_last_ones(void **state)
{
    struct pair pair = two_writers(state, false);
    static char large[AF_XATTR_VALUE_MAX + 1];
    memset(large, 'x', AF_XATTR_VALUE_MAX);
    set(&pair.first, "f", "user.first", large);
    set(&pair.last, "f", "user.last", large);
    large[AF_XATTR_VALUE_MAX / 2] = '\0';
    set(&pair.first, "f", "user.more", large);
    set(&pair.last, "f", "user.other", large);
    assert_int_equal(push_both(&pair), 1);
    assert_both(&pair, "f", "user.kept", "kept");
    assert_both(&pair, "f", "user.first", NULL);
}

// ---- any sets, by a model

enum { NAMES = 6 };

// 0: none of the name.
static void fill(struct prng *prng, char values[NAMES], const char *like)
{
    for (int i = 0; i < NAMES; i++)
        values[i] = like && prng_below(prng, 2) ? like[i] : (char)prng_below(prng, 3);
}

static struct mux_xattr_bytes pack(const char values[NAMES])
{
    struct mux_xattr_bytes set = {0};
    for (int i = NAMES - 1; i >= 0; i--) {
        char name[] = {'u', (char)('a' + i), 'x'};
        void *bytes = NULL;
        if (values[i] == 0)
            continue;
        assert_int_equal(mux_xattr_change(set.bytes, set.len, name, i % 2 ? 2 : 3, &values[i], 1,
                                          &bytes, &set.len),
                         0);
        free((void *)set.bytes);
        set.bytes = bytes;
    }
    return set;
}

static char value_in(struct mux_xattr_bytes set, int i)
{
    char name[] = {'u', (char)('a' + i), 'x'};
    struct mux_xattr found;
    return mux_xattr_find(set.bytes, set.len, name, i % 2 ? 2 : 3, &found) == 0
               ? *(const char *)found.value
               : 0;
}

static void test_any_three_sets_are_merged_by_name(void **state)
{
    struct prng prng = {7};
    (void)state;
    for (int round = 0; round < 2000; round++) {
        char was[NAMES], mine[NAMES], theirs[NAMES];
        fill(&prng, was, NULL);
        fill(&prng, mine, was);
        fill(&prng, theirs, was);
        struct mux_xattr_bytes sets[4] = {pack(was), pack(mine), pack(theirs)};
        bool conflict, expected = false;
        void *merged = NULL;
        assert_int_equal(
            mux_xattr_merge(sets[0], sets[1], sets[2], &merged, &sets[3].len, &conflict), 0);
        sets[3].bytes = merged;
        for (int i = 0; i < NAMES; i++) {
            assert_int_equal(value_in(sets[3], i), mine[i] == was[i] ? theirs[i] : mine[i]);
            expected |= mine[i] != was[i] && theirs[i] != was[i] && mine[i] != theirs[i];
        }
        assert_int_equal(conflict, expected);
        for (int i = 0; i < 4; i++)
            free((void *)sets[i].bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_what_two_writers_set_by_different_names_is_both_there),
        fixture_test(test_of_one_name_that_two_writers_set_the_last_ones_value_stays),
        fixture_test(test_all_attributes_may_go),
        fixture_test(test_a_directory_that_two_writers_made_has_the_attributes_of_both),
        fixture_test(test_a_set_that_would_be_too_large_is_the_last_ones),
        cmocka_unit_test(test_any_three_sets_are_merged_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
