// What the kernel says of this process: memory, CPU, disk I/O, descriptors, threads.
#ifndef AF_API_METRICS_PROCESS_H
#define AF_API_METRICS_PROCESS_H

#include <stdint.h>

struct metrics_process {
    uint64_t resident_bytes, virtual_bytes;
    uint64_t cpu_ns;
    uint64_t disk_read_bytes, disk_written_bytes;
    uint64_t fds, fds_max, threads;
};

// What cannot be read (no /proc) is 0. May take as long as /proc does: microseconds.
void metrics_process_read(struct metrics_process *ret);

#endif
