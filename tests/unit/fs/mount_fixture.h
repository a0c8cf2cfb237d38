// A session over a real mount with the fake mux, for the tests that need the kernel. A header
// like the fake itself. Every test gets a fresh mount; each program runs its tests over /dev/fuse
// and, where there is one, over io_uring. Needs root and /dev/fuse.
#ifndef AF_TESTS_FS_MOUNT_FIXTURE_H
#define AF_TESTS_FS_MOUNT_FIXTURE_H

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
static enum fs_open_policy policy;
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
    struct fs_options options = {
        .mux = &fake,
        .mountpoint = mountpoint,
        .transport = transport,
        .open_policy = policy,
        .passthrough_bytes = 4096,
    };
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

// A path below the view; the buffer is the thread's and holds until the next call.
enum { PATH_BYTES = 512 };
static __attribute__((unused)) const char *path(const char *name)
{
    static __thread char ret[PATH_BYTES];
    snprintf(ret, sizeof ret, "%s/v/%s", mountpoint, name);
    return ret;
}

static __attribute__((unused)) uint64_t requests(void)
{
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    uint64_t sum = 0;
    for (int i = 0; i < FS_OP_COUNT; i++)
        if (i != FS_OP_FORGET)
            sum += counters.op[i].requests;
    return sum;
}

static __attribute__((unused)) uint64_t requests_of(enum fs_op op)
{
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    return counters.op[op].requests;
}

static __attribute__((unused)) void read_whole(const char *name, char *buf, size_t size,
                                               ssize_t expected)
{
    int fd = open(path(name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, size), expected);
    close(fd);
}

static __attribute__((unused)) int list_dir(const char *name)
{
    DIR *dir = opendir(name);
    assert_non_null(dir);
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

#define MOUNTED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

// Runs the group over each transport that this machine has.
static int run_over_transports(int (*run)(const char *group))
{
    struct fs_transport_state state;
    struct af_error err;
    transport = FS_TRANSPORT_DEV_FUSE;
    int failed = run("over /dev/fuse");
    transport = FS_TRANSPORT_IO_URING;
    if (fs_transport_choose(&state, transport, &err) == 0)
        failed += run("over io_uring");
    else
        print_message("not run over io_uring: %s\n", err.text);
    return failed;
}

#endif
