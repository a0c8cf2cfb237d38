// Commits, rebases, rollbacks and uploads beside operations on the same views, from many threads:
// nobody sees half of anything, and everything adds up at the end. Meant for TSan as well.
#include "mux/commit.h"
#include "mux/mux_priv.h"
#include "tests/unit/mux/ops_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define FILES 40

struct shared {
    struct fixture *fixture;
    struct view views[2];
    atomic_bool stop;
    atomic_uint commits;
};

struct worker {
    struct shared *shared;
    int view;
};

// Two files are always written with the same text, the second one after the first.
static void *write_pairs(void *arg)
{
    struct worker *worker = arg;
    struct view view = worker->shared->views[worker->view];
    char path[32], text[32];
    for (int i = 0; i < 400; i++) {
        snprintf(text, sizeof text, "%08d", i);
        snprintf(path, sizeof path, "w%d/f%d", worker->view, i % FILES);
        ops_create(&view, path, 0644);
        assert_int_equal(ops_write(&view, path, text, 8, 0), 0);
        snprintf(path, sizeof path, "w%d/g%d", worker->view, i % FILES);
        ops_create(&view, path, 0644);
        assert_int_equal(ops_write(&view, path, text, 8, 0), 0);
        if (i % 7 == 0)
            ops_unlink(&view, path);
    }
    return NULL;
}

static void *move_views(void *arg)
{
    struct shared *shared = arg;
    for (unsigned i = 0; !atomic_load(&shared->stop); i++) {
        const char *id = shared->views[i % 2].sandbox.text;
        struct mux_commit_result result;
        struct mux_commit_state state;
        struct af_error err;
        int rc = i % 5 == 0
                     ? mux_rebase(shared->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err)
                     : mux_commit(shared->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err);
        if (rc < 0)
            fail_msg("%s", err.text);
        assert_int_equal(mux_commit_look(shared->fixture->mux, id, &state, &err), 0);
        atomic_fetch_add(&shared->commits, 1);
    }
    return NULL;
}

static void *upload_files(void *arg)
{
    struct shared *shared = arg;
    char path[32];
    for (unsigned i = 0; !atomic_load(&shared->stop); i++) {
        snprintf(path, sizeof path, "up/f%u", i % FILES);
        upload(shared->fixture, shared->views[0].codebase, path, "u");
    }
    return NULL;
}

static void run(struct fixture *fixture, unsigned step_max)
{
    struct shared shared = {.fixture = fixture};
    struct af_id codebase = ops_codebase(fixture, NULL);
    struct worker workers[2];
    pthread_t writers[2], movers[2], uploader;
    fixture->mux->merge_step_max = step_max;
    for (int v = 0; v < 2; v++) {
        char dir[16];
        shared.views[v] = ops_view(fixture, codebase, "**/*=write");
        snprintf(dir, sizeof dir, "w%d", v);
        assert_int_equal(ops_mkdir(&shared.views[v], dir, 0755), 0);
        workers[v] = (struct worker){&shared, v};
    }
    for (int v = 0; v < 2; v++) {
        assert_int_equal(pthread_create(&writers[v], NULL, write_pairs, &workers[v]), 0);
        assert_int_equal(pthread_create(&movers[v], NULL, move_views, &shared), 0);
    }
    assert_int_equal(pthread_create(&uploader, NULL, upload_files, &shared), 0);
    for (int v = 0; v < 2; v++)
        pthread_join(writers[v], NULL);
    atomic_store(&shared.stop, true);
    for (int v = 0; v < 2; v++)
        pthread_join(movers[v], NULL);
    pthread_join(uploader, NULL);
    assert_true(shared.commits > 0);
    for (int v = 0; v < 2; v++)
        ops_commit(&shared.views[v]);
    for (int v = 0; v < 2; v++) {
        char path[32];
        snprintf(path, sizeof path, "w%d/f39", v);
        assert_download(&shared.views[v], path, "00000399");
        assert_text(&shared.views[v], path, "00000399");
        assert_accounting(&shared.views[v]);
    }
    assert_counters(fixture, codebase);
}

static void test_commits_beside_everything_else_lose_and_mix_nothing(void **state)
{
    run(*state, MUX_MERGE_STEP_MAX);
}

static void test_merges_in_batches_beside_everything_else_lose_and_mix_nothing(void **state)
{
    run(*state, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_commits_beside_everything_else_lose_and_mix_nothing),
        fixture_test(test_merges_in_batches_beside_everything_else_lose_and_mix_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
