// Sandboxes' records: made in one small transaction, checked, stopped after a crash, removed whole.
#include "tests/unit/mux/delta_writer.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

static const struct store_rule read_all_rule = {
    .pattern = "**/*", .pattern_len = 4, .type = 1, .level = 3, .priority = -7};

struct seen {
    size_t count;
    char ids[2048];
    struct store_sandbox last;
    char pattern[64], data[64];
};

static int see(void *arg, const struct store_sandbox *sandbox)
{
    struct seen *seen = arg;
    seen->count++;
    strcat(seen->ids, sandbox->id.text);
    seen->last = *sandbox;
    if (sandbox->n_rules > 0)
        snprintf(seen->pattern, sizeof seen->pattern, "%.*s", sandbox->rules[0].pattern_len,
                 sandbox->rules[0].pattern);
    snprintf(seen->data, sizeof seen->data, "%.*s", (int)sandbox->user_data_len,
             sandbox->user_data_len ? (const char *)sandbox->user_data : "");
    return 0;
}

static struct seen get(struct fixture *f, struct af_id id)
{
    struct seen seen = {0};
    struct af_error err;
    if (mux_sandbox_get(f->mux, id.text, see, &seen, &err) < 0)
        fail_msg("%s", err.text);
    return seen;
}

static void test_a_record_keeps_what_it_was_made_with(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = new_codebase(f), id;
    struct mux_sandbox_spec spec = {
        .codebase_id = codebase.text,
        .rules = &read_all_rule,
        .n_rules = 1,
        .expires_ns = 12345,
        .quota_bytes = 99,
        .quota_inodes = 7,
        .user_data = "labels",
        .user_data_len = 6,
    };
    struct af_error err;
    assert_int_equal(mux_sandbox_create(f->mux, &spec, &id, &err), 0);
    for (int restart = 0; restart < 2; restart++) {
        struct seen seen = get(f, id);
        assert_string_equal(seen.last.codebase_id.text, codebase.text);
        assert_int_equal(seen.last.status, STORE_SANDBOX_PENDING);
        assert_int_equal(seen.last.expires_ns, 12345);
        assert_int_equal(seen.last.quota_bytes, 99);
        assert_int_equal(seen.last.quota_inodes, 7);
        assert_true(seen.last.created_ns > 0);
        assert_int_equal(seen.last.n_rules, 1);
        assert_string_equal(seen.pattern, "**/*");
        assert_string_equal(seen.data, "labels");
        fixture_reopen(f);
    }
}

static void test_bad_specs_are_refused_and_make_nothing(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = new_codebase(f), id;
    struct store_rule bad = read_all_rule;
    struct mux_sandbox_spec spec = {.codebase_id = UNKNOWN_CODEBASE};
    struct af_error err;
    struct seen seen = {0};
    expect_error(mux_sandbox_create(f->mux, &spec, &id, &err), &err, AF_NOT_FOUND,
                 UNKNOWN_CODEBASE);
    spec.codebase_id = "sb_nonsense";
    expect_error(mux_sandbox_create(f->mux, &spec, &id, &err), &err, AF_INVALID_ARGUMENT,
                 "sb_nonsense");
    // P5: a malformed rule is never ignored.
    spec.codebase_id = codebase.text;
    spec.rules = &bad;
    spec.n_rules = 1;
    bad.pattern = "[";
    bad.pattern_len = 1;
    expect_error(mux_sandbox_create(f->mux, &spec, &id, &err), &err, AF_INVALID_ARGUMENT, "");
    bad = read_all_rule;
    bad.level = 9;
    expect_error(mux_sandbox_create(f->mux, &spec, &id, &err), &err, AF_INVALID_ARGUMENT, "");
    static struct store_rule many[AF_RULES_MAX + 1];
    spec.rules = many;
    spec.n_rules = AF_RULES_MAX + 1;
    expect_error(mux_sandbox_create(f->mux, &spec, &id, &err), &err, AF_INVALID_ARGUMENT, "rules");
    assert_int_equal(mux_sandbox_list(f->mux, NULL, NULL, see, &seen, &err), 0);
    assert_int_equal(seen.count, 0);
    assert_no_garbage(f, 1, 1, 0);
}

static void test_list_pages_in_id_order_and_filters_by_codebase(void **state)
{
    struct fixture *f = *state;
    struct af_id a = new_codebase(f), b = new_codebase(f);
    struct af_id x = new_sandbox(f, a), y = new_sandbox(f, a);
    struct af_error err;
    char expected[2048];
    new_sandbox(f, b);
    bool in_order = strcmp(x.text, y.text) < 0;
    struct af_id first = in_order ? x : y, second = in_order ? y : x;
    struct seen seen = {0};
    assert_int_equal(mux_sandbox_list(f->mux, a.text, NULL, see, &seen, &err), 0);
    snprintf(expected, sizeof expected, "%s%s", first.text, second.text);
    assert_string_equal(seen.ids, expected);
    seen = (struct seen){0};
    assert_int_equal(mux_sandbox_list(f->mux, a.text, first.text, see, &seen, &err), 0);
    assert_string_equal(seen.ids, second.text);
    seen = (struct seen){0};
    assert_int_equal(mux_sandbox_list(f->mux, NULL, NULL, see, &seen, &err), 0);
    assert_int_equal(seen.count, 3);
    expect_error(mux_sandbox_list(f->mux, NULL, "x", see, &seen, &err), &err, AF_INVALID_ARGUMENT,
                 "'x'");
}

static void test_creating_costs_one_transaction_whatever_the_size(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_codebase(f);
    for (int i = 0; i < 300; i++) {
        char path[32];
        snprintf(path, sizeof path, "d%d/f%d", i % 10, i);
        upload(f, id, path, "x");
    }
    struct store_stats before = stats_of(f);
    new_sandbox(f, id); // freezes the head
    struct store_stats middle = stats_of(f);
    new_sandbox(f, id); // has nothing to freeze
    struct store_stats after = stats_of(f);
    assert_int_equal(middle.commits - before.commits, 1);
    assert_int_equal(after.commits - middle.commits, 1);
    assert_int_equal(middle.inodes, before.inodes);
    assert_int_equal(middle.entries, before.entries);
    assert_int_equal(middle.layers - before.layers, 2); // the new head, the delta
    assert_int_equal(after.layers - middle.layers, 1);
    assert_int_equal(after.stacks, middle.stacks);
}

static void test_statuses_carry_their_times(void **state)
{
    struct fixture *f = *state;
    struct af_id id = new_sandbox(f, new_codebase(f));
    struct af_error err;
    assert_int_equal(mux_sandbox_set_status(f->mux, id.text, STORE_SANDBOX_RUNNING, &err), 0);
    struct seen seen = get(f, id);
    assert_int_equal(seen.last.status, STORE_SANDBOX_RUNNING);
    assert_true(seen.last.started_ns >= seen.last.created_ns);
    assert_int_equal(seen.last.stopped_ns, 0);
    assert_string_equal(seen.pattern, "**/*");
    assert_int_equal(mux_sandbox_set_status(f->mux, id.text, STORE_SANDBOX_STOPPED, &err), 0);
    seen = get(f, id);
    assert_int_equal(seen.last.status, STORE_SANDBOX_STOPPED);
    assert_true(seen.last.stopped_ns >= seen.last.started_ns);
    expect_error(mux_sandbox_set_status(f->mux, UNKNOWN_SANDBOX, STORE_SANDBOX_STOPPED, &err), &err,
                 AF_NOT_FOUND, UNKNOWN_SANDBOX);
}

static void test_destroying_frees_the_delta_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = new_codebase(f);
    struct af_error err;
    upload(f, codebase, "base", "x");
    struct delta_writer writer = {.fixture = f, .sandbox = new_sandbox(f, codebase)};
    struct af_id other = new_sandbox(f, codebase);
    assert_int_equal(delta_write(&writer, "mine", "x"), 0);
    assert_int_equal(mux_sandbox_destroy(f->mux, writer.sandbox.text, &err), 0);
    expect_error(mux_sandbox_destroy(f->mux, writer.sandbox.text, &err), &err, AF_NOT_FOUND,
                 writer.sandbox.text);
    assert_no_garbage(f, 3, 2, 0); // base, head, the other's delta
    assert_int_equal(mux_codebase_delete(f->mux, codebase.text, &err), 0);
    assert_no_garbage(f, 2, 2, 0);
    assert_int_equal(mux_sandbox_destroy(f->mux, other.text, &err), 0);
    assert_no_garbage(f, 0, 0, 0);
    expect_error(mux_sandbox_destroy(f->mux, "sb_..", &err), &err, AF_INVALID_ARGUMENT, "sb_..");
}

#define CRASHED 300 // more than one batch of the recovery

static void test_B9_running_sandboxes_are_stopped_after_a_crash_with_their_deltas(void **state)
{
    struct fixture *f = *state;
    struct af_id codebase = new_codebase(f);
    struct af_id pending = new_sandbox(f, codebase);
    static struct af_id running[CRASHED];
    for (int i = 0; i < CRASHED; i++)
        running[i] = new_sandbox(f, codebase);
    fixture_close(f);
    pid_t pid = fork();
    if (pid == 0) {
        struct af_error err;
        fixture_open(f);
        for (int i = 0; i < CRASHED; i++)
            mux_sandbox_set_status(f->mux, running[i].text, STORE_SANDBOX_RUNNING, &err);
        struct delta_writer writer = {.fixture = f, .sandbox = running[7]};
        delta_write(&writer, "written", "before the crash");
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    fixture_open(f);
    for (int i = 0; i < CRASHED; i++) {
        struct seen seen = get(f, running[i]);
        assert_int_equal(seen.last.status, STORE_SANDBOX_STOPPED);
        assert_true(seen.last.stopped_ns >= seen.last.started_ns);
    }
    assert_int_equal(get(f, pending).last.status, STORE_SANDBOX_PENDING);
    struct mux_file *file;
    struct af_error err;
    assert_int_equal(mux_inspect_open_file(f->mux, running[7].text, "written", 7, &file, &err), 0);
    char *text = read_all(file, NULL);
    assert_string_equal(text, "before the crash");
    free(text);
    mux_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_record_keeps_what_it_was_made_with),
        fixture_test(test_bad_specs_are_refused_and_make_nothing),
        fixture_test(test_list_pages_in_id_order_and_filters_by_codebase),
        fixture_test(test_creating_costs_one_transaction_whatever_the_size),
        fixture_test(test_statuses_carry_their_times),
        fixture_test(test_destroying_frees_the_delta_and_nothing_else),
        fixture_test(test_B9_running_sandboxes_are_stopped_after_a_crash_with_their_deltas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
