// A disk that is full or breaks in the middle of any operation: every failing point of every
// operation, one after the other. The errno is the disk's; the view is what it was, at once and
// after a restart; fsck is clean; and the operation works when it is tried again.
#include "tests/unit/mux/fault_shim.h"
#include "tests/unit/mux/ops_fixture.h"

#include "mux/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

#define BIG        300000
#define POINTS_MAX 200
#define NODE(v, p) ops_nodeid(v, p)
#define MUX(v)     ((v)->fixture->mux)

static const struct mux_ctx blocking = {.may_block = true};
static char buf[BIG];

// ---- the operations; each returns 0 or -errno

static int do_create(struct view *v)
{
    return ops_create(v, "d/new", 0644);
}
static int do_mkdir(struct view *v)
{
    return ops_mkdir(v, "d/new", 0755);
}
static int do_symlink(struct view *v)
{
    return ops_symlink(v, "target", "d/new");
}
static int do_mkfifo(struct view *v)
{
    return ops_mkfifo(v, "d/new", 0600);
}
static int do_tmpfile(struct view *v)
{
    struct mux_entry entry;
    return mux_tmpfile(MUX(v), &blocking, NODE(v, "d"), 0600, &entry);
}
static int do_unlink(struct view *v)
{
    return ops_unlink(v, "d/small");
}
static int do_unlink_own(struct view *v)
{
    return ops_unlink(v, "own");
}
static int do_rmdir(struct view *v)
{
    return ops_rmdir(v, "empty");
}
static int do_link(struct view *v)
{
    return ops_link(v, "big", "d/linked");
}
static int do_rename(struct view *v)
{
    return ops_rename(v, "big", "d/moved", 0);
}
static int do_rename_directory(struct view *v)
{
    return ops_rename(v, "d", "moved", 0);
}
static int do_rename_over(struct view *v)
{
    return ops_rename(v, "own", "big", 0);
}
static int do_exchange(struct view *v)
{
    return ops_rename(v, "own", "d", 2);
}
static int do_write_inline(struct view *v)
{
    return ops_write(v, "d/small", "abc", 3, 0);
}
static int do_write_outgrows_the_record(struct view *v)
{
    return ops_write(v, "d/small", buf, 9000, 0);
}
static int do_first_write_to_a_base_file(struct view *v)
{
    return ops_write(v, "big", "abc", 3, 1000);
}
static int do_append_to_a_base_file(struct view *v)
{
    return ops_write(v, "big", buf, 5000, BIG);
}
static int do_overwrite_all_of_a_base_file(struct view *v)
{
    return ops_write(v, "big", buf, BIG, 0);
}
static int do_append_to_an_own_file(struct view *v)
{
    return ops_write(v, "own", buf, 5000, 20000);
}
static int do_truncate_a_base_file(struct view *v)
{
    return ops_truncate(v, "big", 100000);
}
static int do_truncate_an_own_file(struct view *v)
{
    return ops_truncate(v, "own", 10000);
}
static int do_grow(struct view *v)
{
    return ops_truncate(v, "own", 1000000);
}
static int do_chmod(struct view *v)
{
    return ops_chmod(v, "big", 0600);
}
static int do_utimens(struct view *v)
{
    struct stat attr = {.st_mtim = {.tv_sec = 77}};
    return ops_setattr(v, NODE(v, "d"), MUX_SET_MTIME, &attr, NULL);
}
static int do_setxattr(struct view *v)
{
    return mux_setxattr(MUX(v), &blocking, NODE(v, "big"), "user.a", buf, 5000, 0);
}
static int do_fallocate(struct view *v)
{
    return mux_fallocate(MUX(v), &blocking, NODE(v, "own"), 0, 0, 50000);
}
static int do_punch(struct view *v)
{
    return mux_fallocate(MUX(v), &blocking, NODE(v, "big"),
                         FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 200000, 100000);
}
static int do_copy_range(struct view *v)
{
    size_t copied = 0;
    int rc =
        mux_copy_range(MUX(v), &blocking, NODE(v, "big"), 0, NODE(v, "own"), 20000, BIG, &copied);
    return rc < 0 ? rc : 0;
}
static int do_fsync(struct view *v)
{
    int rc = ops_write(v, "own", buf, 5000, 20000);
    return rc < 0 ? rc : mux_fsync(MUX(v), &blocking, NODE(v, "own"), false);
}
static int of_error(int rc, const struct af_error *err)
{
    if (rc >= 0)
        return 0;
    return err->status == AF_RESOURCE_EXHAUSTED ? -ENOSPC : -EIO;
}
static int do_upload(struct view *v)
{
    struct mux_upload *upload;
    struct mux_upload_result result;
    struct af_error err;
    int rc = mux_upload_begin(MUX(v), v->codebase.text, "d/up", 4, -1, &upload, &err);
    if (rc < 0)
        return of_error(rc, &err);
    rc = mux_upload_write(upload, buf, BIG, &err);
    if (rc < 0) {
        mux_upload_abort(upload);
        return of_error(rc, &err);
    }
    return of_error(mux_upload_commit(upload, &result, &err), &err);
}
static int do_create_sandbox(struct view *v)
{
    struct store_rule rule = {.pattern = "**/*", .pattern_len = 4, .type = 1, .level = 4};
    struct mux_sandbox_spec spec = {.codebase_id = v->codebase.text, .rules = &rule, .n_rules = 1};
    struct af_id id;
    struct af_error err;
    return of_error(mux_sandbox_create(MUX(v), &spec, &id, &err), &err);
}

struct operation {
    const char *name;
    int (*run)(struct view *v);
    bool partial; // more than one operation, or one that may do less: done up to the fault
};

// clang-format off
#define OPERATION(op, ...) {.name = #op, .run = do_##op __VA_OPT__(,) __VA_ARGS__}
// clang-format on
static const struct operation operations[] = {
    OPERATION(create),
    OPERATION(mkdir),
    OPERATION(symlink),
    OPERATION(mkfifo),
    OPERATION(tmpfile),
    OPERATION(unlink),
    OPERATION(unlink_own),
    OPERATION(rmdir),
    OPERATION(link),
    OPERATION(rename),
    OPERATION(rename_directory),
    OPERATION(rename_over),
    OPERATION(exchange),
    OPERATION(write_inline),
    OPERATION(write_outgrows_the_record),
    OPERATION(first_write_to_a_base_file),
    OPERATION(append_to_a_base_file),
    OPERATION(overwrite_all_of_a_base_file),
    OPERATION(append_to_an_own_file),
    OPERATION(truncate_a_base_file),
    OPERATION(truncate_an_own_file),
    OPERATION(grow),
    OPERATION(chmod),
    OPERATION(utimens),
    OPERATION(setxattr),
    OPERATION(fallocate),
    OPERATION(punch),
    OPERATION(copy_range, .partial = true),
    OPERATION(fsync, .partial = true),
    OPERATION(upload),
    OPERATION(create_sandbox),
};

// ---- a view, and all that is in it as a text

static struct view make_view(struct fixture *f)
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

static char *description(struct view *v)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    describe(v, "", out);
    fprintf(out, "codebase: %llu files\n",
            (unsigned long long)get_codebase(v->fixture, v->codebase).files);
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
    struct view v = make_view(f);
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
    struct view v = make_view(f);
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
