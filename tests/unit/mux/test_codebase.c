// Codebases: records, listing, downloads.
#include "tests/unit/mux/fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

static void test_create_get_list_delete(void **state)
{
    struct fixture *f = *state;
    struct store_codebase made, got;
    struct af_error err;
    assert_int_equal(mux_codebase_create(f->mux, "name", "me", &made, &err), 0);
    assert_true(af_id_parse("cb", made.id.text, strlen(made.id.text), NULL));
    got = get_codebase(f, made.id);
    assert_string_equal(got.name, "name");
    assert_string_equal(got.owner, "me");
    assert_int_equal(got.files, 0);
    assert_int_equal(got.size_bytes, 0);
    assert_true(got.created_ns > 0 && got.created_ns == got.updated_ns);
    assert_listing(f, made.id, "");
    assert_int_equal(mux_codebase_delete(f->mux, made.id.text, &err), 0);
    expect_error(mux_codebase_get(f->mux, made.id.text, &got, &err), &err, AF_NOT_FOUND,
                 made.id.text);
    expect_error(mux_codebase_delete(f->mux, made.id.text, &err), &err, AF_NOT_FOUND, "deleted");
    assert_no_garbage(f, 0, 0, 0);
}

static int append_id(void *arg, const struct store_codebase *codebase)
{
    strcat(arg, codebase->id.text);
    return 0;
}

static int stop_at_once(void *arg, const struct store_codebase *codebase)
{
    (void)arg;
    (void)codebase;
    return -77;
}

static void test_list_filters_by_owner_and_pages_in_id_order(void **state)
{
    struct fixture *f = *state;
    struct store_codebase a, b, other;
    struct af_error err;
    char all[512] = "", expected[512] = "";
    assert_int_equal(mux_codebase_create(f->mux, "a", "me", &a, &err), 0);
    assert_int_equal(mux_codebase_create(f->mux, "b", "me", &b, &err), 0);
    assert_int_equal(mux_codebase_create(f->mux, "c", "other", &other, &err), 0);
    bool in_order = strcmp(a.id.text, b.id.text) < 0;
    const char *first = in_order ? a.id.text : b.id.text;
    const char *second = in_order ? b.id.text : a.id.text;
    strcat(strcat(expected, first), second);
    assert_int_equal(mux_codebase_list(f->mux, "me", NULL, append_id, all, &err), 0);
    assert_string_equal(all, expected);
    all[0] = '\0';
    assert_int_equal(mux_codebase_list(f->mux, "me", first, append_id, all, &err), 0);
    assert_string_equal(all, second);
    assert_int_equal(mux_codebase_list(f->mux, NULL, NULL, stop_at_once, NULL, &err), -77);
    expect_error(mux_codebase_list(f->mux, NULL, "cb_x", append_id, all, &err), &err,
                 AF_INVALID_ARGUMENT, "cb_x");
}

static void test_O5_malformed_ids_and_names_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const ids[] = {"",
                                      "x",
                                      "cb_",
                                      "cb_../../etc/passwd0000000000",
                                      UNKNOWN_SANDBOX,
                                      "cb_0000000000000000000000000/"};
    struct store_codebase got;
    struct af_error err;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        expect_error(mux_codebase_get(f->mux, ids[i], &got, &err), &err, AF_INVALID_ARGUMENT,
                     "codebase");
    char text[AF_NAME_TEXT_MAX + 2];
    memset(text, 'n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    expect_error(mux_codebase_create(f->mux, text, "", &got, &err), &err, AF_INVALID_ARGUMENT,
                 "257 bytes");
    text[AF_NAME_TEXT_MAX] = '\0';
    assert_int_equal(mux_codebase_create(f->mux, text, text, &got, &err), 0);
    expect_error(mux_codebase_create(f->mux, "", "", &got, &err), &err, AF_INVALID_ARGUMENT,
                 "name is missing");
    expect_error(mux_codebase_create(f->mux, "\xff", "", &got, &err), &err, AF_INVALID_ARGUMENT,
                 "UTF-8");
}

static void test_listing_is_in_path_order_and_a_directory_precedes_what_it_holds(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    static const char *const paths[] = {"b/z", "a-b", "a/b/c", "a.txt", "a/a", "Z", "b/a/x"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        upload(f, id, paths[i], paths[i]);
    assert_listing(f, id, "Z\na/\na/a\na/b/\na/b/c\na-b\na.txt\nb/\nb/a/\nb/a/x\nb/z\n");
    char *text = listing(f, id, "/", false);
    assert_string_equal(text, "Z\na/\na-b\na.txt\nb/\n");
    free(text);
    text = listing(f, id, "//a/./b/", true);
    assert_string_equal(text, "a/b/c\n");
    free(text);
}

static int stop_with_5(void *arg, const struct mux_file_info *info)
{
    (void)info;
    return ++*(int *)arg == 2 ? 5 : 0;
}

static void test_listing_errors_and_stop(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct af_error err;
    int calls = 0;
    upload(f, id, "d/f", "x");
    upload(f, id, "e", "x");
    expect_error(mux_codebase_list_files(f->mux, id.text, "no", 2, true, stop_with_5, &calls, &err),
                 &err, AF_NOT_FOUND, "'no'");
    expect_error(mux_codebase_list_files(f->mux, id.text, "e", 1, true, stop_with_5, &calls, &err),
                 &err, AF_INVALID_ARGUMENT, "no directory");
    expect_error(
        mux_codebase_list_files(f->mux, id.text, "a/../b", 6, true, stop_with_5, &calls, &err),
        &err, AF_INVALID_ARGUMENT, "'..'");
    expect_error(
        mux_codebase_list_files(f->mux, UNKNOWN_CODEBASE, "", 0, true, stop_with_5, &calls, &err),
        &err, AF_NOT_FOUND, UNKNOWN_CODEBASE);
    assert_int_equal(calls, 0);
    assert_int_equal(
        mux_codebase_list_files(f->mux, id.text, "", 0, true, stop_with_5, &calls, &err), 5);
    assert_int_equal(calls, 2);
}

static void test_B8_names_are_bytes(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    char longest[AF_NAME_MAX + 1], expected[1024];
    memset(longest, 'L', AF_NAME_MAX);
    longest[AF_NAME_MAX] = '\0';
    upload(f, id, longest, "1");
    upload(f, id, "d\xff\xfe/new\nline", "2");
    upload(f, id, " ", "3");
    upload(f, id, ".wh.x", "4");
    upload(f, id, "*?[", "5");
    snprintf(expected, sizeof expected, " \n*?[\n.wh.x\n%s\nd\xff\xfe/\nd\xff\xfe/new\nline\n",
             longest);
    assert_listing(f, id, expected);
    char *text = download(f, id, "d\xff\xfe/new\nline");
    assert_string_equal(text, "2");
    free(text);
    fixture_reopen(f);
    assert_listing(f, id, expected);
}

static void assert_file(struct mux_file *file, const char *bytes, size_t len)
{
    size_t got_len;
    char *got = read_all(file, &got_len);
    assert_int_equal(got_len, len);
    assert_memory_equal(got, bytes, len);
    free(got);
}

static void test_an_open_file_outlives_its_replacement_and_its_codebase(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_file *small, *large;
    struct af_error err;
    char big[100000];
    uint64_t removed;
    memset(big, 'B', sizeof big);
    upload(f, id, "small", "old small");
    upload_bytes(f, id, "large", 5, big, sizeof big);
    assert_int_equal(mux_codebase_open_file(f->mux, id.text, "small", 5, &small, &err), 0);
    assert_int_equal(mux_codebase_open_file(f->mux, id.text, "large", 5, &large, &err), 0);
    upload(f, id, "small", "new");
    upload(f, id, "large", "new");
    assert_int_equal(store_gc_drain(mux_store(f->mux), &removed), 0);
    assert_file(small, "old small", 9);
    assert_file(large, big, sizeof big);
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    assert_int_equal(store_gc_drain(mux_store(f->mux), &removed), 0);
    assert_file(small, "old small", 9);
    assert_file(large, big, sizeof big);
    char byte;
    assert_int_equal(mux_file_read(large, &byte, 1, sizeof big), 0);
    assert_int_equal(mux_file_read(large, &byte, 1, UINT64_MAX), 0);
    mux_file_close(small);
    mux_file_close(large);
    assert_no_garbage(f, 0, 0, 0);
}

static void test_opening_what_is_no_file(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_file *file;
    struct af_error err;
    upload(f, id, "d/f", "x");
#define OPEN(path) mux_codebase_open_file(f->mux, id.text, path, strlen(path), &file, &err)
    expect_error(OPEN("d"), &err, AF_INVALID_ARGUMENT, "a directory");
    expect_error(OPEN(""), &err, AF_INVALID_ARGUMENT, "a directory");
    expect_error(OPEN("d/g"), &err, AF_NOT_FOUND, "'d/g'");
    expect_error(OPEN("d/f/g"), &err, AF_INVALID_ARGUMENT, "no directory");
    expect_error(OPEN("../d/f"), &err, AF_INVALID_ARGUMENT, "'..'");
    expect_error(OPEN("/d/f"), &err, AF_INVALID_ARGUMENT, "absolute");
    expect_error(mux_codebase_open_file(f->mux, id.text, "d\0f", 3, &file, &err), &err,
                 AF_INVALID_ARGUMENT, "NUL");
}

static void test_views_keep_the_tree_they_were_made_on(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_file *file;
    struct af_error err;
    upload(f, id, "f", "old");
    struct af_id sandbox = new_sandbox(f, id);
    upload(f, id, "f", "newer");
    upload(f, id, "g", "added later");
    assert_int_equal(mux_inspect_open_file(f->mux, sandbox.text, "f", 1, &file, &err), 0);
    assert_file(file, "old", 3);
    mux_file_close(file);
    expect_error(mux_inspect_open_file(f->mux, sandbox.text, "g", 1, &file, &err), &err,
                 AF_NOT_FOUND, "'g'");
    assert_listing(f, id, "f\ng\n");
    assert_counters(f, id);
    // Deleting the codebase takes nothing from the view.
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    assert_int_equal(mux_inspect_open_file(f->mux, sandbox.text, "f", 1, &file, &err), 0);
    assert_file(file, "old", 3);
    mux_file_close(file);
    assert_int_equal(mux_sandbox_destroy(f->mux, sandbox.text, &err), 0);
    assert_no_garbage(f, 0, 0, 0);
}

static void test_uploads_and_sandboxes_in_turn_do_not_pile_up_layers(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct af_error err;
    char text[32];
    upload(f, id, "kept", "base");
    struct af_id living = new_sandbox(f, id); // its base must not change
    for (int i = 0; i < 60; i++) {
        snprintf(text, sizeof text, "round %d", i);
        upload(f, id, "f", text);
        upload(f, id, "kept", text);
        struct af_id sandbox = new_sandbox(f, id);
        struct mux_file *file;
        assert_int_equal(mux_inspect_open_file(f->mux, sandbox.text, "f", 1, &file, &err), 0);
        assert_file(file, text, strlen(text));
        mux_file_close(file);
        assert_int_equal(mux_sandbox_destroy(f->mux, sandbox.text, &err), 0);
    }
    struct mux_file *file;
    assert_int_equal(mux_inspect_open_file(f->mux, living.text, "kept", 4, &file, &err), 0);
    assert_file(file, "base", 4);
    mux_file_close(file);
    expect_error(mux_inspect_open_file(f->mux, living.text, "f", 1, &file, &err), &err,
                 AF_NOT_FOUND, "'f'");
    assert_counters(f, id);
    uint64_t removed;
    assert_int_equal(store_gc_drain(mux_store(f->mux), &removed), 0);
    assert_true(stats_of(f).layers <= 5);
    assert_int_equal(mux_sandbox_destroy(f->mux, living.text, &err), 0);
    assert_int_equal(mux_codebase_delete(f->mux, id.text, &err), 0);
    assert_no_garbage(f, 0, 0, 0);
}

struct replacing {
    struct fixture *fixture;
    struct af_id codebase;
    atomic_bool done;
};

static void *replace_all_the_time(void *arg)
{
    struct replacing *r = arg;
    char bytes[5000];
    for (int i = 0; i < 300; i++) {
        memset(bytes, 'a' + i % 26, sizeof bytes);
        upload_bytes(r->fixture, r->codebase, "f", 1, bytes, 3000 + (size_t)(i % 26));
    }
    atomic_store(&r->done, true);
    return NULL;
}

static void test_a_download_sees_one_version_while_uploads_replace_the_file(void **state)
{
    struct fixture *f = *state;
    struct replacing r = {.fixture = f, .codebase = new_codebase(f)};
    pthread_t thread;
    upload(f, r.codebase, "f", "x");
    assert_int_equal(pthread_create(&thread, NULL, replace_all_the_time, &r), 0);
    while (!atomic_load(&r.done)) {
        char *text = download(f, r.codebase, "f");
        size_t len = strlen(text);
        char letter[2] = {text[0], '\0'};
        assert_int_equal(strspn(text, letter), len);
        assert_true(len == 1 || len == 3000 + (size_t)(text[0] - 'a'));
        free(text);
    }
    pthread_join(thread, NULL);
    assert_no_garbage(f, 1, 2, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_create_get_list_delete),
        fixture_test(test_list_filters_by_owner_and_pages_in_id_order),
        fixture_test(test_O5_malformed_ids_and_names_are_refused),
        fixture_test(test_listing_is_in_path_order_and_a_directory_precedes_what_it_holds),
        fixture_test(test_listing_errors_and_stop),
        fixture_test(test_B8_names_are_bytes),
        fixture_test(test_an_open_file_outlives_its_replacement_and_its_codebase),
        fixture_test(test_opening_what_is_no_file),
        fixture_test(test_views_keep_the_tree_they_were_made_on),
        fixture_test(test_uploads_and_sandboxes_in_turn_do_not_pile_up_layers),
        fixture_test(test_a_download_sees_one_version_while_uploads_replace_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
