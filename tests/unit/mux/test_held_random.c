// Random histories of several views: what the kernel holds can be read until it lets go, and then
// nothing is left. AGENTFENSE_SEED begins elsewhere.
#include "tests/unit/mux/held_kernel.h"

#include "mux/nodeid.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const struct base_file base[] = {
    {"a", 0, "base a"}, {"b/c", 0, "base c"}, {"d", 0, "base d"}, {0}};

#define VIEWS    4
#define HELD_MAX 24
#define STEPS    400

struct holding {
    uint64_t nodeid;
    size_t view;
    char text[24]; // of a shared one: it never changes
    ssize_t len;
};

struct history {
    struct fixture *fixture;
    struct prng prng;
    struct kernel kernel;
    struct view views[VIEWS];
    struct holding held[HELD_MAX];
    size_t n_held;
};

static void change_something(struct history *history, struct view *view)
{
    char a[32], b[32], text[24];
    prng_path(&history->prng, a);
    prng_path(&history->prng, b);
    snprintf(text, sizeof text, "%lu", (unsigned long)prng_next(&history->prng));
    switch (prng_below(&history->prng, 7)) {
    case 0:
        ops_mkdir(view, a, 0755);
        break;
    case 1:
        ops_unlink(view, a);
        break;
    case 2:
        ops_rmdir(view, a);
        break;
    case 3:
        ops_rename(view, a, b, 0);
        break;
    case 4:
        ops_link(view, a, b);
        break;
    default:
        if (ops_create(view, a, 0644) == 0 || ops_truncate(view, a, 0) == 0)
            ops_write(view, a, text, strlen(text), 0);
    }
}

static bool is_held(const struct history *history, uint64_t nodeid)
{
    for (size_t i = 0; i < history->n_held; i++)
        if (history->held[i].nodeid == nodeid)
            return true;
    return false;
}

static void hold_something(struct history *history, size_t number)
{
    struct view *view = &history->views[number];
    struct holding *holding = &history->held[history->n_held];
    struct mux_entry entry;
    char path[32];
    prng_path(&history->prng, path);
    if (history->n_held == HELD_MAX || ops_lookup(view, path, &entry) < 0 ||
        is_held(history, entry.nodeid))
        return;
    *holding = (struct holding){.nodeid = entry.nodeid, .view = number};
    if (!S_ISDIR(entry.st.st_mode))
        holding->len = ops_read_node(view, entry.nodeid, holding->text, sizeof holding->text, 0);
    assert_true(holding->len >= 0);
    kernel_hold_node(&history->kernel, entry.nodeid);
    history->n_held++;
}

static void let_one_go(struct history *history)
{
    if (history->n_held == 0)
        return;
    size_t i = prng_below(&history->prng, history->n_held);
    uint64_t nodeid = history->held[i].nodeid;
    history->held[i] = history->held[--history->n_held];
    kernel_let_go(&history->kernel, nodeid);
}

static void assert_all_held(struct history *history)
{
    for (size_t i = 0; i < history->n_held; i++) {
        const struct holding *holding = &history->held[i];
        struct view *view = &history->views[holding->view];
        struct stat st = kernel_stat(view, holding->nodeid);
        char buf[24];
        if (S_ISDIR(st.st_mode))
            continue;
        ssize_t len = ops_read_node(view, holding->nodeid, buf, sizeof buf, 0);
        assert_true(len >= 0);
        if (!mux_nodeid_is_shared(holding->nodeid))
            continue;
        assert_int_equal(len, holding->len);
        assert_memory_equal(buf, holding->text, (size_t)len);
    }
}

static void step(struct history *history)
{
    size_t number = prng_below(&history->prng, VIEWS);
    struct view *view = &history->views[number];
    struct af_error err;
    bool told;
    switch (prng_below(&history->prng, 16)) {
    case 0:
    case 1:
        ops_commit(view);
        break;
    case 2:
        ops_rebase(view);
        break;
    case 3:
        if (prng_below(&history->prng, 4) == 0)
            assert_int_equal(mux_rollback(history->fixture->mux, view->sandbox.text, &told, &err),
                             0);
        break;
    case 4:
        clean_up_all(history->fixture);
        break;
    case 5:
        let_one_go(history);
        break;
    case 6:
        upload(history->fixture, view->codebase, "uploaded", "text");
        break;
    case 7:
    case 8:
    case 9:
        hold_something(history, number);
        break;
    default:
        change_something(history, view);
    }
    assert_all_held(history);
}

static void run_history(struct fixture *fixture, uint64_t seed)
{
    static const char *const rules[VIEWS] = {"**/*=write", "**/*=read", "**/*=write",
                                             "**/*=read b/**=write@10"};
    struct history *history = calloc(1, sizeof *history);
    struct af_id codebase = ops_codebase(fixture, base);
    struct af_error err;
    history->fixture = fixture;
    history->prng.state = seed;
    for (size_t i = 0; i < VIEWS; i++)
        history->views[i] = ops_view(fixture, codebase, rules[i]);
    kernel_start(&history->kernel, fixture);
    for (int i = 0; i < STEPS; i++)
        step(history);
    while (history->n_held > 0)
        let_one_go(history);
    assert_fsck_clean(fixture);
    kernel_stop(&history->kernel);
    for (size_t i = 0; i < VIEWS; i++) {
        ops_detach(&history->views[i]);
        assert_int_equal(mux_sandbox_destroy(fixture->mux, history->views[i].sandbox.text, &err),
                         0);
    }
    assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
    assert_no_garbage(fixture, 0, 0, 0);
    free(history);
}

static void test_random_histories_take_nothing_away_that_is_held(void **state)
{
    const char *from = getenv("AGENTFENSE_SEED");
    uint64_t first = from ? strtoull(from, NULL, 10) : 1;
    for (uint64_t seed = first; seed < first + 12; seed++) {
        fprintf(stderr, "seed %lu\n", (unsigned long)seed);
        run_history(*state, seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_random_histories_take_nothing_away_that_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
