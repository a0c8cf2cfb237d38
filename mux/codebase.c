// Codebases: their records, and the head that becomes a layer of the stack when a view needs it.
//
// A codebase is a root fid, a stack of frozen layers and one open layer on top, the head. Uploads
// append to the head; making a view freezes it, so that the view's base never changes, and an
// empty head takes its place. Owns nothing in memory, takes no locks: every change is one write
// transaction. Fails with an af_error. Read next: tree_edit.c, upload.c, docs/CODEBASES.md.
#include "mux/codebase_priv.h"

#include "mux/base/clock.h"
#include "mux/base/text.h"
#include "mux/compact.h"
#include "mux/layer_list.h"
#include "mux/news_priv.h"
#include "mux/parts.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static int check_label(const char *what, const char *text, bool may_be_empty, struct af_error *err)
{
    size_t len = text ? strlen(text) : 0;
    if (len == 0 && !may_be_empty)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the %s is missing: give the codebase one",
                            what);
    if (len > AF_NAME_TEXT_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the %s is %zu bytes long, at most %d fit",
                            what, len, AF_NAME_TEXT_MAX);
    if (!af_text_is_utf8(text ? text : "", len))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the %s is not valid UTF-8", what);
    return 0;
}

// The records of an empty tree: a root directory in a head over an empty stack.
static int put_new_codebase(struct store *store, struct store_txn *txn,
                            struct store_codebase *codebase)
{
    struct store_inode root = {
        .fid = codebase->root_fid,
        .mode = S_IFDIR | 0755,
        .nlink = 1,
        .atime_ns = codebase->created_ns,
        .mtime_ns = codebase->created_ns,
        .ctime_ns = codebase->created_ns,
        .btime_ns = codebase->created_ns,
        .name = "",
    };
    int rc = store_new_id(store, &root.version);
    if (rc == 0)
        rc = store_layer_new(txn, &codebase->head);
    if (rc == 0)
        rc = store_stack_new(txn, NULL, 0, &codebase->stack);
    if (rc == 0)
        rc = store_inode_put(txn, codebase->head, &root);
    if (rc == 0)
        rc = store_codebase_put(txn, codebase);
    return rc;
}

int mux_codebase_create(struct mux *mux, const char *name, const char *owner,
                        struct store_codebase *ret, struct af_error *err)
{
    if (check_label("name", name, false, err) < 0 || check_label("owner id", owner, true, err) < 0)
        return -1;
    struct store *store = mux_store(mux);
    struct store_codebase codebase = {.created_ns = af_wall_ns(), .head_dirty = true};
    codebase.updated_ns = codebase.created_ns;
    af_id_new("cb", &codebase.id);
    strcpy(codebase.name, name);
    strcpy(codebase.owner, owner ? owner : "");

    struct store_txn *txn;
    int rc = store_new_id(store, &codebase.root_fid);
    if (rc == 0)
        rc = store_write_begin(store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "creating the codebase");
    rc = put_new_codebase(store, txn, &codebase);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    if (rc < 0)
        return mux_fail(err, rc, "creating the codebase");
    *ret = codebase;
    return 0;
}

int mux_codebase_get(struct mux *mux, const char *id, struct store_codebase *ret,
                     struct af_error *err)
{
    if (mux_check_codebase_id(id, err) < 0)
        return -1;
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the codebase");
    struct store_codebase codebase;
    rc = store_codebase_get(txn, id, &codebase);
    store_read_end(txn);
    if (rc < 0)
        return mux_fail_codebase(err, rc, id);
    *ret = codebase;
    return 0;
}

static int delete_records(struct store_txn *txn, const char *id)
{
    struct store_codebase codebase;
    int rc = store_codebase_get(txn, id, &codebase);
    if (rc == 0)
        rc = store_stack_unref(txn, codebase.stack);
    if (rc == 0)
        rc = store_layer_unref(txn, codebase.head);
    if (rc == 0)
        rc = store_codebase_del(txn, id);
    return rc;
}

int mux_codebase_delete(struct mux *mux, const char *id, struct af_error *err)
{
    if (mux_check_codebase_id(id, err) < 0)
        return -1;
    struct mux_news_turn news;
    struct store_txn *txn;
    mux_news_begin(mux, id, &news);
    int rc = store_write_begin(mux_store(mux), &txn);
    if (rc == 0) {
        rc = delete_records(txn, id);
        if (rc == 0)
            rc = store_commit(txn);
        else
            store_abort(txn);
    }
    if (rc == 0)
        mux_news_tell_deleted(&news);
    mux_news_end(&news, false);
    mux_parts_wake(mux);
    return rc < 0 ? mux_fail_codebase(err, rc, id) : 0;
}

struct list_arg {
    const char *owner;
    int (*fn)(void *arg, const struct store_codebase *codebase);
    void *arg;
    bool stopped; // by fn: its value is the result
};

static int list_one(void *arg, const struct store_codebase *codebase)
{
    struct list_arg *list = arg;
    if (list->owner && strcmp(list->owner, codebase->owner) != 0)
        return 0;
    int value = list->fn(list->arg, codebase);
    list->stopped = value != 0;
    return value;
}

int mux_codebase_list(struct mux *mux, const char *owner, const char *after_id,
                      int (*fn)(void *arg, const struct store_codebase *codebase), void *arg,
                      struct af_error *err)
{
    if (after_id && mux_check_codebase_id(after_id, err) < 0)
        return -1;
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing the codebases");
    struct list_arg list = {.owner = owner, .fn = fn, .arg = arg};
    rc = store_codebase_list(txn, after_id, list_one, &list);
    store_read_end(txn);
    if (rc < 0 && !list.stopped)
        return mux_fail(err, rc, "listing the codebases");
    return rc;
}

int mux_codebase_freeze_head(struct store_txn *txn, struct store_codebase *codebase)
{
    if (!codebase->head_dirty)
        return 0;
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    struct store_codebase frozen = *codebase;
    int rc = mux_layer_list_load(txn, codebase->head, codebase->stack, &layers);
    if (rc < 0)
        return rc;
    if (layers.count > MUX_STACK_SOFT_MAX)
        return MUX_STACK_FULL;
    rc = store_layer_freeze(txn, codebase->head);
    if (rc == 0)
        rc = store_stack_new(txn, layers.ids, layers.count, &frozen.stack);
    // The new stack holds the old head and the old stack's layers; the codebase lets go of both.
    if (rc == 0)
        rc = store_layer_unref(txn, codebase->head);
    if (rc == 0)
        rc = store_stack_unref(txn, codebase->stack);
    if (rc == 0)
        rc = store_layer_new(txn, &frozen.head);
    frozen.head_dirty = false;
    if (rc == 0)
        rc = store_codebase_put(txn, &frozen);
    if (rc == 0)
        *codebase = frozen;
    return rc;
}

// Whether the codebase alone holds its stack, and the stack alone its top layer.
static int may_thaw(struct store_txn *txn, uint64_t stack, uint64_t top, bool *ret)
{
    uint32_t refs;
    uint64_t orphan; // kept by a merge
    struct store_layer layer;
    int rc = store_stack_refs(txn, stack, &refs);
    if (rc == 0)
        rc = store_layer_get(txn, top, &layer);
    if (rc == 0)
        *ret = refs == 1 && layer.refs == 1 && store_orphan_next(txn, top, 0, &orphan) == -ENOENT;
    return rc;
}

int mux_codebase_thaw_head(struct mux *mux, struct store_txn *txn, struct store_codebase *codebase)
{
    if (codebase->head_dirty)
        return 0;
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    bool may = false;
    int rc = mux_layer_list_load(txn, codebase->head, codebase->stack, &layers);
    if (rc < 0 || layers.count < 2) // the head itself comes first
        return rc;
    uint64_t top = layers.ids[1], stack = 0;
    rc = may_thaw(txn, codebase->stack, top, &may);
    if (rc < 0 || !may || mux_parts_has(mux, top))
        return rc;
    rc = store_layer_ref(txn, top); // the codebase's own, as of a head
    if (rc == 0)
        rc = store_stack_new(txn, layers.ids + 2, layers.count - 2, &stack);
    if (rc == 0)
        rc = store_stack_unref(txn, codebase->stack);
    if (rc == 0)
        rc = store_layer_unref(txn, codebase->head);
    if (rc == 0)
        rc = store_layer_thaw(txn, top);
    if (rc < 0)
        return rc;
    codebase->stack = stack;
    codebase->head = top;
    codebase->head_dirty = true;
    return 0;
}

int mux_codebase_apply_edit(struct store_txn *txn, struct store_codebase *codebase,
                            const struct mux_tree_edit *edit)
{
    codebase->size_bytes += (uint64_t)edit->bytes_delta;
    if (edit->bytes_delta > 0 && codebase->size_bytes > AF_CODEBASE_SIZE_MAX)
        return -EFBIG;
    codebase->files += (uint64_t)edit->files_delta;
    codebase->head_dirty = true;
    // Strictly later, whatever the clock does: it names the version.
    codebase->updated_ns =
        edit->now_ns > codebase->updated_ns ? edit->now_ns : codebase->updated_ns + 1;
    return store_codebase_put(txn, codebase);
}
