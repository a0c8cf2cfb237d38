// Tests of the io loop: whole reads, ends of files, errors, posts from callbacks, closing. Every
// test runs over io_uring (where there is one) and over the pool of threads.
#include "mux/base/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum af_io_mode mode;
static struct af_io *io;
static int file = -1;

#define FILE_SIZE (1 << 20)

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned done;
    ssize_t last;
};

static void waiter_init(struct waiter *waiter)
{
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->changed, NULL);
    waiter->done = 0;
    waiter->last = 0;
}

static void on_done(void *arg, ssize_t result)
{
    struct waiter *waiter = arg;
    pthread_mutex_lock(&waiter->lock);
    waiter->done++;
    waiter->last = result;
    pthread_cond_broadcast(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

static ssize_t wait_for(struct waiter *waiter, unsigned count)
{
    pthread_mutex_lock(&waiter->lock);
    while (waiter->done < count)
        pthread_cond_wait(&waiter->changed, &waiter->lock);
    ssize_t last = waiter->last;
    pthread_mutex_unlock(&waiter->lock);
    return last;
}

static int setup(void **state)
{
    (void)state;
    char name[] = "/tmp/af-io-test-XXXXXX";
    file = mkstemp(name);
    unlink(name);
    char *content = malloc(FILE_SIZE);
    for (size_t i = 0; i < FILE_SIZE; i++)
        content[i] = (char)(i % 251);
    ssize_t written = pwrite(file, content, FILE_SIZE, 0);
    free(content);
    return written == FILE_SIZE ? af_io_new(mode, &io) : -1;
}

static int teardown(void **state)
{
    (void)state;
    af_io_free(io);
    close(file);
    return 0;
}

static void test_the_mode_is_what_was_asked_for(void **state)
{
    (void)state;
    assert_int_equal(af_io_is_uring(io), mode == AF_IO_URING);
}

static void test_reads_what_is_there(void **state)
{
    (void)state;
    struct waiter waiter;
    waiter_init(&waiter);
    char buf[1000];
    assert_int_equal(af_io_read(io, file, buf, sizeof buf, 5000, false, on_done, &waiter), 0);
    assert_int_equal(wait_for(&waiter, 1), sizeof buf);
    for (size_t i = 0; i < sizeof buf; i++)
        assert_int_equal((unsigned char)buf[i], (5000 + i) % 251);
}

static void test_the_end_of_the_file_shortens_a_read(void **state)
{
    (void)state;
    struct waiter waiter;
    waiter_init(&waiter);
    char buf[1000];
    assert_int_equal(af_io_read(io, file, buf, sizeof buf, FILE_SIZE - 10, false, on_done, &waiter),
                     0);
    assert_int_equal(wait_for(&waiter, 1), 10);
    assert_int_equal(af_io_read(io, file, buf, sizeof buf, FILE_SIZE + 10, false, on_done, &waiter),
                     0);
    assert_int_equal(wait_for(&waiter, 2), 0);
}

static void test_errors_arrive_as_negative_errno(void **state)
{
    (void)state;
    struct waiter waiter;
    waiter_init(&waiter);
    char buf[10];
    assert_int_equal(af_io_read(io, 9999, buf, sizeof buf, 0, false, on_done, &waiter), 0);
    assert_int_equal(wait_for(&waiter, 1), -EBADF);
}

// A pipe gives its bytes in pieces: the loop must go on until it has all of them.
static void test_short_reads_are_continued(void **state)
{
    (void)state;
    if (mode != AF_IO_URING) {
        print_message("skipped: threads read with pread, which a pipe refuses\n");
        skip();
    }
    struct waiter waiter;
    waiter_init(&waiter);
    int pipe_fds[2];
    char buf[6];
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(write(pipe_fds[1], "abc", 3), 3);
    assert_int_equal(af_io_read(io, pipe_fds[0], buf, sizeof buf, 0, true, on_done, &waiter), 0);
    assert_int_equal(write(pipe_fds[1], "def", 3), 3);
    assert_int_equal(wait_for(&waiter, 1), 6);
    assert_memory_equal(buf, "abcdef", 6);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void *submit_many(void *arg)
{
    char *buf = malloc(500 * 256);
    for (long i = 0; i < 500; i++)
        while (af_io_read(io, file, buf + i * 256, 256, i * 256, false, on_done, arg) == -EAGAIN)
            sched_yield(); // full: the caller decides what to do
    return buf;
}

static void test_many_threads_may_submit(void **state)
{
    (void)state;
    struct waiter waiter;
    waiter_init(&waiter);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, submit_many, &waiter);
    void *buf[4];
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], &buf[i]);
    af_io_drain(io);
    assert_int_equal(waiter.done, 2000);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 500 * 256; j++)
            assert_int_equal(((unsigned char *)buf[i])[j], j % 251);
        free(buf[i]);
    }
}

struct chain {
    struct waiter waiter;
    int left;
};

static void post_again(void *arg, ssize_t result)
{
    struct chain *chain = arg;
    if (--chain->left > 0)
        af_io_post(io, post_again, chain);
    else
        on_done(&chain->waiter, result);
}

static void test_callbacks_may_post(void **state)
{
    (void)state;
    struct chain chain = {.left = 1000};
    waiter_init(&chain.waiter);
    assert_int_equal(af_io_post(io, post_again, &chain), 0);
    assert_int_equal(wait_for(&chain.waiter, 1), 0);
}

static void test_close_finishes_what_was_begun_and_refuses_the_rest(void **state)
{
    (void)state;
    struct waiter waiter;
    waiter_init(&waiter);
    static char buf[8][FILE_SIZE];
    for (int i = 0; i < 8; i++)
        assert_int_equal(af_io_read(io, file, buf[i], FILE_SIZE, 0, false, on_done, &waiter), 0);
    af_io_close(io);
    assert_int_equal(waiter.done, 8);
    assert_int_equal(af_io_read(io, file, buf[0], 10, 0, false, on_done, &waiter), -ECANCELED);
    assert_int_equal(af_io_post(io, on_done, &waiter), -ECANCELED);
    assert_int_equal(waiter.done, 8);
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static int run(const char *group)
{
    const struct CMUnitTest tests[] = {
        FRESH(test_the_mode_is_what_was_asked_for),
        FRESH(test_reads_what_is_there),
        FRESH(test_the_end_of_the_file_shortens_a_read),
        FRESH(test_errors_arrive_as_negative_errno),
        FRESH(test_short_reads_are_continued),
        FRESH(test_many_threads_may_submit),
        FRESH(test_callbacks_may_post),
        FRESH(test_close_finishes_what_was_begun_and_refuses_the_rest),
    };
    return _cmocka_run_group_tests(group, tests, sizeof tests / sizeof tests[0], NULL, NULL);
}

int main(void)
{
    mode = AF_IO_THREADS;
    int failed = run("io over threads");
    struct af_io *probe;
    if (af_io_new(AF_IO_URING, &probe) == 0) {
        af_io_free(probe);
        mode = AF_IO_URING;
        failed += run("io over io_uring");
    }
    return failed;
}
