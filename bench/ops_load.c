// Times single file operations in its working directory.
//
//   ops_load MIB < rounds
// For each line of stdin, a round number, it does every operation a number of times and prints one
// line of pairs NAME FIGURE: microseconds, medians of small batches (MB/s for what begins with
// "seq"). It expects small/0..99 (1 KiB), base/ROUND.0..19 (4 KiB), d100 and d1000 (as many files)
// and `large` (MIB of it); with MIB 0 the sequential ones are left out. A failing operation ends
// it: no figure comes from an error path.
// Read next: bench/ops.py.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mux/base/clock.h"

#define NUMBER       200 // operations of one round
#define WARM         2000
#define SMALL        100
#define BASE         20
#define PAGE         4096
#define BIG_PAGES    1024
#define MIB          (1 << 20)
#define STREAM_BATCH 8 // MiB
#define NAME_BYTES   64

static char buffer[MIB];
static int round_number;
static int the_fd; // of read_page and the like

static void die(const char *what)
{
    fprintf(stderr, "ops_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void check(bool done, const char *what)
{
    if (!done)
        die(what);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

// The median of batches of calls fn(0), fn(1)..., in ns a call: one that was preempted in the
// middle does not spoil the rest.
static double timed_ns(void (*fn)(int), int count, int batch)
{
    static int64_t took_ns[WARM];
    int batches = count / batch;
    for (int i = 0; i < batches; i++) {
        int64_t begun_ns = af_monotonic_ns();
        for (int j = i * batch; j < (i + 1) * batch; j++)
            fn(j);
        took_ns[i] = af_monotonic_ns() - begun_ns;
    }
    qsort(took_ns, (size_t)batches, sizeof took_ns[0], compare);
    return (double)took_ns[batches / 2] / batch;
}

static void timed(const char *name, void (*fn)(int), int count, int batch)
{
    printf("%s %.3f ", name, timed_ns(fn, count, batch) / 1e3);
}

static int open_file(const char *name, int flags)
{
    int fd = open(name, flags, 0644);
    check(fd >= 0, name);
    return fd;
}

static void write_file(const char *name, int flags)
{
    int fd = open_file(name, O_WRONLY | flags);
    check(write(fd, buffer, 1024) == 1024, "write");
    close(fd);
}

static int list(const char *name)
{
    DIR *dir = opendir(name);
    check(dir != NULL, name);
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

// ---- what needs no change ---------------------------------------------------------------

static void warm_stat(int i)
{
    struct stat st;
    (void)i;
    check(stat("small/7", &st) == 0, "stat");
}

static void negative_stat(int i)
{
    struct stat st;
    (void)i;
    check(stat("small/absent", &st) < 0 && errno == ENOENT, "stat of nothing");
}

static void read_small(int i)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "small/%d", i % SMALL);
    int fd = open_file(name, O_RDONLY);
    check(read(fd, buffer, 1024) == 1024, "read");
    close(fd);
}

static void read_page(int i)
{
    (void)i;
    check(pread(the_fd, buffer, PAGE, 0) == PAGE, "pread");
}

static void list_100(int i)
{
    (void)i;
    check(list("d100") == 100 + 2, "d100");
}

static void list_1000(int i)
{
    (void)i;
    check(list("d1000") == 1000 + 2, "d1000");
}

static void look(void)
{
    warm_stat(0);
    timed("stat", warm_stat, WARM, 20);
    negative_stat(0);
    timed("negative-stat", negative_stat, WARM, 20);
    for (int i = 0; i < SMALL; i++)
        read_small(i);
    timed("open+read+close", read_small, WARM, 20);
    the_fd = open_file("base/0.0", O_RDONLY);
    read_page(0);
    timed("pread", read_page, WARM, 20);
    close(the_fd);
    list_100(0);
    timed("readdir-100", list_100, 200, 2);
    list_1000(0);
    timed("readdir-1000", list_1000, 40, 1);
}

// ---- changes ----------------------------------------------------------------------------

static const char *name_of(char kind, int i)
{
    static char names[2][NAME_BYTES];
    static int next;
    char *name = names[next++ % 2];
    snprintf(name, NAME_BYTES, "%c%d.%d", kind, round_number, i);
    return name;
}

static void create(int i)
{
    write_file(name_of('n', i), O_CREAT | O_EXCL);
}

static void move(int i)
{
    check(rename(name_of('n', i), name_of('r', i)) == 0, "rename");
}

static void drop(int i)
{
    check(unlink(name_of('r', i)) == 0, "unlink");
}

static void make_and_drop(int i)
{
    const char *name = name_of('d', i);
    check(mkdir(name, 0755) == 0 && rmdir(name) == 0, "mkdir, rmdir");
}

static void append(int i)
{
    (void)i;
    write_file("log", O_APPEND);
}

static void append_to_base(int i)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "base/%d.%d", round_number, i);
    write_file(name, O_APPEND);
}

static void write_page(int i)
{
    off_t at = (i * 7919 + round_number) % BIG_PAGES * PAGE;
    check(pwrite(the_fd, buffer, PAGE, at) == PAGE, "pwrite");
}

static void change(void)
{
    timed("create", create, NUMBER, 5);
    timed("rename", move, NUMBER, 5);
    timed("unlink", drop, NUMBER, 5);
    timed("mkdir+rmdir", make_and_drop, NUMBER, 5);
    write_file("log", O_CREAT);
    timed("append", append, NUMBER, 5);
    timed("first-append", append_to_base, BASE, 1);
    the_fd = open_file("big", O_RDWR | O_CREAT);
    write_page(BIG_PAGES - 1);
    timed("random-write", write_page, NUMBER, 5);
    close(the_fd);
}

// ---- streams ----------------------------------------------------------------------------

static void read_mib(int i)
{
    (void)i;
    check(read(the_fd, buffer, MIB) == MIB, "read");
}

static void write_mib(int i)
{
    (void)i;
    check(write(the_fd, buffer, MIB) == MIB, "write");
}

static void print_rate(const char *name, void (*fn)(int), int mib)
{
    int batch = mib >= STREAM_BATCH ? STREAM_BATCH : mib;
    printf("%s %.1f ", name, MIB * 1e3 / timed_ns(fn, mib, batch));
}

static void stream(int mib)
{
    the_fd = open_file("large", O_RDONLY);
    for (int i = 0; i < mib; i++)
        read_mib(i);
    check(lseek(the_fd, 0, SEEK_SET) == 0, "lseek");
    print_rate("seq-read", read_mib, mib);
    close(the_fd);
    the_fd = open_file("written", O_WRONLY | O_CREAT | O_EXCL);
    print_rate("seq-write", write_mib, mib);
    close(the_fd);
    check(unlink("written") == 0, "unlink");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: ops_load MIB < rounds\n");
        return 2;
    }
    int mib = atoi(argv[1]);
    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        round_number = atoi(line);
        look();
        change();
        if (mib > 0)
            stream(mib);
        puts("");
        fflush(stdout);
    }
    return 0;
}
