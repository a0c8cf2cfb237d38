// Compaction beside others: a crash at each of its steps, views at work while their layers are
// merged (ThreadSanitizer has nothing to say), and thousands of sandboxes that live on.
#include "tests/unit/mux/layers.h"
#include "tests/unit/mux/ops_fixture.h"

#include "mux/compact.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CRASH_LAYERS 7
#define CYCLES       1500
#define DEPTH_MAX    48 // of any sandbox's stack, however fast the layers came

static void push_layer(struct fixture *fixture, struct af_id codebase, size_t number)
{
    char path[64], big[6000];
    struct view view = ops_view(fixture, codebase, "**=write");
    memset(big, (int)number, sizeof big);
    snprintf(path, sizeof path, "f%zu", number % 5);
    ops_put(&view, path, path);
    if (number % 2 == 0)
        assert_int_equal(ops_write(&view, path, big, sizeof big, 0), 0);
    snprintf(path, sizeof path, "f%zu", (number + 2) % 5);
    ops_unlink(&view, path);
    ops_detach(&view);
    layers_push(fixture, codebase, view.sandbox);
}

// ---- kill -9

struct crash {
    struct af_id codebase, sandbox;
    char *told;
};

static struct crash crash_begin(struct fixture *fixture)
{
    layers_reopen(fixture, false);
    struct crash crash = {.codebase = new_codebase(fixture)};
    upload(fixture, crash.codebase, "base", "base");
    for (size_t i = 0; i < CRASH_LAYERS; i++)
        push_layer(fixture, crash.codebase, i);
    crash.sandbox = new_sandbox(fixture, crash.codebase);
    crash.told = layers_tell(fixture, crash.sandbox);
    fixture_close(fixture);
    return crash;
}

// The tree is what it was, merging goes on, and when all is deleted nothing is left.
static void crash_check(struct fixture *fixture, struct crash *crash)
{
    struct af_error err;
    layers_reopen(fixture, false);
    for (int drained = 0; drained < 2; drained++) {
        char *now = layers_tell(fixture, crash->sandbox);
        assert_string_equal(now, crash->told);
        free(now);
        assert_int_equal(mux_compact_drain(fixture->mux), 0);
    }
    assert_int_equal(layers_depth(fixture, crash->codebase), 1);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, crash->sandbox.text, &err), 0);
    assert_int_equal(mux_codebase_delete(fixture->mux, crash->codebase.text, &err), 0);
    assert_no_garbage(fixture, 0, 0, 0);
    free(crash->told);
}

static void in_killed_child(struct fixture *fixture, const struct crash *crash, int steps,
                            void (*fn)(struct fixture *fixture, const struct crash *crash,
                                       int steps))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        layers_reopen(fixture, false);
        fn(fixture, crash, steps);
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void some_steps(struct fixture *fixture, const struct crash *crash, int steps)
{
    bool more;
    (void)crash;
    for (int i = 0; i < steps; i++)
        if (mux_compact_step(fixture->mux, &more) < 0)
            _exit(1);
}

// As the thread's slices, but cut between putting in place and letting go of the old layers.
static void some_calls(struct fixture *fixture, const struct crash *crash, int steps)
{
    struct store *store = mux_store(fixture->mux);
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct store_merge *merge;
    uint64_t layers[STORE_MERGE_MAX];
    size_t count, stacks;
    bool done = false;
    if (store_read_begin(store, &txn) < 0 ||
        store_sandbox_get(txn, crash->sandbox.text, &sandbox) < 0 ||
        store_stack_get(txn, sandbox.stack, layers, STORE_MERGE_MAX, &count) < 0)
        _exit(1);
    store_read_end(txn);
    if (store_merge_begin(store, layers, count, true, &merge) < 0)
        _exit(1);
    for (int i = 0; i < steps && !done; i++)
        if (store_merge_step(merge, 4, &done) < 0)
            _exit(1);
    if (done && (store_merge_swap(merge, &stacks) < 0 || stacks == 0))
        _exit(1);
}

static void test_a_crash_at_any_step_loses_and_leaks_nothing(void **state)
{
    struct fixture *fixture = *state;
    for (int steps = 0; steps <= 7; steps++) {
        struct crash crash = crash_begin(fixture);
        in_killed_child(fixture, &crash, steps, some_steps);
        crash_check(fixture, &crash);
    }
}

static void test_a_crash_within_a_merge_loses_and_leaks_nothing(void **state)
{
    struct fixture *fixture = *state;
    for (int steps = 0; steps <= 12; steps++) {
        struct crash crash = crash_begin(fixture);
        in_killed_child(fixture, &crash, steps, some_calls);
        crash_check(fixture, &crash);
    }
}

// ---- views at work

struct reader {
    struct view view; // its own copy: the helpers count in it
    _Atomic bool *stop;
    const char *failed;
    int rc;
    unsigned rounds;
};

// Not cmocka's assertions: they must not be used off the main thread.
#define MUST(worker, what, expected)                                                               \
    do {                                                                                           \
        int rc_ = (int)(what);                                                                     \
        if (rc_ != (expected)) {                                                                   \
            (worker)->failed = #what;                                                              \
            (worker)->rc = rc_;                                                                    \
            return NULL;                                                                           \
        }                                                                                          \
    } while (0)

static bool count_name(void *arg, const char *name, size_t len, uint64_t cookie,
                       const struct mux_entry *entry)
{
    (void)name;
    (void)len;
    (void)cookie;
    (void)entry;
    ++*(unsigned *)arg;
    return true;
}

static void *work_in_view(void *arg)
{
    struct reader *r = arg;
    struct view *v = &r->view;
    char buf[16];
    for (unsigned i = 0; !atomic_load(r->stop) || i < 50; i++, r->rounds++) {
        struct mux_entry entry;
        unsigned names = 0;
        MUST(r, ops_lookup(v, "base", &entry), 0);
        MUST(r, entry.nodeid != 0, true);
        MUST(r, ops_read_node(v, entry.nodeid, buf, sizeof buf, 0), 4);
        MUST(r, memcmp(buf, "base", 4), 0);
        MUST(r, ops_create(v, "tmp", 0644), 0);
        MUST(r, ops_write(v, "tmp", "x", 1, 0), 0);
        MUST(r, mux_readdir(v->fixture->mux, &v->ctx, v->root, 0, true, count_name, &names), 0);
        MUST(r, names >= 4, true); // ".", "..", base, tmp
        MUST(r, ops_rename(v, "tmp", "moved", 0), 0);
        MUST(r, ops_unlink(v, "moved"), 0);
    }
    return NULL;
}

static void test_views_at_work_see_nothing_of_it(void **state)
{
    struct fixture *fixture = *state;
    enum { VIEWS = 4, PUSHES = 120 };
    pthread_t threads[VIEWS];
    struct reader readers[VIEWS];
    _Atomic bool stop = false;
    layers_reopen(fixture, true);
    struct af_id codebase = new_codebase(fixture);
    upload(fixture, codebase, "base", "base");
    for (size_t i = 0; i < VIEWS; i++) {
        readers[i] =
            (struct reader){.view = ops_view(fixture, codebase, "**=write"), .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, work_in_view, &readers[i]), 0);
        for (size_t n = 0; n < PUSHES / VIEWS; n++)
            push_layer(fixture, codebase, n);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < VIEWS; i++) {
        pthread_join(threads[i], NULL);
        if (readers[i].failed)
            fail_msg("view %zu: %s gave %d", i, readers[i].failed, readers[i].rc);
        assert_accounting(&readers[i].view);
    }
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    struct mux_stats stats;
    mux_get_stats(fixture->mux, &stats);
    assert_true(stats.merges > 0);
    assert_in_range(layers_depth(fixture, codebase), 1, 8);
}

// ---- many that live on

static void test_sandboxes_that_live_on_stay_shallow_and_bounded(void **state)
{
    struct fixture *fixture = *state;
    const char *given = getenv("AGENTFENSE_TEST_CYCLES");
    size_t cycles = given ? strtoul(given, NULL, 0) : CYCLES, deepest = 0;
    struct af_id *ids = calloc(cycles, sizeof *ids);
    char path[32];
    uint64_t removed;
    layers_reopen(fixture, true);
    struct af_id codebase = new_codebase(fixture);
    for (size_t i = 0; i < cycles; i++) {
        snprintf(path, sizeof path, "f%zu", i % 100);
        upload(fixture, codebase, path, path);
        ids[i] = new_sandbox(fixture, codebase);
    }
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    for (size_t i = 0; i < cycles; i++) {
        size_t depth = layers_depth_of_sandbox(fixture, ids[i]);
        deepest = depth > deepest ? depth : deepest;
    }
    assert_in_range(deepest, 1, DEPTH_MAX);
    assert_in_range(layers_depth(fixture, codebase), 1, 8);
    // Each cycle writes two records; a layer that only old sandboxes hold is kept for them.
    struct store_stats stats = stats_of(fixture);
    assert_in_range(stats.inodes, 100, cycles * 2 * 14);
    struct af_error err;
    for (size_t i = 0; i < cycles; i++)
        assert_int_equal(mux_sandbox_destroy(fixture->mux, ids[i].text, &err), 0);
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    assert_in_range(stats_of(fixture).layers, 2, 10);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_crash_at_any_step_loses_and_leaks_nothing),
        fixture_test(test_a_crash_within_a_merge_loses_and_leaks_nothing),
        fixture_test(test_views_at_work_see_nothing_of_it),
        fixture_test(test_sandboxes_that_live_on_stay_shallow_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
