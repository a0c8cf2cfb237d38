// The bounds of a commit (mux_priv.h): which way a delta goes on either side of one; and, where
// AGENTFENSE_FIGURES is set, what each way costs and how long it keeps a neighbour waiting who
// writes in a view of another codebase. docs/COMMIT.md has the figures:
//   AGENTFENSE_FIGURES=1 make unit VARIANT=release T=tests/unit/mux/test_commit_cost.c
#include "mux/base/clock.h"
#include "mux/mux_priv.h"
#include "tests/unit/mux/held_kernel.h"
#include "tests/unit/mux/layers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void put_many(struct view *view, const char *prefix, unsigned count, const char *text)
{
    char name[32];
    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s%05u", prefix, i);
        ops_put(view, name, text);
    }
}

// ---- which way

static void test_as_many_records_as_may_go_into_the_top_layer_and_one_more_is_a_layer(void **state)
{
    struct fixture *fixture = *state;
    struct view view = ops_view(fixture, ops_codebase(fixture, NULL), "**/*=write");
    put_many(&view, "f", MUX_ABSORB_MAX + 1, "old");
    ops_commit(&view);
    // Of the codebase: what is collected in the background is no matter.
    size_t layers = layers_depth(fixture, view.codebase);
    put_many(&view, "f", MUX_ABSORB_MAX, "new"); // content alone: no directory is touched
    ops_commit(&view);
    assert_int_equal(layers_depth(fixture, view.codebase), layers);
    put_many(&view, "f", MUX_ABSORB_MAX + 1, "newer");
    ops_commit(&view);
    assert_int_equal(layers_depth(fixture, view.codebase), layers + 1);
    assert_download(&view, "f00000", "newer");
}

// ---- a neighbour

struct neighbour {
    struct view view;
    pthread_t thread;
    atomic_bool stop;
    int64_t longest_ns;
};

static void *write_on(void *arg)
{
    struct neighbour *neighbour = arg;
    struct view view = neighbour->view;
    uint64_t file = ops_nodeid(&view, "own");
    while (!atomic_load(&neighbour->stop)) {
        int64_t began = af_monotonic_ns();
        assert_int_equal(ops_write_node(&view, file, "data", 4, 0), 0);
        int64_t took = af_monotonic_ns() - began;
        if (took > neighbour->longest_ns)
            neighbour->longest_ns = took;
    }
    return NULL;
}

static void neighbour_start(struct neighbour *neighbour, const struct view *view)
{
    *neighbour = (struct neighbour){.view = *view};
    assert_int_equal(pthread_create(&neighbour->thread, NULL, write_on, neighbour), 0);
}

static double neighbour_stop_ms(struct neighbour *neighbour)
{
    atomic_store(&neighbour->stop, true);
    pthread_join(neighbour->thread, NULL);
    return (double)neighbour->longest_ns / 1e6;
}

// ---- figures

#define ROUNDS_MAX 20

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static double median_ms(int64_t *ns, size_t count)
{
    qsort(ns, count, sizeof *ns, compare_ns);
    return (double)ns[count / 2] / 1e6;
}

// Of the processor, by the thread that commits: the same on a busy machine.
static int64_t commit_ns(struct view *view)
{
    int64_t began = af_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    ops_commit(view);
    return af_clock_ns(CLOCK_THREAD_CPUTIME_ID) - began;
}

// Commits of the same files again and again, by a sandbox that is alone on its codebase: the
// processor time of one, and with all that follows in the background.
static void show_push(struct fixture *fixture, unsigned records, bool absorbs, const char *text)
{
    struct mux *mux = fixture->mux;
    int64_t took[ROUNDS_MAX], cpu_ns = 0;
    struct view view = ops_view(fixture, ops_codebase(fixture, NULL), "**/*=write");
    mux->absorb_max = absorbs ? records : 0;
    put_many(&view, "f", records, text);
    ops_commit(&view);
    clean_up_all(fixture);
    for (int i = 0; i < ROUNDS_MAX; i++) {
        put_many(&view, "f", records, text);
        int64_t cpu = af_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        took[i] = commit_ns(&view);
        cpu_ns += af_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    }
    int64_t cpu = af_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    clean_up_all(fixture);
    cpu_ns += af_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("push    %6u records %-14s %8.3f ms, with what follows %8.3f ms\n", records,
           absorbs ? "into the top" : "as a layer", median_ms(took, ROUNDS_MAX),
           (double)cpu_ns / 1e6 / ROUNDS_MAX);
    mux->absorb_max = MUX_ABSORB_MAX;
    ops_detach(&view);
}

// A merge of so many records onto a head that has moved on.
static void show_merge(struct fixture *fixture, struct neighbour *neighbour, unsigned records,
                       unsigned step_max, unsigned batch)
{
    enum { ROUNDS = 3 };
    struct mux *mux = fixture->mux;
    struct view other = neighbour->view;
    int64_t took[ROUNDS];
    double waited[ROUNDS];
    mux->merge_step_max = step_max;
    mux->merge_batch = batch;
    for (int i = 0; i < ROUNDS; i++) {
        struct af_id codebase = ops_codebase(fixture, NULL);
        struct view view = ops_view(fixture, codebase, "**/*=write");
        struct view writer = ops_view(fixture, codebase, "**/*=write");
        put_many(&view, "f", records, "text of a file of this merge");
        ops_put(&writer, "head", "moves on");
        ops_commit(&writer);
        neighbour_start(neighbour, &other);
        took[i] = commit_ns(&view);
        waited[i] = neighbour_stop_ms(neighbour);
        assert_download(&view, "f00000", "text of a file of this merge");
        ops_detach(&view);
        ops_detach(&writer);
    }
    double longest = waited[0], least = waited[0];
    for (int i = 1; i < ROUNDS; i++) {
        longest = waited[i] > longest ? waited[i] : longest;
        least = waited[i] < least ? waited[i] : least;
    }
    printf("merge   %6u records %s %6u %8.2f ms, a neighbour's longest write %.2f to %.2f ms\n",
           records, step_max > 0 ? "in one step " : "in batches of", step_max > 0 ? 1 : batch,
           median_ms(took, ROUNDS), least, longest);
    mux->merge_step_max = MUX_MERGE_STEP_MAX;
    mux->merge_batch = MUX_MERGE_BATCH;
}

static void test_what_the_bounds_cost(void **state)
{
    static const unsigned pushed[] = {1, 8, 32, 64, 128, 256, 512, 1024};
    static const unsigned merged[] = {64, 256, 512, 1024, 2048, 4096};
    static const unsigned batches[] = {32, 128, 256, 512, 1024, 2048, 8192};
    struct fixture *fixture = *state;
    if (!getenv("AGENTFENSE_FIGURES")) {
        print_message("skipped: figures, which AGENTFENSE_FIGURES asks for, are no check\n");
        skip();
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < AF_ARRAY_LEN(pushed); i++)
        for (int absorbs = 1; absorbs >= 0; absorbs--)
            show_push(fixture, pushed[i], absorbs, "text of a small file");
    struct view other = ops_view(fixture, ops_codebase(fixture, NULL), "**/*=write");
    struct neighbour neighbour;
    ops_put(&other, "own", "data");
    neighbour_start(&neighbour, &other);
    int64_t until = af_monotonic_ns() + AF_NS_PER_SEC / 10;
    while (af_monotonic_ns() < until)
        continue;
    printf("alone                a neighbour's longest write in 100 ms %.2f ms\n",
           neighbour_stop_ms(&neighbour));
    for (size_t i = 0; i < AF_ARRAY_LEN(merged); i++) {
        show_merge(fixture, &neighbour, merged[i], UINT32_MAX, MUX_MERGE_BATCH);
        show_merge(fixture, &neighbour, merged[i], 0, MUX_MERGE_BATCH);
    }
    for (size_t i = 0; i < AF_ARRAY_LEN(batches); i++)
        show_merge(fixture, &neighbour, 20000, 0, batches[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_as_many_records_as_may_go_into_the_top_layer_and_one_more_is_a_layer),
        fixture_test(test_what_the_bounds_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
