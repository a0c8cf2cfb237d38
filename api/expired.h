// Which sandboxes have outlived their time.
//
// Owns nothing; no locks of its own. Any thread; reads the store. Read next: runner.c.
#ifndef AF_API_EXPIRED_H
#define AF_API_EXPIRED_H

#include "mux/base/id.h"
#include "mux/mux.h"

#define EXPIRED_BATCH 64

struct expired {
    struct af_id ids[EXPIRED_BATCH];
    size_t count;
    int64_t now_ns;  // wall clock
    int64_t next_ns; // when to look again; INT64_MAX: nothing expires
};

// Finds at most a batch; when there are more, next_ns is now. A store that cannot be read shows
// nothing, and says so itself.
void expired_find(struct mux *mux, struct expired *ret);

#endif
