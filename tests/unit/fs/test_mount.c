// Tests of fs over a real mount, with a fake mux: requests per operation, slow operations,
// invalidation, asynchronous reads, stopping while busy. Needs root and /dev/fuse.
// Every test runs over io_uring and over /dev/fuse; see main.
#include "tests/unit/fs/fake_mux.h"

#include "fs/fs.h"
#include "fs/session_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static enum fs_transport transport;
static char mountpoint[64];
static struct fs_session *session;
static uint64_t view; // the nodeid of <mount>/v

static int setup(void **state)
{
    (void)state;
    fake_reset();
    view = fake_add(MUX_NODEID_TOP, "v", S_IFDIR | 0755, NULL);
    snprintf(mountpoint, sizeof mountpoint, "/tmp/af-fs-test-XXXXXX");
    if (!mkdtemp(mountpoint))
        return -1;
    struct af_error err = {0};
    struct fs_options options = {.mux = &fake, .mountpoint = mountpoint, .transport = transport};
    if (fs_session_new(&options, &session, &err) != 0 || fs_session_start(session, &err) != 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fs_session_free(session);
    session = NULL;
    return rmdir(mountpoint);
}

static const char *path(const char *name)
{
    static __thread char ret[512];
    snprintf(ret, sizeof ret, "%s/v/%s", mountpoint, name);
    return ret;
}

static uint64_t requests(void)
{
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    uint64_t sum = 0;
    for (int i = 0; i < FS_OP_COUNT; i++)
        if (i != FS_OP_FORGET)
            sum += counters.op[i].requests;
    return sum;
}

static uint64_t requests_of(enum fs_op op)
{
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    return counters.op[op].requests;
}

static void read_whole(const char *name, char *buf, size_t size, ssize_t expected)
{
    int fd = open(path(name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, size), expected);
    close(fd);
}

static int list_dir(const char *name)
{
    DIR *dir = opendir(name);
    assert_non_null(dir);
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

// ---- what each operation costs -----------------------------------------------------------

static void test_warm_open_read_close_costs_no_request(void **state)
{
    (void)state;
    char buf[16];
    fake_add(view, "f", S_IFREG | 0644, "hello");
    read_whole("f", buf, sizeof buf, 5);
    read_whole("f", buf, sizeof buf, 5); // the first read made the atime unsure
    uint64_t before = requests();
    for (int i = 0; i < 100; i++)
        read_whole("f", buf, sizeof buf, 5);
    assert_int_equal(requests() - before, 0);
    assert_memory_equal(buf, "hello", 5);
}

static void test_warm_stat_costs_no_request(void **state)
{
    (void)state;
    struct stat st;
    fake_add(view, "f", S_IFREG | 0644, "hello");
    assert_int_equal(stat(path("f"), &st), 0);
    uint64_t before = requests();
    for (int i = 0; i < 100; i++)
        assert_int_equal(stat(path("f"), &st), 0);
    assert_int_equal(requests() - before, 0);
}

static void test_absent_name_costs_one_request(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(path("absent"), &st), -1);
    uint64_t before = requests();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(stat(path("absent"), &st), -1);
        assert_int_equal(errno, ENOENT);
    }
    assert_int_equal(requests() - before, 0);
}

static void test_warm_readdir_costs_no_request(void **state)
{
    (void)state;
    char name[32], dir[128];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "file-%03d", i);
        fake_add(view, name, S_IFREG | 0644, NULL);
    }
    snprintf(dir, sizeof dir, "%s/v", mountpoint);
    assert_int_equal(list_dir(dir), 102);
    assert_int_equal(list_dir(dir), 102);
    uint64_t before = requests();
    for (int i = 0; i < 10; i++)
        assert_int_equal(list_dir(dir), 102);
    assert_int_equal(requests() - before, 0);
}

static void test_create_write_close_costs_three_requests(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(path("."), &st), 0);
    uint64_t before = requests();
    int fd = open(path("new"), O_CREAT | O_WRONLY | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(requests_of(FS_OP_CREATE), 1);
    // LOOKUP, CREATE, WRITE; GETATTR for the file's capability check is not needed.
    assert_in_range(requests() - before, 3, 4);
    assert_int_equal(requests_of(FS_OP_RELEASE), 0);
    // Refused for good while priming; the counts never move again.
    assert_int_equal(requests_of(FS_OP_OPEN), 1);
    assert_int_equal(requests_of(FS_OP_OPENDIR), 1);
    assert_int_equal(requests_of(FS_OP_FLUSH), 1);
}

static void test_symlink_target_is_cached(void **state)
{
    (void)state;
    char buf[64];
    fake_add(view, "l", S_IFLNK | 0777, "target");
    assert_int_equal(readlink(path("l"), buf, sizeof buf), 6);
    uint64_t before = requests();
    assert_int_equal(readlink(path("l"), buf, sizeof buf), 6);
    assert_memory_equal(buf, "target", 6);
    assert_int_equal(requests() - before, 0);
}

// ---- semantics ---------------------------------------------------------------------------

static void test_open_with_o_trunc_truncates(void **state)
{
    (void)state;
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    int fd = open(path("f"), O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(fake_stat(nodeid).st_size, 0);
}

static void test_create_of_a_name_made_behind_the_kernel_opens_it(void **state)
{
    (void)state;
    struct stat st;
    char buf[8];
    assert_int_equal(stat(path("f"), &st), -1); // now cached as absent
    fake_add(view, "f", S_IFREG | 0644, "there");
    int fd = open(path("f"), O_CREAT | O_RDWR, 0644);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, sizeof buf), 5);
    close(fd);
}

static void test_long_names_are_refused(void **state)
{
    (void)state;
    char name[300];
    struct stat st;
    memset(name, 'x', sizeof name);
    name[256] = '\0';
    assert_int_equal(stat(path(name), &st), -1);
    assert_int_equal(errno, ENAMETOOLONG);
    assert_int_equal(mkdir(path(name), 0755), -1);
    assert_int_equal(errno, ENAMETOOLONG);
    name[255] = '\0';
    assert_int_equal(mkdir(path(name), 0755), 0);
}

static void test_a_view_that_is_gone_is_estale(void **state)
{
    (void)state;
    struct stat st;
    uint64_t nodeid = fake_add(view, "d", S_IFDIR | 0755, NULL);
    int dir = open(path("d"), O_RDONLY | O_DIRECTORY);
    assert_true(dir >= 0);
    FAKE_WITH(node, nodeid, node->stale = true);
    assert_int_equal(fstatat(dir, "x", &st, 0), -1);
    assert_int_equal(errno, ESTALE);
    close(dir);
}

static void test_names_come_and_go(void **state)
{
    (void)state;
    char to[256];
    assert_int_equal(mkdir(path("d"), 0755), 0);
    assert_int_equal(symlink("some/where", path("d/l")), 0);
    assert_int_equal(mkfifo(path("d/fifo"), 0600), 0);
    snprintf(to, sizeof to, "%s", path("d/fifo2"));
    assert_int_equal(rename(path("d/fifo"), to), 0);
    assert_int_equal(syscall(SYS_renameat2, AT_FDCWD, path("d/l"), AT_FDCWD, to, RENAME_NOREPLACE),
                     -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(unlink(path("d/l")), 0);
    assert_int_equal(unlink(path("d/fifo2")), 0);
    assert_int_equal(rmdir(path("d")), 0);
}

static void test_refused_operations_have_sane_errors(void **state)
{
    (void)state;
    char to[256];
    char byte;
    fake_add(view, "f", S_IFREG | 0644, "hello");
    snprintf(to, sizeof to, "%s", path("g"));
    assert_int_equal(link(path("f"), to), -1);
    assert_int_equal(errno, EPERM);
    int fd = open(path("f"), O_RDWR);
    assert_int_equal(fallocate(fd, 0, 0, 10), -1);
    assert_int_equal(errno, EOPNOTSUPP);
    assert_int_equal(lseek(fd, 0, SEEK_HOLE), 5); // the kernel's own answer
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(read(fd, &byte, 1), 1);
    assert_int_equal(flock(fd, LOCK_EX), 0); // local to the kernel
    close(fd);
    assert_int_equal(open(path("."), O_TMPFILE | O_RDWR, 0600), -1);
    assert_int_equal(errno, EOPNOTSUPP);
}

static void test_statfs(void **state)
{
    (void)state;
    struct statvfs st;
    assert_int_equal(statvfs(path("."), &st), 0);
    assert_int_equal(st.f_bfree, 500);
    assert_int_equal(st.f_namemax, 255);
}

static void test_suid_is_cleared_by_a_write(void **state)
{
    (void)state;
#if FS_FUSE_KILLPRIV_RELIABLE
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 04777, "hello");
    pid_t pid = fork();
    if (pid == 0) {
        if (setresuid(65534, 65534, 65534) != 0)
            _exit(2);
        int fd = open(path("f"), O_WRONLY);
        _exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(fake_stat(nodeid).st_mode & 07777, 0777);
#else
    skip();
#endif
}

static void test_large_writes_and_reads(void **state)
{
    (void)state;
    size_t size = 3 << 20;
    char *data = malloc(size), *back = malloc(size);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i * 7 + i / 4096);
    int fd = open(path("big"), O_CREAT | O_RDWR, 0644);
    assert_int_equal(write(fd, data, size), size);
    assert_int_equal(requests_of(FS_OP_WRITE), 3); // 1 MiB each
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(pread(fd, back, size, 0), size);
    assert_memory_equal(data, back, size);
    close(fd);
    free(data);
    free(back);
}

static void test_mmap_stores_arrive_as_writes(void **state)
{
    (void)state;
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    int fd = open(path("f"), O_RDWR);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    map[0] = 'J';
    assert_int_equal(msync(map, 4096, MS_SYNC), 0);
    FAKE_WITH(node, nodeid, assert_memory_equal(node->data, "Jello", 5));
    munmap(map, 4096);
    close(fd);
}

// ---- slow operations ---------------------------------------------------------------------

struct write_arg {
    char file[256];
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
    char to[256];
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
    fs_invalidate_flush(session);
    read_whole("f", buf, sizeof buf, 5);
    assert_memory_equal(buf, "HELLO", 5);
    // A name that was cached as absent.
    fake_add(view, "absent", S_IFREG | 0644, NULL);
    fake.notifier->inval_entry(fake.notifier_arg, view, "absent", 6);
    fs_invalidate_flush(session);
    assert_int_equal(stat(path("absent"), &st), 0);
    // A name that is another object now, while the old one stays open.
    int fd = open(path("f"), O_RDONLY);
    FAKE_WITH(node, nodeid, snprintf(node->name, AF_NAME_MAX, "elsewhere"));
    fake_add(view, "f", S_IFREG | 0644, "other");
    fake.notifier->expire_entry(fake.notifier_arg, view, "f", 1);
    fs_invalidate_flush(session);
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

#define MOUNTED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static int run(const char *group)
{
    const struct CMUnitTest tests[] = {
        MOUNTED(test_warm_open_read_close_costs_no_request),
        MOUNTED(test_warm_stat_costs_no_request),
        MOUNTED(test_absent_name_costs_one_request),
        MOUNTED(test_warm_readdir_costs_no_request),
        MOUNTED(test_create_write_close_costs_three_requests),
        MOUNTED(test_symlink_target_is_cached),
        MOUNTED(test_open_with_o_trunc_truncates),
        MOUNTED(test_create_of_a_name_made_behind_the_kernel_opens_it),
        MOUNTED(test_long_names_are_refused),
        MOUNTED(test_a_view_that_is_gone_is_estale),
        MOUNTED(test_names_come_and_go),
        MOUNTED(test_refused_operations_have_sane_errors),
        MOUNTED(test_statfs),
        MOUNTED(test_suid_is_cleared_by_a_write),
        MOUNTED(test_large_writes_and_reads),
        MOUNTED(test_mmap_stores_arrive_as_writes),
        MOUNTED(test_slow_operations_do_not_block_others),
        MOUNTED(test_slow_arguments_survive),
        MOUNTED(test_cold_backing_file_is_read_asynchronously),
        MOUNTED(test_reads_that_wait_for_a_disk_do_not_block_others),
        MOUNTED(test_invalidations_are_delivered),
        MOUNTED(test_description_says_what_is_in_use),
        MOUNTED(test_stop_while_busy_does_not_hang),
        MOUNTED(test_unmounting_from_outside_is_noticed),
        MOUNTED(test_a_second_session_on_the_same_path_is_refused),
    };
    return _cmocka_run_group_tests(group, tests, sizeof tests / sizeof tests[0], NULL, NULL);
}

int main(void)
{
    transport = FS_TRANSPORT_DEV_FUSE;
    int failed = run("fs over /dev/fuse");
    struct fs_transport_state state;
    struct af_error err;
    transport = FS_TRANSPORT_IO_URING;
    if (fs_transport_choose(&state, transport, &err) == 0)
        failed += run("fs over io_uring");
    else
        print_message("[  SKIPPED ] fs over io_uring: %s\n", err.text);
    return failed;
}
