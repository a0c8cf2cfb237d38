// Reads and writes that go on until all is done.
#include "mux/base/whole.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static int make_file(void)
{
    int fd = memfd_create("whole", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void test_what_was_written_is_read_up_to_the_end(void **state)
{
    (void)state;
    char buf[16];
    int fd = make_file();
    assert_int_equal(af_write_whole(fd, "0123456789", 10, 5), 0);
    assert_int_equal(af_read_whole(fd, buf, 10, 5), 10);
    assert_memory_equal(buf, "0123456789", 10);
    assert_int_equal(af_read_whole(fd, buf, sizeof buf, 12), 3);
    assert_memory_equal(buf, "789", 3);
    assert_int_equal(af_read_whole(fd, buf, sizeof buf, 99), 0);
    assert_int_equal(af_write_whole(fd, NULL, 0, 0), 0);
    close(fd);
}

// The first write is short, for there is room for half of it; the next one says why.
static void test_a_short_write_is_gone_on_with(void **state)
{
    (void)state;
    char buf[16];
    struct rlimit before, five;
    int fd = make_file();
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    five = (struct rlimit){.rlim_cur = 5, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &five), 0);
    int rc = af_write_whole(fd, "0123456789", 10, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, -EFBIG);
    assert_int_equal(af_read_whole(fd, buf, sizeof buf, 0), 5);
    assert_memory_equal(buf, "01234", 5);
    close(fd);
}

static void test_errors_are_told(void **state)
{
    (void)state;
    char byte = 0;
    assert_int_equal(af_read_whole(-1, &byte, 1, 0), -EBADF);
    assert_int_equal(af_write_whole(-1, &byte, 1, 0), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_is_read_up_to_the_end),
        cmocka_unit_test(test_a_short_write_is_gone_on_with),
        cmocka_unit_test(test_errors_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
