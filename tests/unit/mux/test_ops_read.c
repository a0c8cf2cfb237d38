// Looking at a view: names, attributes by level, listings, content; what is hidden is nowhere.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/nodeid.h"

#include <errno.h>
#include <string.h>

static const struct base_file tree[] = {
    {.path = "src", .mode = S_IFDIR | 0755},
    {.path = "src/app/main.c", .text = "int main;\n"},
    {.path = "src/app/run.sh", .mode = S_IFREG | 04755, .text = "#!/bin/sh\n"},
    {.path = "src/lib/x.h", .text = "x"},
    {.path = "src/empty"},
    {.path = ".env", .text = "KEY=1"},
    {.path = "secrets/db.json", .text = "{}"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "src/app"},
    {0},
};

static const char agent_safe[] = "**/*=read /output/**=write@10 **/.env*=none@100 "
                                 "**/secrets/**=none@100";

static bool is_private(uint64_t nodeid)
{
    return !mux_nodeid_is_shared(nodeid);
}

static void assert_owner(const struct stat *st, uid_t uid, mode_t mode)
{
    assert_int_equal(st->st_uid, uid);
    assert_int_equal(st->st_gid, uid);
    assert_int_equal(st->st_mode & 07777, mode);
}

static void test_attributes_enforce_read(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), agent_safe);
    struct stat st = ops_stat(&v, "src/app/main.c");
    assert_owner(&st, 699999, 0444);
    assert_int_equal(st.st_size, 10);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_mtim.tv_sec, 1);
    st = ops_stat(&v, "src/app/run.sh");
    assert_owner(&st, 699999, 0555); // no suid
    st = ops_stat(&v, "src");
    assert_owner(&st, v.at.uid, 0755);
    assert_int_equal(st.st_nlink, 1);
    st = ops_stat(&v, "link");
    assert_owner(&st, 699999, 0777);
    assert_false(is_private(ops_nodeid(&v, "src/app/main.c")));
    assert_true(is_private(ops_nodeid(&v, "src")));
    assert_true(is_private(ops_nodeid(&v, "link")));
    assert_text(&v, "src/app/main.c", "int main;\n");
    assert_text(&v, "src/empty", "");
}

static void test_attributes_enforce_view(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=view");
    char buf[AF_SYMLINK_MAX + 1];
    struct stat st = ops_stat(&v, "src/app/run.sh");
    assert_owner(&st, 699999, 0000);
    assert_int_equal(ops_read(&v, "src/app/run.sh", buf, 10, 0), -EACCES);
    assert_int_equal(mux_readlink(v.fixture->mux, &v.ctx, ops_nodeid(&v, "link"), buf), -EACCES);
    st = ops_stat(&v, "src");
    assert_owner(&st, v.at.uid, 0555);
    assert_names(&v, "", ".env link secrets src");
}

static void test_attributes_of_write_are_as_stored(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    char buf[AF_SYMLINK_MAX + 1];
    struct stat st = ops_stat(&v, "src/app/run.sh");
    assert_owner(&st, v.at.uid, 04755);
    assert_true(is_private(ops_nodeid(&v, "src/app/run.sh")));
    st = ops_stat(&v, "link");
    assert_owner(&st, v.at.uid, 0777);
    assert_int_equal(mux_readlink(v.fixture->mux, &v.ctx, ops_nodeid(&v, "link"), buf), 0);
    assert_string_equal(buf, "src/app");
    assert_int_equal(mux_readlink(v.fixture->mux, &v.ctx, ops_nodeid(&v, "src"), buf), -EINVAL);
    assert_int_equal(ops_chmod(&v, "src", 0555), 0);
    st = ops_stat(&v, "src");
    assert_owner(&st, v.at.uid, 0555);
}

static void test_P3_ancestors_show_only_what_is_permitted(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "/src/app/**=read");
    assert_names(&v, "", "src");
    assert_names(&v, "src", "app");
    assert_names(&v, "src/app", "main.c run.sh");
    struct stat st = ops_stat(&v, "src");
    assert_owner(&st, v.at.uid, 0555);
    assert_false(ops_exists(&v, "src/lib"));
    assert_false(ops_exists(&v, "src/empty"));
}

static void test_P4_a_deep_grant_gives_nothing_above(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "/src/**/*.c=write");
    struct stat st = ops_stat(&v, "src");
    assert_owner(&st, v.at.uid, 0755); // something below may be created
    assert_int_equal(ops_create(&v, "src/no.txt", 0644), -EACCES);
    assert_int_equal(ops_create(&v, "src/yes.c", 0644), 0);
    assert_int_equal(ops_rmdir(&v, "src"), -EACCES);
}

static void test_P8_hidden_is_the_same_as_absent(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), agent_safe);
    struct mux *mux = v.fixture->mux;
    struct mux_entry hidden, absent;
    struct mux_stats stats;
    memset(&hidden, 0x11, sizeof hidden);
    memset(&absent, 0x22, sizeof absent);
    assert_int_equal(mux_lookup(mux, &v.ctx, v.root, ".env", &hidden), 0);
    assert_int_equal(mux_lookup(mux, &v.ctx, v.root, "nothing", &absent), 0);
    assert_memory_equal(&hidden, &absent, sizeof hidden);
    assert_int_equal(hidden.nodeid, 0);
    assert_true(hidden.entry_ttl_ns > 0);
    assert_names(&v, "", "link src");
    assert_false(ops_exists(&v, "secrets/db.json"));
    mux_get_stats(mux, &stats);
    assert_true(stats.lookups_hidden > 0);
}

static void test_two_views_share_one_nodeid_for_an_unmodified_file(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view a = ops_view(*state, codebase, "**/*=read");
    struct view b = ops_view(*state, codebase, agent_safe);
    struct view c = ops_view(*state, codebase, "**/*=view");
    uint64_t shared = ops_nodeid(&a, "src/app/main.c");
    assert_int_equal(ops_nodeid(&b, "src/app/main.c"), shared);
    assert_int_not_equal(ops_nodeid(&c, "src/app/main.c"), shared);
    assert_int_not_equal(ops_nodeid(&a, "src"), ops_nodeid(&b, "src"));
    // The shared nodeid works when the view that it came by is gone.
    char buf[32];
    ops_detach(&a);
    assert_int_equal(ops_read_node(&b, shared, buf, sizeof buf, 0), 10);
    // Nothing can be changed through it, and trying counts as an alarm.
    struct mux_stats stats;
    struct stat attr = {.st_mode = 0666};
    assert_int_equal(ops_write_node(&b, shared, "x", 1, 0), -EACCES);
    assert_int_equal(ops_setattr(&b, shared, MUX_SET_SIZE, &attr, NULL), -EACCES);
    assert_int_equal(ops_setattr(&b, shared, MUX_SET_MODE, &attr, NULL), -EPERM);
    mux_get_stats(b.fixture->mux, &stats);
    assert_int_equal(stats.shared_write_alarms, 2);
    assert_text(&b, "src/app/main.c", "int main;\n");
}

static void test_reads_are_clipped_at_the_end(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", 300000, 5);
    for (int writable = 0; writable < 2; writable++) {
        struct view v = ops_view(*state, codebase, writable ? "**/*=write" : "**/*=read");
        unsigned char buf[64];
        assert_int_equal(ops_read(&v, "big", buf, sizeof buf, 299990), 10);
        assert_int_equal(buf[9], ops_byte(5, 299999));
        assert_int_equal(ops_read(&v, "big", buf, sizeof buf, 300000), 0);
        assert_int_equal(ops_read(&v, "big", buf, sizeof buf, INT64_MAX), 0);
        assert_int_equal(ops_read(&v, "src/lib/x.h", buf, sizeof buf, 1), 0);
        assert_int_equal(ops_read(&v, "src/lib/x.h", buf, sizeof buf, 0), 1);
        assert_int_equal(ops_read(&v, "src", buf, sizeof buf, 0), -EISDIR);
        assert_int_equal(ops_read(&v, "big", buf, sizeof buf, -1), -EINVAL);
    }
}

static void test_top_lists_attached_views_and_nothing_can_change_there(void **state)
{
    struct fixture *f = *state;
    struct view v = ops_view(f, ops_codebase(f, tree), "**/*=write");
    struct mux_ctx root = {0};
    struct mux_entry entry;
    struct stat st;
    int64_t ttl;
    assert_int_equal(mux_getattr(f->mux, &root, MUX_NODEID_TOP, &st, &ttl), 0);
    assert_int_equal(st.st_mode, S_IFDIR | 0700);
    assert_int_equal(mux_lookup(f->mux, &root, MUX_NODEID_TOP, "nobody", &entry), -ENOENT);
    assert_int_equal(mux_lookup(f->mux, &root, MUX_NODEID_TOP, ".agentfense", &entry), 0);
    assert_int_equal(entry.nodeid, MUX_NODEID_SENTINEL);
    struct view top = v;
    top.root = MUX_NODEID_TOP;
    char expected[128], *found = ops_list(&top, "", 1);
    snprintf(expected, sizeof expected, ".agentfense %s", v.sandbox.text);
    assert_string_equal(found, expected);
    free(found);
    assert_true(ops_read(&top, ".agentfense", expected, 10, 0) == 10);
    assert_int_equal(ops_mkdir(&top, "x", 0755), -EPERM);
    assert_int_equal(ops_rmdir(&top, v.sandbox.text), -EPERM);
    assert_int_equal(ops_rename(&top, v.sandbox.text, "y", 0), -EPERM);
    assert_int_equal(ops_unlink(&top, ".agentfense"), -EPERM);
    assert_int_equal(ops_write(&top, ".agentfense", "x", 1, 0), -EPERM);
    ops_detach(&v);
    assert_int_equal(mux_lookup(f->mux, &root, MUX_NODEID_TOP, v.sandbox.text, &entry), -ENOENT);
}

static void test_nodeids_of_a_detached_view_are_stale(void **state)
{
    struct fixture *f = *state;
    struct view v = ops_view(f, ops_codebase(f, tree), "**/*=write");
    struct mux_entry before, after;
    struct stat st;
    int64_t ttl;
    uint64_t old_root = v.root;
    assert_int_equal(ops_lookup(&v, "src/lib/x.h", &before), 0);
    ops_detach(&v);
    assert_int_equal(mux_getattr(f->mux, &v.ctx, before.nodeid, &st, &ttl), -ESTALE);
    assert_int_equal(mux_lookup(f->mux, &v.ctx, old_root, "src", &after), -ESTALE);
    assert_int_equal(ops_write_node(&v, before.nodeid, "x", 1, 0), -ESTALE);
    ops_attach(&v);
    assert_int_equal(ops_lookup(&v, "src/lib/x.h", &after), 0);
    assert_int_not_equal(after.generation, before.generation);
    assert_int_equal(after.st.st_ino, before.st.st_ino);
    assert_int_equal(mux_getattr(f->mux, &v.ctx, before.nodeid, &st, &ttl), -ESTALE);
}

static void test_names_that_are_no_names(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct mux *mux = v.fixture->mux;
    struct mux_entry entry;
    char longest[257];
    memset(longest, 'a', 256);
    longest[256] = '\0';
    assert_int_equal(mux_lookup(mux, &v.ctx, v.root, longest, &entry), -ENAMETOOLONG);
    assert_int_equal(mux_create(mux, &v.ctx, v.root, longest, 0644, &entry), -ENAMETOOLONG);
    assert_int_equal(mux_create(mux, &v.ctx, v.root, "..", 0644, &entry), -EINVAL);
    assert_int_equal(mux_mkdir(mux, &v.ctx, v.root, "", 0755, &entry), -EINVAL);
    assert_int_equal(mux_unlink(mux, &v.ctx, v.root, "a/b"), -EINVAL);
    assert_int_equal(mux_lookup(mux, &v.ctx, ops_nodeid(&v, ".env"), "x", &entry), -ENOTDIR);
    longest[255] = '\0';
    assert_int_equal(ops_create(&v, longest, 0644), 0);
    assert_true(ops_exists(&v, longest));
}

static void test_B8_names_are_bytes(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, NULL), "**/*=write");
    const char *names[] = {"\xff\xfe", "new\nline", "\x01\x02", " ", "-rf", "*", "caf\xc3\xa9"};
    for (size_t i = 0; i < 7; i++)
        ops_put(&v, names[i], names[i]);
    for (size_t i = 0; i < 7; i++)
        assert_text(&v, names[i], names[i]);
}

static void test_E2_no_name_is_magic(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    ops_put(&v, "src/.wh.lib", "1");
    ops_put(&v, "src/.wh..wh..opq", "2");
    ops_put(&v, "src/.wh...", "3");
    assert_names(&v, "src", ".wh... .wh..wh..opq .wh.lib app empty lib");
    assert_text(&v, "src/lib/x.h", "x");
}

static void test_the_node_cache_may_hold_as_little_as_one_node(void **state)
{
    struct fixture *f = *state;
    ops_reopen_sized(f, 1);
    struct view v = ops_view(f, ops_codebase(f, tree), agent_safe);
    uint64_t file = ops_nodeid(&v, "src/app/main.c"), dir = ops_nodeid(&v, "src/app");
    struct stat st;
    int64_t ttl;
    struct mux_stats stats;
    assert_int_equal(mux_getattr(f->mux, &v.ctx, dir, &st, &ttl), 0);
    assert_owner(&st, v.at.uid, 0755);
    assert_int_equal(mux_getattr(f->mux, &v.ctx, file, &st, &ttl), 0);
    assert_names(&v, "src/app", "main.c run.sh");
    assert_false(ops_exists(&v, "secrets"));
    mux_get_stats(f->mux, &stats);
    assert_int_equal(stats.nodes_cached, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_attributes_enforce_read),
        fixture_test(test_attributes_enforce_view),
        fixture_test(test_attributes_of_write_are_as_stored),
        fixture_test(test_P3_ancestors_show_only_what_is_permitted),
        fixture_test(test_P4_a_deep_grant_gives_nothing_above),
        fixture_test(test_P8_hidden_is_the_same_as_absent),
        fixture_test(test_two_views_share_one_nodeid_for_an_unmodified_file),
        fixture_test(test_reads_are_clipped_at_the_end),
        fixture_test(test_top_lists_attached_views_and_nothing_can_change_there),
        fixture_test(test_nodeids_of_a_detached_view_are_stale),
        fixture_test(test_names_that_are_no_names),
        fixture_test(test_B8_names_are_bytes),
        fixture_test(test_E2_no_name_is_magic),
        fixture_test(test_the_node_cache_may_hold_as_little_as_one_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
