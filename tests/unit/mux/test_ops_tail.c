// Large files that are appended to after a commit: nothing is copied, and nobody else sees a byte
// of it, over kill -9 too. Against a model: test_ops_tail_random.c; power cuts:
// test_ops_tail_power.c.
#include "tests/unit/mux/tail_fixture.h"

#include "mux/compact.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_fill(struct view *v, const char *path, const char *counts, size_t step)
{
    size_t size = strlen(counts) * step;
    char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = counts[i / step];
    expect(v, path, bytes, size);
    free(bytes);
}

static void expect_download(struct fixture *fixture, struct af_id codebase, const char *counts,
                            size_t step)
{
    char *text = download(fixture, codebase, "log");
    size_t size = strlen(counts) * step;
    assert_int_equal(strlen(text), size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(text[i], counts[i / step]);
    free(text);
}

// ---- what is promised

static void test_an_append_after_a_commit_copies_nothing(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, none), "**/*=write");
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    fill(&v, "log", 'a', BIG, 0);
    ops_commit(&v);
    uint64_t blob = record_of(&v, "log").blob;
    char counts[21] = "a";
    for (int i = 1; i < 20; i++) {
        counts[i] = (char)('a' + i);
        v.slow = 0;
        fill(&v, "log", counts[i], BIG, (off_t)BIG * i);
        assert_int_equal(v.slow, 0); // no copy, which a worker does not make
        assert_int_equal(record_of(&v, "log").blob, blob);
        expect_fill(&v, "log", counts, BIG);
        ops_commit(&v);
        expect_download(*state, v.codebase, counts, BIG);
        assert_counters(*state, v.codebase);
        assert_accounting(&v);
    }
    fixture_close(*state);
    fixture_open(*state);
    expect_download(*state, v.codebase, counts, BIG);
}

static void test_old_readers_see_what_they_saw(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    fill(&v, "log", 'a', BIG, 0);
    ops_commit(&v);
    struct view old = ops_view(fixture, v.codebase, "**/*=write");
    struct view reader = ops_view(fixture, v.codebase, "**/*=write");
    struct mux_file *file;
    struct af_error err;
    assert_int_equal(mux_codebase_open_file(fixture->mux, v.codebase.text, "log", 3, &file, &err),
                     0);
    fill(&v, "log", 'b', BIG, BIG);
    expect_fill(&old, "log", "a", BIG);
    expect_download(fixture, v.codebase, "a", BIG); // not committed yet
    fill(&old, "log", 'o', BIG, BIG);               // the second one copies
    assert_int_not_equal(record_of(&old, "log").blob, record_of(&v, "log").blob);
    fill(&v, "log", 'c', 1, 2 * BIG - 1); // what is one's own is written in place
    fill(&v, "log", 'b', 1, 2 * BIG - 1);
    expect_fill(&v, "log", "ab", BIG);
    expect_fill(&old, "log", "ao", BIG);
    ops_commit(&v);
    expect_download(fixture, v.codebase, "ab", BIG);
    expect_fill(&reader, "log", "a", BIG);
    assert_int_equal(mux_file_size(file), BIG);
    size_t len;
    char *text = read_all(file, &len);
    assert_int_equal(len, BIG);
    assert_null(memchr(text, 'b', len));
    free(text);
    mux_file_close(file);
}

// Changes that reach into what others have, or make the file more than twice as large.
static void change_shared(struct view *v, int i)
{
    switch (i) {
    case 0:
        fill(v, "log", 'x', 1, 5);
        break;
    case 1:
        fill(v, "log", 'x', 2, BIG - 1); // on both sides
        break;
    case 2:
        assert_int_equal(ops_truncate(v, "log", BIG - 1), 0);
        fill(v, "log", 'x', 10, BIG - 1);
        break;
    case 3:
        fill(v, "log", 'x', BIG, 2 * BIG);
        break;
    default:
        assert_int_equal(ops_truncate(v, "log", 0), 0);
        fill(v, "log", 'x', BIG, 0);
    }
}

static void test_what_others_have_is_copied_before_it_changes(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 5; i++) {
        struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
        assert_int_equal(ops_create(&v, "log", 0644), 0);
        fill(&v, "log", 'a', BIG, 0);
        ops_commit(&v);
        struct view old = ops_view(fixture, v.codebase, "**/*=write");
        fill(&v, "log", 'b', BIG / 2, BIG);
        assert_int_equal(record_of(&v, "log").blob_shared, BIG);
        change_shared(&v, i);
        assert_true(record_of(&v, "log").blob_owned);
        assert_int_equal(record_of(&v, "log").blob_shared, 0);
        assert_int_not_equal(record_of(&v, "log").blob, record_of(&old, "log").blob);
        expect_fill(&old, "log", "a", BIG);
        expect_download(fixture, v.codebase, "a", BIG);
        ops_commit(&v);
        expect_fill(&old, "log", "a", BIG);
    }
}

// The reader keeps the view from having its codebase alone: each commit is a layer of its own.
static void test_an_append_copies_nothing_after_layers_were_merged(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
    struct view reader = ops_view(fixture, v.codebase, "**/*=write");
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    fill(&v, "log", 'a', 20 * BIG, 0);
    ops_commit(&v);
    uint64_t blob = record_of(&v, "log").blob;
    for (int i = 0; i < 12; i++) {
        ops_rebase(&reader);
        assert_int_equal(mux_compact_drain(fixture->mux), 0);
        v.slow = 0;
        fill(&v, "log", 'b', 1000, 20 * BIG + i * 1000);
        assert_int_equal(v.slow, 0);
        assert_int_equal(record_of(&v, "log").blob, blob);
        ops_commit(&v);
    }
}

// Each of them leaves a record that was not the owner's.
static void prepare_record(struct view *v, struct view *other, int i)
{
    struct af_error err;
    bool told;
    switch (i) {
    case 0:
        assert_int_equal(ops_chmod(v, "log", 0600), 0);
        break;
    case 1:
        assert_int_equal(ops_chmod(v, "log", 0600), 0);
        ops_commit(v);
        break;
    case 2: // moved by the other, so that this one's is a merge
        ops_rebase(other);
        assert_int_equal(ops_create(other, "theirs", 0644), 0);
        ops_commit(other);
        assert_int_equal(ops_chmod(v, "log", 0600), 0);
        ops_commit(v);
        break;
    case 3:
        assert_int_equal(ops_create(v, "thrown-away", 0644), 0);
        assert_int_equal(ops_chmod(v, "log", 0600), 0);
        assert_int_equal(mux_rollback(v->fixture->mux, v->sandbox.text, &told, &err), 0);
        break;
    default: // by turns
        ops_rebase(other);
        fill(other, "log", 'b', BIG, BIG);
        ops_commit(other);
        ops_rebase(v);
    }
}

static void test_an_append_copies_nothing_whatever_became_of_the_record(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < 5; i++) {
        struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
        struct view other = ops_view(fixture, v.codebase, "**/*=write");
        assert_int_equal(ops_create(&v, "log", 0644), 0);
        fill(&v, "log", 'a', BIG, 0);
        ops_commit(&v);
        uint64_t blob = record_of(&v, "log").blob;
        prepare_record(&v, &other, i);
        v.slow = 0;
        off_t size = ops_stat(&v, "log").st_size;
        fill(&v, "log", 'c', 100, size);
        if (v.slow > 0 || record_of(&v, "log").blob != blob)
            fail_msg("case %d copies", i);
        assert_accounting(&v);
        assert_fsck_clean(fixture);
        ops_detach(&v);
        ops_detach(&other);
    }
}

// It stays given up while the delta lives: a copy that takes long is not overtaken again and again.
static void test_what_was_given_up_is_not_taken_back(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    fill(&v, "log", 'a', BIG, 0);
    ops_commit(&v);
    fill(&v, "log", 'b', 10, BIG);
    struct mux_ctx worker = {0}; // copies nothing that is large
    assert_int_equal(mux_write(fixture->mux, &worker, ops_nodeid(&v, "log"), "x", 1, 5), MUX_SLOW);
    assert_false(record_of(&v, "log").blob_owned);
    assert_int_equal(mux_write(fixture->mux, &worker, ops_nodeid(&v, "log"), "x", 1, BIG + 10),
                     MUX_SLOW);
    char byte;
    assert_int_equal(ops_read(&v, "log", &byte, 1, 5), 1);
    assert_int_equal(byte, 'a');
}

static void test_content_that_is_found_by_its_digest_stays(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, none);
    ops_upload_big(fixture, codebase, "log", BIG, 1);
    struct view v = ops_view(fixture, codebase, "**/*=write");
    uint64_t blob = record_of(&v, "log").blob;
    fill(&v, "log", 'b', 10, BIG);
    assert_int_not_equal(record_of(&v, "log").blob, blob);
    struct af_id again = ops_codebase(fixture, none);
    ops_upload_big(fixture, again, "log", BIG, 1);
    struct view other = ops_view(fixture, again, "**/*=write");
    assert_int_equal(ops_stat(&other, "log").st_size, BIG);
}

// The kernel would read what is appended as the end of the old version.
static void test_content_that_is_passed_through_never_gets_longer(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    fill(&v, "log", 'a', BIG, 0);
    ops_commit(&v);
    fill(&v, "log", 'b', 10, BIG); // its end is the view's own now
    uint64_t blob = record_of(&v, "log").blob;
    for (int i = 0; i < 2; i++) { // as by a daemon that is started with passthrough
        mux_fix_content(fixture->mux);
        fill(&v, "log", 'c', 10, BIG + 10 + 10 * i);
        assert_int_not_equal(record_of(&v, "log").blob, blob);
        blob = record_of(&v, "log").blob;
        ops_commit(&v);
    }
}

// ---- killed in the middle

#define STEP_BYTES 20000
#define STEPS_MAX  400

// Every step appends to the log; every third one commits.
static void run_until_killed(struct fixture *fixture, const char *sandbox, int ack)
{
    struct view v = {.fixture = fixture};
    fixture_open(fixture);
    snprintf(v.sandbox.text, sizeof v.sandbox.text, "%s", sandbox);
    ops_attach(&v);
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        fill(&v, "log", (char)('a' + i % 26), STEP_BYTES, BIG + (off_t)i * STEP_BYTES);
        if (i % 3 == 2)
            ops_commit(&v);
        if (write(ack, &i, sizeof i) < 0)
            _exit(1);
    }
    _exit(0);
}

static void check_after_kill(struct view *v, unsigned acked)
{
    size_t size = (size_t)ops_stat(v, "log").st_size;
    assert_true(size >= BIG + (size_t)acked * STEP_BYTES);
    char *bytes = malloc(size);
    assert_int_equal(ops_read(v, "log", bytes, size, 0), size);
    for (size_t i = 0; i < size; i++) {
        char byte = i < BIG ? '0' : (char)('a' + (i - BIG) / STEP_BYTES % 26);
        if (bytes[i] != byte)
            fail_msg("byte %zu of %zu is %d, not %d", i, size, bytes[i], byte);
    }
    free(bytes);
}

static void test_B9_a_kill_between_commits_loses_no_byte(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned round = 0; round < 6; round++) {
        struct view v = ops_view(fixture, ops_codebase(fixture, none), "**/*=write");
        assert_int_equal(ops_create(&v, "log", 0644), 0);
        fill(&v, "log", '0', BIG, 0);
        ops_commit(&v);
        struct view old = ops_view(fixture, v.codebase, "**/*=write");
        int ack[2];
        assert_int_equal(pipe(ack), 0);
        fixture_close(fixture);
        pid_t child = fork();
        if (child == 0)
            run_until_killed(fixture, v.sandbox.text, ack[1]);
        close(ack[1]);
        unsigned step, acked = 0;
        while (acked < 2 + round * 7 && read(ack[0], &step, sizeof step) == sizeof step)
            acked = step + 1;
        kill(child, SIGKILL);
        while (read(ack[0], &step, sizeof step) == sizeof step)
            acked = step + 1;
        close(ack[0]);
        waitpid(child, NULL, 0);
        assert_true(acked >= 2);
        fixture_open(fixture);
        assert_fsck_clean(fixture);
        ops_attach(&v);
        ops_attach(&old);
        check_after_kill(&v, acked);
        fill(&old, "log", 'z', 1, BIG + 5000); // a gap: what the other has there stays unseen
        char bytes[5001];
        assert_int_equal(ops_read(&old, "log", bytes, sizeof bytes, BIG), sizeof bytes);
        for (size_t i = 0; i < 5000; i++)
            assert_int_equal(bytes[i], 0);
        check_after_kill(&v, acked);
        ops_detach(&v);
        ops_detach(&old);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_an_append_after_a_commit_copies_nothing),
        fixture_test(test_old_readers_see_what_they_saw),
        fixture_test(test_what_others_have_is_copied_before_it_changes),
        fixture_test(test_an_append_copies_nothing_after_layers_were_merged),
        fixture_test(test_an_append_copies_nothing_whatever_became_of_the_record),
        fixture_test(test_what_was_given_up_is_not_taken_back),
        fixture_test(test_content_that_is_found_by_its_digest_stays),
        fixture_test(test_content_that_is_passed_through_never_gets_longer),
        fixture_test(test_B9_a_kill_between_commits_loses_no_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
