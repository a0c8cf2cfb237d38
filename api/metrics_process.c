// The process's own figures, from /proc/self. Owns and locks nothing; what fails is 0.
// Read next: metrics.c.
#include "api/metrics_process.h"

#include "mux/base/cleanup.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

// The number behind `key` in a file of "key: number" lines.
static uint64_t number_of(const char *text, const char *key)
{
    const char *found = strstr(text, key);
    uint64_t value = 0;
    if (found)
        sscanf(found + strlen(key), " %" SCNu64, &value);
    return value;
}

static void read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    size_t len = file ? fread(text, 1, size - 1, file) : 0;
    text[len] = '\0';
    if (file)
        fclose(file);
}

static uint64_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t count = 0;
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count > 3 ? count - 3 : 0; // ".", "..", and the directory's own
}

void metrics_process_read(struct metrics_process *ret)
{
    char text[4096];
    struct timespec cpu;
    struct rlimit limit;
    uint64_t size = 0, resident = 0;
    memset(ret, 0, sizeof *ret);
    read_text("/proc/self/statm", text, sizeof text);
    if (sscanf(text, "%" SCNu64 " %" SCNu64, &size, &resident) == 2) {
        ret->virtual_bytes = size * (uint64_t)sysconf(_SC_PAGESIZE);
        ret->resident_bytes = resident * (uint64_t)sysconf(_SC_PAGESIZE);
    }
    read_text("/proc/self/io", text, sizeof text);
    ret->disk_read_bytes = number_of(text, "\nread_bytes:");
    ret->disk_written_bytes = number_of(text, "\nwrite_bytes:");
    read_text("/proc/self/status", text, sizeof text);
    ret->threads = number_of(text, "\nThreads:");
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
        ret->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        ret->fds_max = limit.rlim_cur;
    ret->fds = count_fds();
}
