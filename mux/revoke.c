// Revocation: after a change of a view, the kernel forgets what it would now answer wrongly.
//
// Problem: the kernel may have cached any name, attribute or page of the view, and nobody keeps a
// table of what it has. A walk of the whole tree would cost its size.
// Idea: ask the kernel. Whether it has an inode is what an invalidation answers, and it has a
// directory's inode whenever it has anything below. So the walk goes down only where the kernel has
// been, compares each name's verdict under the old and the new rules, and takes back what differs.
// Order: the view has changed before the walk begins, so what is looked up from now on is right.
// What was under way is waited for: taking back a name waits for the lookups and listings of its
// directory, hence names come first, then the directory's listing, then what is below.
//
// Owns the rules' references and the stack of directories. Locks: the view's shared lock and a read
// transaction for BATCH names at a time, never while the kernel is asked. A directory that moves
// meanwhile may be missed, and then is looked for again; it needed level write for everything below
// it, so what the kernel may have wrong in between is too closed, never too open.
// Fails: when a comparison fails (memory, a damaged store), all that the kernel has is taken back
// without comparing; when that fails too, the caller hears of it. Read next: view_change.c,
// docs/SECURITY.md.
#include "mux/revoke.h"

#include "mux/base/log.h"
#include "mux/view.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#define BATCH     256
#define TRIES_MAX 16 // walks that were overtaken by a directory that moved

// A directory that the kernel has, with the rules' states before and after. Owns the states.
struct dir {
    uint64_t fid;
    rules_state before, after;
};

// A name and what has to be done about it.
struct name {
    uint64_t fid;
    uint64_t version;          // of a file; 0: not asked for
    rules_state before, after; // of a directory; owned
    bool is_dir;
    bool drop;   // the answer to its lookup is another one
    bool reattr; // it is the same object with other attributes
    bool relist; // it comes or goes in listings
    uint8_t len;
    char text[AF_NAME_MAX + 1];
};

struct mux_revoke {
    struct mux *mux;
    uint64_t root_nodeid;
    struct rules *before, *after; // NULL: everything
    const atomic_bool *stop;
    struct dir *todo;
    size_t count, capacity;
    struct name batch[BATCH];
};

struct mux_revoke *mux_revoke_new(struct mux *mux)
{
    struct mux_revoke *revoke = calloc(1, sizeof *revoke);
    if (revoke)
        revoke->mux = mux;
    return revoke;
}

void mux_revoke_rules(struct mux_revoke *revoke, uint64_t root_nodeid, struct rules *before,
                      struct rules *after)
{
    revoke->root_nodeid = root_nodeid;
    revoke->before = before;
    revoke->after = after;
}

void mux_revoke_all(struct mux_revoke *revoke, uint64_t root_nodeid)
{
    revoke->root_nodeid = root_nodeid;
}

static void release_states(struct mux_revoke *revoke, rules_state before, rules_state after)
{
    if (!revoke->before)
        return;
    rules_state_release(revoke->before, before);
    rules_state_release(revoke->after, after);
}

static void clear_todo(struct mux_revoke *revoke)
{
    while (revoke->count > 0) {
        struct dir *dir = &revoke->todo[--revoke->count];
        release_states(revoke, dir->before, dir->after);
    }
}

void mux_revoke_free(struct mux_revoke *revoke)
{
    if (!revoke)
        return;
    clear_todo(revoke);
    rules_unref(revoke->before);
    rules_unref(revoke->after);
    free(revoke->todo);
    free(revoke);
}

// ---- asking the kernel

static uint64_t nodeid_of(const struct mux_revoke *revoke, uint64_t fid)
{
    return mux_view_shown_by(revoke->mux, mux_nodeid_route(revoke->root_nodeid), fid);
}

// What the kernel has of a version that is this view's alone.
static void forget_version(struct mux_revoke *revoke, uint64_t version)
{
    uint64_t nodeid = mux_nodeid_pinned(mux_nodeid_route(revoke->root_nodeid), version);
    revoke->mux->notifier->drop_inode_now(revoke->mux->notifier_arg, nodeid, 0, 0);
}

// Of the names in it the kernel remembers none, but listings (alias.h).
static void forget_others(struct mux_revoke *revoke, uint64_t fid)
{
    struct mux_op op;
    uint64_t numbers[MUX_ALIAS_NUMBERS];
    if (mux_op_enter_inside(revoke->mux, revoke->root_nodeid, &op) < 0)
        return;
    uint32_t route = op.view->route;
    size_t count = mux_alias_others(&op.view->alias, fid, numbers);
    mux_op_leave(&op, 0);
    for (size_t i = 0; i < count; i++)
        revoke->mux->notifier->drop_inode_now(revoke->mux->notifier_arg,
                                              mux_nodeid_private(route, numbers[i]), 0, 0);
}

// Attributes with offset -1; with offset 0 what is cached of its content as well. Whether the
// kernel has it.
static bool forget_inode(struct mux_revoke *revoke, uint64_t fid, int64_t offset)
{
    const struct mux_notifier *notifier = revoke->mux->notifier;
    return notifier->drop_inode_now(revoke->mux->notifier_arg, nodeid_of(revoke, fid), offset, 0) !=
           -ENOENT;
}

static void forget_name(struct mux_revoke *revoke, uint64_t dir, const struct name *name)
{
    const struct mux_notifier *notifier = revoke->mux->notifier;
    uint64_t parent = nodeid_of(revoke, dir);
    if (name->drop)
        notifier->drop_entry_now(revoke->mux->notifier_arg, parent, name->text, name->len);
    else if (name->reattr)
        notifier->expire_entry_now(revoke->mux->notifier_arg, parent, name->text, name->len);
}

// ---- what has changed, under the view's lock

static bool is_visible(const struct rules *rules, rules_state state, bool is_dir)
{
    return rules_level(rules, state) >= RULES_VIEW || (is_dir && !rules_is_hidden(rules, state));
}

// The rules' word on the name alone.
static void compare(const struct mux_revoke *revoke, struct name *name)
{
    const struct rules *before = revoke->before, *after = revoke->after;
    name->relist = is_visible(before, name->before, name->is_dir) !=
                   is_visible(after, name->after, name->is_dir);
    bool level_differs = rules_level(before, name->before) != rules_level(after, name->after);
    name->drop = name->relist || (!name->is_dir && level_differs);
    name->reattr = name->is_dir && (level_differs || rules_below_max(before, name->before) !=
                                                         rules_below_max(after, name->after));
}

// A file's level is that of its most restricted name, so another name may have changed it.
static int look_at_file(struct mux_op *op, struct name *name)
{
    struct store_inode inode;
    int rc = mux_resolve_inode(op->txn, mux_op_layers(op), name->fid, &inode, NULL);
    if (rc == 0 && inode.nlink > 1 && !name->drop)
        name->reattr = true;
    if (rc == 0)
        name->version = inode.version;
    return rc == -ENOENT ? -EUCLEAN : rc;
}

static int judge(struct mux_revoke *revoke, struct mux_op *op, const struct dir *dir,
                 const struct store_entry *found, struct name *name)
{
    name->fid = found->fid;
    name->version = 0;
    name->is_dir = found->type == DT_DIR;
    name->len = found->name_len;
    name->drop = name->reattr = name->relist = false;
    memcpy(name->text, found->name, found->name_len);
    name->text[found->name_len] = '\0';
    name->before = name->after = RULES_STATE_INVALID;
    if (!revoke->before) {
        name->drop = !name->is_dir;
        name->reattr = name->is_dir;
        return revoke->mux->no_sharing && !name->is_dir ? look_at_file(op, name) : 0;
    }
    name->before = rules_step(revoke->before, dir->before, found->name, found->name_len);
    name->after = rules_step(revoke->after, dir->after, found->name, found->name_len);
    int rc = name->before && name->after ? 0 : -ENOMEM;
    if (rc == 0)
        compare(revoke, name);
    if (rc == 0 && !name->is_dir && (!name->drop || revoke->mux->no_sharing))
        rc = look_at_file(op, name);
    if (rc < 0 || !name->is_dir)
        release_states(revoke, name->before, name->after);
    return rc;
}

// Up to BATCH names behind *cookie; *ret_count is 0 at the end. -ESTALE: the view is gone.
static int gather(struct mux_revoke *revoke, const struct dir *dir, uint64_t *cookie,
                  size_t *ret_count)
{
    struct mux_op op;
    struct store_dir_iter *iter;
    struct store_entry found;
    size_t count = 0;
    int rc = mux_op_enter_inside(revoke->mux, revoke->root_nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_op_read(&op);
    if (rc == 0)
        rc = store_dir_open(op.txn, op.view->layers.ids, op.view->layers.count, dir->fid, *cookie,
                            &iter);
    if (rc < 0)
        return mux_op_leave(&op, rc);
    while (count < BATCH && (rc = store_dir_next(iter, &found, NULL)) == 0) {
        rc = judge(revoke, &op, dir, &found, &revoke->batch[count]);
        if (rc < 0)
            break;
        *cookie = found.cookie;
        count++;
    }
    store_dir_close(iter);
    mux_op_leave(&op, 0);
    if (rc < 0 && rc != -ENOENT) {
        for (size_t i = 0; i < count; i++)
            if (revoke->batch[i].is_dir)
                release_states(revoke, revoke->batch[i].before, revoke->batch[i].after);
        return rc;
    }
    *ret_count = count;
    return 0;
}

// ---- the walk

// Takes over the states.
static int push(struct mux_revoke *revoke, uint64_t fid, rules_state before, rules_state after)
{
    if (revoke->count == revoke->capacity) {
        size_t capacity = revoke->capacity ? revoke->capacity * 2 : 64;
        struct dir *todo = reallocarray(revoke->todo, capacity, sizeof *todo);
        if (!todo) {
            release_states(revoke, before, after);
            return -ENOMEM;
        }
        revoke->todo = todo;
        revoke->capacity = capacity;
    }
    revoke->todo[revoke->count++] = (struct dir){fid, before, after};
    return 0;
}

static int tell(struct mux_revoke *revoke, uint64_t dir, const struct name *name)
{
    forget_name(revoke, dir, name);
    if (!name->is_dir) {
        if (name->drop || name->reattr) {
            forget_inode(revoke, name->fid, 0);
            if (revoke->mux->no_sharing)
                forget_version(revoke, name->version);
        }
        return 0;
    }
    if (forget_inode(revoke, name->fid, -1))
        return push(revoke, name->fid, name->before, name->after);
    release_states(revoke, name->before, name->after);
    return 0;
}

static bool is_stopped(const struct mux_revoke *revoke)
{
    return revoke->stop && atomic_load(revoke->stop);
}

static int visit(struct mux_revoke *revoke, const struct dir *dir)
{
    uint64_t cookie = 0;
    size_t count = 1;
    bool relist = !revoke->before;
    int rc = 0;
    while (rc == 0 && count > 0 && !is_stopped(revoke)) {
        rc = gather(revoke, dir, &cookie, &count);
        for (size_t i = 0; rc == 0 && i < count; i++) {
            relist |= revoke->batch[i].relist;
            rc = tell(revoke, dir->fid, &revoke->batch[i]);
        }
    }
    if (rc == 0 && relist) {
        forget_others(revoke, dir->fid);
        forget_inode(revoke, dir->fid, 0);
    }
    return rc;
}

static int walk(struct mux_revoke *revoke)
{
    rules_state before = RULES_STATE_INVALID, after = RULES_STATE_INVALID;
    if (revoke->before) {
        before = rules_root(revoke->before);
        after = rules_root(revoke->after);
    }
    uint64_t root = mux_nodeid_fid(revoke->root_nodeid);
    forget_inode(revoke, root, -1); // after a cut-off, from now on there is no way in
    int rc = push(revoke, root, before, after);
    while (rc == 0 && revoke->count > 0 && !is_stopped(revoke)) {
        struct dir dir = revoke->todo[--revoke->count];
        rc = visit(revoke, &dir);
        release_states(revoke, dir.before, dir.after);
    }
    clear_todo(revoke);
    return rc;
}

// ---- beside the tree

static int read_moves(struct mux_revoke *revoke, uint64_t *ret)
{
    struct mux_op op;
    int rc = mux_op_enter_inside(revoke->mux, revoke->root_nodeid, &op);
    if (rc < 0)
        return rc;
    *ret = op.view->moves_seq;
    return mux_op_leave(&op, 0);
}

static size_t list(const struct mux_fid_map *map, uint64_t *fids, size_t room)
{
    size_t count = 0, position = 0;
    uint64_t fid, value;
    while (count < room && mux_fid_map_next(map, &position, &fid, &value))
        fids[count++] = fid;
    return count;
}

// Files without a name are nowhere in the tree. Of those that the sandbox has unlinked itself rules
// say nothing, a cut-off does; those that others took from it go by the names they had.
static int forget_nameless(struct mux_revoke *revoke)
{
    struct mux_op op;
    int rc = mux_op_enter_inside(revoke->mux, revoke->root_nodeid, &op);
    if (rc < 0)
        return rc;
    const struct mux_view *view = op.view;
    size_t room = view->n_orphans + view->gone.fids.used, count = 0;
    AF_CLEANUP_FREE uint64_t *fids = calloc(room + 1, sizeof *fids);
    if (fids)
        count = list(&view->gone.fids, fids, room);
    if (fids && !revoke->before)
        count += list(&view->orphans, fids + count, room - count);
    mux_op_leave(&op, 0);
    for (size_t i = 0; i < count; i++) {
        forget_others(revoke, fids[i]);
        forget_inode(revoke, fids[i], 0);
    }
    return fids ? 0 : -ENOMEM;
}

static int walk_until_still(struct mux_revoke *revoke)
{
    uint64_t moves, moves_now;
    int rc = read_moves(revoke, &moves);
    for (unsigned tries = 0; rc == 0 && tries < TRIES_MAX && !is_stopped(revoke); tries++) {
        rc = walk(revoke);
        if (rc == 0)
            rc = read_moves(revoke, &moves_now);
        if (rc == 0 && moves == moves_now)
            break;
        moves = moves_now;
    }
    return rc;
}

static void forget_rules(struct mux_revoke *revoke)
{
    rules_unref(revoke->before);
    rules_unref(revoke->after);
    revoke->before = revoke->after = NULL;
}

int mux_revoke_run(struct mux_revoke *revoke, const atomic_bool *stop)
{
    int rc = 0;
    if (!revoke)
        return 0;
    revoke->stop = stop;
    if (revoke->mux->notifier && revoke->before) {
        rc = walk_until_still(revoke);
        if (rc < 0)
            forget_rules(revoke);
    }
    if (revoke->mux->notifier && !revoke->before)
        rc = walk_until_still(revoke);
    if (revoke->mux->notifier && rc == 0)
        rc = forget_nameless(revoke);
    mux_revoke_free(revoke);
    return rc == -ESTALE ? 0 : rc; // detached: nobody is left to see anything
}
