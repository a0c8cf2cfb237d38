// Listings: one directory merged over the layers, with what the rules hide left out.
//
// Positions are the store's cookies (name-hash order), stable while names come and go. A directory
// in which the view has changed no name is listed from what is kept of its base (listings.h).
// Under the view's shared lock, in one read transaction; owns nothing. Read next: lookup.c,
// store/store.h.
#include "mux/attr.h"
#include "mux/listings.h"
#include "mux/names.h"
#include "mux/top.h"
#include "mux/view.h"

#include <dirent.h>
#include <errno.h>

#define COOKIE_DOT    1
#define COOKIE_DOTDOT 2

// A worker gives up on a stretch of hidden names this long that yields nothing to show.
#define HIDDEN_MAX 16384

struct listing {
    struct mux_op *op;
    const struct mux_node *dir;
    bool plus;
    mux_readdir_fn fn;
    void *arg;
};

// base: what the name is, if that is known.
static int load(struct listing *list, const struct store_entry *found, const struct mux_node *base,
                rules_state state, struct mux_entry *ret)
{
    struct mux_node node;
    int rc = 0;
    if (base) // a directory is listed next: its node will be wanted
        mux_node_of_base(list->op, base, state, S_ISDIR(base->mode), &node);
    else
        rc = mux_node_load_as(list->op, found->fid, state, &node);
    if (rc < 0)
        return rc == -ESTALE ? -EUCLEAN : rc;
    mux_entry_fill(list->op, &node, ret);
    mux_entry_limit(list->op, list->dir->fid, ret);
    mux_node_fini(list->op, &node);
    return 0;
}

// 0: go on; 1: the caller's buffer is full. *shown tells whether the name was not hidden.
static int show(struct listing *list, const struct store_entry *found, const struct mux_node *base,
                bool *shown)
{
    struct mux_op *op = list->op;
    struct rules *rules = op->view->rules;
    rules_state state = rules_step(rules, list->dir->state, found->name, found->name_len);
    if (state == RULES_STATE_INVALID)
        return -ENOMEM;
    bool visible = rules_level(rules, state) >= RULES_VIEW ||
                   (found->type == DT_DIR && !rules_is_hidden(rules, state));
    int rc = 0;
    *shown = visible;
    if (visible) {
        struct mux_entry entry;
        if (list->plus) {
            rc = load(list, found, base, state, &entry);
        } else {
            entry = (struct mux_entry){
                .st = {.st_ino = mux_alias_shown(&op->view->alias, found->fid),
                       .st_mode = DTTOIF(found->type)},
            };
        }
        if (rc == 0)
            rc = !list->fn(list->arg, found->name, found->name_len, found->cookie, &entry);
    }
    rules_state_release(rules, state);
    return rc;
}

// 1: full.
static int show_dots(struct listing *list, uint64_t cookie)
{
    struct mux_entry entry = {0};
    uint64_t parent =
        list->dir->fid == list->op->view->root_fid ? MUX_NODEID_TOP : list->dir->parent;
    entry.st.st_mode = S_IFDIR;
    const struct mux_alias *alias = &list->op->view->alias;
    entry.st.st_ino = mux_alias_shown(alias, list->dir->fid);
    if (cookie < COOKIE_DOT && !list->fn(list->arg, ".", 1, COOKIE_DOT, &entry))
        return 1;
    entry.st.st_ino = mux_alias_shown(alias, parent);
    if (cookie < COOKIE_DOTDOT && !list->fn(list->arg, "..", 2, COOKIE_DOTDOT, &entry))
        return 1;
    return 0;
}

static int list_store(struct listing *list, const struct mux_ctx *ctx, uint64_t cookie)
{
    struct mux_op *op = list->op;
    struct store_dir_iter *iter;
    int rc = store_dir_open(op->txn, op->view->layers.ids, op->view->layers.count, list->dir->fid,
                            cookie > STORE_COOKIE_FIRST ? cookie : 0, &iter);
    if (rc < 0)
        return rc;
    struct store_entry found;
    unsigned hidden = 0;
    bool any = false;
    while (rc == 0 && (rc = store_dir_next(iter, &found, NULL)) == 0) {
        bool shown = false;
        rc = show(list, &found, NULL, &shown);
        any |= shown;
        if (!shown && !any && ++hidden > HIDDEN_MAX && !ctx->may_block)
            rc = MUX_SLOW;
    }
    store_dir_close(iter);
    return rc == -ENOENT || rc > 0 ? 0 : rc;
}

// The names of the base: of those from *changed on the view may have a record of its own.
static int list_base(struct listing *list, const struct mux_listing *base, uint64_t cookie)
{
    uint64_t changed = UINT64_MAX;
    int rc = 0;
    if (list->plus && !list->op->view->delta_is_empty)
        rc = store_inode_next(list->op->txn, mux_op_delta(list->op), base->fid_min, &changed);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    rc = 0;
    for (uint32_t i = mux_listing_after(base, cookie); rc == 0 && i < base->count; i++) {
        const struct mux_listing_name *name = &base->names[i];
        bool is_base = (name->entry.fid < changed || changed > base->fid_max) &&
                       !mux_gone_has(&list->op->view->gone, name->entry.fid);
        bool has_names = name->node.nlink > 1 && name->entry.type != DT_DIR;
        bool shown;
        rc = show(list, &name->entry, is_base && !has_names ? &name->node : NULL, &shown);
    }
    return rc > 0 ? 0 : rc;
}

static int list_names(struct listing *list, const struct mux_ctx *ctx, uint64_t cookie)
{
    struct mux_op *op = list->op;
    bool touched = false;
    int rc = mux_op_read(op);
    if (rc == 0 && !op->view->delta_is_empty)
        rc = store_dir_is_touched(op->txn, mux_op_delta(op), list->dir->fid, &touched);
    if (rc < 0)
        return rc;
    struct mux_listing *base = NULL;
    // One that is not read from its beginning is larger than those that are kept.
    if (!touched && list->plus && cookie <= COOKIE_DOTDOT)
        base = mux_listings_make(op->mux->listings, op->txn, op->view->tree,
                                 mux_layer_list_base(&op->view->layers), list->dir->fid);
    else if (!touched)
        base = mux_listings_find(op->mux->listings, op->view->tree, list->dir->fid);
    rc = base ? list_base(list, base, cookie) : list_store(list, ctx, cookie);
    mux_listing_unref(base);
    return rc;
}

int mux_readdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t cookie,
                bool plus, mux_readdir_fn fn, void *arg)
{
    if (nodeid == MUX_NODEID_TOP)
        return mux_top_readdir(mux, ctx, cookie, plus, fn, arg);
    if (nodeid == MUX_NODEID_SENTINEL || mux_nodeid_is_shared(nodeid))
        return -ENOTDIR;
    struct mux_op op;
    struct mux_node dir;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_dir_load(&op, nodeid, &dir);
    if (rc == 0) {
        struct listing list = {.op = &op, .dir = &dir, .plus = plus, .fn = fn, .arg = arg};
        // A removed directory lists nothing, not even "..".
        if (dir.nlink > 0) {
            rc = show_dots(&list, cookie);
            if (rc == 0)
                rc = list_names(&list, ctx, cookie);
        }
        mux_node_fini(&op, &dir);
    }
    return mux_op_leave(&op, rc > 0 ? 0 : rc);
}
