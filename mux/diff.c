// What a view's delta changes against its base, from the delta's records alone: O(delta).
//
// Names and contents are looked at apart. The delta's entries say which names appeared (a fid the
// base has not: added; one that left its base name: renamed) and which base names are gone
// (whited out or taken by another fid, unless their fid was renamed). The delta's inode records
// say which fids of the base changed content or attributes, at every name that they keep. What is
// in a directory that the view does not reach any more is covered by that directory's entry.
// Everything is gathered in one transaction, sorted, and handed out after it has ended.
// Paths are those of the view, old_path is that of the base: see docs/CODEBASES.md for applying.
// Owns the arena of one diff; -E2BIG when a delta is too large for it. Read next: dir_paths.c.
#include "mux/diff.h"

#include "mux/dir_paths.h"
#include "mux/host_call.h"
#include "mux/inspect_priv.h"
#include "mux/links.h"
#include "mux/walk.h"
#include "mux/xattr_set.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#define NAMES_MAX (4u << 20) // entries or changes of one delta

// An entry of the delta. Names stay in the map while the read transaction lasts.
struct delta_name {
    uint64_t parent, fid; // fid 0: a whiteout
    uint64_t base_fid;    // of the same name in the base, 0: none
    const char *name;
    uint8_t name_len;
};

struct change {
    struct mux_diff_entry entry;
    size_t path_len;
};

struct mux_diff {
    struct store_txn *txn; // while it is gathered
    uint64_t delta;
    struct mux_layers view, base;
    struct mux_arena arena;
    struct mux_dir_paths view_paths, base_paths;
    struct delta_name *names;
    size_t n_names, names_capacity;
    struct mux_fid_map name_of; // fid -> 1 + index of one of its names in the delta
    struct mux_fid_map renamed; // fid -> 1 + index of the name it was renamed to
    struct change *changes;
    size_t n_changes, changes_capacity;
};

static int grow(void **array, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return 0;
    if (count >= NAMES_MAX)
        return -E2BIG;
    size_t bigger = *capacity ? *capacity * 2 : 64;
    void *moved = realloc(*array, bigger * size);
    if (!moved)
        return -ENOMEM;
    *array = moved;
    *capacity = bigger;
    return 0;
}

static int collect_name(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct mux_diff *diff = arg;
    struct delta_name name = {
        .parent = parent,
        .fid = entry->fid,
        .name = entry->name,
        .name_len = entry->name_len,
    };
    struct store_entry below;
    int rc = mux_resolve_entry(diff->txn, diff->base, parent, entry->name, entry->name_len, &below,
                               NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    name.base_fid = rc == 0 ? below.fid : 0;
    if (name.fid == name.base_fid)
        return 0; // as in the base, or a whiteout of nothing
    rc = grow((void **)&diff->names, &diff->names_capacity, diff->n_names, sizeof *diff->names);
    if (rc < 0)
        return rc;
    diff->names[diff->n_names++] = name;
    return name.fid ? mux_fid_map_put(&diff->name_of, name.fid, diff->n_names) : 0;
}

static bool is_named(const struct store_inode *inode, const struct delta_name *name)
{
    return inode->parent == name->parent && inode->name_len == name->name_len &&
           memcmp(inode->name, name->name, name->name_len) == 0;
}

// Whether a name that appeared is one that a base object moved to: the object had a name in the
// base that the view does not have any more.
static int is_moved(struct mux_diff *diff, const struct delta_name *name, bool *ret)
{
    struct store_inode old;
    bool was, is;
    *ret = false;
    int rc = mux_resolve_inode(diff->txn, diff->base, name->fid, &old, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    rc = mux_dir_paths_has(&diff->base_paths, old.parent, old.name, old.name_len, old.fid, &was);
    if (rc == 0)
        rc = mux_dir_paths_has(&diff->view_paths, old.parent, old.name, old.name_len, old.fid, &is);
    if (rc == 0)
        *ret = was && !is;
    return rc;
}

// For each moved object picks the name it moved to; further names of it count as added.
static int find_renames(struct mux_diff *diff)
{
    for (size_t i = 0; i < diff->n_names; i++) {
        const struct delta_name *name = &diff->names[i];
        const struct mux_dir_path *dir = NULL;
        bool moved = false;
        if (name->fid == 0)
            continue;
        int rc = mux_dir_paths_get(&diff->view_paths, name->parent, &dir);
        if (rc == 0 && dir)
            rc = is_moved(diff, name, &moved);
        if (rc < 0)
            return rc;
        if (!moved)
            continue;
        struct store_inode inode;
        rc = mux_resolve_inode(diff->txn, diff->view, name->fid, &inode, NULL);
        if (rc == 0 &&
            (is_named(&inode, name) || !mux_fid_map_get(&diff->renamed, name->fid, NULL)))
            rc = mux_fid_map_put(&diff->renamed, name->fid, i + 1);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_change(struct mux_diff *diff, enum mux_change kind, const char *path,
                      size_t path_len, const char *old_path, const struct store_inode *inode)
{
    struct change change = {
        .entry =
            {
                .change = kind,
                .path = path,
                .old_path = old_path,
                .mode = inode->mode,
                .size = inode->size,
                .fid = inode->fid,
                .mtime_ns = inode->mtime_ns,
            },
        .path_len = path_len,
    };
    if (S_ISLNK(inode->mode)) {
        change.entry.symlink_target =
            mux_arena_copy(&diff->arena, inode->inline_data, inode->inline_len);
        if (!change.entry.symlink_target)
            return -E2BIG;
    }
    int rc = grow((void **)&diff->changes, &diff->changes_capacity, diff->n_changes,
                  sizeof *diff->changes);
    if (rc == 0)
        diff->changes[diff->n_changes++] = change;
    return rc;
}

// The object that the name had in the base, unless it lives on as renamed from this very name.
static int old_object(struct mux_diff *diff, const struct delta_name *name, struct store_inode *ret,
                      bool *ret_gone)
{
    *ret_gone = false;
    if (name->base_fid == 0)
        return 0;
    int rc = mux_resolve_inode(diff->txn, diff->base, name->base_fid, ret, NULL);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    *ret_gone = !mux_fid_map_get(&diff->renamed, name->base_fid, NULL) || !is_named(ret, name);
    return 0;
}

static int report_renamed(struct mux_diff *diff, const struct store_inode *inode, const char *path,
                          size_t path_len)
{
    struct store_inode old;
    const char *old_path = NULL;
    size_t old_len;
    int rc = mux_resolve_inode(diff->txn, diff->base, inode->fid, &old, NULL);
    if (rc == 0)
        rc = mux_dir_paths_join(&diff->base_paths, old.parent, old.name, old.name_len, &old_path,
                                &old_len);
    return rc < 0 ? rc : add_change(diff, MUX_RENAMED, path, path_len, old_path, inode);
}

static int report_name(struct mux_diff *diff, size_t index)
{
    const struct delta_name *name = &diff->names[index];
    const char *path;
    size_t path_len;
    struct store_inode old, inode;
    bool gone = false;
    uint64_t winner;
    int rc = mux_dir_paths_join(&diff->view_paths, name->parent, name->name, name->name_len, &path,
                                &path_len);
    if (rc < 0 || !path)
        return rc;
    rc = old_object(diff, name, &old, &gone);
    if (rc < 0)
        return rc;
    if (name->fid == 0)
        return gone ? add_change(diff, MUX_DELETED, path, path_len, NULL, &old) : 0;
    rc = mux_resolve_inode(diff->txn, diff->view, name->fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    bool moved = mux_fid_map_get(&diff->renamed, name->fid, &winner) && winner == index + 1;
    if (gone && !moved && IFTODT(old.mode) == IFTODT(inode.mode) && !S_ISDIR(inode.mode))
        return add_change(diff, MUX_MODIFIED, path, path_len, NULL, &inode);
    if (gone)
        rc = add_change(diff, MUX_DELETED, path, path_len, NULL, &old);
    if (rc < 0)
        return rc;
    if (moved)
        return report_renamed(diff, &inode, path, path_len);
    return add_change(diff, MUX_ADDED, path, path_len, NULL, &inode);
}

// As far as it can be told without reading blobs: equal bytes in another blob count as changed.
static bool same_content(const struct store_inode *a, const struct store_inode *b)
{
    if (a->size != b->size || a->size == 0)
        return a->size == b->size;
    if (a->content != b->content)
        return false;
    if (a->content == STORE_CONTENT_BLOB)
        return a->blob == b->blob;
    return a->inline_len == b->inline_len &&
           memcmp(a->inline_data, b->inline_data, a->inline_len) == 0;
}

static bool same_xattrs(struct store_txn *txn, const struct store_inode *a,
                        const struct store_inode *b)
{
    struct mux_xattr_bytes x, y;
    if (a->xattr_bytes != b->xattr_bytes || a->xattr_bytes == 0)
        return a->xattr_bytes == b->xattr_bytes;
    return mux_xattr_load(txn, a, &x) == 0 && mux_xattr_load(txn, b, &y) == 0 && x.len == y.len &&
           memcmp(x.bytes, y.bytes, x.len) == 0;
}

// A directory's times follow from what is done in it: they are no change of their own.
static bool same_attributes(struct store_txn *txn, const struct store_inode *a,
                            const struct store_inode *b)
{
    return a->mode == b->mode && (S_ISDIR(a->mode) || a->mtime_ns == b->mtime_ns) &&
           same_xattrs(txn, a, b);
}

// A name that the view has for the fid: the record's hint, a name in the delta, or the base's
// hint. -ENOENT when there is none (an orphan, or all of it is deleted).
static int locate(struct mux_diff *diff, const struct store_inode *inode,
                  const struct store_inode *old, struct mux_link *ret)
{
    struct delta_name tries[3] = {
        {.parent = inode->parent, .name = inode->name, .name_len = inode->name_len},
        {0},
        {.parent = old->parent, .name = old->name, .name_len = old->name_len},
    };
    uint64_t index;
    if (mux_fid_map_get(&diff->name_of, inode->fid, &index))
        tries[1] = diff->names[index - 1];
    for (size_t i = 0; i < AF_ARRAY_LEN(tries); i++) {
        bool has;
        int rc = mux_dir_paths_has(&diff->view_paths, tries[i].parent, tries[i].name,
                                   tries[i].name_len, inode->fid, &has);
        if (rc < 0)
            return rc;
        if (!has)
            continue;
        *ret = (struct mux_link){
            .parent = tries[i].parent, .name = tries[i].name, .name_len = tries[i].name_len};
        return 0;
    }
    return -ENOENT;
}

// ---- at which names a file's change is told: all that it had before

struct names {
    struct mux_link *links;
    size_t count, capacity;
};

static int collect_link(void *arg, const struct mux_link *link)
{
    struct names *names = arg;
    int rc = grow((void **)&names->links, &names->capacity, names->count, sizeof *names->links);
    if (rc == 0)
        names->links[names->count++] = *link;
    return rc;
}

static int compare_links(const void *a, const void *b)
{
    const struct mux_link *x = a, *y = b;
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    size_t len = x->name_len < y->name_len ? x->name_len : y->name_len;
    int order = memcmp(x->name, y->name, len);
    return order ? order : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

// A name that is new was told by itself, unless as a rename.
static int had_name(struct mux_diff *diff, uint64_t fid, const struct mux_link *link, bool *ret)
{
    uint64_t winner;
    *ret = false;
    if (mux_fid_map_get(&diff->renamed, fid, &winner)) {
        const struct delta_name *name = &diff->names[winner - 1];
        *ret = name->parent == link->parent && name->name_len == link->name_len &&
               memcmp(name->name, link->name, link->name_len) == 0;
    }
    return *ret ? 0
                : mux_dir_paths_has(&diff->base_paths, link->parent, link->name, link->name_len,
                                    fid, ret);
}

static int report_at(struct mux_diff *diff, enum mux_change kind, const struct store_inode *inode,
                     const struct mux_link *link)
{
    const char *path = NULL;
    size_t path_len;
    bool had;
    int rc = had_name(diff, inode->fid, link, &had);
    if (rc == 0 && had)
        rc = mux_dir_paths_join(&diff->view_paths, link->parent, link->name, link->name_len, &path,
                                &path_len);
    return rc < 0 || !path ? rc : add_change(diff, kind, path, path_len, NULL, inode);
}

static int report_everywhere(struct mux_diff *diff, enum mux_change kind,
                             const struct store_inode *inode, const struct store_inode *old)
{
    struct names names = {0};
    struct mux_link link;
    int rc = inode->nlink > 1 ? mux_links_walk(diff->txn, diff->view, inode, collect_link, &names)
                              : 0; // one name needs no look at the index of every layer
    if (rc == 0 && names.count > 1)
        qsort(names.links, names.count, sizeof *names.links, compare_links);
    for (size_t i = 0; rc == 0 && i < names.count; i++)
        if (i == 0 || compare_links(&names.links[i - 1], &names.links[i]) != 0)
            rc = report_at(diff, kind, inode, &names.links[i]);
    bool found = names.count > 0;
    free(names.links);
    if (rc < 0 || found)
        return rc;
    rc = locate(diff, inode, old, &link);
    return rc == 0 ? report_at(diff, kind, inode, &link) : rc == -ENOENT ? 0 : rc;
}

static int report_inode(void *arg, const struct store_inode *inode)
{
    struct mux_diff *diff = arg;
    struct store_inode old;
    int rc = mux_resolve_inode(diff->txn, diff->base, inode->fid, &old, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc; // new: its name tells
    enum mux_change kind = MUX_MODIFIED;
    if (!S_ISREG(inode->mode) || same_content(&old, inode)) {
        if (same_attributes(diff->txn, &old, inode))
            return 0;
        kind = MUX_METADATA;
    }
    return inode->fid == diff->view_paths.root_fid ? add_change(diff, kind, "", 0, NULL, inode)
                                                   : report_everywhere(diff, kind, inode, &old);
}

// At one path: what was there goes, then what comes is named, then it changes.
static int rank(enum mux_change change)
{
    switch (change) {
    case MUX_DELETED:
        return 0;
    case MUX_RENAMED:
        return 1;
    case MUX_ADDED:
        return 2;
    case MUX_MODIFIED:
        return 3;
    case MUX_METADATA:
        return 4;
    }
    return 5;
}

static int compare_changes(const void *a, const void *b)
{
    const struct change *x = a, *y = b;
    int order = mux_path_compare(x->entry.path, x->path_len, y->entry.path, y->path_len);
    return order ? order : rank(x->entry.change) - rank(y->entry.change);
}

static int gather(struct mux_diff *diff, struct mux_layers layers, uint64_t root_fid)
{
    struct store_txn *txn = diff->txn;
    diff->delta = layers.ids[0];
    diff->view = layers;
    diff->base = (struct mux_layers){.ids = layers.ids + 1, .count = layers.count - 1};
    mux_dir_paths_init(&diff->view_paths, txn, diff->view, root_fid, &diff->arena);
    mux_dir_paths_init(&diff->base_paths, txn, diff->base, root_fid, &diff->arena);
    int rc = store_layer_entries(txn, diff->delta, collect_name, diff);
    if (rc == 0)
        rc = find_renames(diff);
    for (size_t i = 0; rc == 0 && i < diff->n_names; i++)
        rc = report_name(diff, i);
    if (rc == 0)
        rc = store_layer_inodes(txn, diff->delta, report_inode, diff);
    if (rc == 0 && diff->n_changes > 1)
        qsort(diff->changes, diff->n_changes, sizeof *diff->changes, compare_changes);
    mux_dir_paths_fini(&diff->view_paths);
    mux_dir_paths_fini(&diff->base_paths);
    return rc;
}

int mux_diff_gather(struct store_txn *txn, struct mux_layers layers, uint64_t root_fid,
                    struct mux_diff **ret)
{
    struct mux_diff *diff = calloc(1, sizeof *diff);
    if (!diff)
        return -ENOMEM;
    diff->txn = txn;
    int rc = gather(diff, layers, root_fid);
    diff->txn = NULL;
    if (rc < 0) {
        mux_diff_free(diff);
        return rc;
    }
    *ret = diff;
    return 0;
}

void mux_diff_free(struct mux_diff *diff)
{
    if (!diff)
        return;
    mux_fid_map_fini(&diff->name_of);
    mux_fid_map_fini(&diff->renamed);
    mux_arena_fini(&diff->arena);
    free(diff->names);
    free(diff->changes);
    free(diff);
}

int mux_diff_each(const struct mux_diff *diff,
                  int (*fn)(void *arg, const struct mux_diff_entry *entry), void *arg)
{
    for (size_t i = 0; i < diff->n_changes; i++) {
        int rc = fn(arg, &diff->changes[i].entry);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int mux_inspect_diff(struct mux *mux, const char *sandbox_id,
                     int (*fn)(void *arg, const struct mux_diff_entry *entry), void *arg,
                     struct af_error *err)
{
    AF_CLEANUP(mux_sandbox_layers_fini) struct mux_sandbox_layers of = {0};
    AF_CLEANUP_DIFF struct mux_diff *diff = NULL;
    struct store_txn *txn;
    int rc = mux_inspect_begin(mux, sandbox_id, &of, &txn, err);
    if (rc < 0)
        return rc;
    rc = mux_diff_gather(txn, mux_layer_list_all(&of.layers), of.root_fid, &diff);
    store_read_end(txn);
    if (rc < 0)
        return mux_fail(err, rc, "comparing the view with its base");
    return mux_diff_each(diff, fn, arg);
}
