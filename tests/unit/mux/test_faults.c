// A disk that is full or breaks in the middle of any operation: every failing point of every
// operation, one after the other. The errno is the disk's; the view is what it was, at once and
// after a restart; fsck is clean; and the operation works when it is tried again.
#include "tests/unit/mux/fault_operations.h"
#include "tests/unit/mux/fault_shim.h"

#include "mux/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

#define POINTS_MAX 500

// ---- a view, and all that is in it as a text

static struct view make_view(struct fixture *f, const struct operation *op)
{
    static const struct base_file files[] = {{"d", S_IFDIR | 0755, NULL},
                                             {"d/small", 0, "hello"},
                                             {"empty", S_IFDIR | 0755, NULL},
                                             {"link", S_IFLNK | 0777, "d/small"},
                                             {NULL}};
    struct af_id codebase = ops_codebase(f, files);
    ops_upload_big(f, codebase, "big", BIG, 3);
    struct view v = ops_view(f, codebase, "**/*=write");
    assert_int_equal(ops_create(&v, "own", 0644), 0);
    assert_int_equal(ops_write(&v, "own", buf, 20000, 0), 0);
    if (op->prepare)
        op->prepare(&v);
    assert_int_equal(store_sync(mux_store(f->mux)), 0);
    return v;
}

static uint64_t hash_of(struct view *v, const char *path, off_t size)
{
    static char bytes[1 << 20];
    uint64_t hash = 14695981039346656037u;
    ssize_t n = ops_read(v, path, bytes, sizeof bytes, 0);
    if (n != size)
        fail_msg("%s: read %zd of %ld", path, n, (long)size);
    for (ssize_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211u;
    return hash;
}

static void describe(struct view *v, const char *dir, FILE *out)
{
    char *names = ops_list(v, dir, 64), *rest = names, *name;
    while ((name = strsep(&rest, " "))) {
        char path[300];
        if (!*name)
            continue;
        snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", name);
        struct stat st = ops_stat(v, path);
        fprintf(out, "%s %o %lu %ld", path, st.st_mode, (unsigned long)st.st_nlink,
                (long)st.st_size);
        if (S_ISREG(st.st_mode))
            fprintf(out, " %lx", (unsigned long)hash_of(v, path, st.st_size));
        fputc('\n', out);
        if (S_ISDIR(st.st_mode))
            describe(v, path, out);
    }
    free(names);
}

static bool has_sandbox(struct view *v)
{
    struct store_txn *txn;
    struct store_sandbox sandbox;
    assert_int_equal(store_read_begin(mux_store(v->fixture->mux), &txn), 0);
    int rc = store_sandbox_get(txn, v->sandbox.text, &sandbox);
    if (rc == 0)
        store_sandbox_free_rules(&sandbox);
    store_read_end(txn);
    return rc == 0;
}

// What is in the codebase, as a new sandbox finds it.
static void describe_codebase(struct view *v, FILE *out)
{
    struct store_codebase codebase = get_codebase(v->fixture, v->codebase);
    fprintf(out, "codebase: %llu files, %llu bytes\n", (unsigned long long)codebase.files,
            (unsigned long long)codebase.size_bytes);
    struct view other = ops_view(v->fixture, v->codebase, "**/*=write");
    struct af_error err;
    describe(&other, "", out);
    ops_detach(&other);
    assert_int_equal(mux_sandbox_destroy(v->fixture->mux, other.sandbox.text, &err), 0);
}

static char *description(struct view *v)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (has_sandbox(v))
        describe(v, "", out);
    describe_codebase(v, out);
    fclose(out);
    return text;
}

static void expect_text(const struct operation *op, int n, const char *when, char *found,
                        const char *expected)
{
    if (strcmp(found, expected) != 0)
        fail_msg("%s, fault %d (%s), %s:\n%s\nexpected:\n%s", op->name, n, fault.call, when, found,
                 expected);
    free(found);
}

// What the operation makes of the view, without any fault.
static char *run_undisturbed(const struct operation *op)
{
    struct fixture *f;
    fixture_setup((void **)&f);
    struct view v = make_view(f, op);
    int rc = op->run(&v);
    if (rc < 0)
        fail_msg("%s: %s", op->name, strerror(-rc));
    char *text = description(&v);
    assert_int_equal(fixture_teardown((void **)&f), 0);
    return text;
}

static bool is_sane(int rc, int error)
{
    return rc == -error || rc == -EIO; // a database that cannot be written any more is EIO
}

// One operation with its n-th call failing. False: it makes fewer than n.
static bool run_with_fault(const struct operation *op, int n, int error, bool stays,
                           const char *after)
{
    struct fixture *f;
    fixture_setup((void **)&f);
    struct view v = make_view(f, op);
    char *before = description(&v);
    atomic_store(&fault.stays, stays);
    fault_arm(f->dir, n, error);
    int rc = op->run(&v);
    if (rc == MUX_SLOW) { // as fs does: again where it may wait
        v.ctx.may_block = true;
        rc = op->run(&v);
    }
    bool fired = fault_disarm();
    if (rc < 0 && (!fired || !is_sane(rc, error)))
        fail_msg("%s, fault %d (%s) %s: %s", op->name, n, fault.call, strerror(error),
                 strerror(-rc));
    fixture_reopen(f);
    if (has_sandbox(&v))
        ops_attach(&v);
    if (!op->partial)
        expect_text(op, n, "after a restart", description(&v), rc < 0 ? before : after);
    assert_fsck_clean(f);
    if (rc < 0) {
        rc = op->run(&v);
        if (rc < 0)
            fail_msg("%s again, after fault %d (%s): %s", op->name, n, fault.call, strerror(-rc));
        expect_text(op, n, "tried again", description(&v), after);
    }
    free(before);
    assert_int_equal(fixture_teardown((void **)&f), 0);
    return fired;
}

static void sweep(int error, bool stays)
{
    const char *only = getenv("AF_TEST_OPERATION");
    unsigned faults = 0;
    for (size_t i = 0; i < sizeof buf; i++)
        buf[i] = (char)ops_byte(9, i);
    for (size_t i = 0; i < AF_ARRAY_LEN(operations); i++) {
        const struct operation *op = &operations[i];
        if (only && strcmp(only, op->name) != 0)
            continue;
        char *after = run_undisturbed(op);
        int n = 1;
        while (n < POINTS_MAX && run_with_fault(op, n, error, stays, after))
            n++;
        assert_true(n < POINTS_MAX);
        assert_true(n > 1); // every operation writes
        faults += (unsigned)n - 1;
        free(after);
    }
    print_message("%u faults\n", faults);
}

static void test_D6_a_disk_that_breaks_once_at_any_point_costs_nothing(void **state)
{
    (void)state;
    sweep(EIO, false);
}

static void test_D6_a_disk_that_is_full_from_any_point_on_costs_nothing(void **state)
{
    (void)state;
    sweep(ENOSPC, true);
}

int main(void)
{
    setenv("TMPDIR", "/dev/shm", 1); // thousands of stores: in memory, where there is one
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_D6_a_disk_that_breaks_once_at_any_point_costs_nothing),
        cmocka_unit_test(test_D6_a_disk_that_is_full_from_any_point_on_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
