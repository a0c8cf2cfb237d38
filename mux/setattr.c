// Modes, owners, times and sizes. The store has no owners: a file's is always its view's, so
// chown to anyone else is -EPERM and to oneself costs the suid bit, as POSIX has it.
// Read next: edit.h, attr.c.
#include "mux/base/clock.h"
#include "mux/edit.h"
#include "mux/top.h"

#include <errno.h>

static int check_owner(const struct mux_op *op, const struct mux_edit *edit)
{
    if ((edit->set & MUX_SET_UID) && edit->attr->st_uid != op->view->uid)
        return -EPERM;
    if ((edit->set & MUX_SET_GID) && edit->attr->st_gid != op->view->gid)
        return -EPERM;
    return 0;
}

void mux_kill_suidgid(struct store_inode *inode)
{
    if (!S_ISREG(inode->mode))
        return;
    inode->mode &= ~(uint32_t)S_ISUID;
    if (inode->mode & S_IXGRP)
        inode->mode &= ~(uint32_t)S_ISGID;
}

// The kernel has dropped the sgid bit where the caller may not set it: it knows all his groups.
static int set_mode(const struct mux_edit *edit, struct store_inode *inode)
{
    if (S_ISLNK(inode->mode))
        return -EOPNOTSUPP;
    inode->mode = (inode->mode & S_IFMT) | (edit->attr->st_mode & 07777);
    return 0;
}

int mux_edit_attributes(struct mux_op *op, const struct mux_edit *edit, struct store_inode *inode)
{
    int rc = check_owner(op, edit);
    if (rc == 0 && (edit->set & MUX_SET_MODE))
        rc = set_mode(edit, inode);
    if (rc < 0)
        return rc;
    if ((edit->set & (MUX_SET_UID | MUX_SET_GID | MUX_SET_KILL_SUIDGID)) &&
        !(edit->set & MUX_SET_MODE))
        mux_kill_suidgid(inode);
    if (edit->set & MUX_SET_ATIME_NOW)
        inode->atime_ns = op->now_ns;
    else if (edit->set & MUX_SET_ATIME)
        inode->atime_ns = af_ns_of_timespec(edit->attr->st_atim);
    if (edit->set & MUX_SET_MTIME_NOW)
        inode->mtime_ns = op->now_ns;
    else if (edit->set & MUX_SET_MTIME)
        inode->mtime_ns = af_ns_of_timespec(edit->attr->st_mtim);
    return 0;
}

int mux_setattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
                const struct stat *attr, unsigned set, struct stat *ret, int64_t *ret_ttl_ns)
{
    if (set == 0)
        return mux_getattr(mux, ctx, nodeid, ret, ret_ttl_ns);
    if ((set & MUX_SET_SIZE) && attr->st_size < 0)
        return -EINVAL;
    if ((set & MUX_SET_SIZE) && attr->st_size > AF_FILE_SIZE_MAX)
        return -EFBIG;
    struct mux_edit edit = {.set = set, .attr = attr};
    return mux_edit(mux, ctx, nodeid, &edit, ret, ret_ttl_ns);
}
