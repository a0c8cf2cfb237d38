// The op table: every request the kernel can send, and who answers it.
//
// A handler fills a struct fs_call and dispatches it; see call.h. What is not in the table is
// answered ENOSYS by libfuse, after which the kernel falls back by itself and does not ask again.
// Owns nothing. Read next: op_open.c, op_attr.c, op_dir.c, op_file.c, op_space.c, op_xattr.c,
// op_namespace.c.
#include "fs/ops.h"

#include "fs/session_priv.h"

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    fs_session_negotiate(userdata, conn);
}

const struct fuse_lowlevel_ops fs_ops = {
    .init = op_init,

    // Names and attributes.
    .lookup = fs_op_lookup,
    .forget = fs_op_forget,
    .forget_multi = fs_op_forget_multi,
    .getattr = fs_op_getattr,
    .setattr = fs_op_setattr,
    .readlink = fs_op_readlink,
    .statfs = fs_op_statfs,
    .access = fs_op_access,
    .ioctl = fs_op_ioctl,
    .setxattr = fs_op_setxattr,
    .getxattr = fs_op_getxattr,
    .listxattr = fs_op_listxattr,
    .removexattr = fs_op_removexattr,

    // Directories.
    .readdir = fs_op_readdir,
    .readdirplus = fs_op_readdirplus,
    .fsyncdir = fs_op_fsyncdir,

    // Files. In the `kernel` policy OPEN, OPENDIR and FLUSH are answered ENOSYS once, and RELEASE
    // never comes.
    .open = fs_op_open,
    .opendir = fs_op_opendir,
    .flush = fs_op_flush,
    .release = fs_op_release,
    .releasedir = fs_op_releasedir,
    .read = fs_op_read,
    .write = fs_op_write,
    .fsync = fs_op_fsync,
    .fallocate = fs_op_fallocate,
    .lseek = fs_op_lseek,
    .copy_file_range = fs_op_copy_file_range,

    // Names made, moved and removed.
    .create = fs_op_create,
    .mknod = fs_op_mknod,
    .mkdir = fs_op_mkdir,
    .symlink = fs_op_symlink,
    .unlink = fs_op_unlink,
    .rmdir = fs_op_rmdir,
    .rename = fs_op_rename,
    .link = fs_op_link,

    // Left to libfuse's ENOSYS: poll, bmap, statx, and locks, which the kernel keeps to itself
    // since they are not negotiated.

    FS_COMPAT_TMPFILE(fs_op_tmpfile) // .tmpfile, where libfuse has it
};
