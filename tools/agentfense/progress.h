// How far long work has come, on a terminal's stderr, one line, rewritten: "import 120 files  12.3M
// 4.1M/s", "import [=====>    ] 45%  12.3M  4.1M/s" where the whole is known, "commit 3 s" where
// nothing but the time is.
//
// Nothing is printed when stderr is no terminal, or the work takes less than half a second.
// Thread: one; progress_wait has one of its own. Never fails.
#ifndef AF_TOOLS_AGENTFENSE_PROGRESS_H
#define AF_TOOLS_AGENTFENSE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    bool is_shown; // stderr is a terminal
    bool is_drawn;
    int64_t start_ns, drawn_ns;
    uint64_t bytes, files;
    uint64_t total; // bytes; 0: not known
};

void progress_start(struct progress *progress, const char *what);
void progress_add(struct progress *progress, uint64_t bytes);
void progress_add_file(struct progress *progress);
// Clears the line.
void progress_end(struct progress *progress);

// For a call that tells nothing until its end: a thread draws how long it takes.
struct progress_wait;
struct progress_wait *progress_wait_start(const char *what); // NULL: nothing is drawn
void progress_wait_end(struct progress_wait *wait);          // NULL is allowed

#endif
