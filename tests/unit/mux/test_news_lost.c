// Changes that are too large to be told: listeners hear that, and nobody is held up for them twice.
#include "mux/arena.h"
#include "mux/mux_priv.h"
#include "mux/news_priv.h"
#include "mux/view.h"
#include "tests/unit/mux/ops_fixture.h"

#include <string.h>

static const struct base_file base[] = {{"a", 0, "a0"}, {0}};

struct ear {
    struct mux_listener listener;
    uint64_t told, lost;
};

static void hear(void *arg, const struct mux_news_item *item)
{
    (void)item;
    ((struct ear *)arg)->told++;
}

static void hear_lost(void *arg, uint64_t count)
{
    ((struct ear *)arg)->lost += count;
}

static void listen_to(struct fixture *fixture, struct af_id codebase, struct ear *ear)
{
    struct af_error err;
    *ear = (struct ear){
        .listener = {.codebase_id = codebase, .changed = hear, .lost = hear_lost, .arg = ear}};
    if (mux_listen(fixture->mux, &ear->listener, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_a_merge_too_large_to_tell_is_told_as_lost(void **state)
{
    enum { TARGET = 4000, LINKS = MUX_ARENA_CAP / TARGET + 1 };
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, base), "**/*=write");
    char target[TARGET + 1] = "", path[32];
    memset(target, 't', TARGET);
    for (int i = 0; i < LINKS; i++) {
        snprintf(path, sizeof path, "l%d", i);
        assert_int_equal(ops_symlink(&v, target, path), 0);
    }
    struct ear ear;
    listen_to(fixture, v.codebase, &ear);
    upload(fixture, v.codebase, "theirs", "2");
    assert_int_equal(ear.told, 1);
    assert_true(ops_commit(&v).merged);
    assert_int_equal(ear.told, 1);
    assert_true(ear.lost >= LINKS);
    uint64_t lost = ear.lost;
    ops_put(&v, "next", "1");
    ops_commit(&v);
    assert_int_equal(ear.told, 2);
    assert_int_equal(ear.lost, lost);
    mux_unlisten(fixture->mux, &ear.listener);
}

// With the writer held, after it was found too large before.
static void test_what_is_known_to_be_too_large_is_not_gathered_again(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, base), "**/*=write");
    struct ear ear;
    struct mux_news_turn turn;
    struct mux_op op;
    listen_to(fixture, v.codebase, &ear);
    ops_put(&v, "a", "1");
    assert_int_equal(mux_op_enter_inside(fixture->mux, v.root, &op), 0);
    mux_news_begin(fixture->mux, v.codebase.text, &turn);
    assert_int_equal(mux_op_read(&op), 0);
    turn.lost = 7;
    mux_news_gather(&turn, op.txn, mux_op_layers(&op), op.view->root_fid);
    assert_null(turn.diff);
    mux_op_leave(&op, 0);
    mux_news_end(&turn, true);
    assert_int_equal(ear.told, 0);
    assert_int_equal(ear.lost, 7);
    mux_unlisten(fixture->mux, &ear.listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_merge_too_large_to_tell_is_told_as_lost),
        fixture_test(test_what_is_known_to_be_too_large_is_not_gathered_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
