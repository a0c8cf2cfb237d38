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

void fs_op_fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                     struct fuse_file_info *file)
{
    (void)mode;
    (void)offset;
    (void)length;
    (void)file;
    refuse(req, FS_OP_FALLOCATE, nodeid, ENOSYS);
}

void fs_op_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t offset, int whence,
                 struct fuse_file_info *file)
{
    (void)offset;
    (void)whence;
    (void)file;
    refuse(req, FS_OP_LSEEK, nodeid, ENOSYS);
}

void fs_op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
                           struct fuse_file_info *from_file, fuse_ino_t to, off_t to_offset,
                           struct fuse_file_info *to_file, size_t size, int flags)
{
    (void)from_offset;
    (void)from_file;
    (void)to;
    (void)to_offset;
    (void)to_file;
    (void)size;
    (void)flags;
    refuse(req, FS_OP_COPY_FILE_RANGE, from, ENOSYS);
}
