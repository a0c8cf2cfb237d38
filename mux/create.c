// New names: create, mknod, mkdir, symlink. All are one operation with different inodes.
//
// Creating needs level write at the new path: below it the answer is -EACCES whether or not the
// name exists (P8). A name deleted before is free for any kind of object (B6), a whiteout under it
// is replaced. Owns nothing; exclusive in the view, one transaction. Read next: names.h, record.h.
#include "mux/attr.h"
#include "mux/names.h"
#include "mux/record.h"
#include "mux/room.h"
#include "mux/top.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct maker {
    mode_t mode;        // type and permission bits
    const char *target; // of a symbolic link
    struct mux_node node;
};

static int check(const struct mux_node *dir, const struct mux_name *name)
{
    if (name->level < RULES_WRITE && dir->nlink > 0)
        return -EACCES;
    if (dir->nlink == 0)
        return -ENOENT;
    return name->exists ? -EEXIST : 0;
}

static void describe(struct mux_op *op, const struct mux_node *dir, const struct mux_name *name,
                     const struct maker *maker, struct store_inode *ret)
{
    mode_t mode = maker->mode;
    if (S_ISDIR(mode) && dir->level == RULES_WRITE)
        mode |= dir->mode & S_ISGID;
    *ret = (struct store_inode){
        .mode = mode,
        .nlink = 1,
        .atime_ns = op->now_ns,
        .mtime_ns = op->now_ns,
        .ctime_ns = op->now_ns,
        .btime_ns = op->now_ns,
        .parent = dir->fid,
        .name = name->text,
        .name_len = (uint8_t)name->len,
        .tree_files = S_ISREG(mode) ? 1 : 0,
    };
    if (maker->target) {
        ret->content = STORE_CONTENT_INLINE;
        ret->inline_data = maker->target;
        ret->inline_len = ret->size = strlen(maker->target);
    }
}

static int record(struct mux_op *op, const struct mux_node *dir, const struct mux_name *name,
                  struct maker *maker)
{
    struct store_inode inode;
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_op_check_quota(op, 0, 1);
    if (rc < 0)
        return rc;
    describe(op, dir, name, maker, &inode);
    rc = store_new_id(op->mux->store, &inode.fid);
    if (rc == 0)
        rc = store_new_id(op->mux->store, &inode.version);
    if (rc == 0)
        rc = store_inode_put(op->txn, mux_op_delta(op), &inode);
    if (rc == 0)
        rc = store_entry_put(op->txn, mux_op_delta(op), dir->fid, name->text, name->len, inode.fid,
                             (uint8_t)IFTODT(inode.mode));
    if (rc == 0)
        rc = mux_record_touch_dir(op, dir->fid);
    if (rc < 0)
        return rc;
    mux_node_of_inode(mux_view_nodeid(op->view, inode.fid), &inode, 0, &maker->node);
    maker->node.stamp = op->view->stamp;
    maker->node.level = (uint8_t)name->level;
    if (S_ISDIR(inode.mode))
        maker->node.state = name->state; // borrowed: the cache takes a reference of its own
    op->created = &maker->node;
    op->names_changed = true;
    return 0;
}

static int make_once(struct mux *mux, uint64_t parent, const char *text, struct maker *maker,
                     struct mux_entry *ret)
{
    struct mux_op op;
    struct mux_node dir;
    struct mux_name name;
    if (mux_top_owns(parent))
        return -EPERM;
    if (mux_nodeid_is_shared(parent))
        return -ENOTDIR;
    int rc = mux_op_enter_change(mux, parent, &op);
    if (rc < 0)
        return rc;
    rc = mux_dir_load(&op, parent, &dir);
    if (rc < 0)
        return mux_op_leave(&op, rc);
    rc = mux_name_resolve_change(&op, &dir, text, &name);
    if (rc == 0) {
        rc = check(&dir, &name);
        if (rc == 0)
            rc = record(&op, &dir, &name, maker);
        if (rc == 0)
            rc = mux_op_commit(&op);
        if (rc == 0) {
            mux_entry_fill(&op, &maker->node, ret);
            mux_entry_limit(&op, dir.fid, ret);
        }
        mux_name_fini(&op, &name);
    }
    mux_node_fini(&op, &dir);
    return mux_op_leave(&op, rc);
}

static int make(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *text,
                struct maker maker, struct mux_entry *ret)
{
    bool tried = false;
    int rc;
    do {
        struct maker fresh = maker;
        rc = make_once(mux, parent, text, &fresh, ret);
    } while (mux_made_room(mux, ctx, parent, &rc, &tried));
    return rc;
}

int mux_create(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               mode_t mode, struct mux_entry *ret)
{
    struct maker maker = {.mode = S_IFREG | (mode & 07777)};
    return make(mux, ctx, parent, name, maker, ret);
}

int mux_mknod(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret)
{
    if ((mode & S_IFMT) == 0)
        mode |= S_IFREG;
    if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        return S_ISCHR(mode) || S_ISBLK(mode) ? -EPERM : -EINVAL;
    struct maker maker = {.mode = mode & (S_IFMT | 07777)};
    return make(mux, ctx, parent, name, maker, ret);
}

int mux_mkdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
              mode_t mode, struct mux_entry *ret)
{
    struct maker maker = {.mode = S_IFDIR | (mode & 07777)};
    return make(mux, ctx, parent, name, maker, ret);
}

int mux_symlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
                const char *target, struct mux_entry *ret)
{
    size_t len = strlen(target);
    if (len == 0)
        return -ENOENT;
    if (len > AF_SYMLINK_MAX)
        return -ENAMETOOLONG;
    struct maker maker = {.mode = S_IFLNK | 0777, .target = target};
    return make(mux, ctx, parent, name, maker, ret);
}
