// Files of this host into a codebase: their bytes whatever the size, and a second import that
// leaves alone what did not change.
#include "mux/base/clock.h"
#include "mux/import_priv.h"
#include "tests/unit/mux/fixture.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OLD 1600000000 // seconds: long enough ago that a change would show

static void must(int rc, const struct af_error *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static struct mux_import *begin(struct fixture *f, struct af_id id)
{
    struct mux_import *import;
    struct af_error err = {0};
    must(mux_import_begin(f->mux, id.text, &import, &err), &err);
    must(mux_import_replace(import, "", 0, &err), &err);
    return import;
}

static struct mux_import_totals commit(struct mux_import *import)
{
    struct mux_import_totals totals;
    struct af_error err = {0};
    must(mux_import_commit(import, &totals, &err), &err);
    return totals;
}

// A file of the host that nobody has changed for years, as far as its stat says. Returns its fd.
static int host_file(const void *bytes, size_t len, struct stat *ret)
{
    char path[] = "/tmp/import-host-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(fstat(fd, ret), 0);
    ret->st_nlink = 1;
    ret->st_mtim = ret->st_ctim = (struct timespec){.tv_sec = OLD, .tv_nsec = 7};
    return fd;
}

static void put(struct mux_import *import, const char *path, const struct stat *st, int fd)
{
    struct af_error err = {0};
    int taken = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    assert_true(taken >= 0);
    must(mux_import_file(import, path, strlen(path), st, taken, &err), &err);
}

static bool keep(struct mux_import *import, const char *path, const struct stat *st,
                 const char *target)
{
    bool kept;
    struct af_error err = {0};
    must(mux_import_keep(import, path, strlen(path), st, target, target ? strlen(target) : 0, &kept,
                         &err),
         &err);
    return kept;
}

static void test_files_of_every_size_arrive_byte_for_byte(void **state)
{
    static const size_t sizes[] = {0,     1,     2047,   2048,   2049,   65535,
                                   65536, 65537, 131071, 131072, 131073, 3u << 20};
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct prng prng = {.state = 1};
    char *bytes = malloc(3u << 20), path[32];
    for (size_t i = 0; i < 3u << 20; i++)
        bytes[i] = (char)prng_next(&prng);
    struct mux_import *import = begin(f, id);
    for (size_t i = 0; i < AF_ARRAY_LEN(sizes); i++) {
        struct stat st;
        int fd = host_file(bytes, sizes[i], &st);
        snprintf(path, sizeof path, "f%zu", sizes[i]);
        put(import, path, &st, fd);
        close(fd);
    }
    assert_int_equal(commit(import).files, AF_ARRAY_LEN(sizes));
    for (size_t i = 0; i < AF_ARRAY_LEN(sizes); i++) {
        struct mux_file *file;
        struct af_error err = {0};
        size_t len;
        snprintf(path, sizeof path, "f%zu", sizes[i]);
        must(mux_codebase_open_file(f->mux, id.text, path, strlen(path), &file, &err), &err);
        char *found = read_all(file, &len);
        mux_file_close(file);
        assert_int_equal(len, sizes[i]);
        assert_memory_equal(found, bytes, len);
        free(found);
    }
    free(bytes);
    assert_counters(f, id);
}

static void test_holes_stay_holes(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct stat st, made;
    int fd = host_file("start", 5, &st);
    assert_int_equal(pwrite(fd, "middle", 6, 1 << 30), 6);
    assert_int_equal(ftruncate(fd, 2LL << 30), 0);
    assert_int_equal(fstat(fd, &st), 0);
    struct mux_import *import = begin(f, id);
    put(import, "sparse", &st, fd);
    struct af_error err = {0};
    must(mux_import_settle(import, &err), &err);
    assert_int_equal(fstat(store_blob_fd(import->items[0].content.blob), &made), 0);
    assert_int_equal(made.st_size, 2LL << 30);
    assert_true(made.st_blocks * 512 < 1 << 20);
    commit(import);
    assert_int_equal(get_codebase(f, id).size_bytes, 2LL << 30);
    close(fd);
}

// ---- files that are copied beside each other

#define LARGE     40
#define LARGE_LEN ((1u << 20) + 12345)
#define SMALL     300 // in several batches
#define SMALL_LEN 5000

static void fill(char *bytes, size_t len, int seed)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + i / 4096 + (size_t)seed * 7);
}

static void copy_at_once(struct fixture *f, int count, size_t each_len)
{
    struct af_id id = new_codebase(f);
    char *bytes = malloc(each_len), path[16];
    struct mux_import *import = begin(f, id);
    for (int i = 0; i < count; i++) {
        struct stat st;
        fill(bytes, each_len, i);
        int fd = host_file(bytes, each_len, &st);
        if (i == 7) // it became shorter since its stat
            assert_int_equal(ftruncate(fd, 100), 0);
        if (i == 8)
            assert_int_equal(ftruncate(fd, 0), 0);
        snprintf(path, sizeof path, "f%03d", i);
        put(import, path, &st, fd);
        close(fd);
    }
    struct mux_import_totals totals = commit(import);
    assert_int_equal(totals.bytes, (uint64_t)(count - 2) * each_len + 100);
    for (int i = 0; i < count; i++) {
        struct mux_file *file;
        struct af_error err = {0};
        size_t len;
        snprintf(path, sizeof path, "f%03d", i);
        must(mux_codebase_open_file(f->mux, id.text, path, strlen(path), &file, &err), &err);
        char *found = read_all(file, &len);
        mux_file_close(file);
        fill(bytes, each_len, i);
        assert_int_equal(len, i == 7 ? 100 : i == 8 ? 0 : each_len);
        assert_memory_equal(found, bytes, len);
        free(found);
    }
    free(bytes);
    assert_counters(f, id);
}

static void test_files_copied_at_once_are_each_their_own(void **state)
{
    copy_at_once(*state, LARGE, LARGE_LEN);
}

static void test_small_files_copied_at_once_are_each_their_own(void **state)
{
    copy_at_once(*state, SMALL, SMALL_LEN);
}

static void fail_one(struct fixture *f, size_t len)
{
    struct af_id id = new_codebase(f);
    struct mux_import_totals totals;
    struct af_error err = {0};
    char *bytes = calloc(1, len);
    struct mux_import *import = begin(f, id);
    for (int i = 0; i < 20; i++) {
        char path[16];
        struct stat st;
        int fd = host_file(bytes, len, &st);
        if (i == 4) { // not for reading
            close(fd);
            fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        }
        snprintf(path, sizeof path, "f%d", i);
        put(import, path, &st, fd);
        close(fd);
    }
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INTERNAL, "copying a file");
    assert_listing(f, id, "");
    uint64_t records;
    store_gc_drain(mux_store(f->mux), &records);
    assert_int_equal(count_blob_files(f), 0);
    free(bytes);
}

static void test_a_copy_that_fails_fails_the_import_and_leaves_nothing(void **state)
{
    fail_one(*state, LARGE_LEN);
    fail_one(*state, SMALL_LEN);
}

static void test_an_import_that_is_given_up_leaves_no_copy(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    char *bytes = calloc(1, LARGE_LEN), path[16];
    struct mux_import *import = begin(f, id);
    for (int i = 0; i < LARGE; i++) {
        struct stat st;
        int fd = host_file(bytes, LARGE_LEN, &st);
        snprintf(path, sizeof path, "f%02d", i);
        put(import, path, &st, fd);
        close(fd);
    }
    mux_import_abort(import);
    free(bytes);
    assert_int_equal(count_blob_files(f), 0);
}

// A codebase with d/f and d/g, which a second import would keep.
static struct af_id imported(struct fixture *f, struct stat *ret, int *ret_fd)
{
    struct af_id id = new_codebase(f);
    struct mux_import *import = begin(f, id);
    *ret_fd = host_file("content", 7, ret);
    put(import, "d/f", ret, *ret_fd);
    put(import, "d/g", ret, *ret_fd);
    commit(import);
    return id;
}

static void test_what_did_not_change_is_kept_and_costs_no_layer(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    struct store_codebase before = get_codebase(f, id);
    struct mux_import *import = begin(f, id);
    assert_true(keep(import, "d/f", &st, NULL));
    assert_true(keep(import, "d/g", &st, NULL));
    // Its directory was not given, but holds what was.
    struct mux_import_totals totals = commit(import);
    assert_int_equal(totals.files, 2);
    assert_int_equal(totals.reused_files, 2);
    assert_int_equal(totals.removed, 0);
    assert_int_equal(totals.bytes, 14);
    assert_int_equal(totals.updated_ns, before.updated_ns);
    assert_int_equal(get_codebase(f, id).updated_ns, before.updated_ns);
    assert_listing(f, id, "d/\nd/f\nd/g\n");
    close(fd);
}

static void test_what_was_not_sent_again_goes(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    struct mux_import *import = begin(f, id);
    assert_true(keep(import, "d/g", &st, NULL));
    assert_int_equal(commit(import).removed, 1);
    assert_listing(f, id, "d/\nd/g\n");
    assert_counters(f, id);
    close(fd);
}

static void test_any_difference_in_the_stat_is_a_change(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    struct stat other[] = {st, st, st, st, st, st, st};
    other[0].st_size++;
    other[1].st_mtim.tv_nsec++;
    other[2].st_ctim.tv_nsec++;
    other[3].st_ino++;
    other[4].st_dev++;
    other[5].st_mode ^= 0100;
    other[6].st_nlink = 2;
    struct mux_import *import = begin(f, id);
    for (size_t i = 0; i < AF_ARRAY_LEN(other); i++)
        assert_false(keep(import, "d/f", &other[i], NULL));
    assert_false(keep(import, "d", &st, NULL));
    assert_false(keep(import, "f", &st, NULL));
    assert_false(keep(import, "d/f/g", &st, NULL));
    assert_true(keep(import, "d/f", &st, NULL));
    mux_import_abort(import);
    close(fd);
}

static void test_a_file_that_was_just_written_is_read_again(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct stat st;
    int fd = host_file("content", 7, &st);
    int64_t now = af_wall_ns();
    st.st_ctim = (struct timespec){now / AF_NS_PER_SEC, now % AF_NS_PER_SEC};
    struct mux_import *import = begin(f, id);
    put(import, "f", &st, fd);
    commit(import);
    import = begin(f, id);
    assert_false(keep(import, "f", &st, NULL));
    mux_import_abort(import);
    close(fd);
}

static void test_a_file_that_somebody_changed_in_the_codebase_is_sent_again(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    upload(f, id, "d/f", "CONTENT");
    struct mux_import *import = begin(f, id);
    assert_false(keep(import, "d/f", &st, NULL));
    put(import, "d/f", &st, fd);
    assert_true(keep(import, "d/g", &st, NULL));
    commit(import);
    char *text = download(f, id, "d/f");
    assert_string_equal(text, "content");
    free(text);
    close(fd);
}

static void test_links_and_directories_are_compared_by_what_they_are(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct af_error err = {0};
    struct stat dir = {.st_mode = S_IFDIR | 0750, .st_nlink = 3, .st_mtim = {OLD, 5}};
    struct stat link = {.st_mode = S_IFLNK | 0777, .st_nlink = 1, .st_mtim = {OLD, 6}};
    struct mux_import *import = begin(f, id);
    must(mux_import_entry(import, "d", 1, dir.st_mode, OLD * AF_NS_PER_SEC + 5, NULL, 0, &err),
         &err);
    must(mux_import_entry(import, "l", 1, link.st_mode, OLD * AF_NS_PER_SEC + 6, "there", 5, &err),
         &err);
    commit(import);
    import = begin(f, id);
    assert_false(keep(import, "l", &link, "other"));
    assert_false(keep(import, "l", &link, "ther"));
    assert_true(keep(import, "l", &link, "there"));
    assert_true(keep(import, "d", &dir, NULL));
    dir.st_mode = S_IFDIR | 0700;
    assert_false(keep(import, "d", &dir, NULL));
    mux_import_abort(import);
}

static void test_a_kept_path_cannot_be_given_again(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    struct mux_import_totals totals;
    struct af_error err = {0};
    struct mux_import *import = begin(f, id);
    assert_true(keep(import, "d/f", &st, NULL));
    put(import, "d/f", &st, fd);
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT, "twice");
    close(fd);
}

static void test_keeping_everything_of_a_codebase_that_changed_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    int fd;
    struct af_id id = imported(f, &st, &fd);
    struct mux_import_totals totals;
    struct af_error err = {0};
    struct mux_import *import = begin(f, id);
    assert_true(keep(import, "d/f", &st, NULL));
    assert_true(keep(import, "d/g", &st, NULL));
    upload(f, id, "new", "x");
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_ABORTED, "import again");
    assert_listing(f, id, "d/\nd/f\nd/g\nnew\n");
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_files_of_every_size_arrive_byte_for_byte),
        fixture_test(test_holes_stay_holes),
        fixture_test(test_files_copied_at_once_are_each_their_own),
        fixture_test(test_small_files_copied_at_once_are_each_their_own),
        fixture_test(test_a_copy_that_fails_fails_the_import_and_leaves_nothing),
        fixture_test(test_an_import_that_is_given_up_leaves_no_copy),
        fixture_test(test_what_did_not_change_is_kept_and_costs_no_layer),
        fixture_test(test_what_was_not_sent_again_goes),
        fixture_test(test_any_difference_in_the_stat_is_a_change),
        fixture_test(test_a_file_that_was_just_written_is_read_again),
        fixture_test(test_a_file_that_somebody_changed_in_the_codebase_is_sent_again),
        fixture_test(test_links_and_directories_are_compared_by_what_they_are),
        fixture_test(test_a_kept_path_cannot_be_given_again),
        fixture_test(test_keeping_everything_of_a_codebase_that_changed_meanwhile_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
