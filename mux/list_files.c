// Listing a codebase, in path order and bounded memory: the names of the directories on the way
// down, never the tree. Runs fn inside one read transaction, so on one state: fn must not block.
// Owns nothing. Errors: an af_error. Read next: walk.h.
#include "mux/codebase_priv.h"

#include "mux/layer_list.h"
#include "mux/walk.h"

#include <errno.h>
#include <sys/stat.h>

struct list_arg {
    bool recursive;
    int (*fn)(void *arg, const struct mux_file_info *info);
    void *arg;
    int value; // fn's, once it stopped the walk
};

static enum mux_walk_next report(void *arg, const struct mux_walk_node *node)
{
    struct list_arg *list = arg;
    struct mux_file_info info = {
        .path = node->path,
        .name = node->name,
        .is_dir = S_ISDIR(node->inode->mode),
        .size = node->inode->size,
        .mtime_ns = node->inode->mtime_ns,
        .mode = node->inode->mode,
    };
    list->value = list->fn(list->arg, &info);
    if (list->value != 0)
        return MUX_WALK_STOP;
    return list->recursive ? MUX_WALK_ON : MUX_WALK_PRUNE;
}

static int list_in_txn(struct store_txn *txn, const char *codebase_id, const struct mux_path *path,
                       struct list_arg *list, struct af_error *err)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    struct store_codebase codebase;
    struct store_inode dir;
    int rc = store_codebase_get(txn, codebase_id, &codebase);
    if (rc == 0)
        rc = mux_layer_list_load(txn, codebase.head, codebase.stack, &layers);
    if (rc < 0)
        return mux_fail_codebase(err, rc, codebase_id);
    struct mux_layers all = mux_layer_list_all(&layers);
    rc = mux_resolve_path(txn, all, codebase.root_fid, path->text, path->len, &dir, NULL);
    if (rc < 0)
        return mux_fail_path(err, rc, path);
    if (!S_ISDIR(dir.mode))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is no directory; list the directory that holds it",
                            MUX_SHOW(path->text, path->len));
    rc = mux_walk(txn, all, dir.fid, path->text, path->len, report, list);
    return rc < 0 ? mux_fail(err, rc, "listing the files") : list->value;
}

int mux_codebase_list_files(struct mux *mux, const char *codebase_id, const void *path,
                            size_t path_len, bool recursive,
                            int (*fn)(void *arg, const struct mux_file_info *info), void *arg,
                            struct af_error *err)
{
    struct mux_path parsed;
    if (mux_check_codebase_id(codebase_id, err) < 0 ||
        mux_check_path(path, path_len, true, &parsed, err) < 0)
        return -1;
    struct list_arg list = {.recursive = recursive, .fn = fn, .arg = arg};
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing the files");
    rc = list_in_txn(txn, codebase_id, &parsed, &list, err);
    store_read_end(txn);
    return rc;
}
