// Operations that this version refuses, each with the errno that lets programs fall back.
//
// ENOSYS is remembered by the kernel for the whole connection: it answers EOPNOTSUPP (xattrs,
// fallocate) or does the work itself (lseek, copy_file_range) and does not ask again. Here so that
// they are counted, and so that each has its place when it is implemented. Owns nothing. Read next:
// ops.c.
#include "fs/ops.h"

static void refuse(fuse_req_t req, enum fs_op op, fuse_ino_t nodeid, int errnum)
{
    struct fs_call call;
    fs_call_begin(&call, req, op, nodeid);
    fs_call_send(&call, -errnum);
}

void fs_op_access(fuse_req_t req, fuse_ino_t nodeid, int mask)
{
    (void)mask;
    refuse(req, FS_OP_ACCESS, nodeid, ENOSYS);
}

void fs_op_setxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, const char *value,
                    size_t size, int flags)
{
    (void)name;
    (void)value;
    (void)size;
    (void)flags;
    refuse(req, FS_OP_SETXATTR, nodeid, ENOSYS);
}

void fs_op_getxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size)
{
    (void)name;
    (void)size;
    refuse(req, FS_OP_GETXATTR, nodeid, ENOSYS);
}

void fs_op_listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size)
{
    (void)size;
    refuse(req, FS_OP_LISTXATTR, nodeid, ENOSYS);
}

void fs_op_removexattr(fuse_req_t req, fuse_ino_t nodeid, const char *name)
{
    (void)name;
    refuse(req, FS_OP_REMOVEXATTR, nodeid, ENOSYS);
}
