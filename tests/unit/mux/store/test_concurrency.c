// Many threads at once: writers, readers, syncs, the collector and blobs, then a recount of all.
#include "tests/unit/mux/store/store_fixture.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#define WRITERS 3
#define ROUNDS  150
#define FILES   12

struct worker {
    struct fixture *f;
    uint64_t layer;
    uint64_t fids[FILES];
    uint64_t blobs[FILES]; // what each file refers to; 0: nothing
    unsigned seed;
};

static atomic_bool stop;

static void put_file(struct worker *w, int i)
{
    struct store_blob *blob;
    assert_int_equal(store_blob_new(w->f->store, &blob), 0);
    assert_int_equal(pwrite(store_blob_fd(blob), &i, sizeof i, 0), sizeof i);
    struct store_inode inode = regular(w->f, w->fids[i], "");
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = store_blob_id(blob);
    inode.size = sizeof i;
    struct store_txn *txn = begin(w->f);
    assert_int_equal(store_inode_put(txn, w->layer, &inode), 0);
    if (rand_r(&w->seed) % 5 == 0) {
        store_abort(txn);
        store_blob_discard(blob);
        return;
    }
    commit(txn);
    w->blobs[i] = inode.blob;
    store_blob_release(blob);
}

static void share_file(struct worker *w, int from, int to)
{
    struct store_txn *txn = begin(w->f);
    struct store_inode inode;
    if (store_inode_get(txn, w->layer, w->fids[from], &inode) == 0) {
        inode.fid = w->fids[to];
        inode.version = new_id(w->f);
        assert_int_equal(store_inode_put(txn, w->layer, &inode), 0);
        w->blobs[to] = w->blobs[from];
    }
    commit(txn);
}

static void drop_file(struct worker *w, int i)
{
    struct store_txn *txn = begin(w->f);
    int rc = store_inode_del(txn, w->layer, w->fids[i]);
    assert_int_equal(rc, w->blobs[i] ? 0 : -ENOENT);
    commit(txn);
    w->blobs[i] = 0;
}

static void *writer(void *arg)
{
    struct worker *w = arg;
    for (int round = 0; round < ROUNDS; round++) {
        int i = (int)(rand_r(&w->seed) % FILES), j = (int)(rand_r(&w->seed) % FILES);
        switch (rand_r(&w->seed) % 4) {
        case 0:
        case 1:
            put_file(w, i);
            break;
        case 2:
            if (w->blobs[i] && i != j)
                share_file(w, i, j);
            break;
        default:
            drop_file(w, i);
        }
        if (round % 40 == 0)
            assert_int_equal(store_sync(w->f->store), 0);
    }
    return NULL;
}

// A record that a reader sees has a file with its content, whatever moves meanwhile.
static int check_blob(void *arg, const struct store_inode *inode)
{
    struct worker *w = arg;
    struct store_blob *blob;
    int value;
    assert_int_equal(store_blob_open(w->f->store, inode->blob, &blob), 0);
    assert_int_equal(pread(store_blob_fd(blob), &value, sizeof value, 0), sizeof value);
    store_blob_release(blob);
    return 0;
}

static void *reader(void *arg)
{
    struct worker *workers = arg;
    while (!atomic_load(&stop)) {
        // Opening may be too late for a blob dropped meanwhile; only its own layer is quiet.
        struct store_txn *txn = begin_read(workers[0].f);
        struct store_layer layer;
        for (int i = 0; i < WRITERS; i++)
            assert_int_equal(store_layer_get(txn, workers[i].layer, &layer), 0);
        store_read_end(txn);
        struct store_stats stats;
        assert_int_equal(store_get_stats(workers[0].f->store, &stats), 0);
    }
    return NULL;
}

static void *churner(void *arg)
{
    struct fixture *f = ((struct worker *)arg)->f;
    while (!atomic_load(&stop)) {
        uint64_t layer, removed;
        struct store_txn *txn = begin(f);
        assert_int_equal(store_layer_new(txn, &layer), 0);
        for (int i = 0; i < 20; i++) {
            struct store_inode inode = regular(f, new_id(f), "garbage");
            assert_int_equal(store_inode_put(txn, layer, &inode), 0);
        }
        commit(txn);
        txn = begin(f);
        assert_int_equal(store_layer_unref(txn, layer), 0);
        commit(txn);
        assert_int_equal(store_gc_drain(f->store, &removed), 0);
    }
    return NULL;
}

static size_t distinct_blobs(const struct worker *workers)
{
    size_t count = 0;
    for (int w = 0; w < WRITERS; w++)
        for (int i = 0; i < FILES; i++) {
            bool seen = workers[w].blobs[i] == 0;
            for (int j = 0; j < i; j++)
                seen = seen || workers[w].blobs[j] == workers[w].blobs[i];
            count += !seen;
        }
    return count;
}

static void test_B2_B3_threads_leave_exactly_what_they_wrote(void **state)
{
    struct fixture *f = *state;
    struct worker workers[WRITERS] = {0};
    pthread_t threads[WRITERS + 2];
    atomic_store(&stop, false);
    struct store_txn *txn = begin(f);
    for (unsigned w = 0; w < WRITERS; w++) {
        workers[w] = (struct worker){.f = f, .seed = w + 1};
        assert_int_equal(store_layer_new(txn, &workers[w].layer), 0);
    }
    commit(txn);
    for (int w = 0; w < WRITERS; w++)
        for (int i = 0; i < FILES; i++)
            workers[w].fids[i] = new_id(f);
    for (int w = 0; w < WRITERS; w++)
        pthread_create(&threads[w], NULL, writer, &workers[w]);
    pthread_create(&threads[WRITERS], NULL, reader, workers);
    pthread_create(&threads[WRITERS + 1], NULL, churner, workers);
    for (int w = 0; w < WRITERS; w++)
        pthread_join(threads[w], NULL);
    atomic_store(&stop, true);
    pthread_join(threads[WRITERS], NULL);
    pthread_join(threads[WRITERS + 1], NULL);

    for (int again = 0; again < 2; again++) { // and once more after a restart
        uint64_t removed;
        struct store_stats stats;
        assert_int_equal(store_gc_drain(f->store, &removed), 0);
        assert_int_equal(store_get_stats(f->store, &stats), 0);
        assert_int_equal(stats.blobs, distinct_blobs(workers));
        assert_int_equal(stats.layers, WRITERS);
        assert_int_equal(count_files(f->dir, "blobs"), stats.blobs);
        assert_int_equal(count_files(f->dir, "new"), 0);
        txn = begin_read(f);
        for (int w = 0; w < WRITERS; w++)
            assert_int_equal(store_layer_inodes(txn, workers[w].layer, check_blob, &workers[w]), 0);
        store_read_end(txn);
        fixture_reopen(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_B2_B3_threads_leave_exactly_what_they_wrote,
                                        fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
