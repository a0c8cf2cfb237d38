// Content where the store's state is one that a crash or a snapshot leaves behind: what is void
// stays invisible, what is frozen stays as it is, what was acknowledged is there (B9).
#include "tests/unit/mux/ops_fixture.h"

#include "mux/layer_list.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BIG 200000

static int copy_sandbox(void *arg, const struct store_sandbox *sandbox)
{
    struct store_sandbox *copy = arg;
    *copy = *sandbox;
    copy->rules = NULL; // they end with the transaction
    copy->n_rules = 0;
    copy->user_data = NULL;
    copy->user_data_len = 0;
    return 0;
}

static struct store_sandbox record_of(struct view *v)
{
    struct store_sandbox sandbox;
    struct af_error err;
    int rc = mux_sandbox_get(v->fixture->mux, v->sandbox.text, copy_sandbox, &sandbox, &err);
    assert_int_equal(rc, 0);
    return sandbox;
}

// The file's own blob, as the delta records it.
static struct store_blob *open_blob(struct view *v, const char *path)
{
    struct store *store = mux_store(v->fixture->mux);
    struct store_txn *txn;
    struct store_inode inode;
    struct store_blob *blob;
    uint64_t fid = ops_stat(v, path).st_ino;
    assert_int_equal(store_read_begin(store, &txn), 0);
    assert_int_equal(store_inode_get(txn, record_of(v).delta, fid, &inode), 0);
    assert_int_equal(inode.content, STORE_CONTENT_BLOB);
    assert_true(inode.blob_owned);
    uint64_t id = inode.blob;
    store_read_end(txn);
    assert_int_equal(store_blob_open(store, id, &blob), 0);
    return blob;
}

static void assert_zeros(struct view *v, const char *path, off_t from, off_t to)
{
    char *buf = malloc((size_t)(to - from));
    assert_int_equal(ops_read(v, path, buf, (size_t)(to - from), from), to - from);
    for (off_t i = 0; i < to - from; i++)
        assert_int_equal(buf[i], 0);
    free(buf);
}

// A crash between writing a blob and committing the record leaves bytes behind the end.
static void leave_void_bytes(struct view *v, const char *path)
{
    struct store_blob *blob = open_blob(v, path);
    char bytes[5000];
    memset(bytes, 'v', sizeof bytes);
    ssize_t n = pwrite(store_blob_fd(blob), bytes, sizeof bytes, ops_stat(v, path).st_size);
    assert_int_equal(n, sizeof bytes);
    store_blob_release(blob);
}

static void test_D6_void_bytes_never_come_to_light(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    char bytes[4000] = {1};
    assert_int_equal(ops_create(&v, "f", 0644), 0);
    assert_int_equal(ops_write(&v, "f", bytes, sizeof bytes, 0), 0);
    leave_void_bytes(&v, "f");
    assert_int_equal(ops_read(&v, "f", bytes, 10, 4000), 0);
    assert_int_equal(ops_write(&v, "f", "x", 1, 6000), 0);
    assert_zeros(&v, "f", 4000, 6000);
    leave_void_bytes(&v, "f");
    assert_int_equal(ops_truncate(&v, "f", 8000), 0);
    assert_zeros(&v, "f", 6001, 8000);
    leave_void_bytes(&v, "f");
    assert_int_equal(ops_write(&v, "f", "x", 1, 8000), 0); // no gap: nothing to hide
    assert_int_equal(ops_stat(&v, "f").st_size, 8001);
}

// What a snapshot does: the delta becomes a frozen layer under a new one.
static void freeze_delta(struct view *v)
{
    struct store *store = mux_store(v->fixture->mux);
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct mux_layer_list layers;
    ops_detach(v);
    assert_int_equal(store_write_begin(store, &txn), 0);
    assert_int_equal(store_sandbox_get(txn, v->sandbox.text, &sandbox), 0);
    uint64_t old_delta = sandbox.delta, old_stack = sandbox.stack;
    assert_int_equal(mux_layer_list_load(txn, old_delta, old_stack, &layers), 0);
    assert_int_equal(store_layer_freeze(txn, old_delta), 0);
    assert_int_equal(store_stack_new(txn, layers.ids, layers.count, &sandbox.stack), 0);
    assert_int_equal(store_layer_new(txn, &sandbox.delta), 0);
    assert_int_equal(store_sandbox_put(txn, &sandbox), 0);
    assert_int_equal(store_layer_unref(txn, old_delta), 0);
    assert_int_equal(store_stack_unref(txn, old_stack), 0);
    store_sandbox_free_rules(&sandbox);
    mux_layer_list_fini(&layers);
    assert_int_equal(store_commit(txn), 0);
    ops_attach(v);
}

static void test_D6_a_frozen_blob_is_never_written(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    char bytes[4000], now[4000];
    memset(bytes, 'f', sizeof bytes);
    static const char *const names[] = {"write", "append", "cut", "rename", "chmod"};
    struct store_blob *blobs[5];
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(ops_create(&v, names[i], 0644), 0);
        assert_int_equal(ops_write(&v, names[i], bytes, sizeof bytes, 0), 0);
        blobs[i] = open_blob(&v, names[i]);
    }
    uint64_t ino = ops_stat(&v, "write").st_ino;
    freeze_delta(&v);
    assert_int_equal(ops_stat(&v, "write").st_ino, ino);
    assert_int_equal(ops_write(&v, "write", "X", 1, 7), 0);
    assert_int_equal(ops_write(&v, "append", "X", 1, 4000), 0);
    assert_int_equal(ops_truncate(&v, "cut", 3000), 0);
    assert_int_equal(ops_rename(&v, "rename", "renamed", 0), 0);
    assert_int_equal(ops_write(&v, "renamed", "X", 1, 0), 0);
    assert_int_equal(ops_chmod(&v, "chmod", 0600), 0);
    assert_int_equal(ops_write(&v, "chmod", "X", 1, 0), 0);
    assert_int_equal(ops_read(&v, "write", now, sizeof now, 0), 4000);
    assert_int_equal(now[7], 'X');
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(pread(store_blob_fd(blobs[i]), now, sizeof now, 0), sizeof now);
        assert_memory_equal(now, bytes, sizeof now);
        assert_int_equal(lseek(store_blob_fd(blobs[i]), 0, SEEK_END), sizeof now);
        store_blob_release(blobs[i]);
    }
    assert_accounting(&v);
}

static void test_a_frozen_file_of_ones_own_is_shared_again(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    ops_put(&v, "f", "text");
    uint64_t private = ops_nodeid(&v, "f");
    freeze_delta(&v);
    assert_int_equal(ops_stat(&v, "f").st_mode, S_IFREG | 0644);
    assert_int_equal(ops_unlink(&v, "f"), 0); // now in a lower layer: a whiteout
    assert_names(&v, "", "");
    ops_put(&v, "f", "again");
    assert_int_not_equal(ops_nodeid(&v, "f"), private);
    freeze_delta(&v);
    freeze_delta(&v);
    assert_text(&v, "f", "again");
}

// ---- killed in the middle

struct step {
    unsigned number;
};

static char byte_of(unsigned number)
{
    return (char)('a' + number % 26);
}

// Step n changes byte n of the base file, makes file n and moves file n - 1 into a directory.
static int do_step(struct view *v, unsigned n)
{
    char name[32], to[48], content[3000];
    char byte = byte_of(n);
    memset(content, byte, sizeof content);
    int rc = ops_write(v, "big", &byte, 1, n);
    snprintf(name, sizeof name, "f%u", n);
    if (rc == 0)
        rc = ops_create(v, name, 0644);
    if (rc == 0)
        rc = ops_write(v, name, content, n % 2 ? sizeof content : 100, 0);
    if (rc < 0 || n == 0)
        return rc;
    snprintf(name, sizeof name, "f%u", n - 1);
    snprintf(to, sizeof to, "moved/%s", name);
    return ops_rename(v, name, to, 0);
}

static void run_until_killed(struct fixture *f, const char *sandbox, int ack)
{
    struct view v = {.fixture = f};
    ops_reopen_sized(f, 100);
    snprintf(v.sandbox.text, sizeof v.sandbox.text, "%s", sandbox);
    ops_attach(&v);
    for (struct step step = {0};; step.number++)
        if (do_step(&v, step.number) < 0 || write(ack, &step, sizeof step) < 0)
            _exit(1);
}

static void check_after_kill(struct view *v, unsigned acked)
{
    char path[48], content[3001];
    for (unsigned n = 0; n < acked; n++) {
        assert_int_equal(ops_read(v, "big", content, 1, n), 1);
        assert_int_equal(content[0], byte_of(n));
        snprintf(path, sizeof path, n + 1 < acked ? "moved/f%u" : "f%u", n);
        if (!ops_exists(v, path)) // the step after the last acknowledged one may have moved it
            snprintf(path, sizeof path, "moved/f%u", n);
        ssize_t size = n % 2 ? 3000 : 100;
        assert_int_equal(ops_read(v, path, content, sizeof content, 0), size);
        for (ssize_t i = 0; i < size; i++)
            assert_int_equal(content[i], byte_of(n));
    }
    for (unsigned n = acked + 1; n < BIG; n += 1000) { // the rest of the copied file is whole
        assert_int_equal(ops_read(v, "big", content, 1, n), 1);
        assert_int_equal((unsigned char)content[0], ops_byte(2, n));
    }
    assert_accounting(v);
}

static void test_B9_a_kill_loses_nothing_that_was_acknowledged(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = ops_codebase(f, NULL);
    ops_upload_big(f, codebase, "big", BIG, 2);
    for (unsigned round = 0; round < 5; round++) {
        struct view v = ops_view(f, codebase, "**/*=write");
        assert_int_equal(ops_mkdir(&v, "moved", 0755), 0);
        int ack[2];
        assert_int_equal(pipe(ack), 0);
        fixture_close(f);
        pid_t child = fork();
        if (child == 0)
            run_until_killed(f, v.sandbox.text, ack[1]);
        close(ack[1]);
        struct step step = {0};
        unsigned acked = 0;
        while (acked < 3 + round * 20 && read(ack[0], &step, sizeof step) == sizeof step)
            acked = step.number + 1;
        kill(child, SIGKILL);
        while (read(ack[0], &step, sizeof step) == sizeof step)
            acked = step.number + 1;
        close(ack[0]);
        waitpid(child, NULL, 0);
        assert_true(acked >= 3);
        ops_reopen_sized(f, 100);
        ops_attach(&v);
        check_after_kill(&v, acked);
        ops_detach(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_D6_void_bytes_never_come_to_light),
        fixture_test(test_D6_a_frozen_blob_is_never_written),
        fixture_test(test_a_frozen_file_of_ones_own_is_shared_again),
        fixture_test(test_B9_a_kill_loses_nothing_that_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
