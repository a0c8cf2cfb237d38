// Names and inodes over a stack of layers. Pure reads. Read next: resolve.h, then lookup.c.
#include "mux/resolve.h"

#include <errno.h>
#include <sys/stat.h>

int mux_resolve_entry(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                      const char *name, size_t name_len, struct store_entry *ret, size_t *ret_index)
{
    for (size_t i = layers.skip; i < layers.count; i++) {
        struct store_entry found;
        int rc = store_entry_get(txn, layers.ids[i], parent, name, name_len, &found);
        if (rc == -ENOENT)
            continue;
        if (rc < 0)
            return rc;
        if (found.fid == 0)
            return -ENOENT;
        *ret = found;
        if (ret_index)
            *ret_index = i;
        return 0;
    }
    return -ENOENT;
}

int mux_resolve_inode(struct store_txn *txn, struct mux_layers layers, uint64_t fid,
                      struct store_inode *ret, size_t *ret_index)
{
    size_t index = 0;
    int rc = store_inode_find(txn, layers.ids + layers.skip, layers.count - layers.skip, fid, ret,
                              &index);
    if (rc == 0 && ret_index)
        *ret_index = layers.skip + index;
    return rc;
}

int mux_resolve_path(struct store_txn *txn, struct mux_layers layers, uint64_t root,
                     const char *path, size_t len, struct store_inode *ret, size_t *ret_index)
{
    uint64_t fid = root;
    struct store_inode inode;
    size_t index = 0;
    int rc = mux_resolve_inode(txn, layers, fid, &inode, &index);
    for (size_t i = 0; rc == 0 && i < len;) {
        size_t n = 0;
        while (i + n < len && path[i + n] != '/')
            n++;
        if (!S_ISDIR(inode.mode))
            return -ENOTDIR;
        struct store_entry entry;
        rc = mux_resolve_entry(txn, layers, inode.fid, path + i, n, &entry, NULL);
        if (rc == 0)
            rc = mux_resolve_inode(txn, layers, entry.fid, &inode, &index);
        i += n + 1;
    }
    if (rc < 0)
        return rc;
    *ret = inode;
    if (ret_index)
        *ret_index = index;
    return 0;
}

int mux_resolve_dir_is_empty(struct store_txn *txn, struct mux_layers layers, uint64_t dir,
                             bool *ret_empty)
{
    struct store_dir_iter *iter;
    int rc = store_dir_open(txn, layers.ids, layers.count, dir, 0, &iter);
    if (rc < 0)
        return rc;
    struct store_entry entry;
    rc = store_dir_next(iter, &entry, NULL);
    store_dir_close(iter);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    *ret_empty = rc == -ENOENT;
    return 0;
}

int mux_resolve_in_lower(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                         const char *name, size_t name_len, bool *ret_exists)
{
    struct mux_layers lower = {.ids = layers.ids + 1, .count = layers.count - 1};
    struct store_entry entry;
    int rc = mux_resolve_entry(txn, lower, parent, name, name_len, &entry, NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    *ret_exists = rc == 0;
    return 0;
}
