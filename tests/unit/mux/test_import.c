// Imports: a tree in, all or nothing.
#include "mux/import_priv.h"
#include "tests/unit/mux/fixture.h"

#include <ftw.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define T0 1700000000123456789LL

static struct mux_import *begin(struct fixture *f, struct af_id id)
{
    struct mux_import *import;
    struct af_error err;
    if (mux_import_begin(f->mux, id.text, &import, &err) < 0)
        fail_msg("%s", err.text);
    return import;
}

static int put(struct mux_import *import, const char *path, mode_t mode, const char *text,
               struct af_error *err)
{
    bool is_link = S_ISLNK(mode);
    int rc = mux_import_entry(import, path, strlen(path), mode, T0, is_link ? text : NULL,
                              is_link ? strlen(text) : 0, err);
    if (rc == 0 && S_ISREG(mode) && text)
        rc = mux_import_data(import, text, strlen(text), err);
    return rc;
}

static void must_put(struct mux_import *import, const char *path, mode_t mode, const char *text)
{
    struct af_error err;
    if (put(import, path, mode, text, &err) < 0)
        fail_msg("%s", err.text);
}

static struct mux_import_totals must_commit(struct mux_import *import)
{
    struct mux_import_totals totals;
    struct af_error err;
    if (mux_import_commit(import, &totals, &err) < 0)
        fail_msg("%s", err.text);
    return totals;
}

static int print_node(void *arg, const struct mux_file_info *info)
{
    fprintf(arg, "%s %o %llu %s\n", info->path, (unsigned)info->mode,
            (unsigned long long)info->size, info->mtime_ns == T0 ? "T0" : "now");
    return 0;
}

static void assert_tree(struct fixture *f, struct af_id id, const char *expected)
{
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    assert_int_equal(mux_codebase_list_files(f->mux, id.text, "", 0, true, print_node, out, &err),
                     0);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
    assert_counters(f, id);
}

static void test_modes_times_links_and_empty_directories_arrive(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import *import = begin(f, id);
    must_put(import, "bin", S_IFDIR | 0700, NULL);
    must_put(import, "bin/tool", S_IFREG | 0751, "#!/bin/sh\n");
    must_put(import, "empty", S_IFDIR | 01777, NULL);
    must_put(import, "implied/parents/f", S_IFREG | 0600, "data");
    must_put(import, "link", S_IFLNK | 0777, "../anywhere");
    must_put(import, "pipe", S_IFIFO | 0644, NULL);
    must_put(import, "zero", S_IFREG | 0444, NULL);
    must_put(import, "", S_IFDIR | 0750, NULL);
    assert_listing(f, id, ""); // nothing is seen before the commit
    struct mux_import_totals totals = must_commit(import);
    assert_int_equal(totals.files, 3);
    assert_int_equal(totals.directories, 3);
    assert_int_equal(totals.symlinks, 1);
    assert_int_equal(totals.bytes, 14);
    assert_tree(f, id,
                "bin 40700 0 T0\n"
                "bin/tool 100751 10 T0\n"
                "empty 41777 0 T0\n"
                "implied 40755 0 now\n"
                "implied/parents 40755 0 now\n"
                "implied/parents/f 100600 4 T0\n"
                "link 120777 11 T0\n"
                "pipe 10644 0 T0\n"
                "zero 100444 0 T0\n");
    // The import's layer took the empty head's place: one layer in all.
    assert_no_garbage(f, 1, 10, 0);
    fixture_reopen(f);
    assert_counters(f, id);
}

static void test_a_directory_may_come_after_what_it_holds_once(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import *import = begin(f, id);
    struct mux_import_totals totals;
    struct af_error err;
    must_put(import, "d/e/f", S_IFREG | 0644, "x");
    must_put(import, "d/e", S_IFDIR | 0711, NULL);
    must_put(import, "d", S_IFDIR | 0700, NULL);
    must_put(import, "d/g", S_IFREG | 0644, "y"); // leaves the times that were given
    must_commit(import);
    assert_tree(f, id,
                "d 40700 0 T0\n"
                "d/e 40711 0 T0\n"
                "d/e/f 100644 1 T0\n"
                "d/g 100644 1 T0\n");
    import = begin(f, id);
    must_put(import, "d/e/h", S_IFREG | 0644, "x");
    must_put(import, "d/e", S_IFDIR | 0711, NULL);
    must_put(import, "d/e", S_IFDIR | 0711, NULL);
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT, "twice");
}

// Each pair of entries clashes; the second one, or the commit, is refused.
static void test_hostile_trees_are_refused_as_a_whole(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "base/file", "kept");
    static const struct {
        const char *first;
        mode_t first_mode;
        const char *second;
        mode_t second_mode;
        const char *part;
    } cases[] = {
        {"a", S_IFREG, "a", S_IFREG, "twice"},
        {"a", S_IFREG, "a/b", S_IFREG, "no directory"},
        {"a", S_IFLNK, "a/b", S_IFREG, "symbolic link"},
        {"a", S_IFIFO, "a/b", S_IFDIR, "no directory"},
        {"a/b", S_IFREG, "a", S_IFREG, "is a directory"},
        {"a", S_IFDIR, "a", S_IFDIR, "twice"},
        {"a", S_IFLNK, "a", S_IFLNK, "twice"},
        {"a", S_IFLNK, "a", S_IFREG, "twice"},
        {"", S_IFDIR, "", S_IFDIR, "twice"},
        {"base/file", S_IFREG, "base/file", S_IFREG, "twice"},
        {"base", S_IFDIR, "base", S_IFDIR, "twice"},
        {"x", S_IFREG, "base", S_IFREG, "is a directory"},
        {"x", S_IFREG, "base/file", S_IFDIR, "no directory"},
        {"x", S_IFREG, "base/file/y", S_IFREG, "no directory"},
        {"x", S_IFREG, "../x", S_IFREG, "'..'"},
        {"x", S_IFREG, "/x", S_IFREG, "absolute"},
        {"x", S_IFREG, "y/", S_IFDIR, "no name"},
        {"x", S_IFREG, "dev", S_IFCHR, "device"},
        {"x", S_IFREG, "dev", S_IFBLK, "device"},
        {"x", S_IFREG, "odd", 0, "file type"},
        {"x", S_IFREG, "", S_IFREG, "root directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mux_import *import = begin(f, id);
        struct mux_import_totals totals;
        struct af_error err;
        must_put(import, cases[i].first, cases[i].first_mode | 0644, "t");
        if (put(import, cases[i].second, cases[i].second_mode | 0644, "t", &err) < 0) {
            struct af_error again;
            expect_error(put(import, "later", S_IFREG | 0644, "t", &again), &again,
                         AF_INVALID_ARGUMENT, cases[i].part);
            mux_import_abort(import);
        } else {
            expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT,
                         cases[i].part);
        }
        expect_error(-1, &err, AF_INVALID_ARGUMENT, cases[i].part);
        assert_listing(f, id, "base/\nbase/file\n");
    }
    assert_counters(f, id);
    assert_no_garbage(f, 2, 3, 0);
}

static void test_hostile_bytes_are_refused(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct af_error err;
    char long_target[AF_SYMLINK_MAX + 1], long_name[AF_NAME_MAX + 1];
    memset(long_target, 't', sizeof long_target);
    memset(long_name, 'n', sizeof long_name);
    static const char nul[] = "a\0b";
    struct {
        const char *path;
        size_t path_len;
        const char *target;
        size_t target_len;
        const char *part;
    } cases[] = {
        {nul, 3, "x", 1, "NUL"},
        {"l", 1, nul, 3, "NUL"},
        {"l", 1, "", 0, "empty"},
        {"l", 1, long_target, sizeof long_target, "too long"},
        {long_name, sizeof long_name, "x", 1, "too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mux_import *import = begin(f, id);
        expect_error(mux_import_entry(import, cases[i].path, cases[i].path_len, S_IFLNK | 0777, 0,
                                      cases[i].target, cases[i].target_len, &err),
                     &err, AF_INVALID_ARGUMENT, cases[i].part);
        mux_import_abort(import);
    }
    struct mux_import *import = begin(f, id);
    expect_error(mux_import_data(import, "x", 1, &err), &err, AF_INVALID_ARGUMENT, "entry before");
    mux_import_abort(import);
    import = begin(f, id);
    must_put(import, "d", S_IFDIR | 0755, NULL);
    expect_error(mux_import_data(import, "x", 1, &err), &err, AF_INVALID_ARGUMENT, "entry before");
    mux_import_abort(import);
    import = begin(f, id);
    assert_int_equal(
        mux_import_entry(import, "l", 1, S_IFLNK | 0777, 0, long_target, AF_SYMLINK_MAX, &err), 0);
    assert_int_equal(
        mux_import_entry(import, long_name, AF_NAME_MAX, S_IFREG | 0644, 0, NULL, 0, &err), 0);
    must_commit(import);
    assert_int_equal(get_codebase(f, id).files, 1);
    struct mux_import *unknown;
    expect_error(mux_import_begin(f->mux, UNKNOWN_CODEBASE, &unknown, &err), &err, AF_NOT_FOUND,
                 UNKNOWN_CODEBASE);
    expect_error(mux_import_begin(f->mux, "cb_", &unknown, &err), &err, AF_INVALID_ARGUMENT, "cb_");
}

static void test_an_import_merges_into_what_is_there(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "src/a", "old a");
    upload(f, id, "src/b", "old b");
    upload(f, id, "top", "old top");
    struct af_id sandbox = new_sandbox(f, id);
    struct mux_node_info before, after;
    struct af_error err;
    assert_int_equal(mux_inspect_stat(f->mux, sandbox.text, "src/a", 5, &before, &err), 0);
    struct mux_import *import = begin(f, id);
    must_put(import, "src/a", S_IFREG | 0600, "new");
    must_put(import, "src/c", S_IFREG | 0644, "added");
    must_put(import, "top", S_IFLNK | 0777, "src/a");
    must_commit(import);
    assert_listing(f, id, "src/\nsrc/a\nsrc/b\nsrc/c\ntop\n");
    assert_counters(f, id);
    assert_int_equal(get_codebase(f, id).files, 3);
    char *text = download(f, id, "src/a");
    assert_string_equal(text, "new");
    free(text);
    // A replaced regular file keeps its identity.
    struct af_id later = new_sandbox(f, id);
    assert_int_equal(mux_inspect_stat(f->mux, later.text, "src/a", 5, &after, &err), 0);
    assert_int_equal(after.fid, before.fid);
    assert_int_not_equal(after.version, before.version);
    // The view made before sees none of it.
    assert_int_equal(mux_inspect_stat(f->mux, sandbox.text, "top", 3, &after, &err), 0);
    assert_true(S_ISREG(after.mode));
}

static void change_by_upload(struct fixture *f, struct af_id id)
{
    upload(f, id, "concurrent", "x");
}

static void change_by_upload_and_sandbox(struct fixture *f, struct af_id id)
{
    upload(f, id, "concurrent", "x");
    new_sandbox(f, id);
}

static void change_by_import(struct fixture *f, struct af_id id)
{
    struct mux_import *other = begin(f, id);
    must_put(other, "concurrent", S_IFREG | 0644, "x");
    must_commit(other);
}

static void test_a_codebase_that_changed_meanwhile_aborts_the_import(void **state)
{
    struct fixture *f = *state;
    void (*const changes[])(struct fixture *, struct af_id) = {
        change_by_upload, change_by_upload_and_sandbox, change_by_import};
    for (size_t i = 0; i < 2 * sizeof changes / sizeof changes[0]; i++) {
        struct af_id id = new_codebase(f);
        struct mux_import_totals totals;
        struct af_error err;
        bool was_empty = i % 2;
        if (!was_empty)
            upload(f, id, "base", "x");
        struct mux_import *import = begin(f, id);
        must_put(import, "imported", S_IFREG | 0644, "y");
        changes[i / 2](f, id);
        expect_error(mux_import_commit(import, &totals, &err), &err, AF_ABORTED, "import again");
        assert_listing(f, id, was_empty ? "concurrent\n" : "base\nconcurrent\n");
        assert_counters(f, id);
        assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    }
}

static void test_a_sandbox_made_meanwhile_does_not_disturb_the_import(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "base", "x");
    struct mux_import *import = begin(f, id);
    new_sandbox(f, id);
    must_put(import, "imported", S_IFREG | 0644, "y");
    new_sandbox(f, id);
    must_commit(import);
    assert_listing(f, id, "base\nimported\n");
}

static void test_a_codebase_deleted_meanwhile_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import_totals totals;
    struct af_error err;
    upload(f, id, "base", "x");
    struct mux_import *import = begin(f, id);
    must_put(import, "imported", S_IFREG | 0644, "y");
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_NOT_FOUND, id.text);
    assert_no_garbage(f, 0, 0, 0);
}

static void must_hole(struct mux_import *import, uint64_t len)
{
    struct af_error err;
    if (mux_import_hole(import, len, &err) < 0)
        fail_msg("%s", err.text);
}

static void must_data(struct mux_import *import, const char *data, size_t len)
{
    struct af_error err;
    if (mux_import_data(import, data, len, &err) < 0)
        fail_msg("%s", err.text);
}

static struct mux_file *open_file(struct fixture *f, struct af_id id, const char *path)
{
    struct mux_file *file;
    struct af_error err;
    assert_int_equal(mux_codebase_open_file(f->mux, id.text, path, strlen(path), &file, &err), 0);
    return file;
}

static off_t blob_blocks;

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)ftw;
    blob_blocks += type == FTW_F ? st->st_blocks : 0;
    return 0;
}

// In 512 bytes, of all that is not the database.
static off_t blocks_of_blobs(struct fixture *f)
{
    static const char *const folders[] = {"new", "blobs"};
    blob_blocks = 0;
    for (size_t i = 0; i < 2; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", f->dir, folders[i]);
        nftw(path, add_blocks, 16, FTW_PHYS);
    }
    return blob_blocks;
}

// Data and holes in every order, around the sizes at which content moves to a blob.
static void test_a_hole_reads_as_zeros_and_equals_zeros_that_were_sent(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    static const size_t sizes[] = {0, 1, 2047, 2048, 2049, 4096, 70000};
    const size_t n = sizeof sizes / sizeof sizes[0];
    char *data = malloc(70000), *zeros = calloc(1, 70000);
    memset(data, 'd', 70000);
    for (size_t i = 0; i < n * n * n; i++) {
        struct af_id id = new_codebase(f);
        size_t head = sizes[i % n], hole = sizes[i / n % n], tail = sizes[i / n / n];
        struct mux_import *import = begin(f, id);
        must_put(import, "holes", S_IFREG | 0644, NULL);
        must_data(import, data, head);
        must_hole(import, hole);
        must_data(import, data, tail);
        must_put(import, "zeros", S_IFREG | 0644, NULL);
        must_data(import, data, head);
        must_data(import, zeros, hole);
        must_data(import, data, tail);
        assert_int_equal(must_commit(import).bytes, 2 * (head + hole + tail));
        struct mux_file *file = open_file(f, id, "holes");
        size_t len;
        char *got = read_all(file, &len);
        assert_int_equal(len, head + hole + tail);
        assert_memory_equal(got, data, head);
        assert_memory_equal(got + head, zeros, hole);
        assert_memory_equal(got + head + hole, data, tail);
        free(got);
        mux_file_close(file);
        assert_counters(f, id);
        assert_no_garbage(f, 1, 3, len > AF_INLINE_CONTENT_MAX); // both in one blob
        assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    }
    free(data);
    free(zeros);
}

static void test_a_file_of_8_tib_of_holes_costs_no_space_and_no_time(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import *import = begin(f, id);
    must_put(import, "big", S_IFREG | 0644, NULL);
    must_hole(import, AF_FILE_SIZE_MAX - 8192);
    must_data(import, "data", 4);
    must_hole(import, 8192 - 4);
    must_put(import, "again", S_IFREG | 0644, NULL);
    must_hole(import, AF_FILE_SIZE_MAX - 1);
    must_data(import, "", 1);
    must_commit(import); // hashing this would take hours
    assert_true(blocks_of_blobs(f) <= 2 * 64);
    assert_int_equal(get_codebase(f, id).size_bytes, 2 * AF_FILE_SIZE_MAX);
    assert_counters(f, id);
    struct mux_file *file = open_file(f, id, "big");
    char got[6];
    assert_int_equal(mux_file_size(file), AF_FILE_SIZE_MAX);
    assert_int_equal(mux_file_read(file, got, 6, AF_FILE_SIZE_MAX - 8193), 6);
    assert_memory_equal(got, "\0data\0", 6);
    // A reader can jump from data to data.
    uint64_t to_data = mux_file_hole(file, 0);
    assert_true(to_data > AF_FILE_SIZE_MAX - (1 << 20) && to_data <= AF_FILE_SIZE_MAX - 8192);
    assert_int_equal(mux_file_hole(file, AF_FILE_SIZE_MAX - 8192), 0);
    assert_int_equal(mux_file_hole(file, AF_FILE_SIZE_MAX), 0);
    assert_int_equal(mux_file_hole(file, UINT64_MAX), 0);
    mux_file_close(file);
    import = begin(f, id);
    must_put(import, "small", S_IFREG | 0644, "data");
    must_commit(import);
    file = open_file(f, id, "small");
    assert_int_equal(mux_file_hole(file, 3), 0);
    assert_int_equal(mux_file_hole(file, 4), 0);
    mux_file_close(file);
}

static void test_holes_are_bounded_as_data_is(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import_totals totals;
    struct af_error err;
    static const uint64_t beyond[] = {AF_FILE_SIZE_MAX, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        struct mux_import *import = begin(f, id);
        must_put(import, "f", S_IFREG | 0644, "1");
        expect_error(mux_import_hole(import, beyond[i], &err), &err, AF_INVALID_ARGUMENT, "larger");
        expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT, "larger");
    }
    struct mux_import *import = begin(f, id);
    expect_error(mux_import_hole(import, 1, &err), &err, AF_INVALID_ARGUMENT, "entry before");
    mux_import_abort(import);
    // A tree whose files have more bytes in all than can be counted.
    import = begin(f, id);
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i <= AF_CODEBASE_SIZE_MAX / AF_FILE_SIZE_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "f%lld", (long long)i);
        rc = put(import, path, S_IFREG | 0644, NULL, &err);
        if (rc == 0)
            rc = mux_import_hole(import, AF_FILE_SIZE_MAX, &err);
        if (i == 200) // enough of them; the rest of the sum at once
            import->totals.bytes = AF_CODEBASE_SIZE_MAX - AF_FILE_SIZE_MAX;
    }
    expect_error(rc, &err, AF_INVALID_ARGUMENT, "in all");
    mux_import_abort(import);
    assert_listing(f, id, "");
    assert_no_garbage(f, 1, 1, 0);
}

static void put_many(struct mux_import *import, int count, const char *big)
{
    for (int i = 0; i < count; i++) {
        char path[64];
        snprintf(path, sizeof path, "d%d/e%d/f%d", i % 7, i % 11, i);
        must_put(import, path, S_IFREG | 0644, i % 50 == 0 ? big : "small");
    }
}

static void test_many_batches_and_an_abort_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    static char big[10001];
    memset(big, 'b', sizeof big - 1);
    struct mux_import *import = begin(f, id);
    put_many(import, 1000, big);
    mux_import_abort(import);
    assert_listing(f, id, "");
    assert_no_garbage(f, 1, 1, 0);
    import = begin(f, id);
    put_many(import, 1000, big);
    struct mux_import_totals totals = must_commit(import);
    assert_int_equal(totals.files, 1000);
    assert_int_equal(totals.bytes, 20 * 10000 + 980 * 5);
    assert_counters(f, id);
    assert_no_garbage(f, 1, 1 + 7 + 77 + 1000, 1); // equal content: one blob
}

static void test_B9_a_crash_during_an_import_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "kept", "x");
    fixture_close(f);
    pid_t pid = fork();
    if (pid == 0) {
        static char big[10001];
        memset(big, 'b', sizeof big - 1);
        fixture_open(f);
        struct mux_import *import = begin(f, id);
        put_many(import, 1000, big);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    fixture_open(f);
    assert_listing(f, id, "kept\n");
    assert_counters(f, id);
    // The frozen head, the new empty one; the import's layer is gone.
    assert_no_garbage(f, 2, 2, 0);
    struct mux_import *import = begin(f, id);
    must_put(import, "again", S_IFREG | 0644, "x");
    must_commit(import);
    assert_listing(f, id, "again\nkept\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_modes_times_links_and_empty_directories_arrive),
        fixture_test(test_a_directory_may_come_after_what_it_holds_once),
        fixture_test(test_hostile_trees_are_refused_as_a_whole),
        fixture_test(test_hostile_bytes_are_refused),
        fixture_test(test_an_import_merges_into_what_is_there),
        fixture_test(test_a_codebase_that_changed_meanwhile_aborts_the_import),
        fixture_test(test_a_sandbox_made_meanwhile_does_not_disturb_the_import),
        fixture_test(test_a_codebase_deleted_meanwhile_is_not_found),
        fixture_test(test_a_hole_reads_as_zeros_and_equals_zeros_that_were_sent),
        fixture_test(test_a_file_of_8_tib_of_holes_costs_no_space_and_no_time),
        fixture_test(test_holes_are_bounded_as_data_is),
        fixture_test(test_many_batches_and_an_abort_leaves_nothing),
        fixture_test(test_B9_a_crash_during_an_import_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
