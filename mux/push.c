// Pushing a delta onto a head that has not moved: the delta becomes its top layer.
//
// O(1), whatever the delta's size: freeze it, put it on the stack, begin an empty one. A small
// delta whose sandbox is the only one on this codebase goes into the top layer instead (absorb),
// record by record, so that a sandbox that runs thousands of commands does not pile up thousands of
// layers. Nobody sees the difference: the stack's other holder is the codebase itself. Within a
// step (commit_priv.h). Read next: commit.c, move.c.
#include "mux/commit_priv.h"

#include "mux/base/clock.h"
#include "mux/inode_copy.h"
#include "mux/links.h"
#include "mux/listings.h"
#include "mux/parts.h"

#include <errno.h>
#include <string.h>

#define LINKS_AT_ONCE 64

bool mux_move_is_current(const struct mux_move *move)
{
    return move->sandbox.stack == move->codebase.stack && !move->codebase.head_dirty;
}

int mux_push_count(struct mux_move *move, int64_t files, int64_t bytes)
{
    struct store_codebase *codebase = &move->codebase;
    codebase->files += (uint64_t)files;
    codebase->size_bytes += (uint64_t)bytes;
    if (bytes > 0 && codebase->size_bytes > AF_CODEBASE_SIZE_MAX)
        return -EFBIG;
    int64_t now_ns = af_wall_ns();
    codebase->updated_ns = now_ns > codebase->updated_ns ? now_ns : codebase->updated_ns + 1;
    return store_codebase_put(move->txn, codebase);
}

// ---- orphans

static bool is_dead(const struct mux_move *move, uint64_t fid)
{
    const struct mux_view *view = move->hold.op.view;
    uint64_t value;
    return !view || (mux_fid_map_get(&view->orphans, fid, &value) && value == MUX_ORPHAN_DEAD);
}

static int keep_orphan(struct mux_move *move, uint64_t fid, uint64_t to)
{
    struct store_inode inode;
    struct mux_inode_copy copy;
    int rc = store_inode_get(move->txn, move->sandbox.delta, fid, &inode);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    bool owned = inode.blob_owned; // the old record goes with its layer, and nobody reads it
    rc = mux_inode_copy(&inode, &copy);
    copy.inode.blob_owned = owned;
    if (rc == 0)
        rc = store_inode_put(move->txn, to, &copy.inode);
    return rc < 0 ? rc : store_orphan_put(move->txn, to, fid);
}

static int note_revived(struct mux_move *move, uint64_t fid)
{
    if (move->n_revived == move->revived_capacity) {
        size_t capacity = move->revived_capacity ? move->revived_capacity * 2 : 16;
        uint64_t *bigger = realloc(move->revived, capacity * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        move->revived = bigger;
        move->revived_capacity = capacity;
    }
    move->revived[move->n_revived++] = fid;
    return 0;
}

static int has_name(struct mux_move *move, struct mux_layers layers, uint64_t fid, bool *ret)
{
    struct store_inode inode;
    *ret = false;
    int rc = mux_resolve_inode(move->txn, layers, fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    return mux_links_any(move->txn, layers, &inode, ret);
}

int mux_push_keep_orphans(struct mux_move *move, uint64_t to, bool take, struct mux_layers base)
{
    uint64_t from = move->sandbox.delta, fid = 0;
    int rc;
    while ((rc = store_orphan_next(move->txn, from, fid, &fid)) == 0) {
        bool named;
        rc = has_name(move, base, fid, &named);
        if (rc == 0 && named)
            rc = note_revived(move, fid);
        else if (rc == 0 && !is_dead(move, fid))
            rc = keep_orphan(move, fid, to);
        if (rc == 0 && take)
            rc = store_inode_del(move->txn, from, fid);
        if (rc == 0 && take)
            rc = store_orphan_del(move->txn, from, fid);
        if (rc < 0)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

int mux_push_drop_revived(struct mux_move *move, struct mux_layers base)
{
    uint64_t delta = move->sandbox.delta, fid = 0;
    int rc;
    while ((rc = store_orphan_next(move->txn, delta, fid, &fid)) == 0) {
        bool named;
        rc = has_name(move, base, fid, &named);
        if (rc == 0 && named)
            rc = note_revived(move, fid);
        if (rc == 0 && named)
            rc = store_inode_del(move->txn, delta, fid);
        if (rc == 0 && named)
            rc = store_orphan_del(move->txn, delta, fid);
        if (rc < 0)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

// ---- into the top layer

struct moved_entry {
    uint64_t parent, fid, old_fid; // old_fid: what the name led to, 0: nothing
    const char *name;
    uint8_t name_len, type;
};

struct absorb {
    struct mux_move *move;
    struct mux_layers below; // ids[0]: the top layer
    struct mux_arena arena;
    struct moved_entry *entries;
    uint64_t *inodes;
    size_t n_entries, n_inodes, max; // of each
};

static int collect_entry(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct absorb *absorb = arg;
    struct store_entry old;
    if (absorb->n_entries == absorb->max)
        return 1;
    const char *name = mux_arena_copy(&absorb->arena, entry->name, entry->name_len);
    if (!name)
        return -ENOMEM;
    int rc = mux_resolve_entry(absorb->move->txn, absorb->below, parent, entry->name,
                               entry->name_len, &old, NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    absorb->entries[absorb->n_entries++] = (struct moved_entry){
        .parent = parent,
        .fid = entry->fid,
        .old_fid = rc == 0 ? old.fid : 0,
        .name = name,
        .name_len = entry->name_len,
        .type = entry->type,
    };
    return 0;
}

static int collect_inode(void *arg, const struct store_inode *inode)
{
    struct absorb *absorb = arg;
    if (inode->nlink == 0)
        return 0;
    if (absorb->n_inodes == absorb->max)
        return 1;
    absorb->inodes[absorb->n_inodes++] = inode->fid;
    return 0;
}

// Whether the codebase and this view alone see the top layer, and the delta is small.
static int may_absorb(struct absorb *absorb, bool *ret)
{
    struct mux_move *move = absorb->move;
    struct store_layer top;
    uint32_t refs;
    *ret = false;
    if (move->view.count < 2 || move->delta.inodes > absorb->max)
        return 0;
    int rc = store_stack_refs(move->txn, move->sandbox.stack, &refs);
    if (rc == 0)
        rc = store_layer_get(move->txn, move->view.ids[1], &top);
    if (rc < 0 || refs != 2 || top.refs != 1 || mux_parts_has(move->mux, top.id))
        return rc;
    rc = store_layer_entries(move->txn, move->sandbox.delta, collect_entry, absorb);
    if (rc == 0)
        rc = store_layer_inodes(move->txn, move->sandbox.delta, collect_inode, absorb);
    *ret = rc == 0;
    return rc < 0 ? rc : 0;
}

static int move_entry(struct absorb *absorb, const struct moved_entry *entry)
{
    struct store_txn *txn = absorb->move->txn;
    uint64_t top = absorb->below.ids[0];
    bool lower = false;
    int rc = 0;
    if (entry->fid != 0)
        rc = store_entry_put(txn, top, entry->parent, entry->name, entry->name_len, entry->fid,
                             entry->type);
    else
        rc = mux_resolve_in_lower(txn, absorb->below, entry->parent, entry->name, entry->name_len,
                                  &lower);
    if (rc == 0 && entry->fid == 0)
        rc = lower ? store_entry_put_whiteout(txn, top, entry->parent, entry->name, entry->name_len)
                   : store_entry_del(txn, top, entry->parent, entry->name, entry->name_len);
    if (rc == 0 || rc == -ENOENT)
        rc = store_entry_del(txn, absorb->move->sandbox.delta, entry->parent, entry->name,
                             entry->name_len);
    return rc;
}

struct link_mover {
    struct absorb *absorb;
    struct moved_entry links[LINKS_AT_ONCE];
    size_t count;
};

static int collect_link(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    struct link_mover *mover = arg;
    if (mover->count == LINKS_AT_ONCE)
        return 1;
    const char *copy = mux_arena_copy(&mover->absorb->arena, name, name_len);
    if (!copy)
        return -ENOMEM;
    mover->links[mover->count++] =
        (struct moved_entry){.parent = parent, .name = copy, .name_len = (uint8_t)name_len};
    return 0;
}

// Some links of a file; 1: there are more.
static int move_some_links(struct absorb *absorb, uint64_t fid)
{
    struct store_txn *txn = absorb->move->txn;
    uint64_t delta = absorb->move->sandbox.delta;
    struct link_mover mover = {.absorb = absorb};
    int more = store_link_walk(txn, delta, fid, collect_link, &mover);
    int rc = more < 0 ? more : 0;
    for (size_t i = 0; rc == 0 && i < mover.count; i++) {
        const struct moved_entry *link = &mover.links[i];
        rc = store_link_put(txn, absorb->below.ids[0], fid, link->parent, link->name,
                            link->name_len);
        if (rc == 0)
            rc = store_link_del(txn, delta, fid, link->parent, link->name, link->name_len);
    }
    return rc < 0 ? rc : more;
}

static int move_links(struct absorb *absorb, uint64_t fid)
{
    int rc;
    do
        rc = move_some_links(absorb, fid);
    while (rc == 1);
    return rc;
}

static int move_inode(struct absorb *absorb, uint64_t fid)
{
    struct store_txn *txn = absorb->move->txn;
    uint64_t delta = absorb->move->sandbox.delta;
    struct store_inode inode;
    struct mux_inode_copy copy;
    int rc = store_inode_get(txn, delta, fid, &inode);
    bool owned = rc == 0 && inode.blob_owned;
    if (rc == 0)
        rc = mux_inode_copy(&inode, &copy);
    if (rc == 0)
        rc = store_inode_put(txn, absorb->below.ids[0], &copy.inode);
    if (rc == 0 && owned) // the delta lives on, but has no record of it
        rc = store_blob_disown(txn, copy.inode.blob);
    if (rc == 0)
        rc = move_links(absorb, fid);
    return rc < 0 ? rc : store_inode_del(txn, delta, fid);
}

// What lost its name and had its record in the top layer.
static int drop_old(struct absorb *absorb, uint64_t fid)
{
    struct store_txn *txn = absorb->move->txn;
    uint64_t top = absorb->below.ids[0];
    struct store_inode inode;
    bool named;
    int rc = fid == 0 ? -ENOENT : store_inode_get(txn, top, fid, &inode);
    if (rc == 0)
        rc = mux_links_any(txn, absorb->below, &inode, &named);
    if (rc < 0 || named)
        return rc == -ENOENT ? 0 : rc;
    rc = store_inode_del(txn, top, fid);
    return rc < 0 ? rc : store_link_clear(txn, top, fid);
}

static int absorb_all(struct absorb *absorb)
{
    struct mux_move *move = absorb->move;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < absorb->n_entries; i++)
        rc = move_entry(absorb, &absorb->entries[i]);
    for (size_t i = 0; rc == 0 && i < absorb->n_inodes; i++)
        rc = move_inode(absorb, absorb->inodes[i]);
    for (size_t i = 0; rc == 0 && i < absorb->n_entries; i++)
        rc = drop_old(absorb, absorb->entries[i].old_fid);
    if (rc == 0)
        rc = store_layer_count_tree(move->txn, move->sandbox.delta, -move->delta.tree_files,
                                    -move->delta.tree_bytes);
    return rc < 0 ? rc : mux_push_count(move, move->delta.tree_files, move->delta.tree_bytes);
}

// 1: done.
static int try_absorb(struct mux_move *move)
{
    size_t max = move->mux->absorb_max;
    AF_CLEANUP_FREE struct moved_entry *entries = calloc(max + 1, sizeof *entries);
    AF_CLEANUP_FREE uint64_t *inodes = calloc(max + 1, sizeof *inodes);
    bool may = false;
    if (!entries || !inodes)
        return -ENOMEM;
    struct absorb absorb = {.move = move,
                            .below = mux_layer_list_base(&move->view),
                            .entries = entries,
                            .inodes = inodes,
                            .max = max};
    int rc = may_absorb(&absorb, &may);
    if (rc == 0 && may) {
        mux_listings_tree_changes(move->mux->listings, move->sandbox.stack);
        rc = absorb_all(&absorb);
    }
    if (rc == 0 && may)
        rc = 1;
    mux_arena_fini(&absorb.arena);
    return rc;
}

// ---- as a layer

static int push_layer(struct mux_move *move)
{
    uint64_t delta, stack, old = move->codebase.stack;
    if (move->view.count > MUX_STACK_SOFT_MAX)
        return MUX_STACK_FULL;
    int rc = store_layer_new(move->txn, &delta);
    if (rc == 0)
        rc = mux_push_keep_orphans(move, delta, true, mux_layer_list_all(&move->view));
    if (rc == 0)
        rc = store_layer_freeze(move->txn, move->sandbox.delta);
    if (rc == 0)
        rc = store_stack_new(move->txn, move->view.ids, move->view.count, &stack);
    if (rc < 0)
        return rc;
    move->codebase.stack = stack;
    rc = mux_push_count(move, move->delta.tree_files, move->delta.tree_bytes);
    if (rc == 0)
        rc = mux_move_put_view(move, delta, stack);
    return rc < 0 ? rc : store_stack_unref(move->txn, old);
}

int mux_push(struct mux_move *move)
{
    move->same_tree = true;
    int rc = try_absorb(move);
    if (rc == 0)
        rc = push_layer(move);
    move->result.changed = rc >= 0;
    return rc < 0 ? rc : 0;
}
