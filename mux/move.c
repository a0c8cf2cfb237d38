// Merging onto a head that has moved on: in one step while that is short, else in several.
//
// A step holds the view and the store's writer, so it takes only what some hundred records cost.
// What is larger is written into a layer that nobody sees (pending: a crash leaves it to the
// collector), a batch at a time, with neither held. The last step checks that view and head still
// stand where they stood, and makes that layer the codebase's new top, or the view's new delta.
// Read next: merge.h, push.c, commit.c.
#include "mux/commit_priv.h"

#include "mux/base/clock.h"
#include "mux/listings.h"
#include "mux/parts.h"

#include <errno.h>

// The layer that takes the result.
enum target {
    TARGET_HEAD,  // the codebase's open head, which has uploads in it
    TARGET_TOP,   // the top of its stack, which nobody else sees
    TARGET_FRESH, // a new one: the next top, or the view's next delta
};

struct merging {
    struct mux_move *move;
    struct mux_layer_list head; // ids[0]: takes the result
    enum target target;
    struct mux_merge merge;
};

static struct mux_merge merge_of(struct mux_move *move, struct mux_layers head)
{
    return (struct mux_merge){
        .store = move->mux->store,
        .txn = move->txn,
        .refuse = move->conflicts == MUX_CONFLICTS_REFUSED,
        .view = mux_layer_list_all(&move->view),
        .head = head,
        .root_fid = move->sandbox.root_fid,
        .now_ns = af_wall_ns(),
    };
}

// ---- how much

static bool has_layer(const struct mux_layer_list *list, uint64_t id)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->ids[i] == id)
            return true;
    return false;
}

// Records that the view has not seen: those of the head and of the layers it does not have, merged
// ones counted by their parts.
static int count_news(struct mux_move *move, uint64_t *ret)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list whole = {0}, head = {0}, view = {0};
    struct store_layer layer;
    uint64_t news = 0;
    int rc = mux_layer_list_load(move->txn, move->codebase.head, move->codebase.stack, &whole);
    if (rc == 0)
        rc = mux_parts_expand(move->mux, mux_layer_list_all(&whole), &head);
    if (rc == 0)
        rc = mux_parts_expand(move->mux, mux_layer_list_all(&move->view), &view);
    for (size_t i = 0; rc == 0 && i < head.count; i++) {
        if (has_layer(&view, head.ids[i]))
            continue;
        rc = store_layer_get(move->txn, head.ids[i], &layer);
        news += layer.inodes;
    }
    *ret = news;
    return rc;
}

// ---- onto the head without changes of its own

static int follow(struct mux_move *move)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list base = {0};
    int rc = mux_codebase_freeze_head(move->txn, &move->codebase);
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, 0, move->codebase.stack, &base);
    if (rc == 0)
        rc = mux_push_drop_revived(move, mux_layer_list_all(&base));
    if (rc == 0)
        rc = mux_move_put_view(move, move->sandbox.delta, move->codebase.stack);
    move->result.changed = true;
    return rc;
}

// ---- in one step

// Where a push may write: an open head, or a top layer that only the codebase sees.
static int choose_target(struct merging *merging)
{
    struct mux_move *move = merging->move;
    struct store_codebase *codebase = &move->codebase;
    struct store_layer top;
    uint32_t refs;
    merging->target = TARGET_FRESH;
    // What somebody watches goes into a layer of its own, which tells what changes.
    bool may_write = move->push && !mux_news_wanted(&move->news);
    if (codebase->head_dirty && may_write) {
        merging->target = TARGET_HEAD;
        return mux_layer_list_load(move->txn, codebase->head, codebase->stack, &merging->head);
    }
    int rc = mux_codebase_freeze_head(move->txn, codebase);
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, 0, codebase->stack, &merging->head);
    if (rc == 0)
        rc = store_stack_refs(move->txn, codebase->stack, &refs);
    if (rc == 0 && may_write && refs == 1 && merging->head.count > 0)
        rc = store_layer_get(move->txn, merging->head.ids[0], &top);
    else
        top.refs = 0;
    if (rc < 0)
        return rc;
    if (top.refs == 1 && !has_layer(&move->view, top.id) && !mux_parts_has(move->mux, top.id)) {
        merging->target = TARGET_TOP;
        mux_listings_tree_changes(move->mux->listings, codebase->stack);
        return 0;
    }
    uint64_t fresh;
    mux_layer_list_fini(&merging->head);
    rc = store_layer_new(move->txn, &fresh);
    return rc < 0 ? rc : mux_layer_list_load(move->txn, fresh, codebase->stack, &merging->head);
}

// The layer `fresh`, whose one reference is the caller's, becomes the top of the codebase's stack.
static int push_fresh(struct mux_move *move, const struct mux_layer_list *head)
{
    uint64_t stack, old = move->codebase.stack;
    if (head->count > MUX_STACK_SOFT_MAX)
        return MUX_STACK_FULL;
    int rc = store_layer_freeze(move->txn, head->ids[0]);
    if (rc == 0)
        rc = store_stack_new(move->txn, head->ids, head->count, &stack);
    if (rc == 0)
        rc = store_layer_unref(move->txn, head->ids[0]);
    if (rc == 0)
        rc = store_stack_unref(move->txn, old);
    if (rc == 0)
        move->codebase.stack = stack;
    return rc;
}

// Directories that the merge found made by others: the kernel may have the view's own.
static int note_joined(struct merging *merging)
{
    struct mux_move *move = merging->move;
    struct store_inode inode;
    uint64_t from, to;
    size_t position = 0;
    while (mux_fid_map_next(&merging->merge.dirs, &position, &from, &to)) {
        if (from == to)
            continue;
        int rc = mux_fid_map_put(&move->joined, from, to);
        if (rc == 0)
            rc = mux_resolve_inode(move->txn, mux_layer_list_all(&move->view), to, &inode, NULL);
        if (rc == 0)
            rc = mux_fid_map_put(&move->known, to, 1);
        if (rc < 0 && rc != -ENOENT)
            return rc;
    }
    return 0;
}

static void gather_news(struct merging *merging)
{
    struct mux_move *move = merging->move;
    if (mux_news_wanted(&move->news)) {
        move->news.diff = AF_TAKE_PTR(move->brought);
        move->news.lost = move->brought_lost;
    }
    mux_news_gather(&move->news, move->txn, mux_layer_list_all(&merging->head),
                    move->sandbox.root_fid);
}

// The codebase's and the view's records once the result is written.
static int finish_push(struct merging *merging)
{
    struct mux_move *move = merging->move;
    uint64_t delta;
    int rc = note_joined(merging);
    if (rc == 0 && merging->target == TARGET_FRESH) {
        gather_news(merging);
        rc = push_fresh(move, &merging->head);
    }
    if (rc == 0)
        rc = mux_push_count(move, merging->merge.tree_files, merging->merge.tree_bytes);
    if (rc == 0 && merging->target == TARGET_HEAD)
        rc = mux_codebase_freeze_head(move->txn, &move->codebase);
    if (rc == 0)
        rc = store_layer_new(move->txn, &delta);
    AF_CLEANUP_LAYER_LIST struct mux_layer_list base = {0};
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, 0, move->codebase.stack, &base);
    if (rc == 0)
        rc = mux_push_keep_orphans(move, delta, false, mux_layer_list_all(&base));
    return rc < 0 ? rc : mux_move_put_view(move, delta, move->codebase.stack);
}

// A rebase: the result is the view's delta.
static int finish_rebase(struct merging *merging)
{
    struct mux_move *move = merging->move;
    uint64_t delta = merging->head.ids[0];
    int rc = note_joined(merging);
    if (rc == 0)
        rc = mux_push_keep_orphans(move, delta, false, mux_layer_list_all(&merging->head));
    if (rc == 0)
        rc = store_layer_count_tree(move->txn, delta, merging->merge.tree_files,
                                    merging->merge.tree_bytes);
    return rc < 0 ? rc : mux_move_put_view(move, delta, move->codebase.stack);
}

static void take_result(struct mux_move *move, const struct mux_merge *merge)
{
    move->result.changed = move->result.merged = true;
    move->result.conflicts = merge->conflicts;
}

static int merge_in_step(struct merging *merging)
{
    struct mux_move *move = merging->move;
    int rc = choose_target(merging);
    if (rc < 0)
        return rc;
    merging->merge = merge_of(move, mux_layer_list_all(&merging->head));
    rc = mux_merge_run(&merging->merge);
    if (rc == 0)
        rc = move->push ? finish_push(merging) : finish_rebase(merging);
    take_result(move, &merging->merge);
    mux_merge_fini(&merging->merge);
    return rc;
}

int mux_move_merge(struct mux_move *move, bool changed)
{
    uint64_t news;
    int rc = count_news(move, &news);
    if (rc < 0)
        return rc;
    if (!move->any_size && news + (changed ? move->delta.inodes : 0) > move->mux->merge_step_max)
        return MUX_MOVE_LARGE;
    if (!changed) {
        rc = follow(move);
    } else {
        struct merging merging = {.move = move};
        rc = merge_in_step(&merging);
        mux_layer_list_fini(&merging.head);
    }
    return rc;
}

// ---- in several

// Where view and head stood when a large merge began, and what it has made of them.
struct mux_large {
    struct mux_move *move; // what the first step loaded is kept in `was`
    struct store_sandbox sandbox;
    struct store_codebase codebase;
    struct mux_layer_list view, head; // head.ids[0]: takes the result, unless `follow`
    bool follow, attached;
    uint64_t changes, attachments;
    uint64_t fresh; // 0: none
    struct mux_merge merge;
    struct mux_changes told;
};

static int copy_list(const struct mux_layer_list *from, struct mux_layer_list *ret)
{
    ret->ids = malloc(from->count * sizeof *ret->ids);
    if (!ret->ids)
        return -ENOMEM;
    for (size_t i = 0; i < from->count; i++)
        ret->ids[i] = from->ids[i];
    ret->count = from->count;
    return 0;
}

// First step: the head stands still from here on, or shows that it has moved.
static int begin(struct mux_move *move)
{
    struct mux_large *large = move->large;
    const struct mux_view *view = move->hold.op.view;
    bool changed;
    int rc = mux_codebase_freeze_head(move->txn, &move->codebase);
    if (rc == 0)
        rc = mux_move_has_changes(move, &changed);
    if (rc == 0 && changed)
        rc = store_layer_new_pending(move->txn, &large->fresh);
    if (rc == 0)
        rc = mux_layer_list_load(move->txn, changed ? large->fresh : move->sandbox.delta,
                                 move->codebase.stack, &large->head);
    if (rc == 0)
        rc = copy_list(&move->view, &large->view);
    if (rc < 0)
        return rc;
    large->follow = !changed;
    large->sandbox = move->sandbox;
    large->codebase = move->codebase;
    large->attached = view != NULL;
    large->changes = view ? view->changes : 0;
    large->attachments = move->hold.attachments;
    move->result.changed = true; // to commit
    return 0;
}

static int merge_in_batches(struct mux_large *large)
{
    struct mux_move *move = large->move;
    large->merge = (struct mux_merge){
        .store = move->mux->store,
        .batch = move->mux->merge_batch,
        .refuse = move->conflicts == MUX_CONFLICTS_REFUSED,
        .view = mux_layer_list_all(&large->view),
        .head = mux_layer_list_all(&large->head),
        .root_fid = large->sandbox.root_fid,
        .now_ns = af_wall_ns(),
    };
    int rc = mux_merge_run(&large->merge);
    if (rc == 0)
        return store_commit(large->merge.txn);
    if (large->merge.txn)
        store_abort(large->merge.txn);
    return rc;
}

static int collect_changes(struct mux_large *large)
{
    struct store_txn *txn;
    if (!large->attached)
        return 0;
    int rc = store_read_begin(large->move->mux->store, &txn);
    if (rc < 0)
        return rc;
    rc = mux_changes_collect(large->move->mux, txn, mux_layer_list_all(&large->view),
                             mux_layer_list_all(&large->head), &large->told);
    store_read_end(txn);
    return rc;
}

// While nothing is held; the last step does it itself when somebody has come to watch since.
static void gather_news_early(struct mux_large *large)
{
    struct mux_move *move = large->move;
    struct store_txn *txn;
    if (!move->push || large->follow || store_read_begin(move->mux->store, &txn) < 0)
        return;
    move->brought = mux_news_gather_early(move->mux, large->sandbox.codebase_id.text, txn,
                                          mux_layer_list_all(&large->head), large->sandbox.root_fid,
                                          &move->brought_lost);
    store_read_end(txn);
}

static bool is_overtaken(const struct mux_large *large)
{
    const struct mux_move *move = large->move;
    const struct mux_view *view = move->hold.op.view;
    if (move->sandbox.stack != large->sandbox.stack ||
        move->sandbox.delta != large->sandbox.delta ||
        move->codebase.stack != large->codebase.stack ||
        move->codebase.head != large->codebase.head || move->codebase.head_dirty ||
        move->codebase.updated_ns != large->codebase.updated_ns)
        return true;
    if ((view != NULL) != large->attached)
        return true; // or the kernel was told nothing
    if (large->follow)
        return false; // end() looks at the delta
    return view ? view->changes != large->changes : move->hold.attachments != large->attachments;
}

// Last step: everything is written, only the records change.
static int end(struct mux_move *move)
{
    struct mux_large *large = move->large;
    bool changed = false;
    int rc = 0;
    if (is_overtaken(large))
        return -EAGAIN;
    if (large->follow) // what has changed since must be merged
        rc = mux_move_has_changes(move, &changed);
    if (rc < 0 || changed)
        return rc < 0 ? rc : -EAGAIN;
    move->changes = large->told;
    large->told = (struct mux_changes){0};
    if (large->follow) {
        rc = follow(move);
    } else {
        struct merging merging = {
            .move = move, .head = large->head, .target = TARGET_FRESH, .merge = large->merge};
        rc = store_layer_adopt(move->txn, large->fresh);
        if (rc == 0)
            rc = move->push ? finish_push(&merging) : finish_rebase(&merging);
        take_result(move, &large->merge);
    }
    return rc;
}

static void drop_fresh(struct mux_large *large)
{
    struct store *store = large->move->mux->store;
    struct store_txn *txn;
    if (large->fresh == 0 || store_write_begin(store, &txn) < 0)
        return; // pending: the next start hands it to the collector
    if (store_layer_unref(txn, large->fresh) < 0)
        store_abort(txn);
    else
        store_commit(txn);
}

int mux_move_large(struct mux_move *move)
{
    struct mux_large large = {.move = move};
    bool done = false;
    move->large = &large;
    mux_compact_hold(move->mux); // the lists of layers are gone by in several transactions
    move->prepares = true;
    int rc = mux_move_step(move, begin);
    move->prepares = false;
    move->result = (struct mux_commit_result){0};
    if (rc == 0 && !large.follow)
        rc = merge_in_batches(&large);
    if (rc == 0)
        rc = collect_changes(&large);
    if (rc == 0) {
        gather_news_early(&large);
        rc = mux_move_step(move, end);
        done = rc == 0;
    }
    mux_compact_release(move->mux);
    // A push that overtook this one may have dropped the layers it was reading.
    if (rc == -EUCLEAN || rc == -ENOENT)
        rc = -EAGAIN;
    if (!done)
        drop_fresh(&large);
    mux_merge_fini(&large.merge);
    mux_diff_free(move->brought);
    move->brought = NULL;
    move->brought_lost = 0;
    mux_changes_fini(&large.told);
    mux_layer_list_fini(&large.view);
    mux_layer_list_fini(&large.head);
    move->large = NULL;
    return rc;
}
