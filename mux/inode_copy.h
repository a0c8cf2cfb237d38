// A record taken out of the database, so that it survives the writes that follow. Internal to mux.
//
// About 5 KiB, on the stack. Nothing is owned, nothing locks. Errors: -EUCLEAN.
#ifndef AF_MUX_INODE_COPY_H
#define AF_MUX_INODE_COPY_H

#include "mux/store/store.h"

#include "mux/base/limits.h"

#include <errno.h>
#include <string.h>

struct mux_inode_copy {
    struct store_inode inode; // its pointers lead to the buffers below
    char name[AF_NAME_MAX];
    char data[AF_SYMLINK_MAX > AF_INLINE_CONTENT_MAX ? AF_SYMLINK_MAX : AF_INLINE_CONTENT_MAX];
};

// blob_owned is cleared: the copy may land in another layer.
static inline int mux_inode_copy(const struct store_inode *inode, struct mux_inode_copy *ret)
{
    if (inode->inline_len > sizeof ret->data)
        return -EUCLEAN;
    ret->inode = *inode;
    ret->inode.blob_owned = false;
    if (inode->name_len > 0)
        memcpy(ret->name, inode->name, inode->name_len);
    ret->inode.name = ret->name;
    if (inode->inline_len > 0)
        memcpy(ret->data, inode->inline_data, inode->inline_len);
    ret->inode.inline_data = inode->inline_len > 0 ? ret->data : NULL;
    return 0;
}

#endif
