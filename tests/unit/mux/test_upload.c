// Uploads: one file in, streamed, one transaction; nothing half-made, counters exact.
#include "tests/unit/mux/fixture.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void md5_hex(const void *data, size_t len, char hex[33])
{
    uint8_t md5[16];
    assert_int_equal(EVP_Digest(data, len, md5, NULL, EVP_md5(), NULL), 1);
    for (size_t i = 0; i < sizeof md5; i++)
        snprintf(hex + 2 * i, 3, "%02x", md5[i]);
}

static void fill(char *bytes, size_t len, uint64_t seed)
{
    struct prng prng = {.state = seed};
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)prng_next(&prng);
}

static void test_O4_every_byte_arrives_whatever_the_size_and_the_chunks(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    static const size_t sizes[] = {0, 1, 2047, 2048, 2049, 4096, 65536, 65537, 1000003};
    static const size_t chunks[] = {1, 3, 2048, 65536};
    struct af_error err;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *bytes = malloc(sizes[i] + 1), expected[33];
        fill(bytes, sizes[i], i);
        md5_hex(bytes, sizes[i], expected);
        struct mux_upload *upload;
        struct mux_upload_result result;
        assert_int_equal(
            mux_upload_begin(f->mux, id.text, "dir/f", 5, (int64_t)sizes[i], &upload, &err), 0);
        size_t chunk = chunks[i % 4] == 1 && sizes[i] > 5000 ? 65536 : chunks[i % 4];
        for (size_t at = 0; at < sizes[i]; at += chunk) {
            size_t n = sizes[i] - at < chunk ? sizes[i] - at : chunk;
            assert_int_equal(mux_upload_write(upload, bytes + at, n, &err), 0);
        }
        assert_int_equal(mux_upload_commit(upload, &result, &err), 0);
        assert_int_equal(result.size, sizes[i]);
        assert_string_equal(result.md5_hex, expected);
        assert_string_equal(result.path, "dir/f");
        struct mux_file *file;
        size_t len;
        assert_int_equal(mux_codebase_open_file(f->mux, id.text, "dir/f", 5, &file, &err), 0);
        char *got = read_all(file, &len);
        assert_int_equal(len, sizes[i]);
        assert_memory_equal(got, bytes, len);
        mux_file_close(file);
        free(got);
        free(bytes);
        assert_counters(f, id);
    }
    assert_listing(f, id, "dir/\ndir/f\n");
    assert_no_garbage(f, 1, 3, 1);
}

static int mode_of(void *arg, const struct mux_file_info *info)
{
    if (!info->is_dir && strcmp(info->path, ((const char **)arg)[0]) == 0)
        return (int)info->mode;
    return 0;
}

static mode_t stored_mode(struct fixture *f, struct af_id id, const char *path)
{
    struct af_error err;
    return (mode_t)mux_codebase_list_files(f->mux, id.text, "", 0, true, mode_of, &path, &err);
}

static void test_executables_get_their_bits(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_upload *slow;
    struct mux_upload_result result;
    struct af_error err;
    char big[3000] = "\177ELF";
    upload(f, id, "script", "#!/bin/sh\n");
    upload(f, id, "short", "#!");
    upload(f, id, "almost", "#");
    upload(f, id, "almost.elf", "\177EL");
    upload(f, id, "plain", "echo");
    upload_bytes(f, id, "elf", 3, big, sizeof big);
    assert_int_equal(stored_mode(f, id, "script"), S_IFREG | 0755);
    assert_int_equal(stored_mode(f, id, "short"), S_IFREG | 0755);
    assert_int_equal(stored_mode(f, id, "almost"), S_IFREG | 0644);
    assert_int_equal(stored_mode(f, id, "almost.elf"), S_IFREG | 0644);
    assert_int_equal(stored_mode(f, id, "plain"), S_IFREG | 0644);
    assert_int_equal(stored_mode(f, id, "elf"), S_IFREG | 0755);
    // The first bytes in one message, the rest in one that needs a blob at once.
    assert_int_equal(mux_upload_begin(f->mux, id.text, "slow", 4, -1, &slow, &err), 0);
    assert_int_equal(mux_upload_write(slow, "\177E", 2, &err), 0);
    memcpy(big, "LF", 2);
    assert_int_equal(mux_upload_write(slow, big, sizeof big, &err), 0);
    assert_int_equal(mux_upload_commit(slow, &result, &err), 0);
    assert_int_equal(stored_mode(f, id, "slow"), S_IFREG | 0755);
}

static int upload_status(struct fixture *f, struct af_id id, const void *path, size_t len,
                         struct af_error *err)
{
    struct mux_upload *upload;
    struct mux_upload_result result;
    if (mux_upload_begin(f->mux, id.text, path, len, -1, &upload, err) < 0)
        return -1;
    if (mux_upload_write(upload, "x", 1, err) < 0) {
        mux_upload_abort(upload);
        return -1;
    }
    return mux_upload_commit(upload, &result, err);
}

static void test_E7_bad_paths_are_refused_and_nothing_is_made(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct af_error err;
    char deep[AF_PATH_MAX + 2], name[AF_NAME_MAX + 1];
    memset(name, 'n', sizeof name);
    for (size_t i = 0; i < sizeof deep; i++)
        deep[i] = i % 2 ? '/' : 'd';
    static const struct {
        const char *path, *part;
    } bad[] = {
        {"", "empty"},      {"/etc/passwd", "absolute"}, {"a/../../b", "'..'"}, {"..", "'..'"},
        {"./a", "no name"}, {"a//b", "no name"},         {"a/", "no name"},     {".", "no name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_error(upload_status(f, id, bad[i].path, strlen(bad[i].path), &err), &err,
                     AF_INVALID_ARGUMENT, bad[i].part);
    expect_error(upload_status(f, id, name, sizeof name, &err), &err, AF_INVALID_ARGUMENT,
                 "too long");
    expect_error(upload_status(f, id, deep, sizeof deep, &err), &err, AF_INVALID_ARGUMENT,
                 "too long");
    expect_error(upload_status(f, id, "a\0b", 3, &err), &err, AF_INVALID_ARGUMENT, "NUL");
    assert_listing(f, id, "");
    assert_int_equal(upload_status(f, id, deep, AF_PATH_MAX, &err), 0);
    assert_no_garbage(f, 1, 2 + AF_PATH_MAX / 2, 0);
}

static void test_a_directory_in_the_way_or_a_file_as_parent_is_refused(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_upload *early;
    struct mux_upload_result result;
    struct af_error err;
    upload(f, id, "d/f", "keep");
    expect_error(upload_status(f, id, "d", 1, &err), &err, AF_INVALID_ARGUMENT, "a directory");
    expect_error(upload_status(f, id, "d/f/g", 5, &err), &err, AF_INVALID_ARGUMENT, "no directory");
    // The same, when the clash appears only after the upload began.
    assert_int_equal(mux_upload_begin(f->mux, id.text, "late/x/y", 8, -1, &early, &err), 0);
    upload(f, id, "late/x", "file");
    expect_error(mux_upload_commit(early, &result, &err), &err, AF_INVALID_ARGUMENT, "'late/x'");
    assert_int_equal(mux_upload_begin(f->mux, id.text, "dir", 3, -1, &early, &err), 0);
    upload(f, id, "dir/x", "file");
    expect_error(mux_upload_commit(early, &result, &err), &err, AF_INVALID_ARGUMENT,
                 "is a directory");
    assert_listing(f, id, "d/\nd/f\ndir/\ndir/x\nlate/\nlate/x\n");
    assert_counters(f, id);
}

// A link of the kind that only an import or a sandbox can make.
static void import_symlink(struct fixture *f, struct af_id id, const char *path, const char *target)
{
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err;
    if (mux_import_begin(f->mux, id.text, &import, &err) < 0 ||
        mux_import_entry(import, path, strlen(path), S_IFLNK | 0777, 0, target, strlen(target),
                         &err) < 0 ||
        mux_import_commit(import, &totals, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_E1_symlinks_are_never_followed(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_file *file;
    struct af_error err;
    upload(f, id, "real/f", "untouched");
    import_symlink(f, id, "link", "real");
    import_symlink(f, id, "out", "/etc");
    import_symlink(f, id, "file", "real/f");
    expect_error(upload_status(f, id, "link/f", 6, &err), &err, AF_INVALID_ARGUMENT, "'link/f'");
    expect_error(upload_status(f, id, "out/passwd", 10, &err), &err, AF_INVALID_ARGUMENT,
                 "symbolic link");
    expect_error(mux_codebase_open_file(f->mux, id.text, "link/f", 6, &file, &err), &err,
                 AF_INVALID_ARGUMENT, "not followed");
    expect_error(mux_codebase_open_file(f->mux, id.text, "file", 4, &file, &err), &err,
                 AF_INVALID_ARGUMENT, "not followed");
    // As the last component the link itself is replaced.
    upload(f, id, "file", "plain now");
    char *text = download(f, id, "file");
    assert_string_equal(text, "plain now");
    free(text);
    text = download(f, id, "real/f");
    assert_string_equal(text, "untouched");
    free(text);
    assert_counters(f, id);
}

static void test_announced_sizes_are_held_to(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_upload *upload;
    struct mux_upload_result result;
    struct af_error err;
    expect_error(mux_upload_begin(f->mux, id.text, "f", 1, AF_FILE_SIZE_MAX + 1, &upload, &err),
                 &err, AF_INVALID_ARGUMENT, "total_size");
    expect_error(mux_upload_begin(f->mux, id.text, "f", 1, AF_FILE_SIZE_MAX, &upload, &err), &err,
                 AF_RESOURCE_EXHAUSTED, "full");
    assert_int_equal(mux_upload_begin(f->mux, id.text, "f", 1, 3, &upload, &err), 0);
    expect_error(mux_upload_write(upload, "abcd", 4, &err), &err, AF_INVALID_ARGUMENT, "more data");
    mux_upload_abort(upload);
    assert_int_equal(mux_upload_begin(f->mux, id.text, "f", 1, 3, &upload, &err), 0);
    assert_int_equal(mux_upload_write(upload, "ab", 2, &err), 0);
    expect_error(mux_upload_commit(upload, &result, &err), &err, AF_INVALID_ARGUMENT,
                 "ended after");
    assert_listing(f, id, "");
}

static void test_a_codebase_deleted_during_the_upload_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_upload *upload;
    struct mux_upload_result result;
    struct af_error err;
    char big[10000] = "x";
    assert_int_equal(mux_upload_begin(f->mux, id.text, "f", 1, -1, &upload, &err), 0);
    assert_int_equal(mux_upload_write(upload, big, sizeof big, &err), 0);
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    expect_error(mux_upload_commit(upload, &result, &err), &err, AF_NOT_FOUND, id.text);
    expect_error(mux_upload_begin(f->mux, id.text, "f", 1, -1, &upload, &err), &err, AF_NOT_FOUND,
                 id.text);
    assert_no_garbage(f, 0, 0, 0);
}

static void test_equal_content_is_stored_once_and_goes_with_its_last_file(void **state)
{
    struct fixture *f = *state;
    struct af_id a = new_codebase(f), b = new_codebase(f);
    struct mux_upload *aborted;
    struct af_error err;
    char big[50000];
    fill(big, sizeof big, 1);
    upload_bytes(f, a, "one", 3, big, sizeof big);
    upload_bytes(f, a, "two", 3, big, sizeof big);
    upload_bytes(f, b, "three", 5, big, sizeof big);
    assert_int_equal(mux_upload_begin(f->mux, b.text, "no", 2, -1, &aborted, &err), 0);
    assert_int_equal(mux_upload_write(aborted, big, sizeof big, &err), 0);
    mux_upload_abort(aborted);
    assert_no_garbage(f, 2, 5, 1);
    assert_int_equal(mux_codebase_delete(f->mux, a.text, &err), 0);
    assert_no_garbage(f, 1, 2, 1);
    char *text = download(f, b, "three");
    assert_memory_equal(text, big, sizeof big);
    free(text);
    upload(f, b, "three", "small");
    assert_no_garbage(f, 1, 2, 0);
    // The digest went with the blob: the same bytes again make a new one.
    upload_bytes(f, b, "three", 5, big, sizeof big);
    assert_no_garbage(f, 1, 2, 1);
}

static void test_B3_counters_equal_a_recount_after_random_histories(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct prng prng = {.state = 42};
    static char bytes[5000];
    struct af_error err;
    for (int step = 0; step < 600; step++) {
        char path[64];
        int depth = (int)prng_below(&prng, 3), n = 0;
        for (int i = 0; i < depth; i++)
            n += snprintf(path + n, sizeof path - (size_t)n, "d%zu/", prng_below(&prng, 3));
        snprintf(path + n, sizeof path - (size_t)n, "%c%zu", prng_below(&prng, 8) ? 'f' : 'd',
                 prng_below(&prng, 4));
        struct mux_upload *upload;
        struct mux_upload_result result;
        if (mux_upload_begin(f->mux, id.text, path, strlen(path), -1, &upload, &err) < 0)
            continue; // a directory in the way, a file as parent
        assert_int_equal(mux_upload_write(upload, bytes, prng_below(&prng, sizeof bytes), &err), 0);
        mux_upload_commit(upload, &result, &err);
        if (prng_below(&prng, 10) == 0)
            new_sandbox(f, id); // freezes the head
        if (step % 50 == 0)
            assert_counters(f, id);
    }
    assert_counters(f, id);
    fixture_reopen(f);
    assert_counters(f, id);
}

struct uploader {
    struct fixture *fixture;
    struct af_id codebase;
    char letter;
};

#define RACES 60

static void *upload_all(void *arg)
{
    struct uploader *me = arg;
    static _Thread_local char bytes[6000];
    struct af_error err;
    memset(bytes, me->letter, sizeof bytes);
    for (int i = 0; i < RACES; i++) {
        struct mux_upload *upload;
        struct mux_upload_result result;
        char own[32];
        snprintf(own, sizeof own, "%c/%d", me->letter, i);
        const char *paths[] = {"shared/same", own};
        for (int p = 0; p < 2; p++)
            if (mux_upload_begin(me->fixture->mux, me->codebase.text, paths[p], strlen(paths[p]),
                                 -1, &upload, &err) < 0 ||
                mux_upload_write(upload, bytes, (size_t)(100 * i), &err) < 0 ||
                mux_upload_commit(upload, &result, &err) < 0)
                return strdup(err.text);
    }
    return NULL;
}

static void test_uploads_at_once_are_all_whole_and_the_last_one_wins(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct uploader uploaders[2] = {{f, id, 'A'}, {f, id, 'B'}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, upload_all, &uploaders[i]), 0);
    for (int i = 0; i < 20; i++)
        new_sandbox(f, id);
    for (int i = 0; i < 2; i++) {
        void *text;
        pthread_join(threads[i], &text);
        if (text)
            fail_msg("%s", (char *)text);
    }
    char *last = download(f, id, "shared/same");
    assert_int_equal(strlen(last), 100 * (RACES - 1));
    assert_int_equal(strspn(last, last[0] == 'A' ? "A" : "B"), strlen(last));
    free(last);
    assert_int_equal(get_codebase(f, id).files, 2 * RACES + 1);
    assert_counters(f, id);
}

static void test_B9_a_crash_during_an_upload_leaves_nothing_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "before", "kept");
    fixture_close(f); // the store belongs to one process
    pid_t pid = fork();
    if (pid == 0) {
        struct mux_upload *upload_open;
        struct af_error err;
        char big[100000] = "";
        fixture_open(f);
        upload(f, id, "acknowledged", "kept too");
        upload_bytes(f, id, "large", 5, big, sizeof big);
        if (mux_upload_begin(f->mux, id.text, "half/done", 9, -1, &upload_open, &err) == 0)
            mux_upload_write(upload_open, big, sizeof big, &err);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    fixture_open(f);
    assert_listing(f, id, "acknowledged\nbefore\nlarge\n");
    assert_counters(f, id);
    char *text = download(f, id, "acknowledged");
    assert_string_equal(text, "kept too");
    free(text);
    assert_no_garbage(f, 1, 4, 1);
}

// Uploads files of 300,000 bytes until one fails; the number that were acknowledged.
static int upload_until_full(struct fixture *f, struct af_id id, struct af_error *err)
{
    static char bytes[300000];
    for (int i = 0; i < 200; i++) {
        struct mux_upload *upload;
        struct mux_upload_result result;
        char path[16];
        snprintf(path, sizeof path, "f%d", i);
        fill(bytes, sizeof bytes, (uint64_t)i);
        if (mux_upload_begin(f->mux, id.text, path, strlen(path), -1, &upload, err) < 0)
            return i;
        if (mux_upload_write(upload, bytes, sizeof bytes, err) < 0) {
            mux_upload_abort(upload);
            return i;
        }
        if (mux_upload_commit(upload, &result, err) < 0)
            return i;
    }
    return -1;
}

// Blocks that the database file takes, those reserved ahead included.
static int64_t disk_bytes_of_database(struct fixture *f)
{
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/store/data.mdb", f->dir);
    assert_int_equal(stat(path, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static void test_a_full_disk_is_told_and_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct af_error err;
    uint64_t removed;
    fixture_close(f);
    if (mount("tmpfs", f->dir, "tmpfs", 0, "size=24m,mode=0700") < 0) {
        print_message("skipped: needs root to make a small file system\n");
        skip();
    }
    fixture_open(f);
    struct af_id id = new_codebase(f);
    int uploaded = upload_until_full(f, id, &err);
    assert_true(uploaded > 3);
    expect_error(-1, &err, AF_RESOURCE_EXHAUSTED, "full");
    assert_int_equal(get_codebase(f, id).files, uploaded);
    assert_counters(f, id);
    assert_int_equal(store_gc_drain(mux_store(f->mux), &removed), 0);
    assert_int_equal(count_blob_files(f), uploaded);
    // Deleting works on a full disk, and makes room: all but what the database has grown by since.
    int64_t database_bytes = disk_bytes_of_database(f);
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    assert_no_garbage(f, 0, 0, 0);
    int again = upload_until_full(f, new_codebase(f), &err);
    int64_t grown_bytes = disk_bytes_of_database(f) - database_bytes;
    assert_true(again >= uploaded - 2 - (int)(grown_bytes / 300000));
    assert_true(grown_bytes < 6 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_O4_every_byte_arrives_whatever_the_size_and_the_chunks),
        fixture_test(test_executables_get_their_bits),
        fixture_test(test_E7_bad_paths_are_refused_and_nothing_is_made),
        fixture_test(test_a_directory_in_the_way_or_a_file_as_parent_is_refused),
        fixture_test(test_E1_symlinks_are_never_followed),
        fixture_test(test_announced_sizes_are_held_to),
        fixture_test(test_a_codebase_deleted_during_the_upload_is_not_found),
        fixture_test(test_equal_content_is_stored_once_and_goes_with_its_last_file),
        fixture_test(test_B3_counters_equal_a_recount_after_random_histories),
        fixture_test(test_uploads_at_once_are_all_whole_and_the_last_one_wins),
        fixture_test(test_a_full_disk_is_told_and_changes_nothing),
        fixture_test(test_B9_a_crash_during_an_upload_leaves_nothing_and_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
