// See expired.h. Owns nothing; no locks. Fails: by finding nothing. Read next: runner.c.
#include "api/expired.h"

#include "mux/base/clock.h"
#include "mux/base/id.h"
#include "mux/base/log.h"
#include "mux/sandbox.h"

#define EXPIRED_BATCH 64
#define AGAIN_NS      (AF_NS_PER_SEC / 10) // for the rest of more than that

struct expired {
    struct af_id ids[EXPIRED_BATCH];
    size_t count;
    int64_t now_ns;  // wall clock
    int64_t next_ns; // when to look again; INT64_MAX: nothing expires
};

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
    if (expired->count == EXPIRED_BATCH) { // the rest when these are gone
        expired->next_ns = expired->now_ns + AGAIN_NS;
        return 1;
    }
    expired->ids[expired->count++] = sandbox->id;
    return 0;
}

static void find(struct mux *mux, struct expired *ret)
{
    struct af_error error;
    ret->count = 0;
    ret->now_ns = af_wall_ns();
    ret->next_ns = INT64_MAX;
    mux_sandbox_list(mux, NULL, NULL, collect, ret, &error);
}

static void removed(void *arg, const struct af_error *err)
{
    (void)arg;
    if (err && err->status != AF_NOT_FOUND)
        af_log(AF_LOG_WARN, "runner", "could not remove an expired sandbox", "error=\"%s\"",
               err->text);
}

void expired_remove(struct mux *mux, struct runner *runner)
{
    struct expired expired;
    struct af_error error;
    find(mux, &expired);
    runner_expect_expiry(runner, expired.next_ns);
    for (size_t i = 0; i < expired.count; i++)
        if (runner_destroy(runner, expired.ids[i].text, removed, NULL, &error) < 0)
            removed(NULL, &error);
}
