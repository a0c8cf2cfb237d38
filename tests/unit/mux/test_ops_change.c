// Changing files of a view: copy-up, sizes, attributes, quotas. Names that go: test_ops_unlink.c.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/nodeid.h"

#include <errno.h>
#include <string.h>

#define BIG 700000

static const struct base_file tree[] = {
    {.path = "dir/a", .text = "alpha"},
    {.path = "dir/b", .text = "beta"},
    {.path = "run", .mode = S_IFREG | 06755, .text = "#!"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "dir/a"},
    {0},
};

static struct view start(void **state, struct af_id *ret_codebase)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    if (ret_codebase)
        *ret_codebase = codebase;
    return ops_view(*state, codebase, "**/*=write");
}

static void assert_bytes(struct view *v, const char *path, size_t from, size_t to, unsigned seed)
{
    unsigned char *buf = malloc(to - from);
    assert_int_equal(ops_read(v, path, buf, to - from, (off_t)from), to - from);
    for (size_t i = from; i < to; i++)
        if (buf[i - from] != (seed ? ops_byte(seed, i) : 0))
            fail_msg("%s: wrong byte at %zu", path, i);
    free(buf);
}

static void assert_base_untouched(void **state, struct af_id codebase)
{
    struct view other = ops_view(*state, codebase, "**/*=read");
    assert_text(&other, "dir/a", "alpha");
    assert_names(&other, "", "big dir link run");
    assert_bytes(&other, "big", 0, BIG, 3);
    ops_detach(&other);
}

static void test_D8_st_ino_and_nodeid_survive_copy_up(void **state)
{
    struct af_id codebase;
    struct view v = start(state, &codebase);
    struct stat before = ops_stat(&v, "dir/a");
    uint64_t nodeid = ops_nodeid(&v, "dir/a");
    assert_int_equal(ops_write(&v, "dir/a", "LPHA!", 5, 1), 0);
    struct stat after = ops_stat(&v, "dir/a");
    assert_text(&v, "dir/a", "aLPHA!");
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(nodeid, ops_nodeid(&v, "dir/a"));
    assert_true(af_ns_of_timespec(after.st_mtim) > af_ns_of_timespec(before.st_mtim));
    assert_base_untouched(state, codebase);
    assert_accounting(&v);
}

static void test_copy_up_of_a_large_file_is_for_a_thread_that_may_block(void **state)
{
    struct af_id codebase;
    struct view v = start(state, &codebase);
    struct mux_stats stats;
    assert_int_equal(mux_write(v.fixture->mux, &v.ctx, ops_nodeid(&v, "big"), "x", 1, 10),
                     MUX_SLOW);
    mux_get_stats(v.fixture->mux, &stats);
    assert_int_equal(stats.copy_ups, 0);
    assert_int_equal(ops_write(&v, "big", "XYZ", 3, 10), 0);
    assert_int_equal(v.slow, 1);
    char buf[3];
    assert_int_equal(ops_read(&v, "big", buf, 3, 10), 3);
    assert_memory_equal(buf, "XYZ", 3);
    assert_bytes(&v, "big", 0, 10, 3);
    assert_bytes(&v, "big", 13, BIG, 3);
    // Once it is the view's own, nothing is slow any more.
    assert_int_equal(ops_write(&v, "big", "end", 3, BIG), 0);
    assert_int_equal(v.slow, 1);
    mux_get_stats(v.fixture->mux, &stats);
    assert_int_equal(stats.copy_ups, 1);
    assert_base_untouched(state, codebase);
    assert_accounting(&v);
}

static void test_truncation_copies_only_what_stays(void **state)
{
    struct af_id codebase;
    struct view v = start(state, &codebase);
    assert_int_equal(ops_truncate(&v, "big", BIG), 0); // the same size: nothing to copy
    assert_int_equal(ops_truncate(&v, "big", 100000), 0);
    assert_int_equal(v.slow, 0);
    assert_bytes(&v, "big", 0, 100000, 3);
    assert_int_equal(ops_truncate(&v, "big", 200000), 0);
    assert_bytes(&v, "big", 0, 100000, 3);
    assert_bytes(&v, "big", 100000, 200000, 0);
    assert_int_equal(ops_truncate(&v, "big", 0), 0);
    assert_int_equal(ops_stat(&v, "big").st_size, 0);
    assert_int_equal(ops_truncate(&v, "big", 5), 0);
    assert_bytes(&v, "big", 0, 5, 0);
    assert_base_untouched(state, codebase);
    assert_accounting(&v);
}

static void test_a_whole_overwrite_copies_nothing(void **state)
{
    struct view v = start(state, NULL);
    unsigned char *bytes = malloc(BIG);
    for (size_t i = 0; i < BIG; i++)
        bytes[i] = ops_byte(9, i);
    assert_int_equal(ops_write(&v, "big", bytes, BIG, 0), 0);
    free(bytes);
    assert_int_equal(v.slow, 0);
    assert_bytes(&v, "big", 0, BIG, 9);
}

static void test_what_was_cut_off_never_comes_back(void **state)
{
    struct view v = start(state, NULL);
    char bytes[9000];
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(ops_create(&v, "f", 0644), 0);
    assert_int_equal(ops_write(&v, "f", bytes, sizeof bytes, 0), 0);
    assert_int_equal(ops_truncate(&v, "f", 4000), 0);
    assert_int_equal(ops_write(&v, "f", "end", 3, 8000), 0); // a gap
    assert_bytes(&v, "f", 4000, 8000, 0);
    assert_int_equal(ops_stat(&v, "f").st_size, 8003);
    // The same while the content is inline.
    assert_int_equal(ops_create(&v, "g", 0644), 0);
    assert_int_equal(ops_write(&v, "g", bytes, 1000, 0), 0);
    assert_int_equal(ops_truncate(&v, "g", 10), 0);
    assert_int_equal(ops_write(&v, "g", "e", 1, 500), 0);
    assert_bytes(&v, "g", 10, 500, 0);
    // And where a gap makes a small file large.
    assert_int_equal(ops_write(&v, "g", "e", 1, 100000), 0);
    assert_bytes(&v, "g", 501, 100000, 0);
    assert_accounting(&v);
}

static void test_a_file_that_grows_leaves_its_record(void **state)
{
    struct view v = start(state, NULL);
    struct store_stats before = stats_of(*state), after;
    char line[100];
    memset(line, 'l', sizeof line);
    assert_int_equal(ops_create(&v, "log", 0644), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ops_write(&v, "log", line, sizeof line, i * 100), 0);
    assert_int_equal(ops_stat(&v, "log").st_size, 10000);
    after = stats_of(*state);
    assert_int_equal(after.blobs, before.blobs + 1);
    char *all = malloc(10001);
    assert_int_equal(ops_read(&v, "log", all, 10001, 0), 10000);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(all[i], 'l');
    free(all);
    assert_accounting(&v);
}

static void test_writing_takes_suid_and_sgid_away(void **state)
{
    struct view v = start(state, NULL);
    assert_int_equal(ops_stat(&v, "run").st_mode & 07777, 06755);
    assert_int_equal(ops_write(&v, "run", "x", 1, 0), 0);
    assert_int_equal(ops_stat(&v, "run").st_mode & 07777, 0755);
    assert_int_equal(ops_chmod(&v, "run", 04755), 0);
    assert_int_equal(ops_truncate(&v, "run", 1), 0);
    assert_int_equal(ops_stat(&v, "run").st_mode & 07777, 0755);
    assert_int_equal(ops_chmod(&v, "run", 04755), 0);
    struct stat attr = {.st_uid = v.at.uid, .st_gid = v.at.gid};
    assert_int_equal(ops_setattr(&v, ops_nodeid(&v, "run"), MUX_SET_UID | MUX_SET_GID, &attr, NULL),
                     0);
    assert_int_equal(ops_stat(&v, "run").st_mode & 07777, 0755);
}

// Which groups the caller is in, only the kernel knows; it drops the bit before it asks us.
static void test_a_set_group_id_bit_that_the_kernel_passes_on_is_kept(void **state)
{
    struct view v = start(state, NULL);
    v.ctx.gid = v.at.gid + 1;
    assert_int_equal(ops_chmod(&v, "run", 02755), 0);
    assert_int_equal(ops_stat(&v, "run").st_mode & 07777, 02755);
}

static void test_nobody_else_can_own_a_file(void **state)
{
    struct view v = start(state, NULL);
    uint64_t file = ops_nodeid(&v, "run");
    struct stat attr = {.st_uid = v.at.uid + 1, .st_gid = 0};
    assert_int_equal(ops_setattr(&v, file, MUX_SET_UID, &attr, NULL), -EPERM);
    assert_int_equal(ops_setattr(&v, file, MUX_SET_GID, &attr, NULL), -EPERM);
    v.ctx.uid = 0;
    assert_int_equal(ops_setattr(&v, file, MUX_SET_GID, &attr, NULL), -EPERM);
}

static void test_times_are_kept_to_the_nanosecond(void **state)
{
    struct view v = start(state, NULL);
    struct stat attr = {.st_atim = {123, 456789}, .st_mtim = {-5, 999999999}}, st;
    uint64_t file = ops_nodeid(&v, "dir/b");
    assert_int_equal(ops_setattr(&v, file, MUX_SET_ATIME | MUX_SET_MTIME, &attr, &st), 0);
    assert_memory_equal(&st.st_mtim, &attr.st_mtim, sizeof st.st_mtim);
    ops_reopen_sized(*state, 100);
    ops_attach(&v);
    st = ops_stat(&v, "dir/b");
    assert_memory_equal(&st.st_atim, &attr.st_atim, sizeof st.st_atim);
    assert_memory_equal(&st.st_mtim, &attr.st_mtim, sizeof st.st_mtim);
    assert_true(ops_setattr(&v, ops_nodeid(&v, "dir/b"), MUX_SET_MTIME_NOW, &attr, &st) == 0);
    assert_true(st.st_mtim.tv_sec > 1000000);
    assert_int_equal(st.st_atim.tv_sec, 123);
    assert_text(&v, "dir/b", "beta");
}

static void test_names_that_come_and_go_change_their_directory(void **state)
{
    struct view v = start(state, NULL);
    struct timespec seen = ops_stat(&v, "dir").st_mtim;
    assert_int_equal(ops_create(&v, "dir/new", 0644), 0);
    struct timespec now = ops_stat(&v, "dir").st_mtim;
    assert_true(af_ns_of_timespec(now) > af_ns_of_timespec(seen));
    seen = now;
    assert_int_equal(ops_unlink(&v, "dir/new"), 0);
    now = ops_stat(&v, "dir").st_mtim;
    assert_true(af_ns_of_timespec(now) > af_ns_of_timespec(seen));
}

static void test_P8_creating_answers_by_path_alone(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view(*state, codebase, "**/*=read /dir/a=none@9 /out/**=write@5");
    struct stat attr = {.st_mode = 0777};
    assert_int_equal(ops_create(&v, "dir/a", 0644), -EACCES);      // hidden
    assert_int_equal(ops_create(&v, "dir/absent", 0644), -EACCES); // absent
    assert_int_equal(ops_create(&v, "dir/b", 0644), -EACCES);      // visible
    assert_int_equal(ops_unlink(&v, "dir/a"), -ENOENT);
    assert_int_equal(ops_unlink(&v, "dir/absent"), -ENOENT);
    assert_int_equal(ops_unlink(&v, "dir/b"), -EACCES);
    assert_int_equal(ops_rmdir(&v, "dir"), -EACCES);
    assert_int_equal(ops_setattr(&v, ops_nodeid(&v, "dir"), MUX_SET_MODE, &attr, NULL), -EACCES);
    assert_int_equal(ops_mkdir(&v, "out", 0755), 0);
    ops_put(&v, "out/x", "written");
    assert_int_equal(ops_symlink(&v, "/etc/passwd", "out/l"), 0);
    assert_names(&v, "out", "l x");
}

static void test_quota_refuses_growth_and_nothing_else(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    struct view v = ops_view_quota(*state, codebase, "**/*=write", 100000, 6);
    struct mux *mux = v.fixture->mux;
    char *bytes = calloc(1, 100001);
    struct statvfs st;
    assert_int_equal(ops_create(&v, "f", 0644), 0);
    assert_int_equal(ops_write(&v, "f", bytes, 100001, 0), -EDQUOT);
    assert_int_equal(ops_stat(&v, "f").st_size, 0);
    assert_int_equal(ops_write(&v, "f", bytes, 100000, 0), 0);
    assert_int_equal(ops_write(&v, "f", bytes, 1, 99999), 0);
    assert_int_equal(ops_write(&v, "f", bytes, 1, 100000), -EDQUOT);
    assert_int_equal(ops_truncate(&v, "f", 100001), -EDQUOT);
    assert_int_equal(mux_statfs(mux, &v.ctx, v.root, &st), 0);
    assert_int_equal(st.f_blocks, 100000 / 4096);
    assert_int_equal(st.f_bavail, 0);
    assert_int_equal(ops_write(&v, "big", "x", 1, 0), -EDQUOT); // copy-up counts
    assert_int_equal(ops_unlink(&v, "big"), 0);                 // deleting never does
    assert_int_equal(ops_truncate(&v, "f", 0), 0);
    free(bytes);
    assert_int_equal(ops_create(&v, "g", 0644), 0);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        rc = ops_create(&v, name, 0644);
    }
    assert_int_equal(rc, -EDQUOT);
    assert_int_equal(mux_statfs(mux, &v.ctx, v.root, &st), 0);
    assert_int_equal(st.f_files, 6);
    assert_int_equal(st.f_ffree, 0);
    assert_accounting(&v);
}

static void test_B2_two_views_never_mix(void **state)
{
    struct af_id codebase;
    struct view a = start(state, &codebase);
    struct view b = ops_view(*state, codebase, "**/*=write");
    for (int i = 0; i < 50; i++) {
        char path[32];
        snprintf(path, sizeof path, "dir/%d", i);
        ops_put(&a, path, "of a");
        ops_put(&b, path, "of b");
        if (i % 3 == 0)
            assert_int_equal(ops_unlink(&a, path), 0);
    }
    ops_put(&a, "dir/a", "A");
    assert_int_equal(ops_write(&b, "big", "B", 1, 0), 0);
    assert_text(&b, "dir/a", "alpha");
    assert_bytes(&a, "big", 0, BIG, 3);
    for (int i = 0; i < 50; i++) {
        char path[32];
        snprintf(path, sizeof path, "dir/%d", i);
        assert_text(&b, path, "of b");
        assert_int_equal(ops_exists(&a, path), i % 3 != 0);
    }
    assert_int_equal(mux_rename(a.fixture->mux, &a.ctx, a.root, "run", b.root, "run2", 0), -EXDEV);
}

static void test_fsync_is_for_a_thread_that_may_block(void **state)
{
    struct view v = start(state, NULL);
    struct mux *mux = v.fixture->mux;
    struct mux_ctx ctx = v.ctx;
    assert_int_equal(ops_write(&v, "big", "x", 1, 0), 0);
    assert_int_equal(mux_fsync(mux, &ctx, ops_nodeid(&v, "big"), false), MUX_SLOW);
    ctx.may_block = true;
    assert_int_equal(mux_fsync(mux, &ctx, ops_nodeid(&v, "big"), false), 0);
    assert_int_equal(mux_fsync(mux, &ctx, ops_nodeid(&v, "dir"), true), 0);
    assert_int_equal(mux_fsync(mux, &ctx, 12345, true), -ESTALE);
}

static void test_sizes_out_of_range_are_refused(void **state)
{
    struct view v = start(state, NULL);
    assert_int_equal(ops_write(&v, "run", "x", 1, AF_FILE_SIZE_MAX), -EFBIG);
    assert_int_equal(ops_write(&v, "run", "x", 1, -1), -EINVAL);
    assert_int_equal(ops_truncate(&v, "run", AF_FILE_SIZE_MAX + 1), -EFBIG);
    assert_int_equal(ops_truncate(&v, "dir", 0), -EISDIR);
    assert_int_equal(ops_write(&v, "link", "x", 1, 0), -EINVAL);
    assert_int_equal(ops_truncate(&v, "run", 1LL << 40), 0);
    assert_int_equal(ops_stat(&v, "run").st_size, 1LL << 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_D8_st_ino_and_nodeid_survive_copy_up),
        fixture_test(test_copy_up_of_a_large_file_is_for_a_thread_that_may_block),
        fixture_test(test_truncation_copies_only_what_stays),
        fixture_test(test_a_whole_overwrite_copies_nothing),
        fixture_test(test_what_was_cut_off_never_comes_back),
        fixture_test(test_a_file_that_grows_leaves_its_record),
        fixture_test(test_writing_takes_suid_and_sgid_away),
        fixture_test(test_a_set_group_id_bit_that_the_kernel_passes_on_is_kept),
        fixture_test(test_nobody_else_can_own_a_file),
        fixture_test(test_times_are_kept_to_the_nanosecond),
        fixture_test(test_names_that_come_and_go_change_their_directory),
        fixture_test(test_P8_creating_answers_by_path_alone),
        fixture_test(test_quota_refuses_growth_and_nothing_else),
        fixture_test(test_B2_two_views_never_mix),
        fixture_test(test_fsync_is_for_a_thread_that_may_block),
        fixture_test(test_sizes_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
