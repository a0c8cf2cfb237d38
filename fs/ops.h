// The handlers that fs/ops.c's table names, by the file they live in. Internal to fs.
#ifndef AF_FS_OPS_H
#define AF_FS_OPS_H

#include "fs/call.h"

// op_attr.c
void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_forget(fuse_req_t req, fuse_ino_t nodeid, uint64_t count);
void fs_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void fs_op_getattr(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);
void fs_op_setattr(fuse_req_t req, fuse_ino_t nodeid, struct stat *attr, int set,
                   struct fuse_file_info *file);
void fs_op_readlink(fuse_req_t req, fuse_ino_t nodeid);
void fs_op_statfs(fuse_req_t req, fuse_ino_t nodeid);
void fs_op_access(fuse_req_t req, fuse_ino_t nodeid, int mask);
void fs_op_ioctl(fuse_req_t req, fuse_ino_t nodeid, unsigned cmd, void *arg,
                 struct fuse_file_info *file, unsigned flags, const void *in, size_t in_size,
                 size_t out_size);

// op_xattr.c
void fs_op_setxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, const char *value,
                    size_t size, int flags);
void fs_op_getxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size);
void fs_op_listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size);
void fs_op_removexattr(fuse_req_t req, fuse_ino_t nodeid, const char *name);

// op_space.c
void fs_op_fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                     struct fuse_file_info *file);
void fs_op_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t offset, int whence,
                 struct fuse_file_info *file);
void fs_op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
                           struct fuse_file_info *from_file, fuse_ino_t to, off_t to_offset,
                           struct fuse_file_info *to_file, size_t size, int flags);

// op_dir.c
void fs_op_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                   struct fuse_file_info *file);
void fs_op_readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                       struct fuse_file_info *file);

// op_open.c
void fs_op_open(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);
void fs_op_opendir(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);
void fs_op_flush(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);
void fs_op_release(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);
void fs_op_releasedir(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file);

// op_file.c
void fs_op_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                struct fuse_file_info *file);
void fs_op_write(fuse_req_t req, fuse_ino_t nodeid, const char *data, size_t size, off_t offset,
                 struct fuse_file_info *file);
void fs_op_fsync(fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *file);
void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *file);

// op_namespace.c
void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                  struct fuse_file_info *file);
void fs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *file);
void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev);
void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                  const char *new_name, unsigned flags);

void fs_op_link(fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t parent, const char *name);

#endif
