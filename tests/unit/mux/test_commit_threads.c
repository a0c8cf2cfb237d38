// Commits, rebases, rollbacks and uploads beside operations on the same views, from many threads:
// nobody sees half of anything, and everything adds up at the end. Meant for TSan as well.
#include "mux/base/clock.h"
#include "mux/commit.h"
#include "mux/mux_priv.h"
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES     40
#define ROUNDS    400
#define LOG_BYTES 300000 // more than MUX_COPY_FAST_BYTES
#define LOG_EVERY 8
#define LOG_STEP  5000

// Of a thread, or of another's step: far beyond what a busy machine takes.
#define WAIT_S 300

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

// The threads of a test that hangs go on: nothing of it can be taken down.
static _Noreturn void hang(const char *what)
{
    fprintf(stderr, "hangs: %s within %d s\n", what, WAIT_S);
    abort();
}

static void join(pthread_t thread)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    if (pthread_timedjoin_np(thread, NULL, &until) != 0)
        hang("a thread has not ended");
}

// A log of each view, large and appended to: whoever reads it finds what was written, up to a
// point; who writes it, up to the end.
static char log_byte(size_t at)
{
    return (char)(at < LOG_BYTES ? '0' : 'a' + (at - LOG_BYTES) / LOG_STEP % 26);
}

static void append(struct view *view, const char *path, size_t at, size_t len)
{
    char *buf = malloc(len);
    for (size_t i = 0; i < len; i++)
        buf[i] = log_byte(at + i);
    assert_int_equal(ops_write(view, path, buf, len, (off_t)at), 0);
    free(buf);
}

static size_t check_log(struct view *view, const char *path)
{
    size_t max = LOG_BYTES + (ROUNDS / LOG_EVERY + 1) * LOG_STEP;
    char *buf = malloc(max);
    ssize_t n = ops_read(view, path, buf, max, 0);
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] != log_byte((size_t)i))
            fail_msg("%s: byte %zd of %zd is %d", path, i, n, buf[i]);
    free(buf);
    assert_true(n >= 0 || n == -ENOENT); // not there yet
    return n < 0 ? 0 : (size_t)n;
}

// Two files are always written with the same text, the second one after the first.
static void *write_pairs(void *arg)
{
    struct worker *worker = arg;
    struct view view = worker->shared->views[worker->view];
    char path[32], text[32];
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(text, sizeof text, "%08d", i);
        snprintf(path, sizeof path, "w%d/f%d", worker->view, i % FILES);
        ops_create(&view, path, 0644);
        assert_int_equal(ops_write(&view, path, text, 8, 0), 0);
        snprintf(path, sizeof path, "w%d/g%d", worker->view, i % FILES);
        ops_create(&view, path, 0644);
        assert_int_equal(ops_write(&view, path, text, 8, 0), 0);
        if (i % 7 == 0)
            ops_unlink(&view, path);
        if (i % LOG_EVERY != 0)
            continue;
        snprintf(path, sizeof path, "w%d/log", worker->view);
        size_t end = LOG_BYTES + (size_t)i / LOG_EVERY * LOG_STEP;
        assert_int_equal(check_log(&view, path), end);
        append(&view, path, end, LOG_STEP);
        snprintf(path, sizeof path, "w%d/log", 1 - worker->view);
        check_log(&view, path);
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
        char dir[32];
        shared.views[v] = ops_view(fixture, codebase, "**/*=write");
        snprintf(dir, sizeof dir, "w%d", v);
        assert_int_equal(ops_mkdir(&shared.views[v], dir, 0755), 0);
        snprintf(dir, sizeof dir, "w%d/log", v);
        assert_int_equal(ops_create(&shared.views[v], dir, 0644), 0);
        append(&shared.views[v], dir, 0, LOG_BYTES);
        workers[v] = (struct worker){&shared, v};
    }
    for (int v = 0; v < 2; v++) {
        assert_int_equal(pthread_create(&writers[v], NULL, write_pairs, &workers[v]), 0);
        assert_int_equal(pthread_create(&movers[v], NULL, move_views, &shared), 0);
    }
    assert_int_equal(pthread_create(&uploader, NULL, upload_files, &shared), 0);
    for (int v = 0; v < 2; v++)
        join(writers[v]);
    atomic_store(&shared.stop, true);
    for (int v = 0; v < 2; v++)
        join(movers[v]);
    join(uploader);
    assert_true(shared.commits > 0);
    for (int v = 0; v < 2; v++)
        ops_commit(&shared.views[v]);
    for (int v = 0; v < 2; v++) {
        char path[32];
        snprintf(path, sizeof path, "w%d/f39", v);
        assert_download(&shared.views[v], path, "00000399");
        assert_text(&shared.views[v], path, "00000399");
        snprintf(path, sizeof path, "w%d/log", v);
        assert_int_equal(check_log(&shared.views[v], path),
                         LOG_BYTES + ROUNDS / LOG_EVERY * LOG_STEP);
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

// ---- a view that changes while it is brought onto a large head

#define NEWS          1500
#define MOVE_ROUNDS   10
#define ATTACH_ROUNDS 400

static bool head_is_open(struct view *view)
{
    struct store_txn *txn;
    struct store_codebase codebase;
    assert_int_equal(store_read_begin(view->fixture->mux->store, &txn), 0);
    assert_int_equal(store_codebase_get(txn, view->codebase.text, &codebase), 0);
    store_read_end(txn);
    return codebase.head_dirty;
}

static void *rebase(void *arg)
{
    struct view *view = arg;
    ops_rebase(view);
    return NULL;
}

// Its first step closes the head, and the last one comes when all that is new has been looked at.
static void test_what_changes_while_an_unchanged_view_follows_a_large_head_is_merged(void **state)
{
    struct fixture *fixture = *state;
    char path[32];
    fixture->mux->merge_step_max = 0;
    for (int round = 0; round < MOVE_ROUNDS; round++) {
        struct af_id codebase =
            ops_codebase(fixture, (struct base_file[]){{"both", 0, "old"}, {"dir/f", 0, "f"}, {0}});
        struct view view = ops_view(fixture, codebase, "**/*=write");
        struct view other = ops_view(fixture, codebase, "**/*=write");
        for (int i = 0; i < NEWS; i++) {
            snprintf(path, sizeof path, "n%d", i);
            assert_int_equal(ops_create(&other, path, 0644), 0);
        }
        ops_put(&other, "both", "of the other one");
        assert_int_equal(ops_unlink(&other, "dir/f"), 0);
        assert_int_equal(ops_rmdir(&other, "dir"), 0);
        ops_commit(&other);
        upload(fixture, codebase, "up", "opens the head");
        assert_true(head_is_open(&view));
        pthread_t mover;
        assert_int_equal(pthread_create(&mover, NULL, rebase, &view), 0);
        int64_t end_ns = af_monotonic_ns() + WAIT_S * AF_NS_PER_SEC;
        for (; head_is_open(&view); sched_yield())
            if (af_monotonic_ns() > end_ns)
                hang("the head has not been closed");
        assert_int_equal(ops_chmod(&view, "both", 0600), 0);
        ops_create(&view, "dir/new", 0644); // -ENOENT when the view has already followed
        join(mover);
        ops_rebase(&view);
        assert_text(&view, "both", "of the other one");
        assert_int_equal(ops_stat(&view, "both").st_mode & 07777, 0600);
        ops_commit(&view);
        assert_download(&view, "both", "of the other one");
        assert_accounting(&view);
        assert_counters(fixture, codebase);
    }
}

struct told {
    struct view *view;
    bool told;
};

static void *rebase_and_note(void *arg)
{
    struct told *told = arg;
    told->told = ops_rebase(told->view).told;
    return NULL;
}

static void test_a_view_attached_while_it_is_brought_onto_a_large_head_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, (struct base_file[]){{"f", 0, "f"}, {0}});
    struct view view = ops_view(fixture, codebase, "**/*=write");
    fixture->mux->merge_step_max = 0;
    for (int round = 0; round < ATTACH_ROUNDS; round++) {
        char path[32];
        snprintf(path, sizeof path, "n%d", round);
        upload(fixture, codebase, path, "new");
        ops_detach(&view);
        struct told told = {.view = &view};
        pthread_t mover;
        assert_int_equal(pthread_create(&mover, NULL, rebase_and_note, &told), 0);
        while (round % 2 && head_is_open(&view)) // its first step closes it
            sched_yield();
        ops_attach(&view);
        bool before = !ops_exists(&view, path); // as the kernel knows from here on
        pthread_join(mover, NULL);
        assert_true(ops_exists(&view, path));
        assert_true(told.told || !before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_commits_beside_everything_else_lose_and_mix_nothing),
        fixture_test(test_merges_in_batches_beside_everything_else_lose_and_mix_nothing),
        fixture_test(test_what_changes_while_an_unchanged_view_follows_a_large_head_is_merged),
        fixture_test(test_a_view_attached_while_it_is_brought_onto_a_large_head_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
