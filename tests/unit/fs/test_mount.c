// Tests of fs over a real mount, with a fake mux: requests per operation, and what programs see.
#include "tests/unit/fs/mount_fixture.h"

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
    char to[PATH_BYTES];
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
    char to[PATH_BYTES];
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
    print_message("skipped: needs libfuse >= 3.18 and its FUSE_HANDLE_KILLPRIV_V2\n");
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
    bool has_ring = fs_transport_is_ring(&session->transport);
    assert_int_equal(requests_of(FS_OP_WRITE), has_ring ? 12 : 3);
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
    };
    return _cmocka_run_group_tests(group, tests, sizeof tests / sizeof tests[0], NULL, NULL);
}

int main(void)
{
    return run_over_transports(run);
}
