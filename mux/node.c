// Loading nodes: from the cache, else from the store by the parents that records name.
//
// Owns nothing. Under the view's lock (mux_node_load_shared: none). -ESTALE for a fid without a
// record. Read next: node.h, then lookup.c.
#include "mux/node.h"

#include "mux/links.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define DEPTH_MAX   (1u << 20) // directories above one node; beyond, the store has a cycle
#define CHAIN_LOCAL 24         // of which this many need no memory

void mux_node_of_inode(uint64_t nodeid, const struct store_inode *inode, size_t index,
                       struct mux_node *ret)
{
    *ret = (struct mux_node){
        .nodeid = nodeid,
        .fid = inode->fid,
        .parent = inode->parent,
        .version = inode->version,
        .size = inode->size,
        .blob = inode->content == STORE_CONTENT_BLOB ? inode->blob : 0,
        .atime_ns = inode->atime_ns,
        .mtime_ns = inode->mtime_ns,
        .ctime_ns = inode->ctime_ns,
        .btime_ns = inode->btime_ns,
        .mode = inode->mode,
        .nlink = inode->nlink,
        .xattr_bytes = inode->xattr_bytes,
        .index = (uint32_t)index,
        .state = RULES_STATE_INVALID,
        .level = RULES_WRITE,
        .content = (uint8_t)inode->content,
        .blob_owned = inode->blob_owned,
    };
}

static bool from_cache(struct mux_op *op, uint64_t fid, struct mux_node *ret)
{
    return mux_node_cache_get(op->mux->nodes, op->view->rules, mux_view_nodeid(op->view, fid),
                              op->view->stamp, ret);
}

// The record as a node, without its level; *ret_name lives as long as the transaction.
static int from_store(struct mux_op *op, uint64_t fid, struct mux_node *ret, const char **ret_name,
                      size_t *ret_name_len)
{
    struct store_inode inode;
    size_t index = 0;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_op_inode(op, fid, &inode, &index);
    if (rc < 0)
        return rc == -ENOENT ? -ESTALE : rc;
    mux_node_of_inode(mux_view_nodeid(op->view, fid), &inode, index, ret);
    ret->stamp = op->view->stamp;
    *ret_name = inode.name;
    *ret_name_len = inode.name_len;
    return 0;
}

// Gives the node its level, and a directory its state (taking over the caller's reference), and
// has it cached. What others have taken the names of has the level of the one that its record
// remembers, but never more than it had: of several names the most restricted one's.
static void settle(struct mux_op *op, rules_state state, struct mux_node *node)
{
    struct rules *rules = op->view->rules;
    const struct mux_gone *gone = &op->view->gone;
    node->level = (uint8_t)rules_level(rules, state);
    if (S_ISDIR(node->mode))
        node->state = state;
    else
        rules_state_release(rules, state);
    if (mux_gone_has(gone, node->fid)) {
        if (node->level > mux_gone_ceiling(gone, node->fid))
            node->level = (uint8_t)mux_gone_ceiling(gone, node->fid);
        node->nlink = 0;
    }
    mux_node_cache_put(op->mux->nodes, rules, node);
}

// ---- files with several names

struct levels {
    struct mux_op *op;
    enum rules_level min, max;
};

static int add_level(void *arg, const struct mux_link *link)
{
    struct levels *levels = arg;
    struct rules *rules = levels->op->view->rules;
    struct mux_node dir;
    int rc = mux_node_load(levels->op, link->parent, &dir);
    if (rc < 0)
        return rc;
    if (dir.state == RULES_STATE_INVALID)
        return -ESTALE; // a removed directory
    rules_state state = rules_step(rules, dir.state, link->name, link->name_len);
    mux_node_fini(levels->op, &dir);
    if (state == RULES_STATE_INVALID)
        return -ENOMEM;
    enum rules_level level = rules_level(rules, state);
    rules_state_release(rules, state);
    if (level < levels->min)
        levels->min = level;
    if (level > levels->max)
        levels->max = level;
    return 0;
}

// The level of its most restricted name, for all of them lead to the same bytes; but what one name
// lets the sandbox see is there, if only to look at.
static int settle_linked(struct mux_op *op, const char *name, size_t name_len,
                         struct mux_node *node)
{
    struct levels levels = {.op = op, .min = RULES_WRITE, .max = RULES_NONE};
    struct store_inode inode = {
        .fid = node->fid,
        .parent = node->parent,
        .name = name,
        .name_len = (uint8_t)name_len,
    };
    rules_state root = rules_root(op->view->rules);
    bool all_writable = rules_below_min(op->view->rules, root) == RULES_WRITE;
    rules_state_release(op->view->rules, root);
    if (all_writable) {
        levels.max = RULES_WRITE;
    } else {
        int rc = mux_links_walk(op->txn, mux_op_layers(op), &inode, add_level, &levels);
        if (rc < 0)
            return rc;
    }
    if (levels.min == RULES_NONE && levels.max > RULES_NONE)
        levels.min = RULES_VIEW;
    node->level = (uint8_t)(levels.max == RULES_NONE ? RULES_NONE : levels.min);
    mux_node_cache_put(op->mux->nodes, op->view->rules, node);
    return 0;
}

static bool has_names(const struct mux_node *node)
{
    return node->nlink > 1 && !S_ISDIR(node->mode);
}

// ---- the way up

struct link {
    struct mux_node node;
    const char *name;
    size_t name_len;
};

// The way up from a node to the nearest one whose state is known.
struct chain {
    struct link local[CHAIN_LOCAL];
    struct link *links;
    size_t count, capacity;
};

static struct link *chain_add(struct chain *chain)
{
    if (chain->count < chain->capacity)
        return &chain->links[chain->count++];
    if (chain->count >= DEPTH_MAX)
        return NULL;
    size_t capacity = chain->capacity * 4;
    struct link *links = malloc(capacity * sizeof *links);
    if (!links)
        return NULL;
    memcpy(links, chain->links, chain->count * sizeof *links);
    if (chain->links != chain->local)
        free(chain->links);
    chain->links = links;
    chain->capacity = capacity;
    return &chain->links[chain->count++];
}

// Fills the chain from fid upwards, fid first; *ret_state: that of the directory above the last
// link.
static int climb(struct mux_op *op, uint64_t fid, struct chain *chain, rules_state *ret_state)
{
    struct mux_node known;
    for (uint64_t at = fid; at != op->view->root_fid; at = known.parent) {
        struct link *link = chain_add(chain);
        if (!link)
            return chain->count >= DEPTH_MAX ? -EUCLEAN : -ENOMEM;
        int rc = from_store(op, at, &link->node, &link->name, &link->name_len);
        if (rc < 0)
            return rc;
        if (chain->count > 1 && (!S_ISDIR(link->node.mode) || link->node.nlink == 0))
            return -ESTALE; // a removed directory
        known.parent = link->node.parent;
        if (known.parent == op->view->root_fid)
            break;
        if (from_cache(op, known.parent, &known)) {
            if (known.state == RULES_STATE_INVALID)
                return -ESTALE;
            *ret_state = known.state;
            return 0;
        }
    }
    *ret_state = rules_root(op->view->rules);
    return 0;
}

static int load_by_climbing(struct mux_op *op, uint64_t fid, struct chain *chain,
                            struct mux_node *ret)
{
    struct rules *rules = op->view->rules;
    rules_state state;
    int rc = climb(op, fid, chain, &state);
    if (rc < 0)
        return rc;
    for (size_t i = chain->count; i-- > 0;) {
        struct link *link = &chain->links[i];
        rules_state child = rules_step(rules, state, link->name, link->name_len);
        rules_state_release(rules, state);
        if (child == RULES_STATE_INVALID)
            return -ENOMEM;
        settle(op, child, &link->node);
        state = link->node.state; // the link's reference, given back one step further down
    }
    *ret = chain->links[0].node;
    return 0;
}

static int load_by_name(struct mux_op *op, uint64_t fid, struct mux_node *ret)
{
    struct chain chain;
    chain.links = chain.local;
    chain.count = 0;
    chain.capacity = CHAIN_LOCAL;
    int rc = load_by_climbing(op, fid, &chain, ret);
    if (chain.links != chain.local)
        free(chain.links);
    return rc;
}

// What others have taken the names of, as it was in the layers that had them.
static int load_in_past(struct mux_op *op, uint64_t fid, struct mux_layers past,
                        struct mux_node *ret)
{
    struct mux_view then = {
        .magic = MUX_VIEW_MAGIC,
        .route = op->view->route,
        .root_fid = op->view->root_fid,
        .rules = op->view->rules,
        // Nothing that is cached of it is true of the view.
        .stamp = op->past_stamp ? op->past_stamp : mux_view_new_stamp(op->mux),
        .layers = {(uint64_t *)past.ids, past.count},
    };
    struct mux_op look = {.mux = op->mux, .view = &then, .txn = op->txn, .writing = op->writing};
    int rc = mux_node_load(&look, fid, ret);
    if (rc < 0)
        return rc;
    ret->stamp = op->view->stamp;
    ret->index = (uint32_t)op->view->layers.count; // in none of the view's layers
    ret->nlink = 0;
    mux_node_cache_put(op->mux->nodes, op->view->rules, ret);
    return 0;
}

static int load_gone(struct mux_op *op, const struct mux_node *node, struct mux_node *ret)
{
    struct mux_layers past;
    if (mux_gone_past(&op->view->gone, node->fid, &past))
        return load_in_past(op, node->fid, past, ret);
    int rc = load_by_name(op, node->fid, ret);
    if (rc != -ESTALE)
        return rc;
    *ret = *node; // the directory of its name is gone, too; if it is one itself, nothing is in it
    ret->level = (uint8_t)mux_gone_ceiling(&op->view->gone, node->fid);
    ret->nlink = 0;
    mux_node_cache_put(op->mux->nodes, op->view->rules, ret);
    return 0;
}

static int load_uncached(struct mux_op *op, uint64_t fid, struct mux_node *ret)
{
    struct mux_node node;
    const char *name;
    size_t name_len;
    int rc = from_store(op, fid, &node, &name, &name_len);
    if (rc < 0)
        return rc;
    if (node.nlink == 0) { // an orphan: it was writable when it lost its name, and has none now
        mux_node_cache_put(op->mux->nodes, op->view->rules, &node);
        *ret = node;
        return 0;
    }
    if (fid == op->view->root_fid) {
        settle(op, rules_root(op->view->rules), &node);
        *ret = node;
        return 0;
    }
    if (mux_gone_has(&op->view->gone, fid))
        return load_gone(op, &node, ret);
    if (has_names(&node)) {
        rc = settle_linked(op, name, name_len, &node);
        if (rc == 0)
            *ret = node;
        return rc;
    }
    return load_by_name(op, fid, ret);
}

int mux_node_load(struct mux_op *op, uint64_t fid, struct mux_node *ret)
{
    if (from_cache(op, fid, ret))
        return 0;
    return load_uncached(op, fid, ret);
}

int mux_node_load_as(struct mux_op *op, uint64_t fid, rules_state state, struct mux_node *ret)
{
    if (from_cache(op, fid, ret))
        return 0;
    struct mux_node node;
    const char *name;
    size_t name_len;
    int rc = from_store(op, fid, &node, &name, &name_len);
    if (rc < 0)
        return rc;
    if (has_names(&node)) {
        rc = settle_linked(op, name, name_len, &node);
        if (rc < 0)
            return rc;
    } else {
        settle(op, rules_state_ref(op->view->rules, state), &node);
    }
    *ret = node;
    return 0;
}

void mux_node_of_base(struct mux_op *op, const struct mux_node *base, rules_state state, bool cache,
                      struct mux_node *ret)
{
    struct rules *rules = op->view->rules;
    *ret = *base;
    ret->nodeid = mux_view_nodeid(op->view, base->fid);
    ret->stamp = op->view->stamp;
    ret->level = (uint8_t)rules_level(rules, state);
    if (S_ISDIR(ret->mode))
        ret->state = rules_state_ref(rules, state);
    if (cache)
        mux_node_cache_put(op->mux->nodes, rules, ret);
}

void mux_node_fini(struct mux_op *op, struct mux_node *node)
{
    if (node->state != RULES_STATE_INVALID)
        rules_state_release(op->view->rules, node->state);
    node->state = RULES_STATE_INVALID;
}

bool mux_node_is_visible(const struct mux_op *op, const struct mux_node *node)
{
    if (node->level >= RULES_VIEW || node->fid == op->view->root_fid)
        return true;
    return S_ISDIR(node->mode) && !rules_is_hidden(op->view->rules, node->state);
}

// ---- nodes of versions

// *ret_inode is the record, with the directory and the name that the version has or last had;
// valid as long as the transaction.
static int version_from_store(struct store_txn *txn, uint64_t nodeid, struct mux_node *ret,
                              struct store_inode *ret_inode)
{
    int rc = store_version_get(txn, mux_nodeid_fid(nodeid), ret_inode);
    if (rc < 0)
        return rc == -ENOENT ? -ESTALE : rc;
    mux_node_of_inode(nodeid, ret_inode, 1, ret);
    if (ret_inode->fid == ret_inode->version) { // kept: see mux/store/kept.c
        ret->fid = ret_inode->parent;
        ret->parent = 0;
        ret_inode->parent = ret_inode->origin;
    }
    return 0;
}

// Of a name that may be there no more. Where its directory is gone as well nothing is known.
static int level_of_name(struct mux_op *op, const struct store_inode *inode, uint8_t *ret)
{
    struct levels levels = {.op = op, .min = RULES_WRITE, .max = RULES_NONE};
    struct mux_link link = {
        .parent = inode->parent, .name = inode->name, .name_len = inode->name_len};
    int rc = inode->name_len > 0 ? add_level(&levels, &link) : -ESTALE;
    if (rc == -ESTALE)
        levels.min = RULES_NONE;
    *ret = (uint8_t)levels.min;
    return rc == -ESTALE ? 0 : rc;
}

// The level is that of the file as the view has it now, but never write. A version that the view
// has no more is open somewhere, or nobody could ask for it: it goes on by the name that it had.
static int load_pinned(struct mux_op *op, uint64_t nodeid, struct mux_node *ret)
{
    struct mux_node node, now;
    struct store_inode inode;
    if (mux_node_cache_get(op->mux->nodes, NULL, nodeid, op->view->stamp, ret))
        return 0;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = version_from_store(op->txn, nodeid, &node, &inode);
    if (rc < 0)
        return rc;
    rc = mux_node_load(op, node.fid, &now);
    bool there = rc == 0;
    if (there) {
        node.level = now.level;
        mux_node_fini(op, &now);
    } else if (rc == -ESTALE) {
        rc = level_of_name(op, &inode, &node.level);
    }
    if (rc < 0)
        return rc;
    if (node.level > RULES_READ)
        node.level = RULES_READ;
    node.stamp = op->view->stamp;
    if (there)
        mux_node_cache_put(op->mux->nodes, NULL, &node);
    *ret = node;
    return 0;
}

int mux_node_load_shared(struct mux *mux, uint64_t nodeid, struct mux_node *ret)
{
    if (mux->no_sharing) {
        struct mux_op op;
        int rc = mux_op_enter(mux, mux_nodeid_private(mux_nodeid_route(nodeid), 0), &op);
        return rc < 0 ? rc : mux_op_leave(&op, load_pinned(&op, nodeid, ret));
    }
    if (mux_node_cache_get(mux->nodes, NULL, nodeid, 0, ret))
        return 0;
    enum mux_node_class cls = mux_nodeid_class(nodeid);
    if (cls != MUX_CLASS_READ && cls != MUX_CLASS_VIEW)
        return -ESTALE;
    struct store_txn *txn;
    int rc = store_look_begin(mux->store, 0, &txn);
    if (rc < 0)
        return rc;
    struct store_inode inode;
    rc = version_from_store(txn, nodeid, ret, &inode);
    if (rc == 0) {
        ret->level = cls == MUX_CLASS_READ ? RULES_READ : RULES_VIEW;
        mux_node_cache_put(mux->nodes, NULL, ret);
    }
    store_read_end(txn);
    return rc;
}
