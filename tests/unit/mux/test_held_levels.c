// What others have replaced or removed stays open, and stays as closed as it was: its level does
// not rise because the names that the rules speak of are gone.
#include "tests/unit/mux/held_kernel.h"

#include "mux/node.h"
#include "mux/nodeid.h"
#include "mux/revoke.h"
#include "mux/view_change.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const struct base_file base[] = {{"secret", 0, "words"},  {"open", 0, "open words"},
                                        {"d/below", 0, "below"}, {"keep", 0, "0"},
                                        {"hid/keep", 0, "0"},    {0}};

static ssize_t read_it(struct view *view, uint64_t nodeid)
{
    char buf[64];
    return ops_read_node(view, nodeid, buf, sizeof buf, 0);
}

// Commits that become layers of their own, which are merged once nobody else stands on them: no
// record of what was removed is left in the codebase.
static void churn(struct view *writer, struct view *reader)
{
    struct af_id between[6];
    struct af_error err;
    for (size_t i = 0; i < AF_ARRAY_LEN(between); i++) {
        ops_put(writer, "keep", "again");
        ops_commit(writer);
        between[i] = new_sandbox(writer->fixture, writer->codebase);
    }
    ops_rebase(reader);
    for (size_t i = 0; i < AF_ARRAY_LEN(between); i++)
        assert_int_equal(mux_sandbox_destroy(writer->fixture->mux, between[i].text, &err), 0);
    clean_up_all(writer->fixture);
}

static void set_rules(struct view *v, const char *pattern, enum rules_level level)
{
    struct store_rule rules[] = {
        {.pattern = "**/*", .pattern_len = 4, .type = RULES_GLOB, .level = RULES_READ},
        {.pattern = pattern,
         .pattern_len = (uint16_t)strlen(pattern),
         .type = RULES_GLOB,
         .level = (uint8_t)level,
         .priority = 9}};
    struct mux_revoke *revoke;
    struct af_error err;
    assert_int_equal(mux_view_set_rules(v->fixture->mux, v->sandbox.text, rules, 2, &revoke, &err),
                     0);
    mux_revoke_free(revoke); // this kernel caches nothing
}

// ---- files with several names

// One view makes a second name of a file; the other, which may not look into hid, has it open.
static uint64_t link_and_hold(struct fixture *fixture, struct kernel *kernel, struct view *writer,
                              struct view *reader, const char *path, const char *second)
{
    struct af_id codebase = ops_codebase(fixture, base);
    *writer = ops_view(fixture, codebase, "**/*=write");
    kernel_start(kernel, fixture);
    assert_int_equal(ops_link(writer, path, second), 0);
    ops_commit(writer);
    *reader = ops_view(fixture, codebase, "**/*=read /hid/**=none@9");
    return kernel_hold(kernel, reader, path);
}

static void linked(struct fixture *fixture, bool hidden_first)
{
    struct view writer, reader;
    struct kernel kernel;
    uint64_t file = link_and_hold(fixture, &kernel, &writer, &reader, "secret", "hid/x");
    assert_int_equal(read_it(&reader, file), -EACCES);
    unlink_closed(&writer, hidden_first ? "hid/x" : "secret");
    unlink_closed(&writer, hidden_first ? "secret" : "hid/x");
    ops_commit(&writer);
    ops_rebase(&reader);
    assert_int_equal(read_it(&reader, file), -EACCES);
    assert_int_equal(kernel_stat(&reader, file).st_mode & 0777, 0);
    assert_int_equal(kernel_stat(&reader, file).st_nlink, 0);
    churn(&writer, &reader);
    assert_int_equal(read_it(&reader, file), -EACCES);
    assert_int_equal(kernel_stat(&reader, file).st_mode & 0777, 0);
    kernel_stop(&kernel);
}

static void test_P5_a_file_that_lost_its_names_is_as_closed_as_its_most_restricted_one(void **state)
{
    linked(*state, false);
}

static void test_P5_also_when_the_closed_name_went_first(void **state)
{
    linked(*state, true);
}

static void test_a_file_with_several_open_names_stays_readable(void **state)
{
    struct view writer, reader;
    struct kernel kernel;
    // It has never looked into d.
    uint64_t file = link_and_hold(*state, &kernel, &writer, &reader, "open", "d/open");
    unlink_closed(&writer, "open");
    unlink_closed(&writer, "d/open");
    unlink_closed(&writer, "d/below");
    assert_int_equal(ops_rmdir(&writer, "d"), 0);
    ops_commit(&writer);
    ops_rebase(&reader);
    assert_int_equal(read_it(&reader, file), 10);
    churn(&writer, &reader);
    assert_int_equal(read_it(&reader, file), 10);
    kernel_stop(&kernel);
}

// ---- where the directory is gone as well

// The kernel has the file by no name, so it has no directory either: made by O_TMPFILE, then
// linked.
static void without_directory(struct fixture *fixture, const char *rules)
{
    struct view v = ops_view(fixture, ops_codebase(fixture, base), rules);
    struct kernel kernel;
    struct mux_entry file, named;
    struct af_error err;
    bool told;
    kernel_start(&kernel, fixture);
    assert_int_equal(ops_mkdir(&v, "out", 0755), 0);
    uint64_t dir = ops_nodeid(&v, "out");
    assert_int_equal(mux_tmpfile(fixture->mux, &v.ctx, dir, 0644, &file), 0);
    kernel_hold_node(&kernel, file.nodeid);
    assert_int_equal(ops_write_node(&v, file.nodeid, "mine", 4, 0), 0);
    assert_int_equal(mux_link(fixture->mux, &v.ctx, file.nodeid, dir, "name", &named), 0);
    assert_int_equal(mux_rollback(fixture->mux, v.sandbox.text, &told, &err), 0);
    clean_up_all(fixture);
    assert_int_equal(read_it(&v, file.nodeid), 4);
    assert_int_equal(kernel_stat(&v, file.nodeid).st_mode & 0777, 0644);
    assert_int_equal(ops_write_node(&v, file.nodeid, "more", 4, 4), 0);
    assert_int_equal(read_it(&v, file.nodeid), 8);
    assert_fsck_clean(fixture);
    kernel_stop(&kernel);
}

static void test_a_file_stays_though_its_directory_went_with_its_name(void **state)
{
    without_directory(*state, "**/*=write");
}

static void test_and_keeps_its_level_where_rules_differ(void **state)
{
    without_directory(*state, "**/*=read /out/**=write@9");
}

// Others have moved it before they removed it: the kernel holds it, and not where it was last.
static void test_a_directory_stays_though_the_one_above_went_as_well(void **state)
{
    struct af_id codebase = ops_codebase(*state, base);
    struct view reader = ops_view(*state, codebase, "**/*=read /d/**=write@9");
    struct view writer = ops_view(*state, codebase, "**/*=write");
    struct kernel kernel;
    struct mux_entry entry;
    kernel_start(&kernel, *state);
    assert_int_equal(ops_mkdir(&writer, "d/sub", 0755), 0);
    ops_commit(&writer);
    ops_rebase(&reader);
    uint64_t sub = kernel_hold(&kernel, &reader, "d/sub");
    assert_int_equal(ops_mkdir(&writer, "e", 0755), 0);
    assert_int_equal(ops_rename(&writer, "d/sub", "e/sub", 0), 0);
    ops_commit(&writer);
    ops_rebase(&reader);
    assert_int_equal(kernel_stat(&reader, sub).st_nlink, 1);
    assert_int_equal(ops_rmdir(&writer, "e/sub"), 0);
    assert_int_equal(ops_rmdir(&writer, "e"), 0);
    ops_commit(&writer);
    ops_rebase(&reader);
    clean_up_all(*state);
    assert_int_equal(kernel_stat(&reader, sub).st_nlink, 0);
    assert_int_equal(mux_lookup(reader.fixture->mux, &reader.ctx, sub, "any", &entry), 0);
    assert_int_equal(entry.nodeid, 0);
    assert_int_equal(mux_create(reader.fixture->mux, &reader.ctx, sub, "any", 0644, &entry),
                     -ENOENT);
    assert_fsck_clean(*state);
    kernel_let_go(&kernel, sub);
    kernel_stop(&kernel);
}

// ---- where nothing is shared: a version that its view has no more

struct pinned {
    struct view writer, reader;
    struct kernel kernel;
    uint64_t secret, open, below;
};

static void pin(struct pinned *p, struct fixture *fixture)
{
    fixture->mux->no_sharing = true;
    struct af_id codebase = ops_codebase(fixture, base);
    p->writer = ops_view(fixture, codebase, "**/*=write");
    p->reader = ops_view(fixture, codebase, "**/*=read /secret=view@9");
    kernel_start(&p->kernel, fixture);
    p->secret = kernel_hold(&p->kernel, &p->reader, "secret");
    p->open = kernel_hold(&p->kernel, &p->reader, "open");
    p->below = kernel_hold(&p->kernel, &p->reader, "d/below");
    kernel_hold(&p->kernel, &p->reader, "d"); // whoever has a file open has what is above it
    assert_true(mux_nodeid_is_shared(p->secret));
}

static void test_a_replaced_version_keeps_the_level_of_the_name_it_had(void **state)
{
    struct pinned p;
    pin(&p, *state);
    unlink_closed(&p.writer, "secret");
    unlink_closed(&p.writer, "open");
    unlink_closed(&p.writer, "d/below");
    assert_int_equal(ops_rmdir(&p.writer, "d"), 0);
    ops_commit(&p.writer);
    churn(&p.writer, &p.reader);
    assert_int_equal(read_it(&p.reader, p.secret), -EACCES);
    assert_int_equal(kernel_stat(&p.reader, p.secret).st_mode & 0777, 0);
    struct mux_opened opened;
    assert_int_equal(
        mux_open_check((*(struct fixture **)state)->mux, &p.reader.ctx, p.secret, false, &opened),
        -EACCES);
    assert_int_equal(read_it(&p.reader, p.open), 10);
    assert_int_equal(read_it(&p.reader, p.below), 5);
    kernel_stop(&p.kernel);
}

static void test_P7_rules_that_change_hold_for_a_replaced_version(void **state)
{
    struct pinned p;
    pin(&p, *state);
    unlink_closed(&p.writer, "open");
    ops_commit(&p.writer);
    churn(&p.writer, &p.reader);
    assert_int_equal(read_it(&p.reader, p.open), 10);
    set_rules(&p.reader, "/open", RULES_NONE);
    assert_int_equal(read_it(&p.reader, p.open), -EACCES);
    set_rules(&p.reader, "/other", RULES_NONE);
    assert_int_equal(read_it(&p.reader, p.open), 10);
    kernel_stop(&p.kernel);
}

// ---- directories

static void test_nothing_is_made_in_a_directory_that_others_removed(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    struct mux_entry entry;
    kernel_start(&kernel, fixture);
    uint64_t dir = kernel_hold(&kernel, &reader, "d");
    uint64_t below = kernel_hold(&kernel, &reader, "d/below");
    unlink_closed(&writer, "d/below");
    assert_int_equal(ops_rmdir(&writer, "d"), 0);
    ops_commit(&writer);
    ops_rebase(&reader);
    mux_node_cache_clear(fixture->mux->nodes, 0);
    assert_int_equal(read_it(&reader, below), 5); // climbs through the directory
    assert_int_equal(mux_create(fixture->mux, &reader.ctx, dir, "new", 0644, &entry), -ENOENT);
    assert_int_equal(mux_mkdir(fixture->mux, &reader.ctx, dir, "new", 0755, &entry), -ENOENT);
    assert_int_equal(
        mux_link(fixture->mux, &reader.ctx, ops_nodeid(&reader, "keep"), dir, "new", &entry),
        -ENOENT);
    assert_int_equal(kernel_stat(&reader, dir).st_nlink, 0);
    ops_commit(&reader);
    assert_fsck_clean(fixture);
    kernel_stop(&kernel);
}

// ---- who holds what

static bool permits(struct view *view, ino_t ino)
{
    bool ret = true;
    struct af_error err;
    assert_int_equal(mux_view_permits(view->fixture->mux, view->sandbox.text, ino, &ret, &err), 0);
    return ret;
}

static void
test_P7_what_the_view_has_no_more_is_permitted_only_where_nothing_is_closed(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t open = kernel_hold(&kernel, &reader, "open");
    ino_t ino = kernel_stat(&reader, open).st_ino, root = kernel_stat(&reader, reader.root).st_ino;
    unlink_closed(&writer, "open");
    ops_commit(&writer);
    churn(&writer, &reader);
    assert_true(permits(&reader, ino));
    set_rules(&reader, "/open", RULES_NONE);
    assert_false(permits(&reader, ino));
    assert_true(permits(&reader, root));
    assert_true(permits(&reader, MUX_NODEID_TOP));
    kernel_stop(&kernel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_P5_a_file_that_lost_its_names_is_as_closed_as_its_most_restricted_one),
        fixture_test(test_P5_also_when_the_closed_name_went_first),
        fixture_test(test_a_file_with_several_open_names_stays_readable),
        fixture_test(test_a_file_stays_though_its_directory_went_with_its_name),
        fixture_test(test_and_keeps_its_level_where_rules_differ),
        fixture_test(test_a_directory_stays_though_the_one_above_went_as_well),
        fixture_test(test_a_replaced_version_keeps_the_level_of_the_name_it_had),
        fixture_test(test_P7_rules_that_change_hold_for_a_replaced_version),
        fixture_test(test_nothing_is_made_in_a_directory_that_others_removed),
        fixture_test(test_P7_what_the_view_has_no_more_is_permitted_only_where_nothing_is_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
