// Holes are found, and zeros are written as holes; whatever is in between stays as it is.
#include "tools/agentfense/sparse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

// tmpfs, where a page is allocated by writing to it and by nothing else.
static int temporary(void)
{
    int fd = memfd_create("test-sparse", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void test_extents_are_found_and_holes_skipped(void **state)
{
    (void)state;
    int fd = temporary();
    off_t page = sysconf(_SC_PAGESIZE), size = 1LL << 41, data, end;
    assert_int_equal(ftruncate(fd, size), 0);
    sparse_next(fd, 0, size, &data, &end);
    assert_int_equal(data, size);
    assert_int_equal(end, size);
    assert_int_equal(pwrite(fd, "x", 1, size / 2), 1);
    sparse_next(fd, 0, size, &data, &end);
    assert_int_equal(data, size / 2);
    assert_int_equal(end, size / 2 + page);
    sparse_next(fd, end, size, &data, &end);
    assert_int_equal(data, size);
    // A file that grew is taken as long as it was; one that became shorter ends in a hole.
    sparse_next(fd, size / 2, size / 2 + 1, &data, &end);
    assert_int_equal(data, size / 2);
    assert_int_equal(end, size / 2 + 1);
    assert_int_equal(ftruncate(fd, 0), 0);
    sparse_next(fd, 0, 100, &data, &end);
    assert_int_equal(data, 100);
    close(fd);
}

static void test_a_file_system_that_cannot_tell_has_data_only(void **state)
{
    (void)state;
    int ends[2];
    off_t data, end;
    assert_int_equal(pipe(ends), 0);
    sparse_next(ends[0], 5, 100, &data, &end);
    assert_int_equal(data, 5);
    assert_int_equal(end, 100);
    close(ends[0]);
    close(ends[1]);
}

static void test_what_is_written_reads_back_whatever_the_pieces(void **state)
{
    (void)state;
    enum { SIZE = 200000 };
    uint8_t *wanted = calloc(1, SIZE), *got = malloc(SIZE);
    srandom(1);
    for (int i = 0; i < 40; i++) // runs of data, the rest zeros
        memset(wanted + random() % (SIZE - 9000), 1 + i, (size_t)(random() % 9000));
    for (size_t piece = 1; piece < SIZE; piece = piece * 7 + 3) {
        int fd = temporary();
        for (size_t at = 0; at < SIZE; at += piece) {
            size_t len = SIZE - at < piece ? SIZE - at : piece;
            assert_int_equal(sparse_write(fd, wanted + at, len, (off_t)at), 0);
        }
        assert_int_equal(ftruncate(fd, SIZE), 0);
        assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
        assert_memory_equal(got, wanted, SIZE);
        close(fd);
    }
    free(wanted);
    free(got);
}

static void test_zeros_take_no_blocks(void **state)
{
    (void)state;
    int fd = temporary();
    struct stat st;
    size_t size = 4u << 20;
    uint8_t *zeros = calloc(1, size);
    assert_int_equal(sparse_write(fd, zeros, size, 0), 0);
    zeros[size - 1] = 1;
    assert_int_equal(sparse_write(fd, zeros, size, (off_t)size), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 2 * size);
    assert_true(st.st_blocks * 512 <= sysconf(_SC_PAGESIZE));
    free(zeros);
    close(fd);
    assert_true(sparse_write(-1, "x", 1, 0) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extents_are_found_and_holes_skipped),
        cmocka_unit_test(test_a_file_system_that_cannot_tell_has_data_only),
        cmocka_unit_test(test_what_is_written_reads_back_whatever_the_pieces),
        cmocka_unit_test(test_zeros_take_no_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
