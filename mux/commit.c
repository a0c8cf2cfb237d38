// Commit, rebase, rollback: the frame of a step, from the hold to what the kernel is told.
// Read next: commit.h, push.c (nothing to merge), move.c (the head has moved on).
#include "mux/commit_priv.h"

#include "mux/base/clock.h"
#include "mux/host_call.h"
#include "mux/inspect_priv.h"
#include "mux/listings.h"
#include "mux/parts.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define TRIES_MAX 4 // overtaken this often, a large merge is done in one transaction

// ---- looking

// Whether the delta has anything but what is unlinked and still open.
static int has_changes(struct store_txn *txn, uint64_t delta, bool *ret)
{
    struct store_layer layer;
    uint64_t orphans = 0, fid = 0;
    int rc = store_layer_get(txn, delta, &layer);
    while (rc == 0 && orphans < layer.inodes && store_orphan_next(txn, delta, fid, &fid) == 0)
        orphans++;
    if (rc == 0)
        *ret = layer.inodes > orphans;
    return rc;
}

static int look(struct store_txn *txn, const char *id, struct mux_commit_state *ret)
{
    struct store_sandbox sandbox;
    struct store_codebase codebase;
    *ret = (struct mux_commit_state){0};
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return rc;
    store_sandbox_free_rules(&sandbox);
    rc = store_codebase_get(txn, sandbox.codebase_id.text, &codebase);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    ret->behind = sandbox.stack != codebase.stack || codebase.head_dirty;
    return has_changes(txn, sandbox.delta, &ret->changed);
}

int mux_commit_look(struct mux *mux, const char *sandbox_id, struct mux_commit_state *ret,
                    struct af_error *err)
{
    struct store_txn *txn;
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    int rc = store_read_begin(mux->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the sandbox");
    rc = look(txn, sandbox_id, ret);
    store_read_end(txn);
    return rc < 0 ? mux_fail_sandbox(err, rc, sandbox_id) : 0;
}

struct counting {
    struct mux_fid_map named;
    uint64_t count;
};

static int count_entry(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct counting *counting = arg;
    (void)parent;
    counting->count++;
    return entry->fid == 0 ? 0 : mux_fid_map_put(&counting->named, entry->fid, 1);
}

static int count_inode(void *arg, const struct store_inode *inode)
{
    struct counting *counting = arg;
    if (!S_ISDIR(inode->mode) && inode->nlink > 0 &&
        !mux_fid_map_get(&counting->named, inode->fid, NULL))
        counting->count++;
    return 0;
}

int mux_commit_count(struct mux *mux, const char *sandbox_id, uint64_t *ret, struct af_error *err)
{
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct counting counting = {0};
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    int rc = store_read_begin(mux->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the sandbox");
    rc = store_sandbox_get(txn, sandbox_id, &sandbox);
    if (rc == 0) {
        store_sandbox_free_rules(&sandbox);
        rc = store_layer_entries(txn, sandbox.delta, count_entry, &counting);
    }
    if (rc == 0)
        rc = store_layer_inodes(txn, sandbox.delta, count_inode, &counting);
    store_read_end(txn);
    mux_fid_map_fini(&counting.named);
    if (rc == 0)
        *ret = counting.count;
    return rc < 0 ? mux_fail_sandbox(err, rc, sandbox_id) : 0;
}

// ---- a step

int mux_move_load(struct mux_move *move)
{
    int rc = store_sandbox_get(move->txn, move->sandbox_id, &move->sandbox);
    if (rc < 0)
        return rc;
    store_sandbox_free_rules(&move->sandbox);
    move->stack = move->sandbox.stack;
    move->sandbox.user_data = NULL;
    move->sandbox.owner = NULL;
    rc = move->rollback
             ? 0
             : store_codebase_get(move->txn, move->sandbox.codebase_id.text, &move->codebase);
    if (rc < 0)
        return rc == -ENOENT ? -EOWNERDEAD : rc;
    mux_layer_list_fini(&move->view);
    rc = store_layer_get(move->txn, move->sandbox.delta, &move->delta);
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, move->sandbox.delta, move->sandbox.stack, &move->view);
    return rc;
}

static int put_record(struct mux_move *move, uint64_t delta, uint64_t stack)
{
    struct store_sandbox sandbox;
    int rc = store_sandbox_get(move->txn, move->sandbox_id, &sandbox);
    if (rc < 0)
        return rc;
    struct store_sandbox changed = sandbox;
    changed.delta = delta;
    changed.stack = stack;
    rc = store_sandbox_put(move->txn, &changed);
    store_sandbox_free_rules(&sandbox);
    return rc;
}

// A directory that the kernel has under two numbers: what it remembers by either goes.
static int note_doubled(struct mux_move *move, uint64_t from, uint64_t to)
{
    const struct mux_alias *alias = &move->hold.op.view->alias;
    struct mux_layers before = mux_layer_list_all(&move->view);
    struct mux_layers after = mux_layer_list_all(&move->after);
    struct mux_changes *changes = &move->changes;
    int rc = mux_changes_drop_directory(changes, move->txn, before, from);
    if (rc == 0)
        rc = mux_changes_drop_directory(changes, move->txn, before, to);
    if (rc == 0)
        rc = mux_changes_add_names(changes, move->txn, after, to, mux_alias_shown(alias, from));
    return rc < 0 ? rc : mux_changes_add_names(changes, move->txn, after, to, to);
}

// Directories that became one are not gone: whoever stands in one is in the other.
static int note_joined(struct mux_move *move)
{
    struct mux_changes *changes = &move->changes;
    uint64_t from, to;
    size_t position = 0, kept = 0;
    int rc = 0;
    while (rc == 0 && mux_fid_map_next(&move->joined, &position, &from, &to)) {
        bool known = mux_fid_map_get(&move->known, to, NULL);
        rc = mux_changes_add_directory(changes, to);
        if (rc == 0 && mux_alias_doubles(&move->hold.op.view->alias, to, known))
            rc = note_doubled(move, from, to);
    }
    for (size_t i = 0; i < changes->n_gone; i++)
        if (!mux_fid_map_get(&move->joined, changes->gone[i], NULL))
            changes->gone[kept++] = changes->gone[i];
    changes->n_gone = kept;
    return rc;
}

// Directories that have a name again after they had become one with another: what the kernel
// remembers of the other one by their number goes.
static int note_parted(struct mux_move *move)
{
    const struct mux_alias *alias = &move->hold.op.view->alias;
    struct mux_changes *changes = &move->changes;
    uint64_t fid, value;
    size_t position = 0;
    int rc = 0;
    while (rc == 0 && mux_fid_map_next(&changes->named, &position, &fid, &value)) {
        uint64_t to = mux_alias_inside(alias, fid);
        if (to == fid)
            continue;
        rc = mux_changes_drop_directory(changes, move->txn, mux_layer_list_all(&move->view), to);
        if (rc == 0)
            rc = mux_changes_add_directory(changes, fid);
    }
    return rc;
}

static void part(struct mux_move *move, struct mux_view *view)
{
    uint64_t fid, value;
    size_t position = 0;
    while (mux_fid_map_next(&move->changes.named, &position, &fid, &value))
        mux_alias_part(&view->alias, fid);
}

static void join(struct mux_move *move, struct mux_view *view)
{
    uint64_t from, to;
    size_t position = 0;
    while (mux_fid_map_next(&move->joined, &position, &from, &to))
        mux_alias_join(&view->alias, from, to, mux_fid_map_get(&move->known, to, NULL));
}

// What the kernel will be told, and what it may hold though no name leads there any more.
static int note_changes(struct mux_move *move)
{
    struct mux_view *view = move->hold.op.view;
    struct mux_layers before = mux_layer_list_all(&move->view);
    int rc = 0;
    if (!view || move->same_tree)
        return 0; // the kernel holds nothing, or nothing else
    if (!move->large)
        rc = mux_changes_collect(move->mux, move->txn, before, mux_layer_list_all(&move->after),
                                 &move->changes);
    if (rc == 0)
        rc = note_joined(move);
    if (rc == 0)
        rc = note_parted(move);
    if (rc == 0)
        rc = mux_gone_prepare(&view->gone, move->txn, before, move->after.ids[0] == before.ids[0],
                              &move->changes, &move->past);
    return rc;
}

int mux_move_put_view(struct mux_move *move, uint64_t delta, uint64_t stack)
{
    uint64_t old_delta = move->sandbox.delta, old_stack = move->sandbox.stack;
    move->stack = stack;
    int rc = put_record(move, delta, stack);
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, delta, stack, &move->after);
    if (rc == 0)
        rc = note_changes(move);
    if (rc == 0 && stack != old_stack)
        rc = store_stack_ref(move->txn, stack);
    if (rc == 0 && stack != old_stack)
        rc = store_stack_unref(move->txn, old_stack);
    if (rc == 0 && delta != old_delta)
        rc = store_layer_unref(move->txn, old_delta);
    return rc;
}

int mux_move_has_changes(struct mux_move *move, bool *ret)
{
    return has_changes(move->txn, move->sandbox.delta, ret);
}

// Orphans that have a name again; and those that the kernel had forgotten went with the old delta.
static void drop_orphans(struct mux_move *move, struct mux_view *view, bool new_delta)
{
    struct mux *mux = move->mux;
    for (size_t i = 0; i < move->n_revived; i++) {
        if (!mux_fid_map_get(&view->orphans, move->revived[i], NULL))
            continue;
        mux_fid_map_del(&view->orphans, move->revived[i]);
        view->n_orphans--;
    }
    for (size_t i = 0; new_delta && i < view->n_dead; i++) {
        if (!mux_fid_map_get(&view->orphans, view->dead[i], NULL))
            continue;
        mux_fid_map_del(&view->orphans, view->dead[i]);
        view->n_orphans--;
        mux_node_cache_drop(mux->nodes, mux_view_nodeid(view, view->dead[i]));
    }
    if (new_delta)
        view->n_dead = 0;
}

// The new state is committed: operations find it from here on.
static void publish(struct mux_move *move)
{
    struct mux_view *view = move->hold.op.view;
    if (!view)
        return;
    if (move->after.count > 0) {
        drop_orphans(move, view, move->after.ids[0] != view->layers.ids[0]);
        part(move, view);
        join(move, view);
        mux_gone_publish(&view->gone, &move->changes, move->past);
        move->past = NULL;
        mux_layer_list_fini(&view->layers);
        view->layers = move->after;
        move->after = (struct mux_layer_list){0};
    }
    view->tree = mux_listings_tree(move->mux->listings, move->stack);
    view->delta_is_empty = false; // a new one may be filled already
    view->names_seq++;
    view->foreign_seq++;
    view->changes++;
    view->stamp = mux_view_new_stamp(move->mux);
}

static void drop_step(struct mux_move *move)
{
    mux_layer_list_fini(&move->view);
    mux_layer_list_fini(&move->after);
    mux_changes_fini(&move->changes);
    mux_fid_map_fini(&move->joined);
    mux_fid_map_fini(&move->known);
    free(move->revived);
    move->revived = NULL;
    move->n_revived = move->revived_capacity = 0;
    move->same_tree = false; // of a push that found the stack full, the next step may be a merge
}

// What a push onto a head that stands still changes is what the delta has against its base. Neither
// can change before the end of the turn: the view is held, and so is who would change the head.
static void gather_push(struct mux_move *move)
{
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct mux_commit_state state;
    struct store_txn *txn;
    struct af_error ignored; // a store that cannot be read fails the push itself
    if (!mux_news_wanted(&move->news) || move->large ||
        mux_inspect_begin(move->mux, move->sandbox_id, &of, &txn, &ignored) < 0)
        return;
    if (look(txn, move->sandbox_id, &state) == 0 && state.changed && !state.behind)
        mux_news_gather(&move->news, txn, mux_layer_list_all(&of.layers), of.root_fid);
    store_read_end(txn);
}

int mux_move_step(struct mux_move *move, int (*fn)(struct mux_move *move))
{
    uint64_t turn = mux_kept_begin_change(move->mux);
    mux_view_hold(move->mux, move->sandbox_id, &move->hold);
    if (move->push && !move->prepares) {
        mux_news_begin_commit(move->mux, move->sandbox_id, &move->news);
        gather_push(move);
    }
    int rc = store_write_begin(move->mux->store, &move->txn);
    if (rc == 0) {
        rc = mux_move_load(move);
        if (rc == 0)
            rc = fn(move);
        if (rc == 0 && move->result.changed)
            rc = store_commit(move->txn);
        else
            store_abort(move->txn);
        if (rc == 0 && move->result.changed && !move->prepares)
            publish(move);
    }
    if (move->past)
        mux_gone_drop(&move->hold.op.view->gone, &move->changes, move->past);
    move->past = NULL;
    uint32_t route = move->hold.op.view ? move->hold.op.view->route : 0;
    mux_view_release(&move->hold);
    mux_news_end(&move->news, rc == 0 && move->result.changed);
    if (rc == 0 && route != 0 && move->changes.count > 0) {
        mux_changes_tell(move->mux, route, &move->changes);
        mux_gone_ask(move->mux, route, &move->changes);
        move->result.told = true;
    }
    mux_kept_end_change(move->mux, turn);
    mux_parts_wake(move->mux);
    drop_step(move);
    return rc;
}

// ---- commit and rebase

static int do_step(struct mux_move *move)
{
    bool changed;
    int rc = has_changes(move->txn, move->sandbox.delta, &changed);
    if (rc < 0)
        return rc;
    if (mux_move_is_current(move))
        return move->push && changed ? mux_push(move) : 0;
    return mux_move_merge(move, changed);
}

static int fail(struct af_error *err, int rc, struct mux_move *move)
{
    const char *what = move->push ? "committing the sandbox" : "rebasing the sandbox";
    switch (rc) {
    case -ENOENT:
        return mux_fail_sandbox(err, rc, move->sandbox_id);
    case -EOWNERDEAD:
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the codebase of sandbox %s was deleted; its changes are kept in the "
                            "sandbox: take them out with a diff or a download",
                            move->sandbox_id);
    case -ECANCELED:
        return af_error_set(
            err, AF_ABORTED,
            "others have changed what sandbox %s changed; nothing was done: look at "
            "the differences, then commit with last-writer-wins, or roll back",
            move->sandbox_id);
    case -E2BIG:
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%s: the changes are too many for "
                            "one call; they are kept in the sandbox",
                            what);
    case -EFBIG:
        return af_error_set(
            err, AF_RESOURCE_EXHAUSTED,
            "%s: the codebase would be larger than %llu bytes; the changes are kept "
            "in the sandbox",
            what, (unsigned long long)AF_CODEBASE_SIZE_MAX);
    default:
        return mux_fail(err, rc, what);
    }
}

static int move_view(struct mux *mux, const char *sandbox_id, enum mux_conflicts conflicts,
                     bool push, struct mux_commit_result *ret, struct af_error *err)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    struct mux_move move = {
        .mux = mux, .sandbox_id = sandbox_id, .conflicts = conflicts, .push = push};
    bool more = true;
    unsigned tries = 0;
    int rc = mux_move_step(&move, do_step);
    while (rc == MUX_MOVE_LARGE || rc == -EAGAIN || (rc == MUX_STACK_FULL && more)) {
        move.result = (struct mux_commit_result){0};
        if (rc == MUX_STACK_FULL) {
            rc = mux_compact_relieve(mux, &more);
            if (rc == 0)
                rc = mux_move_step(&move, do_step);
        } else {
            move.any_size = tries++ == TRIES_MAX;
            rc = move.any_size ? mux_move_step(&move, do_step) : mux_move_large(&move);
        }
    }
    if (rc < 0)
        return fail(err, rc, &move);
    if (ret)
        *ret = move.result;
    return 0;
}

int mux_commit(struct mux *mux, const char *sandbox_id, enum mux_conflicts conflicts,
               struct mux_commit_result *ret, struct af_error *err)
{
    return move_view(mux, sandbox_id, conflicts, true, ret, err);
}

int mux_rebase(struct mux *mux, const char *sandbox_id, enum mux_conflicts conflicts,
               struct mux_commit_result *ret, struct af_error *err)
{
    return move_view(mux, sandbox_id, conflicts, false, ret, err);
}

// ---- rollback

static int do_rollback(struct mux_move *move)
{
    uint64_t delta;
    bool changed;
    int rc = has_changes(move->txn, move->sandbox.delta, &changed);
    if (rc < 0 || !changed)
        return rc;
    rc = store_layer_new(move->txn, &delta);
    if (rc == 0)
        rc = mux_push_keep_orphans(move, delta, false, mux_layer_list_base(&move->view));
    if (rc == 0)
        rc = mux_move_put_view(move, delta, move->sandbox.stack);
    move->result.changed = true;
    return rc;
}

int mux_rollback(struct mux *mux, const char *sandbox_id, bool *ret_told, struct af_error *err)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    struct mux_move move = {.mux = mux, .sandbox_id = sandbox_id, .rollback = true};
    int rc = mux_move_step(&move, do_rollback);
    if (rc < 0)
        return rc == -ENOENT ? mux_fail_sandbox(err, rc, sandbox_id)
                             : mux_fail(err, rc, "rolling the sandbox back");
    *ret_told = move.result.told;
    return 0;
}
