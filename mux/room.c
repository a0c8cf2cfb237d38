// Room for an operation that found the disk or its view's quota full.
//
// What was deleted is given back before anybody is told that there is no room:
//   - forgotten orphans that wait to be deleted together are deleted now;
//   - orphans whose FORGET has not come: it may be on its way behind the request that needs the
//     room, or never come (the kernel had no inode of it). The kernel is asked, through the
//     notifier, whose thread may wait for requests under way; this one waits for a bounded time;
//   - on a full disk, blobs that nobody refers to are removed now, not at the next sync point.
// Owns nothing; no lock is held while it waits. Read next: unlink.c (orphans), docs/VIEWS.md.
#include "mux/room.h"

#include "mux/remove.h"

#include <errno.h>

// Asked about at once: a sandbox may hold many more open, and the next time goes on from there.
#define ASKED_MAX 1024

// True: there were forgotten orphans, and they are deleted.
static bool reap_dead(struct mux *mux, uint64_t nodeid)
{
    struct mux_op op;
    if (mux_op_enter_exclusive(mux, nodeid, &op) < 0)
        return false;
    bool any = op.view->n_dead > 0;
    int rc = any ? mux_delete_dead(&op) : 0;
    return mux_op_leave(&op, rc) == 0 && any;
}

static bool can_ask(struct mux *mux, uint64_t nodeid)
{
    struct mux_op op;
    if (!mux->notifier || !mux->notifier->confirm_forget || !mux->notifier->wait_told ||
        mux_op_enter_inside(mux, nodeid, &op) < 0)
        return false;
    bool any = op.view->n_orphans > 0;
    mux_op_leave(&op, 0);
    return any;
}

// Goes on where the last one stopped; all of them when there are few.
static size_t held_orphans(struct mux_op *op, uint64_t fids[ASKED_MAX])
{
    struct mux_view *view = op->view;
    uint64_t fid, value;
    size_t count = 0, seen = 0;
    while (count < ASKED_MAX && seen < view->n_orphans) {
        if (!mux_fid_map_next(&view->orphans, &view->asked_to, &fid, &value)) {
            view->asked_to = 0;
            if (!mux_fid_map_next(&view->orphans, &view->asked_to, &fid, &value))
                break;
        }
        seen++;
        if (value != MUX_ORPHAN_DEAD)
            fids[count++] = fid;
    }
    return count;
}

static bool ask_for_forgets(struct mux *mux, uint64_t nodeid)
{
    struct mux_op op;
    AF_CLEANUP_FREE uint64_t *fids = calloc(ASKED_MAX, sizeof *fids);
    if (!fids || mux_op_enter_exclusive(mux, nodeid, &op) < 0)
        return false;
    uint32_t route = op.view->route;
    size_t count = held_orphans(&op, fids);
    mux_op_leave(&op, 0);
    for (size_t i = 0; i < count; i++)
        mux->notifier->confirm_forget(mux->notifier_arg, mux_view_shown_by(mux, route, fids[i]));
    mux->notifier->wait_told(mux->notifier_arg);
    return true;
}

bool mux_made_room(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, int *rc,
                   bool *tried)
{
    if (*rc != -ENOSPC && *rc != -EDQUOT)
        return false;
    if (reap_dead(mux, nodeid))
        return true;
    bool ask = !*tried && can_ask(mux, nodeid);
    bool sweep = !*tried && *rc == -ENOSPC && store_has_garbage(mux->store);
    if (!ask && !sweep)
        return false;
    if (!ctx->may_block) {
        *rc = MUX_SLOW;
        return false;
    }
    *tried = true;
    bool asked = ask && ask_for_forgets(mux, nodeid);
    uint64_t removed;
    if (*rc == -ENOSPC && store_has_garbage(mux->store))
        return store_gc_drain(mux->store, &removed) == 0;
    return asked;
}
