// File operations on nodeids: what fs calls for each FUSE request.
//
// Every function returns 0 or -errno, and leaves outputs untouched on failure. -ESTALE: the
// nodeid's view is gone. -EACCES: a rule refuses; -ENOENT: not there, or hidden (the same answer
// at the same cost). Besides, operations that may have to copy or flush much return MUX_SLOW when
// ctx.may_block is false: nothing was done, call again with may_block from a thread that is no
// FUSE worker. Mutations are committed to the store before the function returns.
// The kernel enforces mode bits (default_permissions); rules are enforced here, on every call.
#ifndef AF_MUX_OPS_H
#define AF_MUX_OPS_H

#include "mux/mux.h"

#include <stddef.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MUX_SLOW (-4095) // no errno has this value

struct mux_ctx {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    bool may_block;
};

// A resolved name. nodeid 0: absent, and the kernel may cache that for entry_ttl_ns.
struct mux_entry {
    uint64_t nodeid;
    uint64_t generation;
    struct stat st;
    int64_t entry_ttl_ns;
    int64_t attr_ttl_ns;
};

// 0 with ret->nodeid == 0 for a name that is absent or hidden where a negative answer may be
// cached, -ENOENT where it may not (the top directory).
int mux_lookup(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               struct mux_entry *ret);
// The kernel has dropped an inode of this nodeid: of a file without a name it is asked whether that
// was the last (struct mux_notifier). Never fails.
void mux_forget(struct mux *mux, uint64_t nodeid);
// The kernel does not have the nodeid: frees the content of a file without a name. Never fails.
void mux_forgotten(struct mux *mux, uint64_t nodeid);
// The kernel has been asked what it holds of a view that lost names: what it has not been said to
// have forgotten is kept until it is. Never fails; not on a FUSE worker.
void mux_settle(struct mux *mux, uint64_t nodeid);
int mux_getattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct stat *ret,
                int64_t *ret_ttl_ns);

enum mux_set {
    MUX_SET_MODE = 1 << 0,
    MUX_SET_UID = 1 << 1,
    MUX_SET_GID = 1 << 2,
    MUX_SET_SIZE = 1 << 3,
    MUX_SET_ATIME = 1 << 4,
    MUX_SET_MTIME = 1 << 5,
    MUX_SET_ATIME_NOW = 1 << 6,
    MUX_SET_MTIME_NOW = 1 << 7,
    MUX_SET_CTIME = 1 << 8,
    MUX_SET_KILL_SUIDGID = 1 << 9,
};
int mux_setattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
                const struct stat *attr, unsigned set, struct stat *ret, int64_t *ret_ttl_ns);

// `buf` holds AF_SYMLINK_MAX + 1 bytes; NUL-terminated.
int mux_readlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, char *buf);

int mux_create(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               mode_t mode, struct mux_entry *ret);
// A regular file without a name (O_TMPFILE): freed when the kernel forgets it, unless mux_link
// gives it one. -EACCES in a directory below which nothing may be written.
int mux_tmpfile(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, mode_t mode,
                struct mux_entry *ret);
// FIFOs, sockets and regular files; devices are -EPERM.
int mux_mknod(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret);
int mux_mkdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret);
int mux_symlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
                const char *target, struct mux_entry *ret);
// Another name for a file, or the first one of a file made by O_TMPFILE. Level write at all its
// names and at the new one, else -EACCES; -EXDEV between views, -EMLINK beyond AF_LINKS_MAX.
int mux_link(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t new_parent,
             const char *new_name, struct mux_entry *ret);
int mux_unlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name);
int mux_rmdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name);
// flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE (linux/fs.h), anything else -EINVAL.
int mux_rename(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               uint64_t new_parent, const char *new_name, unsigned flags);

// Whether the view's rules and access let it be opened, as they are now; `write` for an open that
// may write. A directory may be opened when it is visible. -EACCES, -EROFS, -ENOENT, -ESTALE.
// Only where opens are asked for (the `server` open policy); costs no more than a GETATTR.
struct mux_opened {
    int level;           // enum rules_level
    uint64_t fixed_size; // of a regular file whose content never changes under this nodeid; else 0
};
int mux_open_check(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool write,
                   struct mux_opened *ret);

// Where the bytes of a read are: either in memory, or in a blob at the same offset.
struct mux_read {
    size_t size;      // bytes to answer with; 0 at the end of the file
    const void *data; // in memory until mux_read_done, or NULL
    int fd;           // else: read `size` bytes at `offset` from this fd, zero-filling
    off_t offset;     //       what the file does not have
    void *opaque[3];  // mux's own
};
int mux_read(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, size_t size, off_t offset,
             struct mux_read *ret);
// Must follow every successful mux_read, on any thread when data is NULL, on the same thread and
// without blocking in between otherwise.
void mux_read_done(struct mux *mux, struct mux_read *read);

// Writes all or fails (-ENOSPC, -EDQUOT, -EFBIG, -EACCES). Copies up first where needed. Clears the
// suid and sgid bits, whoever writes.
int mux_write(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const void *data,
              size_t size, off_t offset);
// Extended attributes. "user." ones are kept; every other name is -EOPNOTSUPP: those of "security."
// and "trusted." would mean something outside of the view, and the rules take the place of ACLs.
// Reading needs level read, changing level write. A value that is too long is -E2BIG, a name
// -ERANGE, and more than a file may have in all -ENOSPC. With size 0, get and list only tell the
// length; a size that is too small is -ERANGE. List: names, each with its NUL.
int mux_setxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 const void *value, size_t size, int flags);
int mux_getxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name,
                 void *buf, size_t size, size_t *ret_len);
int mux_listxattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, void *buf,
                  size_t size, size_t *ret_len);
int mux_removexattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, const char *name);
// mode as fallocate(2): 0, KEEP_SIZE (reserves nothing), PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE with or
// without KEEP_SIZE; anything else is -EOPNOTSUPP. Large ranges are MUX_SLOW.
int mux_fallocate(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, int mode,
                  off_t offset, off_t len);
// SEEK_DATA or SEEK_HOLE. -ENXIO at the end. MUX_SLOW where the disk must be asked.
int mux_lseek(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, off_t offset, int whence,
              off_t *ret);
// Copies bytes of one file into another of the same view; *ret may be less than size, 0 at the end
// of `from`. -EOPNOTSUPP where the kernel should read and write by itself: content that is in a
// record, and files of two views. MUX_SLOW unless ctx->may_block.
int mux_copy_range(struct mux *mux, const struct mux_ctx *ctx, uint64_t from, off_t from_offset,
                   uint64_t to, off_t to_offset, size_t size, size_t *ret);
// Data and record reach the disk. MUX_SLOW unless ctx->may_block.
int mux_fsync(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool datasync);
// MUX_SLOW unless ctx->may_block, where a quota's use depends on what the kernel has let go of.
int mux_statfs(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct statvfs *ret);

// Calls fn for each visible entry after `cookie` (0: from the start, "." and ".." first), in a
// stable order, until it returns false (buffer full). `entry` is complete when `plus` (its nodeid
// 0 for "." and ".."), else only entry->st.st_ino and the type in st_mode are set.
typedef bool (*mux_readdir_fn)(void *arg, const char *name, size_t name_len, uint64_t cookie,
                               const struct mux_entry *entry);
int mux_readdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t cookie,
                bool plus, mux_readdir_fn fn, void *arg);

#endif
