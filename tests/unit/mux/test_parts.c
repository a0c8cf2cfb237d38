// A rebase looks at what is new, and not at the base, though compaction has made one layer of both.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/compact.h"
#include "mux/parts.h"

#include <errno.h>
#include <string.h>

#define BASE_FILES 600
#define PUSHES     24
#define EACH       30 // files in one push

static struct af_id large_codebase(struct fixture *fixture)
{
    struct af_id codebase = ops_codebase(fixture, NULL);
    struct view v = ops_view(fixture, codebase, "**/*=write");
    char path[32];
    for (int i = 0; i < BASE_FILES; i++) {
        snprintf(path, sizeof path, "base%03d", i);
        ops_put(&v, path, path);
    }
    ops_commit(&v);
    ops_detach(&v);
    return codebase;
}

// A commit of its own layer, for a sandbox stands on the one before.
static struct af_id push(struct fixture *fixture, struct view *writer, int number, int files)
{
    char path[32];
    struct af_id stands = new_sandbox(fixture, writer->codebase);
    for (int i = 0; i < files; i++) {
        snprintf(path, sizeof path, "p%02d_%02d", number, i);
        ops_put(writer, path, path);
    }
    ops_commit(writer);
    return stands;
}

static uint64_t compared_by_rebase(struct view *view)
{
    uint64_t before = view->fixture->mux->counters.compared;
    assert_true(ops_rebase(view).changed);
    return view->fixture->mux->counters.compared - before;
}

static void test_a_rebase_costs_what_is_new_and_not_the_base_it_was_merged_with(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = large_codebase(fixture);
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct af_id stands[PUSHES];
    struct af_error err;
    for (int i = 0; i < PUSHES; i++)
        stands[i] = push(fixture, &writer, i, EACH);
    struct view late = ops_view(fixture, codebase, "**/*=write"); // on all of it but one push
    struct af_id last = push(fixture, &writer, 90, EACH);
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    assert_true(fixture->mux->counters.merges > 0);
    // An entry and a record for each file, seen from both sides, and the root.
    assert_in_range(compared_by_rebase(&late), EACH, 4 * EACH);
    assert_text(&late, "p90_29", "p90_29");
    assert_text(&late, "base599", "base599");
    // Who stays behind by more pays for that.
    struct view early = ops_view(fixture, codebase, "**/*=write");
    push(fixture, &writer, 91, 1);
    assert_in_range(compared_by_rebase(&early), 1, 8);
    // When nobody is behind any more, nothing is kept for it.
    ops_detach(&late);
    ops_detach(&early);
    ops_detach(&writer);
    for (int i = 0; i < PUSHES; i++)
        assert_int_equal(mux_sandbox_destroy(fixture->mux, stands[i].text, &err), 0);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, last.text, &err), 0);
    assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_rebase_costs_what_is_new_and_not_the_base_it_was_merged_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
