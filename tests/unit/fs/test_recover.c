// Tests of recovery: a daemon is killed while it holds a mount with open files and a request in
// flight; the next start must end the dead connection and unmount it, whatever is stacked there.
// Needs root and /dev/fuse.
#include "tests/unit/fs/fake_mux.h"

#include "fs/fs.h"
#include "fs/session_priv.h"
#include "mux/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char mountpoint[64];

static int setup(void **state)
{
    (void)state;
    snprintf(mountpoint, sizeof mountpoint, "/tmp/af-fs-rec-XXXXXX");
    return mkdtemp(mountpoint) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(mountpoint);
}

// A child that serves the mount until it is killed; it says so through the pipe.
static pid_t start_daemon(enum fs_transport transport, int ready)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct fs_session *session;
    struct af_error err;
    fake_reset();
    uint64_t view = fake_add(MUX_NODEID_TOP, "v", S_IFDIR | 0755, NULL);
    fake_add(view, "f", S_IFREG | 0644, "hello");
    fake_get(fake_add(view, "slow", S_IFREG | 0644, "never"))->slow = true;
    fake_close_latch();
    struct fs_options options = {.mux = &fake, .mountpoint = mountpoint, .transport = transport};
    if (fs_session_new(&options, &session, &err) != 0 || fs_session_start(session, &err) != 0)
        _exit(1);
    // Somebody else may still hold the device, so that the connection does not end by itself.
    pid_t keeper = fork();
    if (keeper == 0)
        for (;;)
            pause();
    if (write(ready, &keeper, sizeof keeper) != sizeof keeper)
        _exit(1);
    fake_wait_at_latch(1); // somebody reads "slow"
    if (write(ready, "r", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static pid_t start_reader(void)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    char path[128], buf[8];
    snprintf(path, sizeof path, "%s/v/slow", mountpoint);
    int fd = open(path, O_RDONLY);
    _exit(fd >= 0 && read(fd, buf, sizeof buf) < 0 ? 7 : 1); // an error, not a hang
}

static void kill_and_recover(enum fs_transport transport)
{
    int ready[2];
    char byte, path[128];
    struct af_error err = {0};
    unsigned count = 99;
    pid_t keeper;
    assert_int_equal(pipe(ready), 0);
    pid_t daemon = start_daemon(transport, ready[1]);
    assert_int_equal(read(ready[0], &keeper, sizeof keeper), sizeof keeper);
    snprintf(path, sizeof path, "%s/v/f", mountpoint);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    pid_t reader = start_reader();
    assert_int_equal(read(ready[0], &byte, 1), 1);
    kill(daemon, SIGKILL);
    assert_int_equal(waitpid(daemon, NULL, 0), daemon);
    struct fs_mount mount;
    assert_int_equal(fs_mount_find(mountpoint, &mount), 1);
    assert_true(mount.is_ours);

    assert_int_equal(fs_recover(mountpoint, &count, &err), 0);
    assert_int_equal(count, 1);
    int status;
    assert_int_equal(waitpid(reader, &status, 0), reader);
    kill(keeper, SIGKILL);
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_int_equal(fs_mount_find(mountpoint, &mount), 0);
    assert_int_equal(write(fd, "x", 1), -1);
    close(fd);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(fs_recover(mountpoint, &count, &err), 0); // nothing there: fine
    assert_int_equal(count, 0);
}

static void test_recover_after_kill_over_dev_fuse(void **state)
{
    (void)state;
    kill_and_recover(FS_TRANSPORT_DEV_FUSE);
}

static void test_recover_after_kill_over_io_uring(void **state)
{
    (void)state;
    struct fs_transport_state transport;
    struct af_error err;
    if (fs_transport_choose(&transport, FS_TRANSPORT_IO_URING, &err) != 0) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    kill_and_recover(FS_TRANSPORT_IO_URING);
}

// ---- a daemon that cannot end

// A daemon that has claimed the mountpoint, with a READ of "slow" under way, that takes back the
// pages of "slow": the notifier waits for the page that the READ has locked.
static pid_t start_stuck_daemon(int ready, bool guarded)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct fs_session *session;
    struct af_error err;
    int lock;
    fake_reset();
    uint64_t view = fake_add(MUX_NODEID_TOP, "v", S_IFDIR | 0755, NULL);
    uint64_t slow = fake_add(view, "slow", S_IFREG | 0644, "never");
    fake_get(slow)->slow = true;
    fake_close_latch();
    struct fs_options options = {
        .mux = &fake, .mountpoint = mountpoint, .transport = FS_TRANSPORT_DEV_FUSE};
    if (fs_lock_mountpoint(mountpoint, &lock, &err) != 0 ||
        fs_session_new(&options, &session, &err) != 0 || fs_session_start(session, &err) != 0 ||
        (guarded && fs_session_guard(session, &err) != 0))
        _exit(1);
    if (write(ready, "m", 1) != 1)
        _exit(1);
    fake_wait_at_latch(1); // somebody reads "slow"
    fs_invalidate_inode(session, slow, 0, 0);
    if (write(ready, "r", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static bool has_thread_in_state(pid_t pid, char state)
{
    char command[128];
    snprintf(command, sizeof command, "grep -qs 'State:.%c' /proc/%d/task/*/status", state,
             (int)pid);
    return system(command) == 0;
}

static void wait_for_state(pid_t pid, char state)
{
    int64_t end_ns = af_monotonic_ns() + 60 * AF_NS_PER_SEC;
    while (!has_thread_in_state(pid, state)) {
        if (af_monotonic_ns() > end_ns) {
            kill(pid, SIGKILL);
            fail_msg("no thread in state %c", state);
        }
        usleep(1000); // from one look to the next
    }
}

static void test_a_killed_daemon_that_waits_for_its_own_mount_is_let_go(void **state)
{
    (void)state;
    int ready[2], lock, status;
    char byte;
    struct af_error err = {0};
    assert_int_equal(pipe(ready), 0);
    pid_t daemon = start_stuck_daemon(ready[1], false);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    pid_t reader = start_reader();
    assert_int_equal(read(ready[0], &byte, 1), 1);
    wait_for_state(daemon, 'D'); // waits in the kernel, uninterruptibly
    fs_end_dying(mountpoint);    // it lives: nothing is done to it
    assert_int_equal(fs_lock_mountpoint(mountpoint, &lock, &err), -1);
    assert_int_equal(waitpid(reader, NULL, WNOHANG), 0);
    kill(daemon, SIGKILL);
    wait_for_state(daemon, 'Z'); // its first one
    fs_end_dying(mountpoint);
    assert_int_equal(fs_lock_mountpoint(mountpoint, &lock, &err), 0);
    assert_int_equal(waitpid(daemon, NULL, 0), daemon);
    assert_int_equal(waitpid(reader, &status, 0), reader);
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_int_equal(fs_recover(mountpoint, NULL, &err), 0);
    fs_unlock_mountpoint(mountpoint, lock);
    close(ready[0]);
    close(ready[1]);
}

static void test_a_guarded_daemon_that_is_killed_ends_and_so_does_who_waits_for_it(void **state)
{
    (void)state;
    int ready[2], lock, status;
    char byte;
    struct af_error err = {0};
    assert_int_equal(pipe(ready), 0);
    pid_t daemon = start_stuck_daemon(ready[1], true);
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    pid_t reader = start_reader();
    assert_int_equal(read(ready[0], &byte, 1), 1);
    wait_for_state(daemon, 'D');
    kill(daemon, SIGKILL);
    assert_int_equal(waitpid(daemon, NULL, 0), daemon);
    assert_int_equal(waitpid(reader, &status, 0), reader);
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_int_equal(read(ready[0], &byte, 1), 0); // the guard has none of its files
    assert_int_equal(fs_lock_mountpoint(mountpoint, &lock, &err), 0);
    assert_int_equal(fs_recover(mountpoint, NULL, &err), 0);
    fs_unlock_mountpoint(mountpoint, lock);
    close(ready[0]);
}

// Mounts FUSE with nobody behind it, as a killed daemon leaves it.
static void mount_dead(const char *type)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char data[128];
    snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    assert_int_equal(mount("x", mountpoint, type, MS_NOSUID | MS_NODEV, data), 0);
    close(fd);
}

static void test_stacked_mounts_are_all_removed(void **state)
{
    (void)state;
    unsigned count;
    struct af_error err = {0};
    mount_dead(FS_TYPE);
    mount_dead(FS_TYPE);
    mount_dead(FS_TYPE);
    assert_int_equal(fs_recover(mountpoint, &count, &err), 0);
    assert_int_equal(count, 3);
    // Ours on top of something else: ours goes, the other stays.
    assert_int_equal(mount("x", mountpoint, "tmpfs", 0, NULL), 0);
    mount_dead(FS_TYPE);
    assert_int_equal(fs_recover(mountpoint, &count, &err), -1); // the tmpfs is not ours
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "tmpfs"));
    struct fs_mount mount;
    assert_int_equal(fs_mount_find(mountpoint, &mount), 1);
    assert_string_equal(mount.type, "tmpfs");
    assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
}

// Returns the device's descriptor, from which the first request can be read while it is alive.
static int mount_alive(unsigned *minor)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    char data[128];
    struct fs_mount found;
    snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    assert_int_equal(mount("x", mountpoint, FS_TYPE, MS_NOSUID | MS_NODEV, data), 0);
    assert_int_equal(fs_mount_find(mountpoint, &found), 1);
    *minor = found.minor;
    return fd;
}

static void test_a_late_guard_aborts_no_mount_that_came_after(void **state)
{
    (void)state;
    static char request[1 << 18];
    unsigned first, minor;
    int fd = mount_alive(&first);
    int abort_fd = fs_mount_open_abort(first);
    assert_true(abort_fd >= 0);
    for (int i = 0; i < 64; i++) { // until the number is used again
        assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
        close(fd);
        fd = mount_alive(&minor);
        if (minor == first)
            break;
    }
    assert_int_equal(minor, first);
    assert_true(write(abort_fd, "1", 1) <= 1);
    assert_true(read(fd, request, sizeof request) > 0);
    close(abort_fd);
    abort_fd = fs_mount_open_abort(minor);
    assert_int_equal(write(abort_fd, "1", 1), 1);
    assert_int_equal(read(fd, request, sizeof request), -1);
    assert_int_equal(errno, ENODEV);
    assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
    close(abort_fd);
    close(fd);
}

static void test_foreign_fuse_mounts_are_left_alone(void **state)
{
    (void)state;
    struct af_error err = {0};
    mount_dead("fuse.somebody");
    assert_int_equal(fs_recover(mountpoint, NULL, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "fuse.somebody"));
    assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
}

static void test_paths_are_canonical_without_looking_at_the_mount(void **state)
{
    (void)state;
    char *path = NULL;
    assert_int_equal(fs_mount_canonical("/proc/self/../self/./fd/", &path), 0);
    assert_string_not_equal(path, "/proc/self/../self/./fd/");
    free(path);
    assert_int_equal(fs_mount_canonical("relative", &path), -EINVAL);
    assert_int_equal(fs_mount_canonical("/", &path), -EINVAL);
    assert_int_equal(fs_mount_canonical("/tmp/..", &path), -EINVAL);
    assert_int_equal(fs_mount_canonical("/no/such/parent", &path), -ENOENT);
    assert_int_equal(fs_mount_canonical("/tmp//x y///", &path), 0);
    assert_string_equal(path, "/tmp/x y");
    free(path);
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(test_recover_after_kill_over_dev_fuse),
        FRESH(test_recover_after_kill_over_io_uring),
        FRESH(test_stacked_mounts_are_all_removed),
        FRESH(test_foreign_fuse_mounts_are_left_alone),
        FRESH(test_a_killed_daemon_that_waits_for_its_own_mount_is_let_go),
        FRESH(test_a_guarded_daemon_that_is_killed_ends_and_so_does_who_waits_for_it),
        FRESH(test_a_late_guard_aborts_no_mount_that_came_after),
        cmocka_unit_test(test_paths_are_canonical_without_looking_at_the_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
