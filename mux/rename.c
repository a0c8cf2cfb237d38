// Rename: one entry moves, whatever is below it (D5): O(1) data, never -EXDEV within a view.
//
// The moved inode's own record follows with its new name and parent; what is below a directory is
// keyed by the directory's fid and is not touched. A base name leaves a whiteout. Both paths and
// every descendant need level write (P6, subtree.h); a tree with too many names to check at once is
// checked outside of the lock, on a thread that may block, and the check is used only if it still
// holds (is_cleared): -EBUSY when that keeps failing, -EACCES for a tree larger than
// MUX_SUBTREE_MAX whose rules do not answer for all of it.
// Exclusive in the view, one transaction. Read next: subtree.h, names.h, unlink.c.
#include "mux/record.h"
#include "mux/remove.h"
#include "mux/subtree.h"
#include "mux/top.h"

#include <dirent.h>
#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#define TRIES_MAX 16

struct side {
    uint64_t parent; // nodeid
    const char *text;
    struct mux_node dir;
    struct mux_name name;
};

struct rename {
    struct side from, to;
    unsigned flags;
    // The trees were walked outside of the lock, when the view's counts were these.
    bool walked;
    uint64_t walked_names_seq, walked_foreign_seq;
    uint64_t walked_from, walked_to; // fids
};

static int load_side(struct mux_op *op, struct side *side)
{
    int rc = mux_dir_load(op, side->parent, &side->dir);
    if (rc < 0)
        return rc;
    rc = mux_name_resolve_change(op, &side->dir, side->text, &side->name);
    if (rc < 0)
        mux_node_fini(op, &side->dir);
    return rc;
}

static void unload_side(struct mux_op *op, struct side *side)
{
    mux_name_fini(op, &side->name);
    mux_node_fini(op, &side->dir);
}

static int load_sides(struct mux_op *op, struct rename *rename)
{
    int rc = load_side(op, &rename->from);
    if (rc < 0)
        return rc;
    rc = load_side(op, &rename->to);
    if (rc < 0)
        unload_side(op, &rename->from);
    return rc;
}

static bool is_dir(const struct side *side)
{
    return side->name.exists && side->name.type == DT_DIR;
}

static int check_replaced(struct mux_op *op, const struct rename *rename)
{
    if (!rename->to.name.exists)
        return 0;
    if (rename->flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (is_dir(&rename->from) != is_dir(&rename->to))
        return is_dir(&rename->to) ? -EISDIR : -ENOTDIR;
    return is_dir(&rename->to) ? mux_check_empty(op, rename->to.name.fid) : 0;
}

static int check_not_inside(struct mux_op *op, const struct side *moved, const struct side *into)
{
    bool inside = false;
    if (!is_dir(moved) || moved->dir.fid == into->dir.fid)
        return 0;
    int rc = mux_subtree_contains(op, moved->name.fid, into->dir.fid, &inside);
    return rc == 0 && inside ? -EINVAL : rc;
}

static int check(struct mux_op *op, const struct rename *rename)
{
    bool exchange = rename->flags & RENAME_EXCHANGE;
    int rc = mux_name_check_removable(&rename->from.name);
    if (rc == 0 && rename->to.dir.nlink == 0)
        rc = -ENOENT;
    if (rc == 0 && exchange)
        rc = mux_name_check_removable(&rename->to.name);
    else if (rc == 0 && rename->to.name.level < RULES_WRITE)
        rc = -EACCES; // whether or not it exists (P8)
    if (rc == 0)
        rc = check_not_inside(op, &rename->from, &rename->to);
    if (rc == 0 && exchange)
        rc = check_not_inside(op, &rename->to, &rename->from);
    if (rc == 0 && !exchange)
        rc = check_replaced(op, rename);
    return rc;
}

// Both names lead to one inode: POSIX has nothing happen.
static bool is_same(const struct rename *rename)
{
    return rename->to.name.exists && rename->from.name.fid == rename->to.name.fid;
}

static int check_trees(struct mux_op *op, const struct rename *rename, unsigned limit)
{
    const struct side *from = &rename->from, *to = &rename->to;
    struct mux_move there = {from->name.fid, from->name.state, to->name.state};
    struct mux_move back = {to->name.fid, to->name.state, from->name.state};
    int rc = is_dir(from) ? mux_subtree_check(op, &there, limit) : 0;
    if (rc == 0 && (rename->flags & RENAME_EXCHANGE) && is_dir(to))
        rc = mux_subtree_check(op, &back, limit);
    return rc;
}

// A file with several names: the index follows.
static int index_moved(struct mux_op *op, const struct side *moved, const struct side *at)
{
    uint64_t delta = mux_op_delta(op), fid = moved->name.fid;
    int rc = store_link_put(op->txn, delta, fid, at->dir.fid, at->name.text, at->name.len);
    return rc < 0 ? rc
                  : store_link_del(op->txn, delta, fid, moved->dir.fid, moved->name.text,
                                   moved->name.len);
}

static int put_under(struct mux_op *op, const struct side *moved, const struct side *at)
{
    struct mux_record record;
    int rc = store_entry_put(op->txn, mux_op_delta(op), at->dir.fid, at->name.text, at->name.len,
                             moved->name.fid, moved->name.type);
    if (rc == 0)
        rc = mux_record_load(op, moved->name.fid, &record);
    if (rc == 0 && record.inode.nlink > 1 && !S_ISDIR(record.inode.mode))
        rc = index_moved(op, moved, at);
    if (rc < 0)
        return rc;
    mux_record_set_name(&record, at->dir.fid, at->name.text, at->name.len);
    record.inode.ctime_ns = op->now_ns;
    return mux_record_put(op, &record);
}

static int apply(struct mux_op *op, const struct rename *rename)
{
    const struct side *from = &rename->from, *to = &rename->to;
    bool exchange = rename->flags & RENAME_EXCHANGE;
    int rc = mux_op_write(op);
    if (rc == 0 && !exchange && to->name.exists)
        rc = mux_record_drop_link(op, to->name.fid, to->dir.fid, to->name.text, to->name.len);
    if (rc == 0)
        rc = put_under(op, from, to);
    if (rc == 0)
        rc = exchange ? put_under(op, to, from) : mux_remove_name(op, from->dir.fid, &from->name);
    if (rc == 0)
        rc = mux_record_touch_dir(op, from->dir.fid);
    if (rc == 0 && to->dir.fid != from->dir.fid)
        rc = mux_record_touch_dir(op, to->dir.fid);
    op->names_changed = true;
    op->dir_moved = from->dir.fid != to->dir.fid && (is_dir(from) || (exchange && is_dir(to)));
    op->states_changed =
        from->name.state != to->name.state && (is_dir(from) || (exchange && is_dir(to)));
    return rc;
}

// Whether the walk's answer still holds. Where the rules' states are equal on both sides it holds
// whatever the sandbox did meanwhile: every name that it made since needed write where it is, and
// has the same level where it would be. Else only if no name changed. Never under other rules, and
// never with what others have brought in.
static bool is_cleared(const struct mux_op *op, const struct rename *rename)
{
    const struct mux_name *from = &rename->from.name, *to = &rename->to.name;
    if (!rename->walked || rename->walked_from != from->fid || rename->walked_to != to->fid ||
        rename->walked_foreign_seq != op->view->foreign_seq)
        return false;
    return from->state == to->state || rename->walked_names_seq == op->view->names_seq;
}

// MUX_SUBTREE_UNKNOWN: the trees have to be walked first.
static int rename_in(struct mux_op *op, struct rename *rename)
{
    int rc = load_sides(op, rename);
    if (rc < 0)
        return rc;
    rc = check(op, rename);
    if (rc == 0 && !is_same(rename)) {
        if (!is_cleared(op, rename))
            rc = check_trees(op, rename, MUX_SUBTREE_FAST);
        if (rc == 0)
            rc = apply(op, rename);
    }
    unload_side(op, &rename->to);
    unload_side(op, &rename->from);
    return rc;
}

// Walks the trees on the state of this moment, without holding the view: on a copy of what a walk
// needs of it, so that the view may even be detached meanwhile.
static int walk_unlocked(struct mux *mux, struct rename *rename)
{
    struct mux_op op;
    int rc = mux_op_enter(mux, rename->from.parent, &op);
    if (rc < 0)
        return rc;
    struct mux_view shadow = {
        .magic = MUX_VIEW_MAGIC,
        .root_fid = op.view->root_fid,
        .rules = rules_ref(op.view->rules),
    };
    AF_CLEANUP_FREE uint64_t *ids = calloc(op.view->layers.count, sizeof *ids);
    rc = ids ? load_sides(&op, rename) : -ENOMEM;
    bool loaded = rc == 0;
    if (loaded) {
        memcpy(ids, op.view->layers.ids, op.view->layers.count * sizeof *ids);
        shadow.layers = (struct mux_layer_list){ids, op.view->layers.count};
        rename->walked_names_seq = op.view->names_seq;
        rename->walked_foreign_seq = op.view->foreign_seq;
        rename->walked_from = rename->from.name.fid;
        rename->walked_to = rename->to.name.fid;
        rc = mux_op_read_alone(&op);
    }
    struct mux_op walk = {.mux = mux, .view = &shadow, .txn = op.txn};
    op.txn = NULL;
    mux_op_leave(&op, 0);
    if (rc == 0) {
        rc = check_trees(&walk, rename, MUX_SUBTREE_MAX);
        rename->walked = rc == 0;
    }
    if (loaded) {
        unload_side(&walk, &rename->to);
        unload_side(&walk, &rename->from);
    }
    if (walk.txn)
        store_read_end(walk.txn);
    rules_unref(shadow.rules);
    return rc == MUX_SUBTREE_UNKNOWN ? -EACCES : rc;
}

int mux_rename(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               uint64_t new_parent, const char *new_name, unsigned flags)
{
    if ((flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) ||
        flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    if (mux_top_owns(parent) || mux_top_owns(new_parent))
        return -EPERM;
    if (mux_nodeid_is_shared(parent) || mux_nodeid_is_shared(new_parent))
        return -ENOTDIR;
    if (mux_nodeid_route(parent) != mux_nodeid_route(new_parent))
        return -EXDEV; // two sandboxes
    struct rename rename = {
        .from = {.parent = parent, .text = name},
        .to = {.parent = new_parent, .text = new_name},
        .flags = flags,
    };
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        struct mux_op op;
        int rc = mux_op_enter_change(mux, parent, &op);
        if (rc < 0)
            return rc;
        rc = rename_in(&op, &rename);
        bool unknown = rc == MUX_SUBTREE_UNKNOWN;
        rc = mux_op_leave(&op, unknown ? 0 : rc);
        if (!unknown || rc < 0)
            return rc;
        if (!ctx->may_block)
            return MUX_SLOW;
        rc = walk_unlocked(mux, &rename);
        if (rc < 0)
            return rc;
    }
    return -EBUSY;
}
