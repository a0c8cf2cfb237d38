// Adding up what processes take. The list is of no single moment. Read next: usage.h, members.h.
#include "exec/usage.h"

#include "exec/members.h"
#include "mux/base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void add_cpu(pid_t pid, struct exec_usage *usage)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return; // it has ended
    size_t got = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[got] = '\0';
    const char *end = strrchr(line, ')'); // a name may hold anything else
    uint64_t ticks[4];                    // utime, stime, cutime, cstime
    if (end && sscanf(end + 1,
                      " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
                      " %" SCNu64 " %" SCNu64,
                      &ticks[0], &ticks[1], &ticks[2], &ticks[3]) == 4)
        for (int i = 0; i < 4; i++)
            usage->cpu_ns += (int64_t)ticks[i] * (AF_NS_PER_SEC / sysconf(_SC_CLK_TCK));
}

static void add_memory(pid_t pid, struct exec_usage *usage)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        uint64_t kib;
        if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1 ||
            sscanf(line, "RssShmem: %" SCNu64, &kib) == 1)
            usage->memory_bytes += kib * 1024;
    }
    fclose(file);
}

int exec_measure(pid_t init, uid_t uid, struct exec_usage *ret)
{
    struct exec_members members;
    *ret = (struct exec_usage){0};
    int rc = exec_members_list(init, uid, &members);
    if (rc < 0)
        return rc;
    ret->processes = members.count;
    add_cpu(init, ret);
    add_memory(init, ret);
    for (size_t i = 0; i < members.count; i++) {
        add_cpu(members.list[i].pid, ret);
        add_memory(members.list[i].pid, ret);
    }
    free(members.list);
    return 0;
}
