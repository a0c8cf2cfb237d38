// Room and holes: fallocate, SEEK_DATA and SEEK_HOLE, copies, files without a name.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/nodeid.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BIG      200000
#define MAX      400000
#define OK(call) assert_int_equal(call, 0)

#define PUNCH     (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO_KEEP (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

static const struct base_file tree[] = {
    {.path = "small", .text = "0123456789"},
    {.path = "dir/f", .text = "text"},
    {.path = "ro/f", .text = "fixed"},
    {0},
};

static struct view start_with(void **state, const char *rules, uint64_t bytes)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    return ops_view_quota(*state, codebase, rules, bytes, 0);
}

static struct view start(void **state)
{
    return start_with(state, "**/*=write", 0);
}

// Calls again as a thread that may block, as fs does.
#define CALL(v, fn, ...)                                                                           \
    ({                                                                                             \
        struct mux_ctx ctx_ = (v)->ctx;                                                            \
        int rc_ = fn((v)->fixture->mux, &ctx_, __VA_ARGS__);                                       \
        ctx_.may_block = true;                                                                     \
        rc_ == MUX_SLOW ? fn((v)->fixture->mux, &ctx_, __VA_ARGS__) : rc_;                         \
    })

static int space(struct view *v, const char *path, int mode, off_t offset, off_t len)
{
    return CALL(v, mux_fallocate, ops_nodeid(v, path), mode, offset, len);
}

static int seek(struct view *v, const char *path, off_t offset, int whence, off_t *ret)
{
    return CALL(v, mux_lseek, ops_nodeid(v, path), offset, whence, ret);
}

static void test_S1_fallocate_modes(void **state)
{
    struct view v = start(state);
    char buf[32];
    OK(space(&v, "small", 0, 4, 2)); // inside: nothing to see
    assert_text(&v, "small", "0123456789");
    OK(space(&v, "small", FALLOC_FL_KEEP_SIZE, 0, 100000));
    assert_int_equal(ops_stat(&v, "small").st_size, 10);
    OK(space(&v, "small", 0, 8, 8));
    assert_int_equal(ops_read(&v, "small", buf, sizeof buf, 0), 16);
    assert_memory_equal(buf, "0123456789\0\0\0\0\0", 16);
    OK(space(&v, "small", PUNCH, 2, 3));
    OK(space(&v, "small", ZERO_KEEP, 9, 100));
    assert_int_equal(ops_read(&v, "small", buf, sizeof buf, 0), 16);
    assert_memory_equal(buf, "01\0\0\0005678\0\0\0\0\0\0", 16);
    OK(space(&v, "small", FALLOC_FL_ZERO_RANGE, 15, 5));
    assert_int_equal(ops_stat(&v, "small").st_size, 20);
    OK(space(&v, "small", 0, 0, 3 << 20));
    assert_int_equal(ops_stat(&v, "small").st_size, 3 << 20);
    assert_int_equal(space(&v, "small", FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
    assert_int_equal(space(&v, "small", FALLOC_FL_INSERT_RANGE, 0, 4096), -EOPNOTSUPP);
    assert_int_equal(space(&v, "small", FALLOC_FL_PUNCH_HOLE, 0, 4096), -EOPNOTSUPP);
    assert_int_equal(space(&v, "small", 0, 0, 0), -EINVAL);
    assert_int_equal(space(&v, "small", 0, -1, 1), -EINVAL);
    assert_int_equal(space(&v, "small", 0, AF_FILE_SIZE_MAX, 1), -EFBIG);
    assert_true(space(&v, "dir", 0, 0, 1) < 0);
    assert_accounting(&v);
}

static void test_S1_a_reservation_that_keeps_the_size_is_a_change(void **state)
{
    struct view v = start(state);
    struct stat old = {.st_mtim = {1000, 0}};
    OK(ops_setattr(&v, ops_nodeid(&v, "small"), MUX_SET_MTIME, &old, NULL));
    OK(ops_chmod(&v, "small", 06755));
    OK(space(&v, "small", FALLOC_FL_KEEP_SIZE, 0, 100000));
    struct stat st = ops_stat(&v, "small");
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_true(st.st_mtim.tv_sec > 1000);
    assert_text(&v, "small", "0123456789");
    assert_accounting(&v);
}

static void test_S1_fallocate_obeys_rules_and_quota(void **state)
{
    struct view v = start_with(state, "**/*=write /ro/**=read@5", BIG + 1000);
    assert_int_equal(space(&v, "ro/f", 0, 0, 100), -EACCES);
    assert_int_equal(space(&v, "ro/f", FALLOC_FL_KEEP_SIZE, 0, 100), -EACCES);
    assert_int_equal(space(&v, "ro/f", PUNCH, 0, 2), -EACCES);
    assert_text(&v, "ro/f", "fixed");
    assert_int_equal(space(&v, "small", 0, 0, BIG + 1001), -EDQUOT);
    OK(space(&v, "small", 0, 0, 1000));
    OK(space(&v, "big", PUNCH, 0, BIG)); // its own copy has all of its size
    assert_int_equal(space(&v, "big", 0, 0, BIG + 1), -EDQUOT);
    assert_accounting(&v);
}

static void test_holes_of_a_base_file_leave_the_base_whole(void **state)
{
    struct view v = start(state), other = ops_view(v.fixture, v.codebase, "**/*=read");
    unsigned char byte;
    OK(space(&v, "big", PUNCH, 100, 50000));
    for (off_t at = 0; at < BIG; at += 997) {
        assert_int_equal(ops_read(&v, "big", &byte, 1, at), 1);
        assert_int_equal(byte, at >= 100 && at < 50100 ? 0 : ops_byte(3, (size_t)at));
        assert_int_equal(ops_read(&other, "big", &byte, 1, at), 1);
        assert_int_equal(byte, ops_byte(3, (size_t)at));
    }
    assert_accounting(&v);
}

static void test_S1_data_and_holes_are_found(void **state)
{
    struct view v = start(state);
    off_t at = -1;
    OK(seek(&v, "small", 3, SEEK_DATA, &at));
    assert_int_equal(at, 3);
    OK(seek(&v, "small", 3, SEEK_HOLE, &at));
    assert_int_equal(at, 10);
    assert_int_equal(seek(&v, "small", 10, SEEK_DATA, &at), -ENXIO);
    assert_int_equal(seek(&v, "small", 10, SEEK_HOLE, &at), -ENXIO);
    assert_int_equal(seek(&v, "small", -1, SEEK_HOLE, &at), -ENXIO);
    OK(ops_create(&v, "sparse", 0644));
    OK(ops_write(&v, "sparse", "data", 4, 1 << 20));
    OK(ops_truncate(&v, "sparse", 4 << 20));
    OK(seek(&v, "sparse", 0, SEEK_HOLE, &at));
    assert_int_equal(at, 0);
    OK(seek(&v, "sparse", 0, SEEK_DATA, &at));
    assert_int_equal(at, 1 << 20);
    OK(seek(&v, "sparse", 1 << 20, SEEK_HOLE, &at));
    assert_in_range(at, (1 << 20) + 4, (1 << 20) + 65536);
    assert_int_equal(seek(&v, "sparse", 2 << 20, SEEK_DATA, &at), -ENXIO);
    OK(seek(&v, "sparse", 3 << 20, SEEK_HOLE, &at));
    assert_int_equal(at, 3 << 20);
    struct view closed = ops_view(v.fixture, v.codebase, "**/*=view");
    assert_int_equal(seek(&closed, "big", 0, SEEK_DATA, &at), -EACCES);
    struct view r = ops_view(v.fixture, v.codebase, "**/*=read");
    OK(seek(&r, "big", 0, SEEK_DATA, &at));
    assert_int_equal(at, 0);
}

static void test_S1_copies_stay_in_the_daemon(void **state)
{
    struct view v = start(state);
    size_t n = 99;
    unsigned char byte;
    OK(ops_create(&v, "copy", 0644));
    OK(CALL(&v, mux_copy_range, ops_nodeid(&v, "big"), 1000, ops_nodeid(&v, "copy"), 10, BIG, &n));
    assert_int_equal(n, BIG - 1000);
    assert_int_equal(ops_stat(&v, "copy").st_size, BIG - 1000 + 10);
    for (off_t at = 0; at < BIG - 1000 + 10; at += 499) {
        assert_int_equal(ops_read(&v, "copy", &byte, 1, at), 1);
        assert_int_equal(byte, at < 10 ? 0 : ops_byte(3, (size_t)at + 990));
    }
    uint64_t big = ops_nodeid(&v, "big"), copy = ops_nodeid(&v, "copy");
    OK(CALL(&v, mux_copy_range, big, BIG, copy, 0, 10, &n)); // at the end
    assert_int_equal(n, 0);
    OK(CALL(&v, mux_copy_range, big, 0, big, 150000, 1000, &n)); // within one file
    assert_int_equal(n, 1000);
    assert_int_equal(ops_read(&v, "big", &byte, 1, 150999), 1);
    assert_int_equal(byte, ops_byte(3, 999));
    assert_int_equal(CALL(&v, mux_copy_range, ops_nodeid(&v, "small"), 0, copy, 0, 4, &n),
                     -EOPNOTSUPP); // in its record: the kernel does it
    struct view other = ops_view(v.fixture, v.codebase, "**/*=write");
    assert_int_equal(CALL(&v, mux_copy_range, ops_nodeid(&other, "big"), 0, copy, 0, 4, &n),
                     -EOPNOTSUPP);
    struct view r = ops_view(v.fixture, v.codebase, "**/*=write /ro/**=read@5 /big=view@5");
    assert_int_equal(
        CALL(&r, mux_copy_range, ops_nodeid(&r, "big"), 0, ops_nodeid(&r, "small"), 0, 4, &n),
        -EACCES);
    assert_accounting(&v);
}

static int make_nameless(struct view *v, uint64_t dir, struct mux_entry *ret)
{
    return mux_tmpfile(v->fixture->mux, &v->ctx, dir, 0640, ret);
}

static void test_S1_a_file_without_a_name_can_get_one(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct mux_entry file, lost, named;
    OK(make_nameless(&v, ops_nodeid(&v, "dir"), &file));
    assert_int_equal(file.st.st_nlink, 0);
    assert_int_equal(file.st.st_mode, S_IFREG | 0640);
    assert_names(&v, "dir", "f");
    OK(ops_write_node(&v, file.nodeid, "hello", 5, 0));
    OK(mux_link(mux, &v.ctx, file.nodeid, v.root, "named", &named));
    assert_int_equal(named.nodeid, file.nodeid);
    assert_int_equal(named.st.st_nlink, 1);
    mux_forget(mux, file.nodeid); // no orphan any more
    assert_text(&v, "named", "hello");
    assert_int_equal(ops_stat(&v, "named").st_ino, file.st.st_ino);
    OK(make_nameless(&v, v.root, &lost));
    OK(ops_write_node(&v, lost.nodeid, "gone", 4, 0));
    assert_accounting(&v);
    ops_detach(&v); // what is open at a crash or at the end goes
    ops_reopen_sized(v.fixture, 1);
    ops_attach(&v);
    assert_text(&v, "named", "hello");
    struct stat st;
    int64_t ttl;
    assert_true(mux_getattr(v.fixture->mux, &v.ctx, lost.nodeid, &st, &ttl) < 0);
    assert_accounting(&v);
    OK(ops_unlink(&v, "named"));
    assert_accounting(&v);
}

static void test_S1_files_without_a_name_obey_rules_and_quota(void **state)
{
    struct view v = start_with(state, "**/*=read /dir/**=write@5", 1000);
    struct mux *mux = v.fixture->mux;
    struct mux_entry file, entry;
    assert_int_equal(make_nameless(&v, ops_nodeid(&v, "ro"), &file), -EACCES);
    OK(make_nameless(&v, ops_nodeid(&v, "dir"), &file));
    assert_int_equal(ops_write_node(&v, file.nodeid, "x", 1, 1000), -EDQUOT);
    assert_int_equal(mux_link(mux, &v.ctx, file.nodeid, v.root, "x", &entry), -EACCES);
    OK(mux_link(mux, &v.ctx, file.nodeid, ops_nodeid(&v, "dir"), "x", &entry));
    OK(ops_mkdir(&v, "dir/gone", 0755));
    uint64_t gone = ops_nodeid(&v, "dir/gone");
    OK(ops_rmdir(&v, "dir/gone"));
    assert_int_equal(make_nameless(&v, gone, &file), -ENOENT);
    assert_int_equal(make_nameless(&v, ops_nodeid(&v, "dir/f"), &file), -ENOTDIR);
    assert_accounting(&v);
}

// ---- a history of changes, compared with a file of the host

static void assert_equals_host(struct view *v, int fd, off_t size, unsigned step)
{
    static unsigned char mine[MAX], theirs[MAX];
    assert_int_equal(ops_stat(v, "big").st_size, size);
    ssize_t n = ops_read(v, "big", mine, sizeof mine, 0);
    assert_int_equal(n, size);
    assert_int_equal(pread(fd, theirs, sizeof theirs, 0), size);
    for (off_t i = 0; i < size; i++)
        if (mine[i] != theirs[i])
            fail_msg("step %u: byte %ld is %u, not %u", step, (long)i, mine[i], theirs[i]);
    for (off_t at = 0, data; seek(v, "big", at, SEEK_DATA, &data) == 0;) { // no data in a hole
        for (; at < data; at++)
            assert_int_equal(theirs[at], 0);
        OK(seek(v, "big", data, SEEK_HOLE, &at));
        assert_true(at > data && at <= size);
    }
}

static void test_S1_a_random_history_matches_a_local_file(void **state)
{
    struct view v = start(state);
    struct prng prng = {.state = 20};
    char path[600], buf[3000];
    snprintf(path, sizeof path, "%s/host", v.fixture->dir);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    for (off_t i = 0; i < BIG; i++) {
        buf[i % 1000] = (char)ops_byte(3, (size_t)i);
        if (i % 1000 == 999)
            assert_int_equal(pwrite(fd, buf, 1000, i - 999), 1000);
    }
    off_t size = BIG;
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, PUNCH, ZERO_KEEP, FALLOC_FL_ZERO_RANGE};
    for (unsigned step = 0; step < 400; step++) {
        off_t offset = (off_t)prng_below(&prng, prng_below(&prng, 3) ? 4000 : MAX / 2);
        off_t len = 1 + (off_t)prng_below(&prng, prng_below(&prng, 2) ? sizeof buf : MAX / 2);
        size_t what = prng_below(&prng, 8);
        if (what < 5) {
            OK(space(&v, "big", modes[what], offset, len));
            if (modes[what] & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
                for (off_t i = offset; i < offset + len && i < size; i++)
                    assert_int_equal(pwrite(fd, "", 1, i), 1);
            if (!(modes[what] & FALLOC_FL_KEEP_SIZE) && offset + len > size)
                OK(ftruncate(fd, offset + len));
        } else if (what == 5) {
            OK(ops_truncate(&v, "big", offset));
            OK(ftruncate(fd, offset));
        } else {
            len = len < (off_t)sizeof buf ? len : (off_t)sizeof buf;
            memset(buf, (int)step, (size_t)len);
            OK(ops_write(&v, "big", buf, (size_t)len, offset));
            assert_int_equal(pwrite(fd, buf, (size_t)len, offset), len);
        }
        struct stat st;
        OK(fstat(fd, &st));
        size = st.st_size;
        if (step % 5 == 0)
            assert_equals_host(&v, fd, size, step);
    }
    close(fd);
    assert_accounting(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_S1_fallocate_modes),
        fixture_test(test_S1_a_reservation_that_keeps_the_size_is_a_change),
        fixture_test(test_S1_fallocate_obeys_rules_and_quota),
        fixture_test(test_holes_of_a_base_file_leave_the_base_whole),
        fixture_test(test_S1_data_and_holes_are_found),
        fixture_test(test_S1_copies_stay_in_the_daemon),
        fixture_test(test_S1_a_file_without_a_name_can_get_one),
        fixture_test(test_S1_files_without_a_name_obey_rules_and_quota),
        fixture_test(test_S1_a_random_history_matches_a_local_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
