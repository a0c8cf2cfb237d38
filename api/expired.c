// See expired.h. Owns nothing; no locks. Fails: by finding nothing. Read next: runner.c.
#include "api/expired.h"

#include "mux/base/clock.h"
#include "mux/sandbox.h"

static int collect(void *arg, const struct store_sandbox *sandbox)
{
    struct expired *expired = arg;
    if (sandbox->expires_ns == 0)
        return 0;
    if (sandbox->expires_ns > expired->now_ns) {
        if (sandbox->expires_ns < expired->next_ns)
            expired->next_ns = sandbox->expires_ns;
        return 0;
    }
    if (expired->count == EXPIRED_BATCH) { // the rest in the next round
        expired->next_ns = expired->now_ns;
        return 1;
    }
    expired->ids[expired->count++] = sandbox->id;
    return 0;
}

void expired_find(struct mux *mux, struct expired *ret)
{
    struct af_error error;
    ret->count = 0;
    ret->now_ns = af_wall_ns();
    ret->next_ns = INT64_MAX;
    mux_sandbox_list(mux, NULL, NULL, collect, ret, &error);
}
