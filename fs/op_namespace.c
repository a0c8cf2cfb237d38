// Names made, moved and removed: CREATE, TMPFILE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR,
// RENAME.
//
// mux decides each one by its rules and commits it before it returns. The kernel has already
// applied the umask and checked the parent's mode bits. Owns nothing. Read next: mux/ops.h.
#include "fs/ops.h"

#include "fs/session_priv.h"

#include <fcntl.h>

static int check_names(const struct fs_call *call)
{
    int rc = fs_check_name(call->name);
    return rc == 0 && call->new_parent != 0 ? fs_check_name(call->new_name) : rc;
}

static int run_create(struct fs_call *call)
{
    struct mux_entry entry;
    int rc = check_names(call);
    if (rc != 0)
        return rc;
    rc = mux_create(call->session->mux, &call->ctx, call->nodeid, call->name, call->mode, &entry);
    // The kernel believed the name absent, so it has checked no permission on the file. It must
    // look again rather than get the file from us opened.
    if (rc == -EEXIST && !(call->flags & O_EXCL))
        return -ESTALE;
    if (rc == 0)
        fs_answer_create(call, &entry);
    return rc;
}

void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                  struct fuse_file_info *file)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_CREATE, parent);
    call.name = name;
    call.mode = mode;
    call.flags = (unsigned)file->flags;
    fs_call_dispatch(&call, run_create);
}

static int run_tmpfile(struct fs_call *call)
{
    struct mux_entry entry;
    int rc = mux_tmpfile(call->session->mux, &call->ctx, call->nodeid, call->mode, &entry);
    if (rc == 0)
        fs_answer_create(call, &entry);
    return rc;
}

void fs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *file)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_TMPFILE, parent);
    call.mode = mode;
    call.flags = (unsigned)file->flags;
    fs_call_dispatch(&call, run_tmpfile);
}

static int run_make(struct fs_call *call)
{
    struct mux *mux = call->session->mux;
    struct mux_entry entry;
    int rc = check_names(call);
    if (rc != 0)
        return rc;
    if (call->op == FS_OP_MKDIR)
        rc = mux_mkdir(mux, &call->ctx, call->nodeid, call->name, call->mode, &entry);
    else if (call->op == FS_OP_MKNOD)
        rc = mux_mknod(mux, &call->ctx, call->nodeid, call->name, call->mode, &entry);
    else
        rc = mux_symlink(mux, &call->ctx, call->nodeid, call->name, call->new_name, &entry);
    if (rc == 0)
        fs_answer_entry(call, &entry);
    return rc;
}

void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    (void)dev; // mux refuses devices
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_MKNOD, parent);
    call.name = name;
    call.mode = mode;
    fs_call_dispatch(&call, run_make);
}

void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_MKDIR, parent);
    call.name = name;
    call.mode = mode;
    fs_call_dispatch(&call, run_make);
}

void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_SYMLINK, parent);
    if (strnlen(target, AF_SYMLINK_MAX + 1) > AF_SYMLINK_MAX) {
        fs_call_send(&call, -ENAMETOOLONG);
        return;
    }
    call.name = name;
    call.new_name = target;
    fs_call_dispatch(&call, run_make);
}

static int run_remove(struct fs_call *call)
{
    int rc = check_names(call);
    if (rc != 0)
        return rc;
    return call->op == FS_OP_UNLINK
               ? mux_unlink(call->session->mux, &call->ctx, call->nodeid, call->name)
               : mux_rmdir(call->session->mux, &call->ctx, call->nodeid, call->name);
}

void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_UNLINK, parent);
    call.name = name;
    fs_call_dispatch(&call, run_remove);
}

void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_RMDIR, parent);
    call.name = name;
    fs_call_dispatch(&call, run_remove);
}

static int run_rename(struct fs_call *call)
{
    int rc = check_names(call);
    if (rc != 0)
        return rc;
    return mux_rename(call->session->mux, &call->ctx, call->nodeid, call->name, call->new_parent,
                      call->new_name, call->flags);
}

void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                  const char *new_name, unsigned flags)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_RENAME, parent);
    call.name = name;
    call.new_parent = new_parent;
    call.new_name = new_name;
    call.flags = flags;
    fs_call_dispatch(&call, run_rename);
}

static int run_link(struct fs_call *call)
{
    struct mux_entry entry;
    int rc = fs_check_name(call->new_name);
    if (rc != 0)
        return rc;
    rc = mux_link(call->session->mux, &call->ctx, call->nodeid, call->new_parent, call->new_name,
                  &entry);
    if (rc == 0)
        fs_answer_entry(call, &entry);
    return rc;
}

void fs_op_link(fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t parent, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_LINK, nodeid);
    call.new_parent = parent;
    call.new_name = name;
    fs_call_dispatch(&call, run_link);
}
