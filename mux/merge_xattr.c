// Extended attributes of a merge, three ways and by name. See merge.h.
//
// What only one writer has changed is taken as it is, from the layer where it lies. Two sets that
// were both changed become one in the head's top layer, before the record that says so; what is
// too much for one file is the view's alone. Read next: xattr_set.h, merge_record.c.
#include "mux/merge_priv.h"
#include "mux/xattr_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_same(struct mux_xattr_bytes a, struct mux_xattr_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.bytes, b.bytes, a.len) == 0);
}

static int put(struct mux_merge *merge, const void *bytes, size_t len, struct store_inode *to)
{
    uint64_t layer = merge->head.ids[0];
    int rc = len > 0 ? store_xattr_put(merge->txn, layer, to->fid, bytes, len) : 0;
    to->xattr_bytes = (uint32_t)len;
    to->xattr_layer = layer;
    return rc;
}

static void take(const struct store_inode *from, struct store_inode *to)
{
    to->xattr_bytes = from->xattr_bytes;
    to->xattr_layer = from->xattr_layer;
}

int mux_merge_xattrs(struct mux_merge *merge, const struct store_inode *view,
                     const struct store_inode *base, const struct store_inode *head,
                     struct store_inode *to)
{
    struct mux_xattr_bytes mine, was = {0}, theirs;
    AF_CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    bool conflict = false;
    int rc = mux_xattr_load(merge->txn, view, &mine);
    if (rc == 0 && base)
        rc = mux_xattr_load(merge->txn, base, &was);
    if (rc == 0)
        rc = mux_xattr_load(merge->txn, head, &theirs);
    if (rc < 0)
        return rc;
    if (is_same(mine, was) || is_same(mine, theirs)) {
        take(head, to);
        return 0;
    }
    if (is_same(theirs, was) && view->fid == to->fid) {
        take(view, to);
        return 1;
    }
    rc = mux_xattr_merge(was, mine, theirs, &bytes, &len, &conflict);
    if (rc == -ENOSPC) {
        bytes = malloc(mine.len); // the put may move the page they lie in
        if (!bytes)
            return -ENOMEM;
        memcpy(bytes, mine.bytes, mine.len);
        len = mine.len;
        conflict = true;
        rc = 0;
    }
    if (rc == 0 && conflict)
        rc = mux_merge_conflict(merge);
    if (rc == 0)
        rc = put(merge, bytes, len, to);
    return rc < 0 ? rc : 1;
}
