// The operations that test_faults.c lets fail, and what comes before them.
#ifndef AF_TESTS_FAULT_OPERATIONS_H
#define AF_TESTS_FAULT_OPERATIONS_H

#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define BIG        300000
#define NODE(v, p) ops_nodeid(v, p)
#define MUX(v)     ((v)->fixture->mux)

static const struct mux_ctx blocking = {.may_block = true};
static char buf[BIG];

// ---- of a file; each returns 0 or -errno

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
static int do_append_to_a_committed_file(struct view *v)
{
    return ops_write(v, "own", buf, 5000, BIG + 20000);
}
static int do_overwrite_a_committed_file(struct view *v)
{
    return ops_write(v, "own", "abc", 3, 1000);
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

// ---- of a codebase and of whole views

static int do_import_into(struct view *v, const char *codebase)
{
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err;
    int rc = mux_import_begin(MUX(v), codebase, &import, &err);
    if (rc < 0)
        return of_error(rc, &err);
    rc = mux_import_entry(import, "in", 2, S_IFDIR | 0755, 1, NULL, 0, &err);
    for (char path[] = "in/0"; rc == 0 && path[3] < '4'; path[3]++) {
        rc = mux_import_entry(import, path, 4, S_IFREG | 0644, 1, NULL, 0, &err);
        if (rc == 0)
            rc = mux_import_data(import, buf, path[3] == '0' ? BIG : 900, &err);
    }
    if (rc == 0)
        rc = mux_import_hole(import, 100000, &err);
    if (rc == 0)
        rc = mux_import_link(import, "in/link", 7, "in/0", 4, &err);
    if (rc == 0)
        rc = mux_import_remove(import, "empty", 5, &err);
    if (rc == 0)
        return of_error(mux_import_commit(import, &totals, &err), &err);
    mux_import_abort(import);
    return of_error(rc, &err);
}
static int do_import(struct view *v)
{
    return do_import_into(v, v->codebase.text);
}
static int do_create_codebase(struct view *v)
{
    struct store_codebase codebase;
    struct af_error err;
    return of_error(mux_codebase_create(MUX(v), "another", "", &codebase, &err), &err);
}
static int do_destroy_sandbox(struct view *v)
{
    struct af_error err;
    return of_error(mux_sandbox_destroy(MUX(v), v->sandbox.text, &err), &err);
}
static int do_commit(struct view *v)
{
    struct af_error err;
    return of_error(mux_commit(MUX(v), v->sandbox.text, MUX_LAST_WRITER_WINS, NULL, &err), &err);
}
static int do_rebase(struct view *v)
{
    struct af_error err;
    return of_error(mux_rebase(MUX(v), v->sandbox.text, MUX_LAST_WRITER_WINS, NULL, &err), &err);
}
static int do_rollback(struct view *v)
{
    struct af_error err;
    bool told;
    return of_error(mux_rollback(MUX(v), v->sandbox.text, &told, &err), &err);
}

// ---- what comes before, undisturbed

// The view is alone on its codebase: its next delta goes into the top layer.
static void after_a_commit(struct view *v)
{
    assert_int_equal(ops_write(v, "own", buf, BIG, 20000), 0);
    ops_commit(v);
}
static void after_a_commit_and_a_change(struct view *v)
{
    after_a_commit(v);
    assert_int_equal(ops_write(v, "own", buf, 5000, BIG + 20000), 0);
    assert_int_equal(ops_unlink(v, "d/small"), 0);
}
static void after_others_moved_on(struct view *v)
{
    struct mux_import_totals totals;
    struct mux_import *import;
    struct af_error err;
    assert_int_equal(mux_import_begin(MUX(v), v->codebase.text, &import, &err), 0);
    assert_int_equal(mux_import_remove(import, "link", 4, &err), 0);
    assert_int_equal(mux_import_entry(import, "theirs", 6, S_IFREG | 0644, 1, NULL, 0, &err), 0);
    assert_int_equal(mux_import_data(import, buf, 7000, &err), 0);
    assert_int_equal(mux_import_commit(import, &totals, &err), 0);
    assert_int_equal(ops_rename(v, "big", "d/moved", 0), 0);
    assert_int_equal(ops_write(v, "d/small", "changed", 7, 0), 0);
}
static void after_others_moved_on_far(struct view *v)
{
    after_others_moved_on(v);
    MUX(v)->merge_step_max = 0; // more than one step takes
}

struct operation {
    const char *name;
    int (*run)(struct view *v);
    void (*prepare)(struct view *v); // or NULL
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
    OPERATION(append_to_a_committed_file, .prepare = after_a_commit),
    OPERATION(overwrite_a_committed_file, .prepare = after_a_commit_and_a_change),
    OPERATION(import),
    OPERATION(create_codebase),
    OPERATION(destroy_sandbox),
    OPERATION(commit),
    OPERATION(commit, .prepare = after_a_commit_and_a_change),
    OPERATION(commit, .prepare = after_others_moved_on),
    OPERATION(commit, .prepare = after_others_moved_on_far),
    OPERATION(rebase, .prepare = after_others_moved_on),
    OPERATION(rebase, .prepare = after_others_moved_on_far),
    OPERATION(rollback),
};

#endif
