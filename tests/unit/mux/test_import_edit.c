// Imports that change what is there: second names, removals, and trees that replace the old one.
#include "mux/import_priv.h"
#include "tests/unit/mux/fixture.h"

#include <string.h>
#include <sys/stat.h>

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

static void must(int rc, const struct af_error *err)
{
    if (rc < 0)
        fail_msg("%s", err->text);
}

static void file(struct mux_import *import, const char *path, const char *text)
{
    struct af_error err = {0};
    must(put(import, path, S_IFREG | 0644, text, &err), &err);
}

static void directory(struct mux_import *import, const char *path)
{
    struct af_error err = {0};
    must(put(import, path, S_IFDIR | 0755, NULL, &err), &err);
}

static void hard_link(struct mux_import *import, const char *path, const char *target)
{
    struct af_error err = {0};
    must(mux_import_link(import, path, strlen(path), target, strlen(target), &err), &err);
}

static void take_out(struct mux_import *import, const char *path)
{
    struct af_error err = {0};
    must(mux_import_remove(import, path, strlen(path), &err), &err);
}

static struct mux_import_totals commit(struct mux_import *import)
{
    struct mux_import_totals totals;
    struct af_error err = {0};
    must(mux_import_commit(import, &totals, &err), &err);
    return totals;
}

static struct mux_import *begin_replace(struct fixture *f, struct af_id id)
{
    struct af_error err = {0};
    struct mux_import *import = begin(f, id);
    must(mux_import_replace(import, "", 0, &err), &err);
    return import;
}

// The inode of a path as a new sandbox sees it.
static struct mux_node_info look(struct fixture *f, struct af_id codebase, const char *path)
{
    struct mux_node_info info;
    struct af_error err = {0};
    struct af_id sandbox = new_sandbox(f, codebase);
    must(mux_inspect_stat(f->mux, sandbox.text, path, strlen(path), &info, &err), &err);
    must(mux_sandbox_destroy(f->mux, sandbox.text, &err), &err);
    return info;
}

static void assert_content(struct fixture *f, struct af_id id, const char *path, const char *text)
{
    char *found = download(f, id, path);
    assert_string_equal(found, text);
    free(found);
}

static void test_hard_links_are_names_of_one_inode(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import *import = begin(f, id);
    file(import, "a", "one");
    hard_link(import, "d/b", "a");
    hard_link(import, "d/b", "a"); // the same again changes nothing
    hard_link(import, "c", "d/b");
    commit(import);
    assert_listing(f, id, "a\nc\nd/\nd/b\n");
    assert_int_equal(look(f, id, "a").fid, look(f, id, "d/b").fid);
    assert_int_equal(look(f, id, "a").nlink, 3);
    assert_int_equal(get_codebase(f, id).size_bytes, 3); // one object, however many names
}

static void test_a_link_to_nothing_or_a_directory_is_refused(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    struct mux_import_totals totals;
    struct af_error err;
    struct mux_import *import = begin(f, id);
    hard_link(import, "b", "a");
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT, "not there");
    import = begin(f, id);
    directory(import, "d");
    hard_link(import, "b", "d");
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT,
                 "the directory 'd'");
    import = begin(f, id);
    expect_error(mux_import_link(import, "x", 1, "../a", 4, &err), &err, AF_INVALID_ARGUMENT, "..");
    mux_import_abort(import);
    assert_listing(f, id, "");
}

static void test_a_link_into_the_base_counts_its_names(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "old", "base");
    upload(f, id, "way", "in the way");
    new_sandbox(f, id); // freezes
    uint64_t fid = look(f, id, "old").fid;
    struct mux_import *import = begin(f, id);
    hard_link(import, "way", "old");
    commit(import);
    assert_int_equal(look(f, id, "way").fid, fid);
    assert_int_equal(look(f, id, "old").nlink, 2);
    import = begin(f, id);
    take_out(import, "old");
    commit(import);
    assert_int_equal(look(f, id, "way").nlink, 1);
    assert_content(f, id, "way", "base");
    assert_counters(f, id);
}

static void test_a_removed_tree_makes_room_for_anything(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "d/a", "1");
    upload(f, id, "d/e/b", "22");
    upload(f, id, "keep", "3");
    new_sandbox(f, id);
    upload(f, id, "d/e/c", "44");
    struct mux_import *import = begin(f, id);
    take_out(import, "no/such/thing");
    take_out(import, "d/e/b");
    take_out(import, "d");
    take_out(import, "keep/below"); // a file holds nothing
    file(import, "d", "now a file");
    struct mux_import_totals totals = commit(import);
    assert_int_equal(totals.removed, 5); // d, d/a, d/e, d/e/b, d/e/c
    assert_listing(f, id, "d\nkeep\n");
    assert_content(f, id, "d", "now a file");
    assert_counters(f, id);
    import = begin(f, id);
    take_out(import, "");
    commit(import);
    assert_listing(f, id, "");
    assert_counters(f, id);
}

static void test_replacing_leaves_what_was_sent_and_keeps_its_identity(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "a/b/c/deep", "same name");
    upload(f, id, "a/b/gone", "x");
    upload(f, id, "a/other/gone", "x");
    upload(f, id, "gone/all", "x");
    new_sandbox(f, id);
    uint64_t fid = look(f, id, "a/b/c/deep").fid;
    struct mux_import *import = begin_replace(f, id);
    file(import, "a/b/c/deep", "new");
    directory(import, "empty");
    commit(import);
    assert_listing(f, id, "a/\na/b/\na/b/c/\na/b/c/deep\nempty/\n");
    assert_int_equal(look(f, id, "a/b/c/deep").fid, fid);
    assert_counters(f, id);
}

static void test_replacing_a_directory_leaves_the_others(void **state)
{
    struct fixture *f = *state;
    struct af_error err = {0};
    struct af_id id = new_codebase(f);
    upload(f, id, "d/old", "x");
    upload(f, id, "d/same", "x");
    upload(f, id, "other/old", "x");
    struct mux_import *import = begin(f, id);
    must(mux_import_replace(import, "d", 1, &err), &err);
    file(import, "d/same", "y");
    file(import, "d/new/file", "y");
    commit(import);
    assert_listing(f, id, "d/\nd/new/\nd/new/file\nd/same\nother/\nother/old\n");
    assert_counters(f, id);
}

static void test_replacing_changes_kinds(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    upload(f, id, "dir/file", "x");
    upload(f, id, "file", "x");
    upload(f, id, "p/q/r", "x");
    upload(f, id, "l/x", "x");
    new_sandbox(f, id);
    struct mux_import *import = begin_replace(f, id);
    directory(import, "p");
    file(import, "p/q", "a file now");
    file(import, "file/below", "a directory now");
    file(import, "dir", "a file now");
    hard_link(import, "l", "dir");
    commit(import);
    assert_listing(f, id, "dir\nfile/\nfile/below\nl\np/\np/q\n");
    assert_int_equal(get_codebase(f, id).files, 3); // `l` is a name of `dir`
    // What was sent itself is not moved out of the way.
    struct mux_import_totals totals;
    struct af_error err;
    import = begin_replace(f, id);
    file(import, "x/y", "1");
    file(import, "x", "2");
    expect_error(mux_import_commit(import, &totals, &err), &err, AF_INVALID_ARGUMENT,
                 "is a directory");
}

// ---- random trees against a model: path -> content, "/" for a directory

#define NAMES 4
#define SLOTS 200

struct model {
    char path[SLOTS][40];
    char text[SLOTS][8];
    size_t count;
};

static size_t find(const struct model *model, const char *path)
{
    for (size_t i = 0; i < model->count; i++)
        if (strcmp(model->path[i], path) == 0)
            return i;
    return SLOTS;
}

static void forget(struct model *model, const char *path)
{
    size_t len = strlen(path), kept = 0;
    for (size_t i = 0; i < model->count; i++) {
        const char *other = model->path[i];
        if (strncmp(other, path, len) == 0 && (other[len] == '\0' || other[len] == '/'))
            continue;
        memmove(model->path[kept], other, sizeof model->path[0]);
        memmove(model->text[kept++], model->text[i], sizeof model->text[0]);
    }
    model->count = kept;
}

static void learn(struct model *model, const char *path, const char *text)
{
    size_t at = find(model, path);
    if (at == SLOTS) {
        at = model->count++;
        assert_true(at < SLOTS);
        snprintf(model->path[at], sizeof model->path[at], "%s", path);
    }
    snprintf(model->text[at], sizeof model->text[at], "%s", text);
}

// Parents, as the import makes them. False: one of them is a file.
static bool learn_parents(struct model *model, const char *path)
{
    char part[40];
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        size_t at = find(model, part);
        if (at != SLOTS && strcmp(model->text[at], "/") != 0)
            return false;
        learn(model, part, "/");
    }
    return true;
}

static void random_path(struct prng *prng, char out[40])
{
    size_t depth = 1 + prng_below(prng, 3), len = 0;
    for (size_t i = 0; i < depth; i++)
        len += (size_t)snprintf(out + len, 40 - len, "%s%c", i ? "/" : "",
                                (char)('a' + prng_below(prng, NAMES)));
}

static int print_node(void *arg, const struct mux_file_info *info)
{
    fprintf(arg, "%s%s\n", info->path, info->is_dir ? "/" : "");
    return 0;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void assert_model(struct fixture *f, struct af_id id, const struct model *model)
{
    struct model sorted = *model;
    struct af_error err;
    char *found, *expected;
    size_t len;
    FILE *out = open_memstream(&expected, &len);
    qsort(sorted.path, sorted.count, sizeof sorted.path[0], compare_text);
    for (size_t i = 0; i < sorted.count; i++)
        fprintf(out, "%s%s\n", sorted.path[i],
                strcmp(model->text[find(model, sorted.path[i])], "/") == 0 ? "/" : "");
    fclose(out);
    out = open_memstream(&found, &len);
    must(mux_codebase_list_files(f->mux, id.text, "", 0, true, print_node, out, &err), &err);
    fclose(out);
    assert_string_equal(found, expected);
    for (size_t i = 0; i < model->count; i++)
        if (strcmp(model->text[i], "/") != 0)
            assert_content(f, id, model->path[i], model->text[i]);
    free(found);
    free(expected);
    assert_counters(f, id);
}

// One import: a replacing one begins with an empty model, as if nothing had been there.
static void random_import(struct fixture *f, struct af_id id, struct prng *prng,
                          struct model *model)
{
    bool replace = prng_below(prng, 2);
    struct mux_import *import = replace ? begin_replace(f, id) : begin(f, id);
    char path[40], text[8], sent[SLOTS][40];
    size_t n_sent = 0;
    if (replace)
        model->count = 0;
    for (size_t i = 0, n = prng_below(prng, 5); !replace && i < n; i++) {
        random_path(prng, path);
        take_out(import, path);
        forget(model, path);
    }
    for (size_t i = 0, n = prng_below(prng, 90); i < n; i++) {
        random_path(prng, path);
        struct model before = *model;
        size_t at = find(model, path);
        bool is_dir = prng_below(prng, 4) == 0, twice = false;
        for (size_t j = 0; j < n_sent; j++)
            twice |= strcmp(sent[j], path) == 0;
        // Only what cannot be refused: kinds stay, nothing is sent twice.
        bool clash = at != SLOTS && (strcmp(model->text[at], "/") == 0) != is_dir;
        if (twice || clash || !learn_parents(model, path)) {
            *model = before;
            continue;
        }
        snprintf(text, sizeof text, "%s", is_dir ? "/" : (char[]){(char)('0' + i % 10), 'x', 0});
        if (is_dir)
            directory(import, path);
        else
            file(import, path, text);
        learn(model, path, text);
        strcpy(sent[n_sent++], path);
    }
    commit(import);
}

static void test_random_imports_leave_what_a_model_says(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct prng prng = {.state = seed};
        struct model model = {.count = 0};
        struct af_id id = new_codebase(f);
        for (int i = 0; i < 8; i++) {
            random_import(f, id, &prng, &model);
            if (prng_below(&prng, 2))
                new_sandbox(f, id); // freezes what there is
            assert_model(f, id, &model);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_hard_links_are_names_of_one_inode),
        fixture_test(test_a_link_to_nothing_or_a_directory_is_refused),
        fixture_test(test_a_link_into_the_base_counts_its_names),
        fixture_test(test_a_removed_tree_makes_room_for_anything),
        fixture_test(test_replacing_leaves_what_was_sent_and_keeps_its_identity),
        fixture_test(test_replacing_a_directory_leaves_the_others),
        fixture_test(test_replacing_changes_kinds),
        fixture_test(test_random_imports_leave_what_a_model_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
