// Tests of a session over a real mount, with a fake mux: slow operations and cold reads that must
// not block others, invalidation, stopping while busy.
#include "tests/unit/fs/mount_fixture.h"

// ---- slow operations ---------------------------------------------------------------------

struct write_arg {
    char file[PATH_BYTES];
    ssize_t result;
};

static void *write_one(void *arg)
{
    struct write_arg *write_arg = arg;
    int fd = open(write_arg->file, O_WRONLY);
    write_arg->result = fd < 0 ? -errno : write(fd, "slow", 4);
    close(fd);
    return NULL;
}

static void test_slow_operations_do_not_block_others(void **state)
{
    (void)state;
    enum { WRITERS = 6 };
    pthread_t threads[WRITERS];
    struct write_arg args[WRITERS];
    fake_close_latch();
    for (int i = 0; i < WRITERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "slow%d", i);
        fake_add_slow(view, name, S_IFREG | 0644, NULL);
        snprintf(args[i].file, sizeof args[i].file, "%s", path(name));
    }
    fake_add(view, "fast", S_IFREG | 0644, "quick");
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, write_one, &args[i]);
    fake_wait_at_latch(WRITERS);
    // Every slow write is under way; everything else must still be answered.
    char buf[8];
    for (int i = 0; i < 50; i++) {
        read_whole("fast", buf, sizeof buf, 5);
        assert_int_equal(mkdir(path("d"), 0755), 0);
        assert_int_equal(rmdir(path("d")), 0);
    }
    fake_open_latch();
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(args[i].result, 4);
    }
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_in_range(counters.slow_requests, WRITERS, 2 * WRITERS);
    assert_int_equal(counters.slow_queued, 0);
}

static void test_slow_arguments_survive(void **state)
{
    (void)state;
    char to[PATH_BYTES];
    uint64_t dir = fake_add(view, "d", S_IFDIR | 0755, NULL);
    FAKE_WITH(node, dir, node->slow = true);
    assert_int_equal(mkdir(path("d/sub"), 0750), 0);
    assert_int_equal(symlink("a/rather/long/target", path("d/link")), 0);
    snprintf(to, sizeof to, "%s", path("d/renamed"));
    assert_int_equal(rename(path("d/link"), to), 0);
    char buf[64];
    assert_int_equal(readlink(path("d/renamed"), buf, sizeof buf), 20);
    assert_memory_equal(buf, "a/rather/long/target", 20);
    assert_int_equal(list_dir(path("d")), 4);
    assert_int_equal(chmod(path("d"), 0700), 0);
    assert_int_equal(fake_stat(dir).st_mode & 07777, 0700);
    uint64_t file = fake_add(dir, "file", S_IFREG | 0644, "content of a slow file");
    FAKE_WITH(node, file, node->slow = true);
    int fd = open(path("d/file"), O_RDWR);
    assert_int_equal(read(fd, buf, sizeof buf), 22);
    assert_memory_equal(buf, "content of a slow file", 22);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fdatasync(fd), 0);
    close(fd);
}

static void *unlink_slowly(void *arg)
{
    *(int *)arg = unlink(path("d/a-name-to-remove"));
    return NULL;
}

// The names of a request live in a buffer that the next request overwrites. An unlink, since the
// kernel asks nothing else first when it knows the name.
static void test_slow_names_survive_later_requests(void **state)
{
    (void)state;
    struct stat st;
    char name[201];
    int result = -2;
    uint64_t dir = fake_add(view, "d", S_IFDIR | 0755, NULL);
    fake_add(dir, "a-name-to-remove", S_IFREG | 0644, NULL);
    assert_int_equal(stat(path("d/a-name-to-remove"), &st), 0);
    FAKE_WITH(node, dir, node->slow = true);
    fake_close_latch();
    pthread_t thread;
    pthread_create(&thread, NULL, unlink_slowly, &result);
    fake_wait_at_latch(1);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "%0200d", i); // longer than what it overwrites
        assert_int_equal(stat(path(name), &st), -1);
    }
    fake_open_latch();
    pthread_join(thread, NULL);
    assert_int_equal(result, 0);
    pthread_mutex_lock(&fake.lock);
    bool removed = !fake_child(dir, "a-name-to-remove");
    pthread_mutex_unlock(&fake.lock);
    assert_true(removed);
}

// ---- reads from backing files ------------------------------------------------------------

static int backing_file(size_t size)
{
    char name[] = "/var/tmp/af-fs-backing-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    for (size_t i = 0; i < size; i += 4096) {
        char page[4096];
        memset(page, 'a' + (int)(i / 4096 % 26), sizeof page);
        assert_int_equal(pwrite(fd, page, sizeof page, (off_t)i), sizeof page);
    }
    assert_int_equal(fsync(fd), 0);
    return fd;
}

static void test_cold_backing_file_is_read_asynchronously(void **state)
{
    (void)state;
    size_t size = 2 << 20;
    int backing = backing_file(size);
    fake_add_blob(view, "blob", backing, (off_t)size + 4096); // more than there is: zeros
    posix_fadvise(backing, 0, 0, POSIX_FADV_DONTNEED);
    struct iovec iov = {.iov_base = (char[1]){0}, .iov_len = 1};
    bool cold = preadv2(backing, &iov, 1, 1 << 20, RWF_NOWAIT) < 0 && errno == EAGAIN;
    char *buf = malloc(size + 4096);
    int fd = open(path("blob"), O_RDONLY);
    assert_int_equal(pread(fd, buf, size + 4096, 0), size + 4096);
    for (size_t i = 0; i < size; i += 512)
        assert_int_equal(buf[i], 'a' + (int)(i / 4096 % 26));
    for (size_t i = size; i < size + 4096; i++)
        assert_int_equal(buf[i], 0);
    close(fd);
    free(buf);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    if (cold)
        assert_in_range(counters.reads_async, 1, 100);
    close(backing);
}

static void *read_blob(void *arg)
{
    char buf[16];
    int fd = open(path(arg), O_RDONLY);
    ssize_t n = fd < 0 ? -errno : pread(fd, buf, sizeof buf, 0);
    close(fd);
    return (void *)n;
}

// The backing file is one of the mount's own that answers only when the latch opens: as slow as
// a disk can be, without a clock.
static void test_reads_that_wait_for_a_disk_do_not_block_others(void **state)
{
    (void)state;
    uint64_t disk = fake_add(view, "disk", S_IFREG | 0644, "from the disk...");
    int backing = open(path("disk"), O_RDONLY);
    assert_true(backing >= 0);
    struct stat st;
    assert_int_equal(fstat(backing, &st), 0);
    // A first read teaches fs that such a file cannot be tried without waiting.
    char buf[16];
    fake_add(view, "plain", S_IFREG | 0644, "plain");
    int plain = open(path("plain"), O_RDONLY);
    fake_add_blob(view, "first", plain, 5);
    read_whole("first", buf, sizeof buf, 5);
    FAKE_WITH(node, disk, node->slow = true);
    fake_add_blob(view, "blob", backing, 16);
    fake_add(view, "fast", S_IFREG | 0644, "quick");
    fake_close_latch();
    pthread_t thread;
    pthread_create(&thread, NULL, read_blob, (void *)"blob");
    fake_wait_at_latch(1);
    for (int i = 0; i < 50; i++) {
        read_whole("fast", buf, sizeof buf, 5);
        assert_int_equal(mkdir(path("d"), 0755), 0);
        assert_int_equal(rmdir(path("d")), 0);
    }
    fake_open_latch();
    void *result;
    pthread_join(thread, &result);
    assert_int_equal((intptr_t)result, 16);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_int_equal(counters.reads_async, 1);
    fs_session_stop(session); // nobody uses the descriptors any more
    close(backing);
    close(plain);
}

// ---- invalidation ------------------------------------------------------------------------

static void test_invalidations_are_delivered(void **state)
{
    (void)state;
    struct stat st;
    char buf[16];
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    read_whole("f", buf, sizeof buf, 5);
    assert_int_equal(stat(path("absent"), &st), -1);
    // Content, behind the kernel's back.
    FAKE_WITH(node, nodeid, memcpy(node->data, "HELLO", 5));
    read_whole("f", buf, sizeof buf, 5);
    assert_memory_equal(buf, "hello", 5);
    fake.notifier->inval_inode(fake.notifier_arg, nodeid, 0, 0);
    fs_invalidate_flush(session, FAKE_SANDBOX);
    read_whole("f", buf, sizeof buf, 5);
    assert_memory_equal(buf, "HELLO", 5);
    // A name that was cached as absent.
    fake_add(view, "absent", S_IFREG | 0644, NULL);
    fake.notifier->inval_entry(fake.notifier_arg, view, "absent", 6);
    fs_invalidate_flush(session, FAKE_SANDBOX);
    assert_int_equal(stat(path("absent"), &st), 0);
    // A name that is another object now, while the old one stays open.
    int fd = open(path("f"), O_RDONLY);
    FAKE_WITH(node, nodeid, snprintf(node->name, AF_NAME_MAX, "elsewhere"));
    fake_add(view, "f", S_IFREG | 0644, "other");
    fake.notifier->expire_entry(fake.notifier_arg, view, "f", 1);
    fs_invalidate_flush(session, FAKE_SANDBOX);
    read_whole("f", buf, sizeof buf, 5);
    assert_memory_equal(buf, "other", 5);
    assert_int_equal(pread(fd, buf, 5, 0), 5);
    assert_memory_equal(buf, "HELLO", 5);
    close(fd);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_int_equal(counters.invalidations, 3);
    assert_int_equal(counters.invalidations_lost, 0);
}

// Somebody has it open, so the kernel knows it until then by the name that it had.
static void test_a_directory_in_use_that_others_moved_is_known_by_its_new_name(void **state)
{
    (void)state;
    char link[32], now[PATH_BYTES] = "", new_path[PATH_BYTES];
    uint64_t mine = fake_add(MUX_NODEID_TOP, FAKE_SANDBOX, S_IFDIR | 0755, NULL);
    uint64_t from = fake_add(mine, "from", S_IFDIR | 0755, NULL);
    uint64_t used = fake_add(from, "used", S_IFDIR | 0755, NULL);
    uint64_t unused = fake_add(from, "unused", S_IFDIR | 0755, NULL);
    struct stat st;
    assert_int_equal(stat(path("../" FAKE_SANDBOX "/from/unused"), &st), 0);
    int fd = open(path("../" FAKE_SANDBOX "/from/used"), O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    FAKE_WITH(node, used, node->parent = mine);
    FAKE_WITH(node, unused, node->parent = mine);
    fake.notifier->moved_directory(fake.notifier_arg, from, "unused", 6, unused);
    fake.notifier->moved_directory(fake.notifier_arg, from, "used", 4, used);
    fs_invalidate_flush(session, FAKE_SANDBOX);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    assert_true(readlink(link, now, sizeof now - 1) > 0);
    snprintf(new_path, sizeof new_path, "%s/" FAKE_SANDBOX "/used", mountpoint);
    assert_string_equal(now, new_path);
    close(fd);
    const struct mux_notifier *notifier = fake.notifier;
    assert_int_equal(notifier->drop_inode_now(fake.notifier_arg, used, -1, 0), 0);
    assert_int_equal(notifier->drop_inode_now(fake.notifier_arg, unused, -1, 0), -ENOENT);
}

// ---- the end -----------------------------------------------------------------------------

static void test_description_says_what_is_in_use(void **state)
{
    (void)state;
    char text[512];
    fs_session_describe(session, text, sizeof text);
    bool ring = strstr(text, "transport io_uring (") != NULL;
    assert_int_equal(ring, transport == FS_TRANSPORT_IO_URING);
    assert_non_null(strstr(text, "open policy kernel"));
    assert_non_null(strstr(text, "read-ahead 1024 KiB"));
}

static void *read_slowly(void *arg)
{
    char buf[16];
    int fd = open(path(arg), O_RDONLY);
    ssize_t n = read(fd, buf, sizeof buf);
    return (void *)(n < 0 ? -(intptr_t)errno : (intptr_t)fd);
}

static void test_stop_while_busy_does_not_hang(void **state)
{
    (void)state;
    fake_add(view, "f", S_IFREG | 0644, "hello");
    uint64_t slow = fake_add(view, "slow", S_IFREG | 0644, "in time");
    int fd = open(path("f"), O_RDWR);
    int dir = open(path("."), O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0 && dir >= 0);
    FAKE_WITH(node, slow, node->slow = true);
    fake_close_latch();
    pthread_t thread;
    pthread_create(&thread, NULL, read_slowly, (void *)"slow");
    fake_wait_at_latch(1);
    fake_open_latch();
    assert_true(fs_session_is_serving(session));
    fs_session_stop(session);
    assert_false(fs_session_is_serving(session));
    void *result;
    pthread_join(thread, &result);
    if ((intptr_t)result > 0)
        close((int)(intptr_t)result);
    struct pollfd poll_end = {.fd = fs_session_end_fd(session), .events = POLLIN};
    assert_int_equal(poll(&poll_end, 1, 0), 1);
    struct stat st;
    assert_int_equal(fstatat(dir, "absent", &st, 0), -1);
    assert_int_equal(errno, ENOTCONN);
    assert_int_equal(write(fd, "x", 1), -1);
    close(fd);
    close(dir);
    struct fs_mount mount;
    assert_int_equal(fs_mount_find(mountpoint, &mount), 0);
}

static void test_unmounting_from_outside_is_noticed(void **state)
{
    (void)state;
    assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
    struct pollfd poll_end = {.fd = fs_session_end_fd(session), .events = POLLIN};
    assert_int_equal(poll(&poll_end, 1, 10000), 1);
    assert_false(fs_session_is_serving(session));
}

static void test_a_second_session_on_the_same_path_is_refused(void **state)
{
    (void)state;
    struct fs_session *second;
    struct af_error err;
    struct mux *other = calloc(1, sizeof *other); // it must not take our notifier
    struct fs_options options = {.mux = other, .mountpoint = mountpoint, .transport = transport};
    assert_int_equal(fs_session_new(&options, &second, &err), 0);
    assert_int_equal(fs_session_start(second, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    fs_session_free(second);
    free(other);
    struct stat st;
    assert_int_equal(stat(path("."), &st), 0);
}

static int run(const char *group)
{
    const struct CMUnitTest tests[] = {
        MOUNTED(test_slow_operations_do_not_block_others),
        MOUNTED(test_slow_arguments_survive),
        MOUNTED(test_slow_names_survive_later_requests),
        MOUNTED(test_cold_backing_file_is_read_asynchronously),
        MOUNTED(test_reads_that_wait_for_a_disk_do_not_block_others),
        MOUNTED(test_invalidations_are_delivered),
        MOUNTED(test_a_directory_in_use_that_others_moved_is_known_by_its_new_name),
        MOUNTED(test_description_says_what_is_in_use),
        MOUNTED(test_stop_while_busy_does_not_hang),
        MOUNTED(test_unmounting_from_outside_is_noticed),
        MOUNTED(test_a_second_session_on_the_same_path_is_refused),
    };
    return _cmocka_run_group_tests(group, tests, sizeof tests / sizeof tests[0], NULL, NULL);
}

int main(void)
{
    return run_over_transports(run);
}
