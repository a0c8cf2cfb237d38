// Names: rules first, then the store. Read next: names.h, then lookup.c.
#include "mux/names.h"

#include "mux/listings.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

int mux_dir_load(struct mux_op *op, uint64_t nodeid, struct mux_node *ret)
{
    struct mux_node node;
    int rc = mux_node_load(op, mux_op_fid(op, nodeid), &node);
    if (rc < 0)
        return rc;
    if (!S_ISDIR(node.mode) || !mux_node_is_visible(op, &node)) {
        mux_node_fini(op, &node);
        return S_ISDIR(node.mode) ? -ENOENT : -ENOTDIR;
    }
    *ret = node;
    return 0;
}

static int step(struct mux_op *op, const struct mux_node *dir, const char *text,
                struct mux_name *ret)
{
    struct rules *rules = op->view->rules;
    *ret = (struct mux_name){.text = text, .len = strlen(text)};
    if (ret->len > AF_NAME_MAX)
        return -ENAMETOOLONG;
    if (ret->len == 0 || memchr(text, '/', ret->len) || strcmp(text, ".") == 0 ||
        strcmp(text, "..") == 0)
        return -EINVAL;
    ret->level = RULES_NONE;
    ret->hidden = true;
    if (dir->state == RULES_STATE_INVALID) // a removed directory: nothing is in it
        return 0;
    ret->state = rules_step(rules, dir->state, text, ret->len);
    if (ret->state == RULES_STATE_INVALID)
        return -ENOMEM;
    ret->level = rules_level(rules, ret->state);
    ret->hidden = rules_is_hidden(rules, ret->state);
    return 0;
}

static void found(struct mux_name *name, const struct store_entry *entry)
{
    name->exists = true;
    name->fid = entry->fid;
    name->type = entry->type;
    name->visible = name->level >= RULES_VIEW || (entry->type == DT_DIR && !name->hidden);
}

static int look(struct mux_op *op, const struct mux_node *dir, struct mux_name *name)
{
    struct store_entry entry;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_resolve_entry(op->txn, mux_op_layers(op), dir->fid, name->text, name->len, &entry,
                               NULL);
    if (rc == 0)
        found(name, &entry);
    return rc == -ENOENT ? 0 : rc;
}

// The directory's base as it is kept, decoded; of one that many look into it is made. NULL: it is
// not to be had.
static struct mux_listing *find_listing(struct mux_op *op, const struct mux_node *dir)
{
    struct mux_listings *listings = op->mux->listings;
    struct mux_view *view = op->view;
    struct mux_listing *listing = mux_listings_find(listings, view->tree, dir->fid);
    if (listing || !mux_listings_is_due(listings, view->tree, dir->fid) || mux_op_read(op) < 0)
        return listing;
    return mux_listings_make(listings, op->txn, view->tree, mux_layer_list_base(&view->layers),
                             dir->fid);
}

// The same where the directory's base is kept. 1: it is not.
static int look_in_listing(struct mux_op *op, const struct mux_node *dir, struct mux_name *name)
{
    struct mux_view *view = op->view;
    struct store_entry entry;
    name->listing = find_listing(op, dir);
    if (!name->listing)
        return 1;
    int rc = view->delta_is_empty ? -ENOENT : mux_op_read(op);
    if (rc == 0)
        rc = store_entry_get(op->txn, mux_op_delta(op), dir->fid, name->text, name->len, &entry);
    if (rc == 0 && entry.fid != 0)
        found(name, &entry);
    if (rc != -ENOENT)
        return rc;
    uint64_t cookie = store_name_cookie(op->mux->store, name->text, name->len);
    const struct mux_listing_name *kept =
        mux_listing_find(name->listing, cookie, name->text, name->len);
    if (kept) {
        found(name, &kept->entry);
        bool has_names = kept->node.nlink > 1 && kept->entry.type != DT_DIR;
        bool is_gone = mux_gone_has(&view->gone, name->fid); // its own record says more
        name->base = has_names || is_gone ? NULL : &kept->node;
    }
    return 0;
}

int mux_name_load(struct mux_op *op, const struct mux_name *name, struct mux_node *ret)
{
    struct store_inode own;
    int rc = name->base ? -ENOENT : 0;
    if (name->base && !op->view->delta_is_empty)
        rc = store_inode_get(op->txn, mux_op_delta(op), name->fid, &own);
    if (rc == 0)
        return mux_node_load_as(op, name->fid, name->state, ret);
    if (rc == -ENOENT)
        mux_node_of_base(op, name->base, name->state, true, ret);
    return rc == -ENOENT ? 0 : rc;
}

// The delta last: what the change does next is at the place that was just looked at.
static int look_for_change(struct mux_op *op, const struct mux_node *dir, struct mux_name *name)
{
    struct mux_layers lower = mux_layer_list_base(&op->view->layers);
    struct store_entry below, own;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_resolve_entry(op->txn, lower, dir->fid, name->text, name->len, &below, NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    name->in_lower = rc == 0;
    rc = store_entry_get(op->txn, mux_op_delta(op), dir->fid, name->text, name->len, &own);
    if (rc == 0 && own.fid != 0)
        found(name, &own);
    else if (rc == -ENOENT && name->in_lower)
        found(name, &below);
    return rc == -ENOENT ? 0 : rc;
}

int mux_name_resolve(struct mux_op *op, const struct mux_node *dir, const char *text,
                     struct mux_name *ret)
{
    struct mux_name name;
    int rc = step(op, dir, text, &name);
    if (rc == 0 && !name.hidden)
        rc = look_in_listing(op, dir, &name);
    if (rc == 1)
        rc = look(op, dir, &name);
    if (rc < 0)
        mux_name_fini(op, &name);
    else
        *ret = name;
    return rc;
}

int mux_name_resolve_change(struct mux_op *op, const struct mux_node *dir, const char *text,
                            struct mux_name *ret)
{
    struct mux_name name;
    int rc = step(op, dir, text, &name);
    if (rc == 0)
        rc = look_for_change(op, dir, &name);
    if (rc < 0)
        mux_name_fini(op, &name);
    else
        *ret = name;
    return rc;
}

void mux_name_fini(struct mux_op *op, struct mux_name *name)
{
    if (name->state != RULES_STATE_INVALID)
        rules_state_release(op->view->rules, name->state);
    name->state = RULES_STATE_INVALID;
    mux_listing_unref(name->listing);
    name->listing = NULL;
    name->base = NULL;
}

int mux_name_check_removable(const struct mux_name *name)
{
    if (!name->visible)
        return -ENOENT;
    return name->level == RULES_WRITE ? 0 : -EACCES;
}
