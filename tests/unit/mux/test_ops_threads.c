// Many threads on two views at once, while a third comes and goes: nothing is lost, nothing mixes
// (B2 under load), and ThreadSanitizer has nothing to say.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/subtree.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define THREADS 6
#define ROUNDS  150

static const struct base_file tree[] = {
    {.path = "base/a", .text = "alpha"},
    {.path = "base/deep/b", .text = "beta"},
    {.path = "base/.env", .text = "KEY"},
    {0},
};

struct worker {
    struct view view; // its own copy: the helpers count in it
    unsigned number;
    _Atomic bool *stop;
    const char *failed; // what went wrong first
    int rc;
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

static void *change(void *arg)
{
    struct worker *w = arg;
    struct view *v = &w->view;
    char dir[32], moved[32], file[64], text[32], buf[32];
    snprintf(dir, sizeof dir, "w%u", w->number);
    snprintf(moved, sizeof moved, "m%u", w->number);
    snprintf(text, sizeof text, "text of %u", w->number);
    for (unsigned i = 0; i < ROUNDS; i++) {
        MUST(w, ops_mkdir(v, dir, 0755), 0);
        snprintf(file, sizeof file, "%s/f", dir);
        MUST(w, ops_create(v, file, 0644), 0);
        MUST(w, ops_write(v, file, text, strlen(text), 0), 0);
        MUST(w, ops_rename(v, dir, moved, 0), 0);
        snprintf(file, sizeof file, "%s/f", moved);
        MUST(w, ops_read(v, file, buf, sizeof buf, 0), (int)strlen(text));
        if (memcmp(buf, text, strlen(text)) != 0)
            MUST(w, -EBADMSG, 0);
        uint64_t nodeid;
        struct mux_entry entry;
        MUST(w, ops_lookup(v, file, &entry), 0);
        nodeid = entry.nodeid;
        MUST(w, ops_unlink(v, file), 0);
        MUST(w, ops_write_node(v, nodeid, "still", 5, 0), 0);
        mux_forget(v->fixture->mux, nodeid);
        MUST(w, ops_rmdir(v, moved), 0);
        // Everybody appends to one file of the base.
        MUST(w, ops_write(v, "base/a", &text[8], 1, (off_t)(5 + w->number * ROUNDS + i)), 0);
    }
    return NULL;
}

static bool count_name(void *arg, const char *name, size_t len, uint64_t cookie,
                       const struct mux_entry *entry)
{
    (void)cookie;
    (void)entry;
    if (len == 4 && memcmp(name, ".env", 4) == 0)
        return false;
    ++*(unsigned *)arg;
    return true;
}

static void *look(void *arg)
{
    struct worker *w = arg;
    struct view *v = &w->view;
    struct mux_entry entry;
    char buf[8];
    while (!atomic_load(w->stop)) {
        unsigned names = 0;
        MUST(w, ops_lookup(v, "base/.env", &entry), -ENOENT);
        MUST(w, ops_read(v, "base/deep/b", buf, sizeof buf, 0), 4);
        MUST(w, ops_lookup(v, "base", &entry), 0);
        MUST(w, mux_readdir(v->fixture->mux, &v->ctx, entry.nodeid, 0, true, count_name, &names),
             0);
        MUST(w, names == 4 || names == 5, 1); // ".", "..", a, deep, and perhaps many
    }
    return NULL;
}

// A tree too large to check on the spot moves to and fro while names come and go around it.
static void *move_many(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(w->stop)) {
        MUST(w, ops_rename(&w->view, "base/many", "base/deep/many", 0), 0);
        MUST(w, ops_rename(&w->view, "base/deep/many", "base/many", RENAME_NOREPLACE), 0);
    }
    MUST(w, w->view.slow > 0, 1);
    return NULL;
}

static void *come_and_go(void *arg)
{
    struct worker *w = arg;
    struct mux *mux = w->view.fixture->mux;
    struct af_error err;
    while (!atomic_load(w->stop)) {
        struct mux_entry entry;
        uint64_t root = w->view.root;
        mux_view_detach(mux, w->view.sandbox.text);
        MUST(w, mux_lookup(mux, &w->view.ctx, root, "base", &entry), -ESTALE);
        MUST(w, mux_view_attach(mux, w->view.sandbox.text, &w->view.at, &err), 0);
        struct mux_ctx as_root = {0};
        MUST(w, mux_lookup(mux, &as_root, 1, w->view.sandbox.text, &entry), 0);
        w->view.root = entry.nodeid;
        MUST(w, ops_create(&w->view, "tmp", 0644), 0);
        MUST(w, ops_unlink(&w->view, "tmp"), 0); // an orphan for the detach
    }
    return NULL;
}

static void make_many(struct view *v)
{
    char path[32];
    assert_int_equal(ops_mkdir(v, "base/many", 0755), 0);
    for (unsigned i = 0; i < MUX_SUBTREE_FAST + 50; i++) {
        snprintf(path, sizeof path, "base/many/%u", i);
        assert_int_equal(ops_create(v, path, 0644), 0);
    }
}

static void test_B2_threads_on_three_views(void **state)
{
    struct fixture *f = *state;
    ops_reopen_sized(f, 64); // eviction all the time
    struct af_id codebase = ops_codebase(f, tree);
    struct view views[3];
    static const char rules[] = "**/*=write **/.env=none@9";
    for (int i = 0; i < 3; i++)
        views[i] = ops_view(f, codebase, rules);
    make_many(&views[1]);
    _Atomic bool stop = false;
    struct worker workers[THREADS + 4] = {0};
    pthread_t threads[THREADS + 4];
    for (unsigned i = 0; i < THREADS + 4; i++) {
        workers[i].view = views[i == THREADS + 2 ? 2 : i % 2];
        workers[i].number = i;
        workers[i].stop = &stop;
        void *(*body)(void *) = i < THREADS        ? change
                                : i < THREADS + 2  ? look
                                : i == THREADS + 2 ? come_and_go
                                                   : move_many;
        assert_int_equal(pthread_create(&threads[i], NULL, body, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    stop = true;
    for (unsigned i = THREADS; i < THREADS + 4; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS + 4; i++)
        if (workers[i].failed)
            fail_msg("thread %u: %s is %d", i, workers[i].failed, workers[i].rc);
    static char content[5 + THREADS * ROUNDS + 1];
    for (int i = 0; i < 2; i++) {
        assert_names(&views[i], "", "base");
        assert_true(ops_read(&views[i], "base/a", content, sizeof content, 0) > 5);
        for (unsigned n = 0; n < THREADS * ROUNDS; n++) // each view has its own threads' marks
            if ((n / ROUNDS) % 2 == (unsigned)i)
                assert_int_equal(content[5 + n], '0' + n / ROUNDS);
            else if (5 + n < (unsigned)ops_stat(&views[i], "base/a").st_size)
                assert_int_equal(content[5 + n], 0);
        assert_accounting(&views[i]);
    }
    assert_true(stats_of(f).orphans >= THREADS * ROUNDS); // removed directories, never forgotten
    for (int i = 0; i < 3; i++)
        ops_detach(&views[i]);
    assert_int_equal(stats_of(f).orphans, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_B2_threads_on_three_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
