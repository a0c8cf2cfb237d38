// The `server` open policy over a real mount: who is asked, and what is passed through.
#include "tests/unit/fs/mount_fixture.h"

#define LARGE 65536

static int blob = -1;

// Whether this kernel and libfuse pass anything through.
static bool passes(void)
{
    return !atomic_load(&session->no_passthrough);
}

static int open_policy_setup(void **state)
{
    policy = FS_OPEN_SERVER;
    char *text = malloc(LARGE);
    blob = memfd_create("blob", MFD_CLOEXEC);
    if (!text || blob < 0)
        return -1;
    memset(text, 'b', LARGE);
    bool written = write(blob, text, LARGE) == LARGE;
    free(text);
    return written ? setup(state) : -1;
}

static int open_policy_teardown(void **state)
{
    int rc = teardown(state);
    close(blob);
    return rc;
}

static uint64_t add_fixed(const char *name, off_t size)
{
    uint64_t nodeid = fake_add_blob(view, name, blob, size);
    fake_fix(nodeid);
    return nodeid;
}

static void wait_until_released(unsigned count)
{
    while (requests_of(FS_OP_RELEASE) < count)
        sched_yield();
}

static void test_each_open_is_asked_and_no_flush_is(void **state)
{
    (void)state;
    char buf[16];
    fake_add(view, "f", S_IFREG | 0644, "hello");
    uint64_t before = requests_of(FS_OP_OPEN);
    for (int i = 0; i < 10; i++)
        read_whole("f", buf, sizeof buf, 5);
    assert_int_equal(requests_of(FS_OP_OPEN) - before, 10);
    assert_int_equal(requests_of(FS_OP_FLUSH), 0);
    assert_int_equal(requests_of(FS_OP_READ), 1); // what it has read stays
}

static void test_a_refused_open_fails_with_that_error(void **state)
{
    (void)state;
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    fake_refuse_opens(nodeid, -EACCES);
    assert_int_equal(open(path("f"), O_RDONLY), -1);
    assert_int_equal(errno, EACCES);
    fake_refuse_opens(nodeid, 0);
    char buf[16];
    read_whole("f", buf, sizeof buf, 5);
}

static void test_a_listing_is_asked_for_and_then_cached(void **state)
{
    (void)state;
    char dir[128];
    fake_add(view, "f", S_IFREG | 0644, "hello");
    snprintf(dir, sizeof dir, "%s/v", mountpoint);
    assert_int_equal(list_dir(dir), 3);
    assert_int_equal(list_dir(dir), 3);
    uint64_t listed = requests_of(FS_OP_READDIR) + requests_of(FS_OP_READDIRPLUS);
    uint64_t opened = requests_of(FS_OP_OPENDIR);
    assert_int_equal(list_dir(dir), 3);
    assert_int_equal(requests_of(FS_OP_READDIR) + requests_of(FS_OP_READDIRPLUS), listed);
    assert_int_equal(requests_of(FS_OP_OPENDIR), opened + 1);
}

static void test_content_that_never_changes_is_read_without_us(void **state)
{
    (void)state;
    char buf[LARGE + 1];
    add_fixed("big", LARGE);
    for (int i = 0; i < 3; i++) {
        int fd = open(path("big"), O_RDONLY);
        int other = open(path("big"), O_RDONLY);
        assert_true(fd >= 0 && other >= 0);
        assert_int_equal(read(fd, buf, sizeof buf), LARGE);
        assert_int_equal(buf[LARGE - 1], 'b');
        close(fd);
        assert_int_equal(pread(other, buf, 10, LARGE - 10), 10);
        close(other);
    }
    if (passes())
        assert_int_equal(requests_of(FS_OP_READ), 0);
    wait_until_released(6);
}

static void test_bytes_behind_the_end_do_not_come_to_light(void **state)
{
    (void)state;
    char buf[LARGE];
    add_fixed("cut", LARGE / 2);
    read_whole("cut", buf, sizeof buf, LARGE / 2);
    assert_true(requests_of(FS_OP_READ) > 0);
}

static void test_what_is_small_or_may_change_is_read_by_requests(void **state)
{
    (void)state;
    char buf[LARGE];
    fake_add_blob(view, "own", blob, LARGE);
    read_whole("own", buf, sizeof buf, LARGE);
    uint64_t reads = requests_of(FS_OP_READ);
    assert_true(reads > 0);
    fake_fix(fake_add(view, "small", S_IFREG | 0644, "hello"));
    read_whole("small", buf, sizeof buf, 5);
    assert_true(requests_of(FS_OP_READ) > reads);
}

static void *open_and_close(void *arg)
{
    intptr_t failures = 0;
    char buf[16];
    for (int i = 0; i < 300; i++) {
        int fd = open(path(arg), O_RDONLY);
        failures += fd < 0 || read(fd, buf, sizeof buf) != sizeof buf || buf[0] != 'b';
        if (fd >= 0)
            close(fd);
    }
    return (void *)failures;
}

static void test_first_and_last_opens_may_race(void **state)
{
    (void)state;
    pthread_t threads[4];
    add_fixed("big", LARGE);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, "big"), 0);
    for (int i = 0; i < 4; i++) {
        void *failures;
        pthread_join(threads[i], &failures);
        assert_int_equal((intptr_t)failures, 0);
    }
    wait_until_released(1200);
    if (passes())
        assert_int_equal(requests_of(FS_OP_READ), 0);
}

// A stacked file system may not be passed through to.
static void test_what_the_kernel_refuses_is_read_by_requests(void **state)
{
    (void)state;
    char top[] = "/dev/shm/af-passthrough-XXXXXX", data[256], buf[LARGE], name[64];
    assert_non_null(mkdtemp(top));
    static const char *const parts[] = {"lower", "upper", "work", "merged"};
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s/%s", top, parts[i]);
        assert_int_equal(mkdir(name, 0755), 0);
    }
    snprintf(data, sizeof data, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", top, top,
             top);
    assert_int_equal(mount("overlay", name, "overlay", 0, data), 0);
    snprintf(data, sizeof data, "%s/merged/f", top);
    int stacked = open(data, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    memset(buf, 'b', sizeof buf);
    assert_int_equal(write(stacked, buf, sizeof buf), LARGE);
    uint64_t nodeid = fake_add_blob(view, "stacked", stacked, LARGE);
    fake_fix(nodeid);
    for (int i = 0; i < 3; i++)
        read_whole("stacked", buf, sizeof buf, LARGE);
    assert_true(requests_of(FS_OP_READ) > 0);
    wait_until_released(3);
    FAKE_WITH(node, nodeid, node->fd = -1);
    close(stacked);
    assert_int_equal(umount2(name, MNT_DETACH), 0);
    snprintf(data, sizeof data, "rm -rf %s", top);
    assert_int_equal(system(data), 0);
}

static void test_the_end_comes_while_a_file_is_passed_through(void **state)
{
    (void)state;
    add_fixed("big", LARGE);
    int fd = open(path("big"), O_RDONLY);
    assert_true(fd >= 0);
    fs_session_stop(session);
    close(fd);
}

static void test_the_description_says_so(void **state)
{
    (void)state;
    char text[512];
    fs_session_describe(session, text, sizeof text);
    assert_non_null(strstr(text, "open policy server"));
    assert_non_null(strstr(text, passes() ? "from 4 KiB passed through" : "no passthrough: "));
}

#define SERVER(test) cmocka_unit_test_setup_teardown(test, open_policy_setup, open_policy_teardown)

static int run(const char *group)
{
    const struct CMUnitTest tests[] = {
        SERVER(test_each_open_is_asked_and_no_flush_is),
        SERVER(test_a_refused_open_fails_with_that_error),
        SERVER(test_a_listing_is_asked_for_and_then_cached),
        SERVER(test_content_that_never_changes_is_read_without_us),
        SERVER(test_bytes_behind_the_end_do_not_come_to_light),
        SERVER(test_what_is_small_or_may_change_is_read_by_requests),
        SERVER(test_first_and_last_opens_may_race),
        SERVER(test_what_the_kernel_refuses_is_read_by_requests),
        SERVER(test_the_end_comes_while_a_file_is_passed_through),
        SERVER(test_the_description_says_so),
    };
    return cmocka_run_group_tests_name(group, tests, NULL, NULL);
}

int main(void)
{
    return run_over_transports(run);
}
