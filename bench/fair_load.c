// Many sandboxes at work at one time: how long small reads take, and what hammers a view.
//
//   fair_load read SECONDS PERIOD_US DIR...    a thread a view; prints COUNT P50 P99 MAX, in us
//   fair_load create|write THREADS DIR         until it is killed; prints "going" when all are
// A read opens, reads 1 KiB and closes a file of small/0..99 whose pages have been dropped, so that
// it always reaches the daemon; each thread does one a period, all of them out of step. `create`
// makes and unlinks files, `write` overwrites a file of 16 MiB in pieces of 64 KiB, each thread its
// own. A failing operation ends it: no figure comes from an error path.
// Read next: bench/fair.py.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mux/base/clock.h"

#define SMALL      100
#define BYTES      1024
#define PIECE      65536
#define PIECES     256
#define NS_PER_US  1000
#define PATH_BYTES 512

struct reader {
    pthread_t thread;
    const char *dir;
    int64_t start_ns, period_ns, end_ns;
    int64_t *took_ns;
    size_t count, capacity;
};

struct hammer {
    pthread_t thread;
    const char *dir;
    int number;
};

static pthread_barrier_t begin;
static const bool forever = true;

static void die(const char *what)
{
    fprintf(stderr, "fair_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void must(bool done, const char *what)
{
    if (!done)
        die(what);
}

static void sleep_until(int64_t ns)
{
    struct timespec at = af_timespec_of_ns(ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

static int64_t read_one(int dir, int number)
{
    char name[32], buf[BYTES];
    snprintf(name, sizeof name, "small/%d", number % SMALL);
    int fd = openat(dir, name, O_RDONLY);
    must(fd >= 0, name);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    int64_t began_ns = af_monotonic_ns();
    fd = openat(dir, name, O_RDONLY);
    must(fd >= 0 && pread(fd, buf, sizeof buf, 0) == sizeof buf, name);
    close(fd);
    return af_monotonic_ns() - began_ns;
}

static void *read_thread(void *arg)
{
    struct reader *reader = arg;
    int dir = open(reader->dir, O_RDONLY | O_DIRECTORY);
    must(dir >= 0, reader->dir);
    for (int i = 0; i < SMALL; i++)
        read_one(dir, i); // names and attributes are known
    pthread_barrier_wait(&begin);
    int64_t at_ns = reader->start_ns;
    for (int i = 0; at_ns < reader->end_ns && reader->count < reader->capacity; i++) {
        sleep_until(at_ns);
        reader->took_ns[reader->count++] = read_one(dir, i);
        at_ns += reader->period_ns;
    }
    close(dir);
    return NULL;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_figures(const struct reader *readers, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += readers[i].count;
    int64_t *all = calloc(total + 1, sizeof *all), *to = all;
    must(all && total > 0, "no samples");
    for (int i = 0; i < count; i++) {
        memcpy(to, readers[i].took_ns, readers[i].count * sizeof *to);
        to += readers[i].count;
    }
    qsort(all, total, sizeof *all, compare);
    printf("%zu %.2f %.2f %.2f\n", total, (double)all[total / 2] / NS_PER_US,
           (double)all[total * 99 / 100] / NS_PER_US, (double)all[total - 1] / NS_PER_US);
    free(all);
}

static int run_readers(int64_t length_ns, int64_t period_ns, char **dirs, int count)
{
    struct reader *readers = calloc((size_t)count, sizeof *readers);
    must(readers && period_ns > 0, "arguments");
    pthread_barrier_init(&begin, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++) {
        readers[i].dir = dirs[i];
        readers[i].period_ns = period_ns;
        readers[i].capacity = (size_t)(length_ns / period_ns) + 1;
        readers[i].took_ns = calloc(readers[i].capacity, sizeof *readers[i].took_ns);
        must(readers[i].took_ns, "memory");
        // All begin well after the last one has looked at its files.
        readers[i].start_ns = 0;
        must(pthread_create(&readers[i].thread, NULL, read_thread, &readers[i]) == 0, "a thread");
    }
    int64_t now_ns = af_monotonic_ns();
    for (int i = 0; i < count; i++) {
        readers[i].start_ns = now_ns + AF_NS_PER_SEC + period_ns * i / count;
        readers[i].end_ns = readers[i].start_ns + length_ns;
    }
    pthread_barrier_wait(&begin);
    for (int i = 0; i < count; i++)
        pthread_join(readers[i].thread, NULL);
    print_figures(readers, count);
    for (int i = 0; i < count; i++)
        free(readers[i].took_ns);
    free(readers);
    return 0;
}

static void *create_thread(void *arg)
{
    const struct hammer *hammer = arg;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/hammer%d", hammer->dir, hammer->number);
    must(mkdir(path, 0755) == 0 || errno == EEXIST, path);
    snprintf(path, sizeof path, "%s/hammer%d/f", hammer->dir, hammer->number);
    must(unlink(path) == 0 || errno == ENOENT, path); // a hammer that was killed left it
    pthread_barrier_wait(&begin);
    while (forever) {
        int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0644);
        must(fd >= 0, path);
        close(fd);
        must(unlink(path) == 0, path);
    }
    return NULL;
}

static void *write_thread(void *arg)
{
    static char piece[PIECE];
    const struct hammer *hammer = arg;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/written%d", hammer->dir, hammer->number);
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    must(fd >= 0, path);
    pthread_barrier_wait(&begin);
    for (off_t i = 0; forever; i = (i + 1) % PIECES)
        must(pwrite(fd, piece, PIECE, i * PIECE) == PIECE, path);
    return NULL;
}

static int run_hammer(void *(*fn)(void *), int count, const char *dir)
{
    struct hammer *hammers = calloc((size_t)count, sizeof *hammers);
    must(hammers != NULL && count > 0, "arguments");
    pthread_barrier_init(&begin, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++) {
        hammers[i].dir = dir;
        hammers[i].number = i;
        must(pthread_create(&hammers[i].thread, NULL, fn, &hammers[i]) == 0, "a thread");
    }
    pthread_barrier_wait(&begin);
    puts("going");
    fflush(stdout);
    while (forever)
        pause();
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 5 && strcmp(argv[1], "read") == 0)
        return run_readers((int64_t)(atof(argv[2]) * (double)AF_NS_PER_SEC),
                           atol(argv[3]) * NS_PER_US, argv + 4, argc - 4);
    if (argc == 4 && strcmp(argv[1], "create") == 0)
        return run_hammer(create_thread, atoi(argv[2]), argv[3]);
    if (argc == 4 && strcmp(argv[1], "write") == 0)
        return run_hammer(write_thread, atoi(argv[2]), argv[3]);
    fputs("usage: fair_load read SECONDS PERIOD_US DIR... | create|write THREADS DIR\n", stderr);
    return 2;
}
