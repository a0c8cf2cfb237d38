// Looking into a view from outside: its sandboxes, one node, one rule decision, one file.
//
// Reads the store, not the attached view's caches: every mutation is committed before it is
// acknowledged, so the store is the truth. Rules are reported, not enforced. Owns what one call
// gathers; takes the view table's lock only through view_table.c. Errors: an af_error.
// Read next: inspect_tree.c, diff.c.
#include "mux/inspect.h"

#include "mux/attr.h"
#include "mux/file_priv.h"
#include "mux/host_call.h"
#include "mux/inspect_priv.h"
#include "mux/sandbox_priv.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

void mux_sandbox_layers_fini(struct mux_sandbox_layers *layers)
{
    mux_layer_list_fini(&layers->layers);
}

int mux_inspect_begin_rules(struct mux *mux, const char *sandbox_id, struct mux_sandbox_layers *ret,
                            struct rules **ret_rules, struct store_txn **ret_txn,
                            struct af_error *err)
{
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct mux_sandbox_layers layers = {0};
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the sandbox");
    rc = store_sandbox_get(txn, sandbox_id, &sandbox);
    if (rc < 0) {
        store_read_end(txn);
        return mux_fail_sandbox(err, rc, sandbox_id);
    }
    layers.root_fid = sandbox.root_fid;
    rc = mux_layer_list_load(txn, sandbox.delta, sandbox.stack, &layers.layers);
    if (rc < 0)
        mux_fail(err, rc, "reading the sandbox's layers");
    else if (ret_rules)
        rc = mux_compile_rules(sandbox.rules, sandbox.n_rules, ret_rules, err);
    store_sandbox_free_rules(&sandbox);
    if (rc < 0) {
        mux_sandbox_layers_fini(&layers);
        store_read_end(txn);
        return -1;
    }
    *ret = layers;
    *ret_txn = txn;
    return 0;
}

int mux_inspect_begin(struct mux *mux, const char *sandbox_id, struct mux_sandbox_layers *ret,
                      struct store_txn **ret_txn, struct af_error *err)
{
    return mux_inspect_begin_rules(mux, sandbox_id, ret, NULL, ret_txn, err);
}

// ---- views

struct views {
    struct store_txn *txn;
    struct mux_view_info *infos;
    size_t count, capacity;
};

static int collect_view(void *arg, const struct store_sandbox *sandbox)
{
    struct views *views = arg;
    struct store_layer delta;
    size_t depth;
    int rc = store_layer_get(views->txn, sandbox->delta, &delta);
    if (rc == 0)
        rc = store_stack_get(views->txn, sandbox->stack, NULL, 0, &depth);
    if (rc < 0)
        return rc;
    if (views->count == views->capacity) {
        size_t capacity = views->capacity ? views->capacity * 2 : 32;
        struct mux_view_info *bigger = realloc(views->infos, capacity * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        views->infos = bigger;
        views->capacity = capacity;
    }
    views->infos[views->count++] = (struct mux_view_info){
        .sandbox_id = sandbox->id,
        .codebase_id = sandbox->codebase_id,
        .status = sandbox->status,
        .stack_depth = depth,
        .n_rules = sandbox->n_rules,
        .delta_bytes = delta.bytes,
        .delta_inodes = delta.inodes,
        .quota_bytes = sandbox->quota_bytes,
        .quota_inodes = sandbox->quota_inodes,
        .iops = sandbox->iops,
        .bandwidth = sandbox->bandwidth,
        .access = sandbox->access,
        .created_ns = sandbox->created_ns,
    };
    return 0;
}

int mux_inspect_views(struct mux *mux, int (*fn)(void *arg, const struct mux_view_info *info),
                      void *arg, struct af_error *err)
{
    struct views views = {0};
    int rc = store_read_begin(mux_store(mux), &views.txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing the views");
    rc = store_sandbox_list(views.txn, NULL, collect_view, &views);
    store_read_end(views.txn);
    AF_CLEANUP_FREE struct mux_view_info *infos = views.infos;
    if (rc < 0)
        return mux_fail(err, rc, "listing the views");
    for (size_t i = 0; i < views.count; i++) {
        uint64_t root;
        mux_limit_in_force(mux, &infos[i].iops, &infos[i].bandwidth);
        if (mux_view_find(mux, infos[i].sandbox_id.text, &root)) {
            infos[i].slot = mux_nodeid_slot(root);
            infos[i].route = mux_nodeid_route(root);
            infos[i].uid = mux->uid_base + infos[i].slot;
        }
        rc = fn(arg, &infos[i]);
        if (rc != 0)
            return rc;
    }
    return 0;
}

// ---- one node

static void describe(const struct store_inode *inode, struct mux_node_info *info)
{
    info->mode = inode->mode;
    info->size = inode->size;
    info->fid = inode->fid;
    info->version = inode->version;
    info->nlink = inode->nlink;
    info->mtime_ns = inode->mtime_ns;
    info->ctime_ns = inode->ctime_ns;
    info->blob = inode->content == STORE_CONTENT_BLOB ? inode->blob : 0;
    info->is_inline = inode->content == STORE_CONTENT_INLINE;
    if (S_ISLNK(inode->mode) && inode->inline_len <= AF_SYMLINK_MAX)
        memcpy(info->symlink_target, inode->inline_data, inode->inline_len);
}

// Fills what needs the node's record, within its transaction.
static int stat_in_txn(struct mux *mux, const char *sandbox_id, struct store_txn *txn,
                       const struct mux_sandbox_layers *of, const struct mux_path *path,
                       struct rules *rules, struct mux_node_info *info)
{
    struct store_inode inode;
    size_t index;
    int rc = mux_resolve_path(txn, mux_layer_list_all(&of->layers), of->root_fid, path->text,
                              path->len, &inode, &index);
    if (rc < 0)
        return rc;
    describe(&inode, info);
    info->in_delta = index == 0;
    info->layer = of->layers.ids[index];
    rules_state state = rules_walk(rules, path->text, path->len);
    info->level = rules_level(rules, state);
    info->traversable_only =
        info->level == RULES_NONE && S_ISDIR(info->mode) && !rules_is_hidden(rules, state);
    rules_state_release(rules, state);
    uint64_t root;
    if (mux_view_find(mux, sandbox_id, &root)) {
        info->nodeid =
            mux_nodeid_of(mux, mux_nodeid_route(root), &inode, info->in_delta, info->level);
        info->shared = mux_nodeid_is_shared(info->nodeid) && !mux->no_sharing;
    }
    return 0;
}

int mux_inspect_stat(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                     struct mux_node_info *ret, struct af_error *err)
{
    struct mux_path parsed;
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct rules *rules;
    struct store_txn *txn;
    if (mux_check_path(path, path_len, true, &parsed, err) < 0 ||
        mux_inspect_begin_rules(mux, sandbox_id, &of, &rules, &txn, err) < 0)
        return -1;
    struct mux_node_info info = {0};
    int rc = stat_in_txn(mux, sandbox_id, txn, &of, &parsed, rules, &info);
    store_read_end(txn);
    rules_unref(rules);
    if (rc < 0)
        return mux_fail_path(err, rc, &parsed);
    *ret = info;
    return 0;
}

// ---- one decision

int mux_inspect_explain(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                        struct rules_explanation *ret, bool *ret_exists, struct af_error *err)
{
    struct mux_path parsed;
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct rules *rules;
    struct store_txn *txn;
    if (mux_check_path(path, path_len, true, &parsed, err) < 0 ||
        mux_inspect_begin_rules(mux, sandbox_id, &of, &rules, &txn, err) < 0)
        return -1;
    struct store_inode inode;
    int rc = mux_resolve_path(txn, mux_layer_list_all(&of.layers), of.root_fid, parsed.text,
                              parsed.len, &inode, NULL);
    store_read_end(txn);
    bool exists = rc == 0;
    if (rc == -ENOENT || rc == -ENOTDIR)
        rc = 0;
    if (rc == 0)
        rc = rules_explain(rules, parsed.text, parsed.len, ret);
    rules_unref(rules);
    if (rc < 0)
        return mux_fail(err, rc, "explaining the path's level");
    if (exists && !S_ISDIR(inode.mode))
        ret->traversable_only = false; // nothing lies below it
    *ret_exists = exists;
    return 0;
}

int mux_inspect_rules(struct mux *mux, const char *sandbox_id, struct rules **ret,
                      struct af_error *err)
{
    uint64_t root;
    struct mux_op op;
    if (mux_view_find(mux, sandbox_id, &root) && mux_op_enter_inside(mux, root, &op) == 0) {
        *ret = rules_ref(op.view->rules);
        mux_op_leave(&op, 0);
        return 0;
    }
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    struct store_txn *txn;
    if (mux_inspect_begin_rules(mux, sandbox_id, &of, ret, &txn, err) < 0)
        return -1;
    store_read_end(txn);
    return 0;
}

// ---- one file

static int load_sandbox(struct store_txn *txn, const char *id, uint64_t *ret_live,
                        uint64_t *ret_stack, uint64_t *ret_root)
{
    struct store_sandbox sandbox;
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return rc;
    store_sandbox_free_rules(&sandbox);
    *ret_live = sandbox.delta;
    *ret_stack = sandbox.stack;
    *ret_root = sandbox.root_fid;
    return 0;
}

int mux_inspect_open_file(struct mux *mux, const char *sandbox_id, const void *path,
                          size_t path_len, struct mux_file **ret, struct af_error *err)
{
    struct mux_path parsed;
    if (mux_check_sandbox_id(sandbox_id, err) < 0 ||
        mux_check_path(path, path_len, true, &parsed, err) < 0)
        return -1;
    return mux_file_open_path(mux, load_sandbox, sandbox_id, &parsed, ret, err);
}
