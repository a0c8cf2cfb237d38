// A tree into a codebase: names that go, one by one or all that were not sent.
//
// Every name below goes by itself, deepest first, as with rm -r: a directory without a name never
// holds names, which is what compaction, merges and fsck rely on. The base and our layer stand
// still meanwhile, so it is planned in a read transaction and done in bounded write transactions.
// Owns the plan for the time of one call. Errors: an af_error. Read next: tree_edit.h.
#include "mux/import_priv.h"

#include "mux/walk.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define PLAN_BYTES_MAX (256u << 20)

// Paths one after the other, each with its length before it.
struct paths {
    char *bytes;
    size_t len, capacity;
    size_t *at; // where each begins
    size_t count, at_capacity;
};

struct plan {
    struct mux_import *import;
    struct mux_tree_edit edit; // to look into; its transaction reads
    struct paths paths;
    int rc;
};

static void paths_fini(struct paths *paths)
{
    free(paths->bytes);
    free(paths->at);
}

static int grow(void **array, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity)
        return 0;
    size_t bigger = *capacity ? *capacity * 2 : 256;
    while (bigger < needed)
        bigger *= 2;
    if (bigger * size > PLAN_BYTES_MAX)
        return -E2BIG;
    void *grown = realloc(*array, bigger * size);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *capacity = bigger;
    return 0;
}

static int paths_add(struct paths *paths, const char *path, size_t len)
{
    void *bytes = paths->bytes, *at = paths->at;
    int rc = grow(&bytes, &paths->capacity, paths->len + len + 1, 1);
    paths->bytes = bytes;
    if (rc == 0)
        rc = grow(&at, &paths->at_capacity, paths->count + 1, sizeof *paths->at);
    paths->at = at;
    if (rc < 0)
        return rc;
    paths->at[paths->count++] = paths->len;
    memcpy(paths->bytes + paths->len, path, len);
    paths->bytes[paths->len + len] = '\0'; // names hold no NUL
    paths->len += len + 1;
    return 0;
}

static int begin(struct mux_import *import, struct plan *plan, struct store_txn **ret,
                 struct af_error *err)
{
    *plan = (struct plan){.import = import};
    int rc = store_read_begin(import->store, ret);
    if (rc < 0)
        return mux_fail(err, rc, "removing");
    struct store_codebase codebase;
    if (mux_import_check_base(import, *ret, &codebase, err) < 0) {
        store_read_end(*ret);
        return -1;
    }
    plan->edit = (struct mux_tree_edit){
        .txn = *ret,
        .layers = mux_layer_list_all(&import->layers),
        .implied = &import->implied,
        .kept = &import->kept,
    };
    return 0;
}

static int fail_plan(struct af_error *err, int rc)
{
    if (rc == -E2BIG)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "the tree to remove is too large for one step; remove its directories "
                            "one by one");
    return mux_fail(err, rc, "removing");
}

static enum mux_walk_next plan_node(void *arg, const struct mux_walk_node *node)
{
    struct plan *plan = arg;
    plan->rc = paths_add(&plan->paths, node->path, node->path_len);
    return plan->rc < 0 ? MUX_WALK_STOP : MUX_WALK_ON;
}

// What has to be done to remove the path; the paths end up in path order, so done backwards the
// deepest go first, the path itself last. Nothing is planned when it is not there.
static int make_plan(struct mux_import *import, const char *path, size_t len, struct plan *plan,
                     struct af_error *err)
{
    struct store_txn *txn;
    struct store_inode inode;
    if (begin(import, plan, &txn, err) < 0)
        return -1;
    int rc = mux_resolve_path(txn, plan->edit.layers, import->root_fid, path, len, &inode, NULL);
    bool absent = rc == -ENOENT || rc == -ENOTDIR;
    if (rc == 0)
        rc = paths_add(&plan->paths, path, len);
    if (rc == 0 && S_ISDIR(inode.mode)) {
        rc = mux_walk(txn, plan->edit.layers, inode.fid, path, len, plan_node, plan);
        if (rc == 0)
            rc = plan->rc;
    }
    store_read_end(txn);
    return rc < 0 && !absent ? fail_plan(err, rc) : 0;
}

// The names of the root directory, to be removed one after the other.
static enum mux_walk_next plan_top(void *arg, const struct mux_walk_node *node)
{
    struct plan *plan = arg;
    plan->rc = paths_add(&plan->paths, node->path, node->path_len);
    return plan->rc < 0 ? MUX_WALK_STOP : MUX_WALK_PRUNE;
}

static enum mux_walk_next plan_rest(void *arg, const struct mux_walk_node *node)
{
    struct plan *plan = arg;
    uint64_t fid = node->inode->fid;
    if (mux_tree_edit_is_given(&plan->edit, fid) ||
        mux_fid_map_get(&plan->import->ancestors, fid, NULL))
        return MUX_WALK_ON;
    return plan_top(plan, node);
}

static int apply(struct mux_import *import, const struct plan *plan, size_t first, size_t last,
                 struct af_error *err)
{
    struct store_txn *txn;
    struct mux_tree_edit edit;
    int rc = store_write_begin(import->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "removing");
    if (mux_import_edit(import, txn, &edit, err) < 0) {
        store_abort(txn);
        return -1;
    }
    for (size_t i = last; rc == 0 && i > first; i--) {
        const char *path = plan->paths.bytes + plan->paths.at[i - 1];
        rc = mux_tree_edit_drop(&edit, path, strlen(path));
    }
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    if (rc < 0)
        return mux_fail(err, rc, "removing");
    mux_import_edited(import, &edit);
    return 0;
}

static int apply_all(struct mux_import *import, const struct plan *plan, struct af_error *err)
{
    import->parent_fid = 0; // the directory that it remembers may go
    for (size_t left = plan->paths.count; left > 0;) {
        size_t first = left > MUX_IMPORT_BATCH_ENTRIES ? left - MUX_IMPORT_BATCH_ENTRIES : 0;
        if (apply(import, plan, first, left, err) < 0)
            return -1;
        left = first;
    }
    import->totals.removed += plan->paths.count;
    return 0;
}

// Removes each of the paths that `fn` adds in a walk below a directory, if it is there and one.
static int remove_each(struct mux_import *import, const struct mux_path *below, mux_walk_fn fn,
                       struct af_error *err)
{
    struct plan roots;
    struct store_txn *txn;
    struct store_inode dir;
    if (begin(import, &roots, &txn, err) < 0)
        return -1;
    int rc = mux_resolve_path(txn, roots.edit.layers, import->root_fid, below->text, below->len,
                              &dir, NULL);
    if (rc == 0 && S_ISDIR(dir.mode))
        rc = mux_walk(txn, roots.edit.layers, dir.fid, below->text, below->len, fn, &roots);
    store_read_end(txn);
    if (rc == 0)
        rc = roots.rc;
    rc = rc == -ENOENT || rc == -ENOTDIR ? 0 : rc < 0 ? fail_plan(err, rc) : 0;
    for (size_t i = 0; rc == 0 && i < roots.paths.count; i++) {
        const char *path = roots.paths.bytes + roots.paths.at[i];
        rc = mux_import_remove_tree(import, path, strlen(path), err);
    }
    paths_fini(&roots.paths);
    return rc;
}

int mux_import_remove_tree(struct mux_import *import, const char *path, size_t len,
                           struct af_error *err)
{
    struct plan plan;
    if (len == 0)
        return remove_each(import, &(const struct mux_path){.len = 0}, plan_top, err);
    int rc = make_plan(import, path, len, &plan, err);
    if (rc == 0)
        rc = apply_all(import, &plan, err);
    paths_fini(&plan.paths);
    return rc;
}

int mux_import_remove_rest(struct mux_import *import, struct af_error *err)
{
    return remove_each(import, &import->replaced, plan_rest, err);
}
