// See expired.h. Owns nothing; no locks. Fails: by finding nothing. Read next: runner.c.
#include "api/expired.h"

#include "mux/base/clock.h"
#include "mux/base/id.h"
#include "mux/base/log.h"
#include "mux/sandbox.h"

#define EXPIRED_BATCH 64
#define AGAIN_NS      (30 * AF_NS_PER_SEC) // for those that could not be removed, and are still there

struct expired {
    struct af_id ids[EXPIRED_BATCH];
    size_t count;
    int64_t since_ns, now_ns; // wall clock: those that expired in between
    int64_t next_ns;          // when the next does; INT64_MAX: nothing expires
    bool some;                // there are such, or older ones
};

// The first ones after an id, as many as there is room for.
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
    expired->some = true;
    if (sandbox->expires_ns <= expired->since_ns)
        return 0;
    expired->ids[expired->count++] = sandbox->id;
    return expired->count == EXPIRED_BATCH;
}

// A failure is told by the end of its run.
static void removed(void *arg, const struct af_error *err)
{
    (void)arg, (void)err;
}

static void remove_batch(struct runner *runner, const struct expired *expired)
{
    struct af_error error;
    for (size_t i = 0; i < expired->count; i++)
        if (runner_destroy(runner, expired->ids[i].text, removed, NULL, &error) < 0 &&
            error.status != AF_NOT_FOUND)
            af_log(AF_LOG_WARN, "runner", "could not remove an expired sandbox", "error=\"%s\"",
                   error.text);
}

// A removal can fail, now (the disk is full) or until somebody has done something about it (its
// changes, to be committed first, conflict with others'). That must keep none of the rest, nor be
// tried whenever something else expires: a look goes through all, and now and then through those,
// too, that have been tried.
void expired_remove(struct mux *mux, struct runner *runner, struct expired_tried *tried)
{
    struct expired expired = {.now_ns = af_wall_ns(), .next_ns = INT64_MAX};
    struct af_id last = {0};
    struct af_error error;
    bool again = expired.now_ns >= tried->again_ns || expired.now_ns < tried->until_ns;
    expired.since_ns = again ? 0 : tried->until_ns;
    do {
        expired.count = 0;
        mux_sandbox_list(mux, NULL, last.text[0] ? last.text : NULL, collect, &expired, &error);
        remove_batch(runner, &expired);
        if (expired.count > 0)
            last = expired.ids[expired.count - 1];
    } while (expired.count == EXPIRED_BATCH);
    tried->until_ns = expired.now_ns;
    if (again)
        tried->again_ns = expired.now_ns + AGAIN_NS;
    if (expired.some && expired.next_ns > tried->again_ns)
        expired.next_ns = tried->again_ns;
    runner_expect_expiry(runner, expired.next_ns);
}
