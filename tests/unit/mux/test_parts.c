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

// Names that the kernel is told to look up again.
static void note_name(void *arg, uint64_t parent, const char *name, size_t len)
{
    char *told = arg;
    (void)parent;
    strncat(told, name, len);
    strcat(told, ";");
}

// What is taken apart must be what its parts are: small pushes and uploads change the top layer in
// place where they may, and who stands on the parts of it would take that for known.
enum how { BY_PUSH, BY_MERGE, BY_UPLOAD };

static void behind(struct fixture *fixture, enum how how)
{
    static const struct mux_notifier notifier = {.inval_entry = note_name,
                                                 .expire_entry = note_name};
    char told[4096] = "";
    struct af_id codebase = ops_codebase(fixture, NULL);
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct af_error err;
    for (int i = 0; i < PUSHES; i++)
        push(fixture, &writer, i, 2);
    struct view late = ops_view(fixture, codebase, "**/*=write");
    struct view other = ops_view(fixture, codebase, "**/*=write");
    assert_text(&late, "p00_00", "p00_00");
    push(fixture, &writer, 90, 1);
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    assert_true(fixture->mux->counters.merges > 0);
    if (how != BY_PUSH) { // nobody else stands on the head
        ops_detach(&writer);
        assert_int_equal(mux_sandbox_destroy(fixture->mux, writer.sandbox.text, &err), 0);
    }
    if (how == BY_UPLOAD) {
        upload(fixture, codebase, "p00_00", "again");
    } else {
        struct view *by = how == BY_PUSH ? &writer : &other;
        assert_int_equal(ops_unlink(by, "p00_00"), 0);
        assert_int_equal(ops_commit(by).merged, how == BY_MERGE);
    }
    mux_set_notifier(fixture->mux, &notifier, told);
    assert_in_range(compared_by_rebase(&late), 1, PUSHES); // not all of what was merged
    mux_set_notifier(fixture->mux, NULL, NULL);
    assert_non_null(strstr(told, "p90_00;"));
    assert_non_null(strstr(told, "p00_00;"));
    assert_null(strstr(told, "p00_01;"));
    if (how == BY_UPLOAD)
        assert_text(&late, "p00_00", "again");
    else
        assert_false(ops_exists(&late, "p00_00"));
}

static void test_a_push_into_a_merged_layer_is_news_for_who_stands_on_its_parts(void **state)
{
    behind(*state, BY_PUSH);
}

static void test_a_merge_into_a_merged_layer_is_news_for_who_stands_on_its_parts(void **state)
{
    behind(*state, BY_MERGE);
}

static void test_an_upload_into_a_merged_layer_is_news_for_who_stands_on_its_parts(void **state)
{
    behind(*state, BY_UPLOAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_rebase_costs_what_is_new_and_not_the_base_it_was_merged_with),
        fixture_test(test_a_push_into_a_merged_layer_is_news_for_who_stands_on_its_parts),
        fixture_test(test_a_merge_into_a_merged_layer_is_news_for_who_stands_on_its_parts),
        fixture_test(test_an_upload_into_a_merged_layer_is_news_for_who_stands_on_its_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
