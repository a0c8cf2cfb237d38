// How far long work has come, on a terminal's stderr: "12.3M  4.1M/s", one line, rewritten.
//
// Nothing is printed when stderr is no terminal, or the work takes less than half a second.
// Thread: one. Never fails.
#ifndef AF_TOOLS_AGENTFENSE_PROGRESS_H
#define AF_TOOLS_AGENTFENSE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool is_shown; // stderr is a terminal
    bool is_drawn;
    int64_t start_ns, drawn_ns;
    uint64_t bytes;
};

void progress_start(struct progress *progress);
void progress_add(struct progress *progress, uint64_t bytes);
// Clears the line.
void progress_end(struct progress *progress);

#endif
