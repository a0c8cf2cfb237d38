// The names of one file in a view, and whether a directory can be reached from the root.
//
// A name counts when the view's entry of that name leads to the file. Known are the one name that
// the record remembers and, of files with several, those in the index. Reads only; remembers the
// directories of the present view that were found reachable. Read next: fsck_tree.c.
#include "mux/store/fsck_priv.h"
#include "mux/store/siphash.h"

#include <errno.h>

int fsck_inode(struct fsck *f, const struct fsck_view *view, uint64_t fid, struct store_inode *ret,
               size_t *ret_index)
{
    size_t index = 0;
    int rc = store_inode_find(f->txn, view->layers, view->count, fid, ret, &index);
    if (rc == 0 && ret_index)
        *ret_index = index;
    return rc == -EUCLEAN ? -ENOENT : rc; // damaged: said already
}

int fsck_entry(struct fsck *f, const struct fsck_view *view, uint64_t parent, const char *name,
               size_t name_len, struct store_entry *ret)
{
    for (size_t i = 0; i < view->count; i++) {
        int rc = store_entry_get(f->txn, view->layers[i], parent, name, name_len, ret);
        if (rc == -ENOENT || rc == -EUCLEAN)
            continue;
        return rc == 0 && ret->fid == 0 ? -ENOENT : rc;
    }
    return -ENOENT;
}

static int leads_to(struct fsck *f, const struct fsck_view *view, uint64_t parent, const char *name,
                    size_t name_len, uint64_t fid, bool *ret)
{
    struct store_entry entry;
    int rc = name_len > 0 ? fsck_entry(f, view, parent, name, name_len, &entry) : -ENOENT;
    *ret = rc == 0 && entry.fid == fid;
    return rc == -ENOENT ? 0 : rc;
}

// ---- counting

struct counter {
    struct fsck *f;
    const struct fsck_view *view;
    uint64_t fid;
    struct idset seen; // names, hashed: the index may have one in several layers
};

static int count_name(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    struct counter *counter = arg;
    bool leads;
    int rc = leads_to(counter->f, counter->view, parent, name, name_len, counter->fid, &leads);
    if (rc < 0 || !leads)
        return rc;
    uint64_t key[2] = {counter->f->store->hash_key[0] ^ parent, counter->f->store->hash_key[1]};
    return idset_add(&counter->seen, store_siphash(key, name, name_len) | 1);
}

static bool index_is_empty(struct fsck *f)
{
    MDB_stat stat;
    return mdb_stat(f->txn->mdb, f->store->dbi[STORE_DBI_LINK], &stat) == 0 && stat.ms_entries == 0;
}

int fsck_count_names(struct fsck *f, const struct fsck_view *view, const struct store_inode *inode,
                     uint32_t *ret)
{
    struct counter counter = {.f = f, .view = view, .fid = inode->fid};
    int rc =
        inode->name_len > 0 ? count_name(&counter, inode->parent, inode->name, inode->name_len) : 0;
    if (!S_ISDIR(inode->mode) && !index_is_empty(f))
        for (size_t i = 0; rc == 0 && i < view->count; i++)
            rc = store_link_walk(f->txn, view->layers[i], inode->fid, count_name, &counter);
    *ret = (uint32_t)counter.seen.count;
    idset_clear(&counter.seen);
    return rc;
}

int fsck_knows_name(struct fsck *f, const struct fsck_view *view, const struct store_inode *inode,
                    uint64_t parent, const char *name, size_t name_len, bool *ret)
{
    *ret = inode->parent == parent && inode->name_len == name_len &&
           memcmp(inode->name, name, name_len) == 0;
    if (*ret || inode->nlink <= 1 || S_ISDIR(inode->mode))
        return 0;
    struct key_link key = {.fid_be = htobe64(inode->fid), .parent_be = htobe64(parent)};
    memcpy(key.name, name, name_len);
    for (size_t i = 0; !*ret && i < view->count; i++) {
        MDB_val value;
        key.layer_be = htobe64(view->layers[i]);
        int rc =
            store_get(f->txn, STORE_DBI_LINK, store_val(&key, KEY_LINK_PREFIX + name_len), &value);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        *ret = rc == 0;
    }
    return 0;
}

// ---- reachable directories

void fsck_forget_reachable(struct fsck *f)
{
    idset_clear(&f->good);
    f->good_view = 0;
}

static bool is_remembered(struct fsck *f, const struct fsck_view *view, uint64_t dir)
{
    if (f->good_view != view->fingerprint || f->good_writes != f->writes ||
        f->good.count >= FSCK_MEMO_MAX)
        fsck_forget_reachable(f);
    f->good_view = view->fingerprint;
    f->good_writes = f->writes;
    return idset_has(&f->good, dir);
}

// One step up. 1: `dir` is the root, 0: *ret_parent is the directory that has it, -ENOENT: nobody.
static int step_up(struct fsck *f, const struct fsck_view *view, uint64_t dir, uint64_t *ret_parent)
{
    struct store_inode inode;
    bool leads;
    int rc = fsck_inode(f, view, dir, &inode, NULL);
    if (rc < 0)
        return rc;
    if (!S_ISDIR(inode.mode))
        return -ENOENT;
    if (dir == view->root)
        return 1;
    *ret_parent = inode.parent;
    rc = leads_to(f, view, inode.parent, inode.name, inode.name_len, dir, &leads);
    return rc < 0 ? rc : leads ? 0 : -ENOENT;
}

// A merge keeps the record of a directory that was removed, and marks it as an orphan, while the
// merged layer has whiteouts of names that it had in layers below (or, in older stores, names).
static bool is_kept(struct fsck *f, const struct fsck_view *view, uint64_t dir)
{
    return !view->live && store_orphan_has(f->txn, view->layers[0], dir);
}

int fsck_is_reachable(struct fsck *f, const struct fsck_view *view, uint64_t dir, bool *ret)
{
    struct idset path = {0};
    int rc = 0;
    while (rc == 0 && !is_remembered(f, view, dir)) {
        if (is_kept(f, view, dir)) // an end: what a removed directory held
            break;
        // A directory met twice, or a tree deeper than any: a cycle.
        if (dir == 0 || idset_has(&path, dir) || path.count >= FSCK_PATH_MAX)
            rc = -ENOENT;
        else
            rc = idset_add(&path, dir);
        if (rc == 0)
            rc = step_up(f, view, dir, &dir);
    }
    *ret = rc >= 0;
    if (rc >= 0)
        rc = idset_merge(&f->good, &path);
    idset_clear(&path);
    return rc == -ENOENT ? 0 : rc;
}
