// What the processes of a box take of the machine, added up from /proc.
//
// May be included by api. Thread: any but exec's, for it looks at every process of the machine.
// Errors: -errno. Owns nothing. Read next: usage.c.
#ifndef AF_EXEC_USAGE_H
#define AF_EXEC_USAGE_H

#include <stdint.h>
#include <sys/types.h>

struct exec_usage {
    uint64_t processes;    // the init not counted
    uint64_t memory_bytes; // resident and no file's; what processes share counts for each
    int64_t cpu_ns;        // the init's as well, and of all who were waited for
};

// Of the box with this init and uid (exec_box_init). Zeros when it has just ended.
int exec_measure(pid_t init, uid_t uid, struct exec_usage *ret);

#endif
