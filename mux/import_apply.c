// A tree into a codebase, all or nothing: the side that writes.
//
// The base must not move while an import builds on it. A dirty head is therefore frozen when the
// import begins, so that afterwards any change shows: uploads make the new head dirty, anything
// else replaces the stack. (A codebase that is still empty is left as it is, so that the common
// import into a new codebase costs no layer: its head holds one record, the root's, until it
// changes.) Every batch checks this in its own transaction, so what it resolves is consistent.
// At the commit our layer becomes the head; the empty head goes.
// The layer is pending until then: a crash leaves it to the store, which hands pending layers to
// the collector at its next start. Owns what import.c owns. Read next: tree_edit.c.
#include "mux/import_priv.h"

#include "mux/base/clock.h"
#include "mux/compact.h"
#include "mux/news_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

// Whether nobody but the root's record is in the codebase.
static int is_empty(struct store_txn *txn, const struct store_codebase *codebase, bool *ret)
{
    struct store_layer head;
    size_t depth;
    int rc = store_layer_get(txn, codebase->head, &head);
    if (rc == 0)
        rc = store_stack_get(txn, codebase->stack, NULL, 0, &depth);
    if (rc < 0)
        return rc;
    *ret = depth == 0 && head.inodes == 1;
    return 0;
}

static int open_in_txn(struct mux_import *import, struct store_txn *txn)
{
    struct store_codebase codebase;
    int rc = store_codebase_get(txn, import->codebase_id.text, &codebase);
    if (rc == 0)
        rc = is_empty(txn, &codebase, &import->base_is_empty);
    if (rc == 0 && !import->base_is_empty)
        rc = mux_codebase_freeze_head(txn, &codebase);
    if (rc == 0)
        rc = store_layer_new_pending(txn, &import->layer);
    if (rc == 0)
        rc = mux_layer_list_load(txn, import->layer, codebase.stack, &import->layers);
    if (rc < 0)
        return rc;
    import->base_head = codebase.head;
    import->base_stack = codebase.stack;
    import->base_updated_ns = codebase.updated_ns;
    import->root_fid = codebase.root_fid;
    if (!import->base_is_empty)
        return 0;
    // Our layer takes the place of the head, so it needs the root's record.
    struct store_inode root;
    char name[AF_NAME_MAX] = {0};
    rc = store_inode_get(txn, codebase.head, codebase.root_fid, &root);
    root.name = name;
    root.name_len = 0;
    if (rc == 0)
        rc = store_new_id(import->store, &root.version);
    if (rc == 0)
        rc = store_inode_put(txn, import->layer, &root);
    if (rc == 0)
        rc = mux_fid_map_put(&import->implied, root.fid, 1);
    return rc;
}

int mux_import_open_layer(struct mux_import *import, struct mux *mux, struct af_error *err)
{
    int rc;
    bool more = true;
    do {
        struct store_txn *txn;
        rc = store_write_begin(import->store, &txn);
        if (rc < 0)
            return mux_fail(err, rc, "starting the import");
        rc = open_in_txn(import, txn);
        if (rc == 0)
            rc = store_commit(txn);
        else
            store_abort(txn);
    } while (rc == MUX_STACK_FULL && more && (rc = mux_compact_relieve(mux, &more)) == 0);
    return rc < 0 ? mux_fail_codebase(err, rc, import->codebase_id.text) : 0;
}

static int changed_meanwhile(struct af_error *err)
{
    return af_error_set(err, AF_ABORTED,
                        "the codebase changed while the import was running, so nothing was "
                        "imported; import again");
}

int mux_import_check_base(struct mux_import *import, struct store_txn *txn,
                          struct store_codebase *ret, struct af_error *err)
{
    int rc = store_codebase_get(txn, import->codebase_id.text, ret);
    if (rc < 0)
        return mux_fail_codebase(err, rc, import->codebase_id.text);
    if (ret->head != import->base_head || ret->stack != import->base_stack)
        return changed_meanwhile(err);
    // The same tree may by now be told by fewer layers.
    mux_layer_list_fini(&import->layers);
    rc = mux_layer_list_load(txn, import->layer, ret->stack, &import->layers);
    if (rc < 0)
        return mux_fail(err, rc, "importing");
    bool unchanged = !ret->head_dirty;
    if (import->base_is_empty) {
        rc = is_empty(txn, ret, &unchanged);
        if (rc < 0)
            return mux_fail(err, rc, "importing");
    }
    return unchanged ? 0 : changed_meanwhile(err);
}

// The directory that the path's last component is in.
static int find_parent(struct mux_import *import, struct mux_tree_edit *edit,
                       const struct mux_import_item *item, uint64_t *ret, struct af_error *err)
{
    size_t end = mux_path_name_start(item->path, item->path_len);
    struct mux_path *cached = &import->parent_path;
    if (import->parent_fid != 0 && cached->len == end &&
        memcmp(cached->text, item->path, end) == 0) {
        *ret = import->parent_fid;
        return 0;
    }
    import->parent_fid = 0;
    if (mux_tree_edit_parent(edit, item->path, item->path_len, ret, err) < 0)
        return -1;
    memcpy(cached->text, item->path, end);
    cached->len = end;
    import->parent_fid = *ret;
    return 0;
}

static int put_item(struct mux_import *import, struct mux_tree_edit *edit,
                    struct mux_import_item *item, uint64_t *ret_blob, struct af_error *err)
{
    *ret_blob = 0;
    if (item->path_len == 0)
        return mux_tree_edit_put_root(edit, item->mode, item->mtime_ns, err);
    bool has_content = S_ISREG(item->mode) || S_ISLNK(item->mode);
    struct mux_tree_object object = {
        .mode = item->mode,
        .mtime_ns = item->mtime_ns,
        .content = has_content ? &item->content : NULL,
        .source = item->has_source ? &item->source : NULL,
    };
    uint64_t parent;
    if (find_parent(import, edit, item, &parent, err) < 0)
        return -1;
    if (item->link_target)
        return mux_tree_edit_link(edit, parent, item->path, item->path_len, item->link_target,
                                  item->link_target_len, err);
    return mux_tree_edit_put(edit, parent, item->path, item->path_len, &object, ret_blob, err);
}

int mux_import_edit(struct mux_import *import, struct store_txn *txn, struct mux_tree_edit *ret,
                    struct af_error *err)
{
    struct store_codebase codebase;
    if (mux_import_check_base(import, txn, &codebase, err) < 0)
        return -1;
    *ret = (struct mux_tree_edit){
        .store = import->store,
        .txn = txn,
        .layers = mux_layer_list_all(&import->layers),
        .root_fid = import->root_fid,
        .now_ns = af_wall_ns(),
        .implied = &import->implied,
        .ancestors = import->replace ? &import->ancestors : NULL,
        .kept = &import->kept,
    };
    return 0;
}

void mux_import_edited(struct mux_import *import, const struct mux_tree_edit *edit)
{
    import->bytes_delta += edit->bytes_delta;
    import->files_delta += edit->files_delta;
    import->has_changed = true;
}

// *ret_clash: the item, and its path's length, that must make room before this can be done.
static int flush_in_txn(struct mux_import *import, struct store_txn *txn, uint64_t *blobs,
                        size_t *ret_item, size_t *ret_clash_len, struct af_error *err)
{
    struct mux_tree_edit edit;
    if (mux_import_edit(import, txn, &edit, err) < 0)
        return -1;
    for (size_t i = 0; i < import->n_items; i++) {
        if (put_item(import, &edit, &import->items[i], &blobs[i], err) < 0) {
            *ret_item = i;
            *ret_clash_len = edit.clash_len;
            mux_tree_edit_undo(&edit);
            return -1;
        }
    }
    mux_import_edited(import, &edit);
    return 0;
}

// In one transaction. -1 with *ret_clash_len set: something is in the way (see flush_in_txn).
static int try_flush(struct mux_import *import, size_t *ret_item, size_t *ret_clash_len,
                     struct af_error *err)
{
    uint64_t blobs[MUX_IMPORT_BATCH_ENTRIES];
    struct store_txn *txn;
    int rc = store_write_begin(import->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "importing");
    if (flush_in_txn(import, txn, blobs, ret_item, ret_clash_len, err) < 0) {
        store_abort(txn);
        import->parent_fid = 0; // what it remembers may never have been
        return -1;
    }
    rc = store_commit(txn);
    for (size_t i = 0; i < import->n_items; i++) {
        struct mux_import_item *item = &import->items[i];
        bool found = item->content.blob && blobs[i] != store_blob_id(item->content.blob);
        import->totals.reused_files += found || item->is_shared;
        free(item->path);
        free(item->link_target);
        mux_content_fini(&item->content, rc == 0 ? blobs[i] : 0);
    }
    import->n_items = 0;
    import->batch_bytes = 0;
    return rc < 0 ? mux_fail(err, rc, "importing") : 0;
}

// Failed, the import is over: the caller fails it, and the queue goes with it. An import that
// replaces makes room for what is of another kind than before; each round removes one such name.
int mux_import_flush(struct mux_import *import, struct af_error *err)
{
    if (mux_import_settle(import, err) < 0)
        return -1;
    while (import->n_items > 0) {
        size_t item = 0, clash_len = 0;
        if (try_flush(import, &item, &clash_len, err) == 0)
            break;
        if (!import->replace || clash_len == 0 ||
            mux_import_remove_tree(import, import->items[item].path, clash_len, err) < 0)
            return -1;
    }
    return 0;
}

static int adopt_in_txn(struct mux_import *import, struct store_txn *txn, struct af_error *err)
{
    struct store_codebase codebase;
    if (mux_import_check_base(import, txn, &codebase, err) < 0)
        return -1;
    int rc = store_layer_adopt(txn, import->layer);
    if (rc == 0)
        rc = store_layer_unref(txn, codebase.head);
    codebase.head = import->layer;
    struct mux_tree_edit edit = {
        .bytes_delta = import->bytes_delta,
        .files_delta = import->files_delta,
        .now_ns = af_wall_ns(),
    };
    if (rc == 0)
        rc = mux_codebase_apply_edit(txn, &codebase, &edit);
    import->totals.updated_ns = codebase.updated_ns;
    return rc < 0 ? mux_fail(err, rc, "importing") : 0;
}

// The codebase holds what was sent already.
static int leave_as_it_is(struct mux_import *import, struct af_error *err)
{
    struct store_txn *txn;
    struct store_codebase codebase;
    int rc = store_read_begin(import->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "importing");
    rc = mux_import_check_base(import, txn, &codebase, err);
    store_read_end(txn);
    if (rc < 0)
        return -1;
    import->totals.updated_ns = import->base_updated_ns;
    mux_import_drop_layer(import);
    return 0;
}

static int gather_news(struct mux_import *import, struct mux_news_turn *news, struct af_error *err)
{
    struct store_txn *txn;
    struct store_codebase codebase;
    if (!mux_news_wanted(news))
        return 0;
    int rc = store_read_begin(import->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "importing");
    rc = mux_import_check_base(import, txn, &codebase, err);
    if (rc == 0)
        mux_news_gather(news, txn, mux_layer_list_all(&import->layers), import->root_fid);
    store_read_end(txn);
    return rc;
}

static int adopt(struct mux_import *import, struct af_error *err)
{
    struct store_txn *txn;
    int rc = store_write_begin(import->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "importing");
    if (adopt_in_txn(import, txn, err) < 0) {
        store_abort(txn);
        return -1;
    }
    rc = store_commit(txn);
    return rc < 0 ? mux_fail(err, rc, "importing") : 0;
}

int mux_import_adopt(struct mux_import *import, struct af_error *err)
{
    struct mux_news_turn news;
    if (!import->has_changed && !import->base_is_empty)
        return leave_as_it_is(import, err);
    mux_news_begin(import->mux, import->codebase_id.text, &news);
    int rc = gather_news(import, &news, err);
    if (rc == 0)
        rc = adopt(import, err);
    mux_news_end(&news, rc == 0);
    return rc;
}

void mux_import_drop_layer(struct mux_import *import)
{
    struct store_txn *txn;
    if (store_write_begin(import->store, &txn) < 0)
        return; // still pending: collected at the next start
    if (store_layer_unref(txn, import->layer) == 0)
        store_commit(txn);
    else
        store_abort(txn);
}
