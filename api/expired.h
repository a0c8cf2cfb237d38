// Sandboxes that have outlived their time are destroyed.
//
// Owns nothing; no locks of its own. Any thread; reads the store. Read next: runner.c.
#ifndef AF_API_EXPIRED_H
#define AF_API_EXPIRED_H

#include "api/runner.h"

// Has the runner destroy a batch of them at most, and tells it when to look again: now, when there
// are more. A store that cannot be read shows nothing, and says so itself.
void expired_remove(struct mux *mux, struct runner *runner);

#endif
