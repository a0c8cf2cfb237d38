// What a codebase's listeners are told: every way in which it changes, in the order of the commits,
// nothing that is not so, nothing missed. The random history compares what is told with what a
// look at the whole tree before and after each change finds.
#include "mux/news.h"
#include "mux/mux_priv.h"
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define TOLD_MAX 4096

struct told {
    enum mux_change change;
    char path[64], old_path[64], sandbox_id[AF_ID_TEXT_MAX];
};

struct ear {
    struct mux_listener listener;
    struct told told[TOLD_MAX];
    size_t count;
    uint64_t lost;
    bool deleted;
};

static void hear(void *arg, const struct mux_news_item *item)
{
    struct ear *ear = arg;
    assert_true(ear->count < TOLD_MAX);
    struct told *told = &ear->told[ear->count++];
    *told = (struct told){.change = item->entry->change};
    snprintf(told->path, sizeof told->path, "%s", item->entry->path);
    snprintf(told->old_path, sizeof told->old_path, "%s",
             item->entry->old_path ? item->entry->old_path : "");
    snprintf(told->sandbox_id, sizeof told->sandbox_id, "%s",
             item->sandbox_id ? item->sandbox_id : "");
}

static void hear_lost(void *arg, uint64_t count)
{
    ((struct ear *)arg)->lost += count;
}

static void hear_deleted(void *arg)
{
    ((struct ear *)arg)->deleted = true;
}

static struct ear *listen_to(struct fixture *fixture, struct af_id codebase)
{
    struct ear *ear = calloc(1, sizeof *ear);
    struct af_error err;
    ear->listener = (struct mux_listener){.codebase_id = codebase,
                                          .changed = hear,
                                          .lost = hear_lost,
                                          .deleted = hear_deleted,
                                          .arg = ear};
    if (mux_listen(fixture->mux, &ear->listener, &err) < 0)
        fail_msg("%s", err.text);
    return ear;
}

static void stop_listening(struct fixture *fixture, struct ear *ear)
{
    mux_unlisten(fixture->mux, &ear->listener);
    free(ear);
}

// Everything that was told since the last time: "A dir/f; R new<old; ".
static void expect_told(struct ear *ear, const char *expected)
{
    static const char letters[] = "?AMDTR";
    char text[4096] = "";
    for (size_t i = 0, len = 0; i < ear->count; i++) {
        const struct told *told = &ear->told[i];
        len += (size_t)snprintf(text + len, sizeof text - len, "%c %s%s%s; ", letters[told->change],
                                told->path, *told->old_path ? "<" : "", told->old_path);
    }
    assert_string_equal(text, expected);
    assert_int_equal(ear->lost, 0);
    ear->count = 0;
}

static const struct base_file small_base[] = {
    {"a", 0, "a0"}, {"d/x", 0, "x0"}, {"d/e/z", 0, "z0"}, {"l", S_IFLNK | 0777, "a"}, {0}};

// ---- one way each

static void test_an_upload_is_told_with_the_directories_made_for_it(void **state)
{
    struct af_id codebase = ops_codebase(*state, small_base);
    struct ear *ear = listen_to(*state, codebase);
    upload(*state, codebase, "new", "1");
    upload(*state, codebase, "new", "2");
    upload(*state, codebase, "d/y", "3");
    upload(*state, codebase, "d/n/m/f", "4");
    upload(*state, codebase, "p/q", "5");
    expect_told(ear, "A new; M new; A d/y; A d/n; A d/n/m; A d/n/m/f; A p; A p/q; ");
    upload(*state, codebase, "l", "no link any more");
    expect_told(ear, "D l; A l; ");
    assert_string_equal(ear->told[0].sandbox_id, "");
    stop_listening(*state, ear);
}

static void test_an_upload_that_fails_is_not_told(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, small_base);
    struct ear *ear = listen_to(fixture, codebase);
    struct mux_upload *begun;
    struct mux_upload_result result;
    struct af_error err;
    assert_int_equal(mux_upload_begin(fixture->mux, codebase.text, "later/f", 7, -1, &begun, &err),
                     0);
    upload(fixture, codebase, "later", "in the way");
    expect_told(ear, "A later; ");
    expect_error(mux_upload_commit(begun, &result, &err), &err, AF_INVALID_ARGUMENT, "later");
    expect_told(ear, "");
    stop_listening(fixture, ear);
}

static void put(struct mux_import *import, const char *path, const char *text)
{
    struct af_error err;
    assert_int_equal(mux_import_entry(import, path, strlen(path), S_IFREG | 0644, 1, NULL, 0, &err),
                     0);
    assert_int_equal(mux_import_data(import, text, strlen(text), &err), 0);
}

static struct mux_import *begin_import(struct fixture *fixture, struct af_id codebase)
{
    struct mux_import *import;
    struct af_error err;
    assert_int_equal(mux_import_begin(fixture->mux, codebase.text, &import, &err), 0);
    return import;
}

static void test_an_import_is_told_as_its_difference(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, small_base);
    struct ear *ear = listen_to(fixture, codebase);
    struct mux_import_totals totals;
    struct af_error err;
    struct mux_import *import = begin_import(fixture, codebase);
    assert_int_equal(mux_import_remove(import, "d", 1, &err), 0);
    put(import, "a", "a1");
    put(import, "n/f", "f");
    expect_told(ear, "");
    assert_int_equal(mux_import_commit(import, &totals, &err), 0);
    expect_told(ear, "M a; D d; A n; A n/f; ");
    import = begin_import(fixture, codebase);
    put(import, "n/g", "g");
    mux_import_abort(import);
    expect_told(ear, "");
    stop_listening(fixture, ear);
}

static void test_the_first_import_of_an_empty_codebase_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = new_codebase(fixture);
    struct ear *ear = listen_to(fixture, codebase);
    struct mux_import_totals totals;
    struct af_error err;
    struct mux_import *import = begin_import(fixture, codebase);
    put(import, "d/f", "f");
    assert_int_equal(mux_import_commit(import, &totals, &err), 0);
    expect_told(ear, "A d; A d/f; ");
    stop_listening(fixture, ear);
}

static void test_a_commit_is_told_with_its_sandbox(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    struct ear *ear = listen_to(*state, v.codebase);
    ops_put(&v, "out", "1");
    assert_int_equal(ops_rename(&v, "d/e", "d/f", 0), 0);
    assert_int_equal(ops_unlink(&v, "a"), 0);
    assert_int_equal(ops_chmod(&v, "d/x", 0600), 0);
    expect_told(ear, "");
    ops_commit(&v); // into the top layer, or as one
    assert_string_equal(ear->told[0].sandbox_id, v.sandbox.text);
    expect_told(ear, "D a; R d/f<d/e; T d/x; A out; ");
    ops_commit(&v);
    expect_told(ear, "");
    char path[32];
    for (int i = 0; i < 300; i++) { // as a layer
        snprintf(path, sizeof path, "d/n%03d", i);
        ops_put(&v, path, path);
    }
    ops_commit(&v);
    assert_int_equal(ear->count, 300);
    stop_listening(*state, ear);
}

// Where the merge's result would go without a listener: into the open head, into the top layer,
// into a layer of its own; and in batches.
static void check_merges(struct fixture *fixture, unsigned step_max)
{
    fixture->mux->merge_step_max = step_max;
    struct view v = ops_view(fixture, ops_codebase(fixture, small_base), "**/*=write");
    struct view w = ops_view(fixture, v.codebase, "**/*=write");
    struct ear *ear = listen_to(fixture, v.codebase);
    ops_put(&v, "mine", "1");
    upload(fixture, v.codebase, "theirs", "2");
    expect_told(ear, "A theirs; ");
    ops_commit(&v);
    expect_told(ear, "A mine; ");
    assert_download(&v, "theirs", "2");
    ops_put(&w, "third", "3");
    assert_int_equal(ops_unlink(&w, "a"), 0);
    ops_put(&v, "a", "changed, so it stays");
    ops_commit(&v);
    expect_told(ear, "M a; ");
    assert_true(ops_commit(&w).merged);
    expect_told(ear, "A third; ");
    assert_counters(fixture, v.codebase);
    ops_rebase(&v);
    expect_told(ear, "");
    stop_listening(fixture, ear);
    ops_detach(&v);
    ops_detach(&w);
}

static void test_a_merge_is_told_as_what_it_changes_in_the_head(void **state)
{
    check_merges(*state, MUX_MERGE_STEP_MAX);
}

static void test_a_merge_in_batches_is_told_as_well(void **state)
{
    check_merges(*state, 0);
}

// The base knows its record still, but no name of it.
static void test_a_file_that_comes_back_changed_is_told_once(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    struct view w = ops_view(*state, v.codebase, "**/*=write");
    struct ear *ear = listen_to(*state, v.codebase);
    ops_put(&w, "a", "changed, so it comes back");
    assert_int_equal(ops_unlink(&v, "a"), 0);
    ops_commit(&v);
    expect_told(ear, "D a; ");
    ops_commit(&w);
    expect_told(ear, "A a; ");
    stop_listening(*state, ear);
}

static void test_nobody_is_told_of_another_codebase_or_of_a_rebase(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, small_base), "**/*=write");
    struct af_id other = ops_codebase(*state, small_base);
    struct ear *ear = listen_to(*state, other);
    upload(*state, v.codebase, "f", "1");
    ops_put(&v, "g", "2");
    ops_rebase(&v);
    ops_commit(&v);
    expect_told(ear, "");
    stop_listening(*state, ear);
}

static void test_all_listeners_hear_the_same_and_the_end(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, small_base);
    struct ear *ears[3];
    struct af_error err;
    for (int i = 0; i < 3; i++)
        ears[i] = listen_to(fixture, codebase);
    upload(fixture, codebase, "f", "1");
    stop_listening(fixture, ears[1]);
    upload(fixture, codebase, "g", "1");
    assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
    for (int i = 0; i < 3; i += 2) {
        expect_told(ears[i], "A f; A g; ");
        assert_true(ears[i]->deleted);
        stop_listening(fixture, ears[i]);
    }
}

static void test_an_unknown_codebase_and_too_many_listeners_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct ear *ears[AF_WATCHERS_MAX];
    struct af_error err;
    struct mux_listener one = {.changed = hear, .lost = hear_lost, .deleted = hear_deleted};
    strcpy(one.codebase_id.text, UNKNOWN_CODEBASE);
    expect_error(mux_listen(fixture->mux, &one, &err), &err, AF_NOT_FOUND, UNKNOWN_CODEBASE);
    struct af_id codebase = new_codebase(fixture);
    for (int i = 0; i < AF_WATCHERS_MAX; i++)
        ears[i] = listen_to(fixture, codebase);
    one.codebase_id = codebase;
    expect_error(mux_listen(fixture->mux, &one, &err), &err, AF_RESOURCE_EXHAUSTED, "256");
    for (int i = 0; i < AF_WATCHERS_MAX; i++)
        stop_listening(fixture, ears[i]);
    assert_int_equal(mux_listen(fixture->mux, &one, &err), 0);
    mux_unlisten(fixture->mux, &one);
}

// ---- against the whole tree

#define SEEN_MAX 512

struct seen {
    char path[64], text[32]; // text: "/" of a directory
};

struct head {
    struct seen at[SEEN_MAX];
    size_t count;
};

static void look_at(struct fixture *fixture, struct af_id codebase, struct head *ret)
{
    char *names = listing(fixture, codebase, "", true), *rest = names, *line;
    ret->count = 0;
    while ((line = strsep(&rest, "\n")) && *line) {
        struct seen *seen = &ret->at[ret->count++];
        assert_true(ret->count < SEEN_MAX && strlen(line) < sizeof seen->path);
        size_t len = strlen(line);
        bool is_dir = line[len - 1] == '/';
        snprintf(seen->path, sizeof seen->path, "%.*s", (int)(len - is_dir), line);
        char *text = is_dir ? strdup("/") : download(fixture, codebase, seen->path);
        snprintf(seen->text, sizeof seen->text, "%s", text);
        free(text);
    }
    free(names);
}

static const char *text_at(const struct head *head, const char *path)
{
    for (size_t i = 0; i < head->count; i++)
        if (strcmp(head->at[i].path, path) == 0)
            return head->at[i].text;
    return NULL;
}

static bool is_within(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

static bool said(const struct ear *ear, const char *path, bool came, bool gone, bool changed)
{
    for (size_t i = 0; i < ear->count; i++) {
        const struct told *told = &ear->told[i];
        bool here = strcmp(told->path, path) == 0;
        if ((came && ((told->change == MUX_ADDED && here) ||
                      (told->change == MUX_RENAMED && is_within(path, told->path)))) ||
            (gone && ((told->change == MUX_DELETED && is_within(path, told->path)) ||
                      (told->change == MUX_RENAMED && is_within(path, told->old_path)))) ||
            (changed && here && told->change == MUX_MODIFIED))
            return true;
    }
    return false;
}

static void compare(const struct ear *ear, const struct head *before, const struct head *after)
{
    for (size_t i = 0; i < after->count; i++) {
        const char *path = after->at[i].path, *was = text_at(before, path);
        bool came = said(ear, path, true, false, false), gone = said(ear, path, false, true, false);
        bool same = was && strcmp(was, after->at[i].text) == 0;
        if (!was && !came)
            fail_msg("nobody said that %s came", path);
        if (was && !same && !(came && gone) && !said(ear, path, false, false, true))
            fail_msg("nobody said that %s changed", path);
    }
    for (size_t i = 0; i < before->count; i++)
        if (!text_at(after, before->at[i].path) &&
            !said(ear, before->at[i].path, false, true, false))
            fail_msg("nobody said that %s went", before->at[i].path);
    for (size_t i = 0; i < ear->count; i++) {
        const struct told *told = &ear->told[i];
        bool was = text_at(before, told->path), is = text_at(after, told->path);
        bool gone = said(ear, told->path, false, true, false);
        bool holds = told->change == MUX_ADDED ? is && (!was || gone)
                     : told->change == MUX_DELETED
                         ? was && (!is || said(ear, told->path, true, false, false))
                     : told->change == MUX_RENAMED ? is && text_at(before, told->old_path)
                                                   : is;
        if (!holds)
            fail_msg("change %d of %s (%s) is not so", told->change, told->path, told->old_path);
        for (size_t k = i + 1; k < ear->count; k++)
            if (ear->told[k].change == told->change && strcmp(ear->told[k].path, told->path) == 0)
                fail_msg("change %d of %s is told twice", told->change, told->path);
    }
}

static void change_view(struct view *view, struct prng *prng, int number)
{
    char path[6], other[6], text[16];
    prng_path(prng, path);
    prng_path(prng, other);
    snprintf(text, sizeof text, "%d", number);
    switch (prng_below(prng, 8)) { // what cannot be done is not done
    case 0:
        ops_mkdir(view, path, 0755);
        break;
    case 1:
        ops_unlink(view, path);
        break;
    case 2:
        ops_rmdir(view, path);
        break;
    case 3:
        ops_rename(view, path, other, prng_below(prng, 3) == 0 ? RENAME_EXCHANGE : 0);
        break;
    default:
        if (ops_exists(view, path) ? S_ISREG(ops_stat(view, path).st_mode)
                                   : ops_create(view, path, 0644) == 0)
            assert_true(ops_truncate(view, path, 0) == 0 &&
                        ops_write(view, path, text, strlen(text), 0) == 0);
    }
}

static void change_codebase(struct fixture *fixture, struct af_id codebase, struct prng *prng,
                            int number)
{
    char path[6], text[16];
    struct af_error err;
    struct mux_import_totals totals;
    prng_path(prng, path);
    snprintf(text, sizeof text, "%d", number);
    struct mux_import *import = begin_import(fixture, codebase);
    bool removes = prng_below(prng, 2);
    int rc = removes ? mux_import_remove(import, path, strlen(path), &err) : 0;
    if (rc == 0 && !removes) {
        put(import, path, text);
        mux_import_commit(import, &totals, &err); // unless something is in the way
    } else if (rc == 0) {
        assert_int_equal(mux_import_commit(import, &totals, &err), 0);
    } else {
        mux_import_abort(import);
    }
}

static void try_upload(struct fixture *fixture, struct af_id codebase, struct prng *prng,
                       int number)
{
    char path[6], text[16];
    struct mux_upload *begun;
    struct mux_upload_result result;
    struct af_error err;
    prng_path(prng, path);
    snprintf(text, sizeof text, "%d", number);
    if (mux_upload_begin(fixture->mux, codebase.text, path, strlen(path), -1, &begun, &err) < 0)
        return;
    assert_int_equal(mux_upload_write(begun, text, strlen(text), &err), 0);
    mux_upload_commit(begun, &result, &err);
}

static void run_history(struct fixture *fixture, uint64_t seed)
{
    struct prng prng = {seed};
    struct head *before = calloc(1, sizeof *before), *after = calloc(1, sizeof *after);
    struct view views[2];
    views[0] = ops_view(fixture, ops_codebase(fixture, NULL), "**/*=write");
    views[1] = ops_view(fixture, views[0].codebase, "**/*=write");
    struct ear *ear = listen_to(fixture, views[0].codebase);
    for (int i = 0; i < 1500; i++) {
        struct view *view = &views[prng_below(&prng, 2)];
        size_t what = prng_below(&prng, 16);
        if (what == 0)
            ops_commit(view);
        else if (what == 1)
            ops_rebase(view);
        else if (what == 2)
            change_codebase(fixture, view->codebase, &prng, i);
        else if (what == 3)
            try_upload(fixture, view->codebase, &prng, i);
        else
            change_view(view, &prng, i);
        if (what > 3) {
            assert_int_equal(ear->count, 0);
            continue;
        }
        look_at(fixture, view->codebase, after);
        compare(ear, before, after);
        ear->count = 0;
        struct head *swap = before;
        before = after;
        after = swap;
    }
    stop_listening(fixture, ear);
    ops_detach(&views[0]);
    ops_detach(&views[1]);
    free(before);
    free(after);
}

static void test_what_is_told_is_what_changed(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        print_message("seed %d\n", (int)seed);
        fixture->mux->merge_step_max = seed % 2 ? MUX_MERGE_STEP_MAX : 0;
        run_history(fixture, seed);
    }
}

// ---- many threads

#define UPLOADS 600

struct uploading {
    struct fixture *fixture;
    struct af_id codebase;
    atomic_int done;
};

static void *upload_all(void *arg)
{
    struct uploading *uploading = arg;
    char path[16];
    for (int i = 0; i < UPLOADS; i++) {
        snprintf(path, sizeof path, "%04d", i);
        upload(uploading->fixture, uploading->codebase, path, "x");
        atomic_store(&uploading->done, i + 1);
    }
    return NULL;
}

static void test_nothing_is_missed_between_coming_and_going(void **state)
{
    struct uploading one = {.fixture = *state, .codebase = new_codebase(*state)};
    struct uploading two = {.fixture = *state, .codebase = new_codebase(*state)};
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, upload_all, &one);
    pthread_create(&threads[1], NULL, upload_all, &two);
    while (atomic_load(&one.done) < UPLOADS) {
        struct ear *ear = listen_to(*state, one.codebase);
        int from = atomic_load(&one.done), to;
        while ((to = atomic_load(&one.done)) < UPLOADS && to < from + 20)
            sched_yield();
        mux_unlisten(one.fixture->mux, &ear->listener);
        // Of what ended between the two looks all is there, in order.
        int first = ear->count > 0 ? atoi(ear->told[0].path) : UPLOADS;
        if (to > from + 1)
            assert_true(first <= from + 1 && first + (int)ear->count >= to);
        for (size_t i = 0; i < ear->count; i++)
            assert_int_equal(atoi(ear->told[i].path), first + (int)i);
        free(ear);
    }
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_an_upload_is_told_with_the_directories_made_for_it),
        fixture_test(test_an_upload_that_fails_is_not_told),
        fixture_test(test_an_import_is_told_as_its_difference),
        fixture_test(test_the_first_import_of_an_empty_codebase_is_told),
        fixture_test(test_a_commit_is_told_with_its_sandbox),
        fixture_test(test_a_merge_is_told_as_what_it_changes_in_the_head),
        fixture_test(test_a_merge_in_batches_is_told_as_well),
        fixture_test(test_a_file_that_comes_back_changed_is_told_once),
        fixture_test(test_nobody_is_told_of_another_codebase_or_of_a_rebase),
        fixture_test(test_all_listeners_hear_the_same_and_the_end),
        fixture_test(test_an_unknown_codebase_and_too_many_listeners_are_refused),
        fixture_test(test_what_is_told_is_what_changed),
        fixture_test(test_nothing_is_missed_between_coming_and_going),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
