// Repairs of names: entries taken out, link counts set, files put back under their names.
//
// Everything goes through the store's own functions, so that what hangs on a record follows. A
// frozen layer is changed too: it is wrong as it is. Read next: fsck_names.c.
#include "mux/store/fsck_priv.h"

#include <dirent.h>
#include <errno.h>

// A record of the view, copied so that it survives the writes that follow; to be freed.
struct loaded {
    struct store_inode inode;
    char name[AF_NAME_MAX];
    char bytes[];
};

static int load(struct fsck *f, const struct fsck_view *view, uint64_t fid, struct loaded **ret)
{
    struct store_inode inode;
    size_t index;
    int rc = fsck_inode(f, view, fid, &inode, &index);
    if (rc < 0)
        return rc;
    struct loaded *loaded = calloc(1, sizeof *loaded + inode.inline_len);
    if (!loaded)
        return -ENOMEM;
    loaded->inode = inode;
    memcpy(loaded->name, inode.name, inode.name_len);
    memcpy(loaded->bytes, inode.inline_data, inode.inline_len);
    loaded->inode.name = loaded->name;
    loaded->inode.inline_data = inode.inline_len > 0 ? loaded->bytes : NULL;
    if (index > 0) { // on its way into another layer
        loaded->inode.blob_owned = false;
        rc = store_new_id(f->store, &loaded->inode.version);
    }
    if (rc == 0)
        *ret = loaded;
    else
        free(loaded);
    return rc;
}

int fsck_hide_entry(struct fsck *f, const struct fsck_view *view, uint64_t parent, const char *name,
                    size_t name_len)
{
    struct fsck_view lower = {.layers = view->layers + 1, .count = view->count - 1};
    struct store_entry entry;
    f->writes++;
    int rc = store_entry_del(f->txn, view->layers[0], parent, name, name_len);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    rc = fsck_entry(f, &lower, parent, name, name_len, &entry);
    if (rc == 0)
        rc = store_entry_put_whiteout(f->txn, view->layers[0], parent, name, name_len);
    return rc == -ENOENT ? 0 : rc;
}

int fsck_set_links(struct fsck *f, const struct fsck_view *view, uint64_t fid, uint32_t names)
{
    AF_CLEANUP_FREE struct loaded *loaded = NULL;
    int rc = load(f, view, fid, &loaded);
    if (rc < 0)
        return rc;
    loaded->inode.nlink = names;
    return fsck_put_inode(f, view->layers[0], &loaded->inode);
}

int fsck_learn_name(struct fsck *f, const struct fsck_view *view, uint64_t fid, uint64_t parent,
                    const char *name, size_t name_len)
{
    AF_CLEANUP_FREE struct loaded *loaded = NULL;
    struct store_entry entry;
    uint64_t layer = view->layers[0];
    int rc = load(f, view, fid, &loaded);
    if (rc < 0)
        return rc;
    struct store_inode *inode = &loaded->inode;
    bool own = inode->name_len > 0 &&
               fsck_entry(f, view, inode->parent, inode->name, inode->name_len, &entry) == 0 &&
               entry.fid == fid;
    f->writes++;
    if (own) { // one more name
        rc = store_link_put(f->txn, layer, fid, inode->parent, inode->name, inode->name_len);
        if (rc == 0)
            rc = store_link_put(f->txn, layer, fid, parent, name, name_len);
    } else {
        memcpy(loaded->name, name, name_len);
        inode->name_len = (uint8_t)name_len;
        inode->parent = parent;
    }
    if (rc == 0 && !S_ISDIR(inode->mode))
        rc = fsck_count_names(f, view, inode, &inode->nlink);
    if (rc == 0 && (S_ISDIR(inode->mode) || inode->nlink == 0))
        inode->nlink = 1;
    return rc == 0 ? fsck_put_inode(f, layer, inode) : rc;
}

static int put_back(struct fsck *f, const struct fsck_view *view, const struct store_inode *inode)
{
    struct store_inode named = *inode;
    named.nlink = 1;
    int rc = fsck_put_inode(f, view->layers[0], &named);
    if (rc == 0)
        rc = store_link_clear(f->txn, view->layers[0], inode->fid);
    if (rc == 0)
        rc = store_entry_put(f->txn, view->layers[0], inode->parent, inode->name, inode->name_len,
                             inode->fid, (uint8_t)IFTODT(inode->mode));
    return rc;
}

int fsck_reconnect(struct fsck *f, const struct fsck_view *view, uint64_t fid)
{
    AF_CLEANUP_FREE struct loaded *loaded = NULL;
    struct store_entry entry;
    bool reachable = false;
    int rc = load(f, view, fid, &loaded);
    if (rc < 0)
        return rc;
    struct store_inode *inode = &loaded->inode;
    if (inode->name_len > 0)
        rc = fsck_is_reachable(f, view, inode->parent, &reachable);
    if (rc < 0)
        return rc;
    rc = fsck_entry(f, view, inode->parent, inode->name, inode->name_len, &entry);
    if (reachable && rc == -ENOENT)
        return put_back(f, view, inode);
    if (rc == 0 && entry.fid == fid) // of a cycle: opened here
        rc = fsck_hide_entry(f, view, inode->parent, inode->name, inode->name_len);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    rc = fsck_save_lost(f, view->layers[0], inode);
    if (rc == 0)
        rc = store_link_clear(f->txn, view->layers[0], fid);
    f->writes++;
    if (rc == 0 && store_orphan_has(f->txn, view->layers[0], fid))
        rc = store_orphan_del(f->txn, view->layers[0], fid);
    return rc == 0 ? fsck_del_inode(f, view->layers[0], fid) : rc;
}
