// Layers, blobs and space by sandbox, from one consistent state of the store. See usage.h.
// Owns nothing beyond a call; the node cache has its own locks. Read next: store/walk.c.
#include "mux/usage.h"

#include "mux/codebase_priv.h"
#include "mux/host_call.h"
#include "mux/layer_list.h"
#include "mux/node.h"
#include "mux/sandbox_priv.h"
#include "mux/view.h"

#include <errno.h>

// ---- layers

struct layer_walk {
    int (*fn)(void *arg, const struct mux_layer_info *info);
    void *arg;
};

static int pass_layer(void *arg, const struct store_layer *layer)
{
    const struct layer_walk *walk = arg;
    struct mux_layer_info info = {.layer = *layer, .role = layer->frozen ? "base" : "live"};
    return walk->fn(walk->arg, &info);
}

static int list_stack(struct store_txn *txn, uint64_t live, const char *role, uint64_t stack,
                      const struct layer_walk *walk)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list list = {0};
    int rc = mux_layer_list_load(txn, live, stack, &list);
    for (size_t i = 0; i < list.count && rc == 0; i++) {
        struct mux_layer_info info = {.depth = (uint32_t)i, .role = i == 0 ? role : "base"};
        rc = store_layer_get(txn, list.ids[i], &info.layer);
        if (rc == 0)
            rc = walk->fn(walk->arg, &info);
    }
    return rc;
}

int mux_list_layers(struct mux *mux, const char *codebase_id, const char *sandbox_id,
                    int (*fn)(void *arg, const struct mux_layer_info *info), void *arg,
                    struct af_error *err)
{
    struct layer_walk walk = {fn, arg};
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing layers");
    if (sandbox_id) {
        struct store_sandbox sandbox;
        rc = store_sandbox_get(txn, sandbox_id, &sandbox);
        if (rc == 0) {
            store_sandbox_free_rules(&sandbox);
            rc = list_stack(txn, sandbox.delta, "delta", sandbox.stack, &walk);
        }
    } else if (codebase_id) {
        struct store_codebase codebase;
        rc = store_codebase_get(txn, codebase_id, &codebase);
        if (rc == 0)
            rc = list_stack(txn, codebase.head, "head", codebase.stack, &walk);
    } else {
        rc = store_layer_list(txn, 0, pass_layer, &walk);
    }
    store_read_end(txn);
    if (rc == -ENOENT && (sandbox_id || codebase_id))
        return af_error_set(err, AF_NOT_FOUND, "there is no %s %s",
                            sandbox_id ? "sandbox" : "codebase",
                            sandbox_id ? sandbox_id : codebase_id);
    return rc < 0 ? mux_fail(err, rc, "listing layers") : rc;
}

// ---- blobs

int mux_list_blobs(struct mux *mux, uint64_t after,
                   int (*fn)(void *arg, const struct store_blob_info *blob), void *arg,
                   struct af_error *err)
{
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing content files");
    rc = store_blob_list(txn, after, fn, arg);
    store_read_end(txn);
    return rc < 0 ? mux_fail(err, rc, "listing content files") : rc;
}

// ---- space

struct usage_walk {
    struct store_txn *txn;
    int (*fn)(void *arg, const struct mux_usage *usage);
    void *arg;
    uint64_t stack, stack_bytes; // the last one: sandboxes of a codebase often have the same
};

static int sum_stack(struct usage_walk *walk, uint64_t stack)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list list = {0};
    uint64_t bytes = 0;
    int rc = mux_layer_list_load(walk->txn, 0, stack, &list);
    for (size_t i = 0; i < list.count && rc == 0; i++) {
        struct store_layer layer;
        rc = store_layer_get(walk->txn, list.ids[i], &layer);
        if (rc == 0)
            bytes += layer.bytes;
    }
    if (rc < 0)
        return rc;
    walk->stack = stack;
    walk->stack_bytes = bytes;
    return 0;
}

static int visit_sandbox(void *arg, const struct store_sandbox *sandbox)
{
    struct usage_walk *walk = arg;
    struct store_layer delta;
    int rc = store_layer_get(walk->txn, sandbox->delta, &delta);
    if (rc == 0 && sandbox->stack != walk->stack)
        rc = sum_stack(walk, sandbox->stack);
    if (rc < 0)
        return rc;
    struct mux_usage usage = {
        .sandbox_id = sandbox->id,
        .private_bytes = delta.bytes,
        .shared_bytes = walk->stack_bytes,
        .inodes = delta.inodes,
        .quota_bytes = sandbox->quota_bytes,
    };
    return walk->fn(walk->arg, &usage);
}

int mux_list_usage(struct mux *mux, const char *sandbox_id,
                   int (*fn)(void *arg, const struct mux_usage *usage), void *arg,
                   struct af_error *err)
{
    struct usage_walk walk = {.fn = fn, .arg = arg};
    struct store_sandbox sandbox;
    int rc = store_read_begin(mux_store(mux), &walk.txn);
    if (rc < 0)
        return mux_fail(err, rc, "adding up space");
    if (sandbox_id) {
        rc = store_sandbox_get(walk.txn, sandbox_id, &sandbox);
        if (rc == 0) {
            rc = visit_sandbox(&walk, &sandbox);
            store_sandbox_free_rules(&sandbox);
        }
    } else {
        rc = store_sandbox_list(walk.txn, NULL, visit_sandbox, &walk);
    }
    store_read_end(walk.txn);
    if (rc == -ENOENT && sandbox_id)
        return mux_fail_sandbox(err, rc, sandbox_id);
    return rc < 0 ? mux_fail(err, rc, "adding up space") : rc;
}

// ---- caches

int mux_drop_caches(struct mux *mux, const char *sandbox_id, uint64_t *ret_nodes,
                    struct af_error *err)
{
    uint64_t root = 0;
    if (sandbox_id && !mux_view_find(mux, sandbox_id, &root))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "sandbox %s is not running, so nothing of it is cached", sandbox_id);
    *ret_nodes = mux_node_cache_clear(mux->nodes, sandbox_id ? mux_nodeid_route(root) : 0);
    return 0;
}

int mux_view_get_held(struct mux *mux, const char *sandbox_id, struct mux_view_held *ret,
                      uint64_t *ret_root, struct af_error *err)
{
    uint64_t root;
    struct mux_op op;
    if (mux_check_sandbox_id(sandbox_id, err) < 0)
        return -1;
    if (!mux_view_find(mux, sandbox_id, &root) || mux_op_enter_inside(mux, root, &op) < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "sandbox %s is not running, so nothing is held for it", sandbox_id);
    uint64_t unlinked = op.view->n_orphans;
    mux_op_leave(&op, 0);
    *ret = (struct mux_view_held){
        .nodes_cached = mux_node_cache_count_route(mux->nodes, mux_nodeid_route(root)),
        .unlinked_open = unlinked,
    };
    *ret_root = root;
    return 0;
}
