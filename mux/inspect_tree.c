// The tree of a view, each entry with its level.
//
// Gathered in one read transaction into an arena (bounded: a larger tree is RESOURCE_EXHAUSTED),
// then handed out after it has ended, so that a slow reader holds nobody up. The rule state of
// each directory on the way down is kept, so an entry costs one step. Owns both for one call.
// Read next: walk.h, rules.h.
#include "mux/inspect.h"

#include "mux/arena.h"
#include "mux/host_call.h"
#include "mux/inspect_priv.h"
#include "mux/walk.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct item {
    struct mux_tree_node node;
    struct item *next;
};

struct tree {
    struct rules *rules;
    uint32_t max_depth; // 0: no limit
    bool all;
    struct mux_arena arena;
    struct item *first, **last;
    rules_state *states; // of the directory at each depth; 0: where the walk began
    size_t n_states, states_capacity;
    int rc;
};

static void tree_fini(struct tree *tree)
{
    for (size_t i = 0; i < tree->n_states; i++)
        rules_state_release(tree->rules, tree->states[i]);
    free(tree->states);
    mux_arena_fini(&tree->arena);
    rules_unref(tree->rules);
}

// Keeps the state of a directory at a depth, taking over the reference.
static int keep_state(struct tree *tree, size_t depth, rules_state state)
{
    while (tree->n_states > depth)
        rules_state_release(tree->rules, tree->states[--tree->n_states]);
    if (tree->n_states == tree->states_capacity) {
        size_t capacity = tree->states_capacity ? tree->states_capacity * 2 : 32;
        rules_state *bigger = realloc(tree->states, capacity * sizeof *bigger);
        if (!bigger) {
            rules_state_release(tree->rules, state);
            return -ENOMEM;
        }
        tree->states = bigger;
        tree->states_capacity = capacity;
    }
    tree->states[tree->n_states++] = state;
    return 0;
}

static int add_item(struct tree *tree, const struct mux_walk_node *node, enum rules_level level,
                    bool hidden)
{
    const struct store_inode *inode = node->inode;
    struct item *item = mux_arena_alloc(&tree->arena, sizeof *item);
    if (!item)
        return -E2BIG;
    *item = (struct item){
        .node =
            {
                .path = mux_arena_copy(&tree->arena, node->path, node->path_len),
                .mode = inode->mode,
                .level = level,
                .traversable_only = level == RULES_NONE && !hidden,
                .size = inode->size,
                .fid = inode->fid,
                .nlink = inode->nlink,
                .mtime_ns = inode->mtime_ns,
            },
    };
    if (S_ISLNK(inode->mode)) {
        item->node.symlink_target =
            mux_arena_copy(&tree->arena, inode->inline_data, inode->inline_len);
        if (!item->node.symlink_target)
            return -E2BIG;
    }
    if (!item->node.path)
        return -E2BIG;
    *tree->last = item;
    tree->last = &item->next;
    return 0;
}

static enum mux_walk_next visit(void *arg, const struct mux_walk_node *node)
{
    struct tree *tree = arg;
    bool is_dir = S_ISDIR(node->inode->mode);
    rules_state state =
        rules_step(tree->rules, tree->states[node->depth - 1], node->name, node->name_len);
    enum rules_level level = rules_level(tree->rules, state);
    bool hidden = rules_is_hidden(tree->rules, state) || (level == RULES_NONE && !is_dir);
    bool shown = tree->all || !hidden;
    bool deeper = is_dir && shown && (tree->max_depth == 0 || node->depth < tree->max_depth);
    if (state == RULES_STATE_INVALID)
        tree->rc = -ENOMEM;
    else if (shown)
        tree->rc = add_item(tree, node, level, hidden);
    if (tree->rc == 0 && deeper)
        tree->rc = keep_state(tree, node->depth, state);
    else
        rules_state_release(tree->rules, state);
    if (tree->rc < 0)
        return MUX_WALK_STOP;
    return deeper ? MUX_WALK_ON : MUX_WALK_PRUNE;
}

static int gather(struct tree *tree, struct store_txn *txn, const struct mux_sandbox_layers *of,
                  const struct mux_path *path, struct af_error *err)
{
    struct mux_layers layers = mux_layer_list_all(&of->layers);
    struct store_inode dir;
    int rc = mux_resolve_path(txn, layers, of->root_fid, path->text, path->len, &dir, NULL);
    if (rc < 0)
        return mux_fail_path(err, rc, path);
    if (!S_ISDIR(dir.mode))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is no directory; ask for its attributes instead",
                            MUX_SHOW(path->text, path->len));
    rules_state state = rules_walk(tree->rules, path->text, path->len);
    bool hidden = rules_is_hidden(tree->rules, state);
    rc = keep_state(tree, 0, state);
    if (rc == 0 && hidden && !tree->all)
        return af_error_set(err, AF_NOT_FOUND,
                            "'%.*s' is hidden from the sandbox; ask for hidden entries too to "
                            "see it",
                            MUX_SHOW(path->text, path->len));
    if (rc == 0)
        rc = mux_walk(txn, layers, dir.fid, path->text, path->len, visit, tree);
    if (rc == 0)
        rc = tree->rc;
    return rc < 0 ? mux_fail(err, rc, "reading the tree") : 0;
}

// Hands out what was gathered, after the transaction.
static int hand_out(const struct tree *tree, int (*fn)(void *arg, const struct mux_tree_node *node),
                    void *arg)
{
    int rc = 0;
    for (const struct item *item = tree->first; rc == 0 && item; item = item->next)
        rc = fn(arg, &item->node);
    return rc;
}

int mux_inspect_tree(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                     uint32_t depth, bool all,
                     int (*fn)(void *arg, const struct mux_tree_node *node), void *arg,
                     struct af_error *err)
{
    struct mux_path parsed;
    AF_CLEANUP(tree_fini) struct tree tree = {.max_depth = depth, .all = all};
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct store_txn *txn;
    tree.last = &tree.first;
    if (mux_check_path(path, path_len, true, &parsed, err) < 0 ||
        mux_inspect_begin_rules(mux, sandbox_id, &of, &tree.rules, &txn, err) < 0)
        return -1;
    int rc = gather(&tree, txn, &of, &parsed, err);
    store_read_end(txn);
    return rc < 0 ? rc : hand_out(&tree, fn, arg);
}

int mux_codebase_tree(struct mux *mux, const char *codebase_id, const void *path, size_t path_len,
                      uint32_t depth, int (*fn)(void *arg, const struct mux_tree_node *node),
                      void *arg, struct af_error *err)
{
    static const struct rules_input everything = {
        .pattern = "**/*", .pattern_len = 4, .type = RULES_GLOB, .level = RULES_WRITE};
    struct mux_path parsed;
    AF_CLEANUP(tree_fini) struct tree tree = {.max_depth = depth, .all = true};
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct store_txn *txn;
    struct store_codebase codebase;
    tree.last = &tree.first;
    if (mux_check_codebase_id(codebase_id, err) < 0 ||
        mux_check_path(path, path_len, true, &parsed, err) < 0 ||
        rules_compile(&everything, 1, &tree.rules, err) < 0)
        return -1;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the tree");
    rc = store_codebase_get(txn, codebase_id, &codebase);
    if (rc == 0)
        rc = mux_layer_list_load(txn, codebase.head, codebase.stack, &of.layers);
    of.root_fid = codebase.root_fid;
    rc = rc < 0 ? mux_fail_codebase(err, rc, codebase_id) : gather(&tree, txn, &of, &parsed, err);
    store_read_end(txn);
    return rc < 0 ? rc : hand_out(&tree, fn, arg);
}
