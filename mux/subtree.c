// Walking what would move. Read next: subtree.h, rename.c.
#include "mux/subtree.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

// No path a program can say is this deep; what is walks up under the lock, so it has a bound.
#define ANCESTORS_MAX (1u << 16)

struct walk {
    struct mux_op *op;
    struct mux_move *todo; // directories not yet looked into; owns their states
    size_t count, capacity;
    unsigned left; // names that may still be looked at
};

static bool all_writable_below(const struct rules *rules, const struct mux_move *move)
{
    return rules_below_min(rules, move->from) == RULES_WRITE &&
           rules_below_min(rules, move->to) == RULES_WRITE;
}

static void release(struct rules *rules, const struct mux_move *move)
{
    rules_state_release(rules, move->from);
    rules_state_release(rules, move->to);
}

static int push(struct walk *walk, const struct mux_move *move)
{
    if (walk->count == walk->capacity) {
        size_t capacity = walk->capacity ? walk->capacity * 2 : 32;
        struct mux_move *todo = realloc(walk->todo, capacity * sizeof *todo);
        if (!todo)
            return -ENOMEM;
        walk->todo = todo;
        walk->capacity = capacity;
    }
    walk->todo[walk->count++] = *move;
    return 0;
}

static int check_name(struct walk *walk, const struct mux_move *dir,
                      const struct store_entry *found)
{
    struct rules *rules = walk->op->view->rules;
    if (walk->left == 0)
        return MUX_SUBTREE_UNKNOWN;
    walk->left--;
    struct mux_move child = {
        .dir = found->fid,
        .from = rules_step(rules, dir->from, found->name, found->name_len),
        .to = rules_step(rules, dir->to, found->name, found->name_len),
    };
    int rc = 0;
    if (child.from == RULES_STATE_INVALID || child.to == RULES_STATE_INVALID)
        rc = -ENOMEM;
    else if (rules_level(rules, child.from) != RULES_WRITE ||
             rules_level(rules, child.to) != RULES_WRITE)
        rc = -EACCES;
    else if (found->type == DT_DIR && !all_writable_below(rules, &child)) {
        rc = push(walk, &child);
        if (rc == 0)
            return 0;
    }
    release(rules, &child);
    return rc;
}

static int check_directory(struct walk *walk, const struct mux_move *dir)
{
    struct mux_op *op = walk->op;
    struct store_dir_iter *iter;
    int rc =
        store_dir_open(op->txn, op->view->layers.ids, op->view->layers.count, dir->dir, 0, &iter);
    if (rc < 0)
        return rc;
    struct store_entry found;
    while (rc == 0 && (rc = store_dir_next(iter, &found, NULL)) == 0)
        rc = check_name(walk, dir, &found);
    store_dir_close(iter);
    return rc == -ENOENT ? 0 : rc;
}

int mux_subtree_check(struct mux_op *op, const struct mux_move *move, unsigned limit)
{
    struct rules *rules = op->view->rules;
    if (all_writable_below(rules, move))
        return 0;
    struct walk walk = {.op = op, .left = limit};
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = check_directory(&walk, move);
    while (rc == 0 && walk.count > 0) {
        struct mux_move next = walk.todo[--walk.count];
        rc = check_directory(&walk, &next);
        release(rules, &next);
    }
    while (walk.count > 0)
        release(rules, &walk.todo[--walk.count]);
    free(walk.todo);
    return rc;
}

int mux_subtree_contains(struct mux_op *op, uint64_t ancestor, uint64_t dir, bool *ret)
{
    int rc = mux_op_read(op);
    for (unsigned depth = 0; rc == 0 && dir != ancestor && dir != op->view->root_fid; depth++) {
        struct store_inode inode;
        rc = depth < ANCESTORS_MAX
                 ? mux_resolve_inode(op->txn, mux_op_layers(op), dir, &inode, NULL)
                 : -ENAMETOOLONG;
        if (rc == 0)
            dir = inode.parent;
    }
    if (rc < 0)
        return rc == -ENOENT ? -ESTALE : rc;
    *ret = dir == ancestor;
    return 0;
}
