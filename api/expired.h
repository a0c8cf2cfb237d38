// Sandboxes that have outlived their time are destroyed.
//
// Owns nothing; no locks of its own. Any thread; reads the store. Read next: runner.c.
#ifndef AF_API_EXPIRED_H
#define AF_API_EXPIRED_H

#include "api/runner.h"

// What earlier looks have tried (wall clock). Of the one thread that looks; all zero at first.
struct expired_tried {
    int64_t until_ns; // those that had expired by then,
    int64_t again_ns; // and when they are tried again
};

// Has the runner destroy them all, and tells it when to look again: when the next expires, or soon
// for those that could not be destroyed. A store that cannot be read shows nothing, and says so
// itself.
void expired_remove(struct mux *mux, struct runner *runner, struct expired_tried *tried);

#endif
