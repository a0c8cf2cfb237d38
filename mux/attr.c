// Attributes as the sandbox sees them, getattr, readlink. Read next: attr.h, setattr.c.
#include "mux/attr.h"

#include "mux/base/clock.h"
#include "mux/top.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>

#define BLOCK_BYTES 4096

static bool is_shareable(mode_t mode, uint32_t nlink, bool in_delta, unsigned level)
{
    return S_ISREG(mode) && nlink == 1 && !in_delta && (level == RULES_READ || level == RULES_VIEW);
}

bool mux_node_is_shareable(const struct mux_node *node)
{
    return is_shareable(node->mode, node->nlink, node->index == 0, node->level);
}

static uint64_t version_nodeid(const struct mux *mux, uint32_t route, unsigned level,
                               uint64_t version)
{
    if (mux->no_sharing)
        return mux_nodeid_pinned(route, version);
    return mux_nodeid_shared(level == RULES_READ ? MUX_CLASS_READ : MUX_CLASS_VIEW, version);
}

uint64_t mux_nodeid_of(const struct mux *mux, uint32_t route, const struct store_inode *inode,
                       bool in_delta, enum rules_level level)
{
    if (is_shareable(inode->mode, inode->nlink, in_delta, level))
        return version_nodeid(mux, route, level, inode->version);
    return mux_nodeid_private(route, inode->fid);
}

static mode_t directory_mode(const struct mux_view *view, const struct mux_node *node)
{
    if (node->level == RULES_WRITE)
        return node->mode & 07777;
    bool may_write =
        node->level >= RULES_READ || rules_below_max(view->rules, node->state) == RULES_WRITE;
    return may_write ? 0755 : 0555;
}

static mode_t file_mode(const struct mux_node *node)
{
    if (S_ISLNK(node->mode))
        return 0777;
    if (node->level == RULES_WRITE)
        return node->mode & 07777;
    if (node->level == RULES_READ)
        return node->mode & 0111 ? 0555 : 0444;
    return 0;
}

void mux_attr_fill(const struct mux *mux, const struct mux_view *view, const struct mux_node *node,
                   struct stat *ret)
{
    bool is_dir = S_ISDIR(node->mode);
    bool is_own = view && (is_dir || node->level == RULES_WRITE);
    *ret = (struct stat){
        .st_ino = view ? mux_alias_shown(&view->alias, node->fid) : node->fid,
        .st_mode = (node->mode & S_IFMT) | (is_dir ? directory_mode(view, node) : file_mode(node)),
        // A directory's count would tell how many subdirectories are hidden.
        .st_nlink = is_dir ? (node->nlink ? 1 : 0) : node->nlink,
        .st_uid = is_own ? view->uid : mux->reserved_uid,
        .st_gid = is_own ? view->gid : mux->reserved_uid,
        .st_size = is_dir ? BLOCK_BYTES : (off_t)node->size,
        .st_blksize = BLOCK_BYTES,
        .st_blocks = is_dir ? BLOCK_BYTES / 512 : (blkcnt_t)((node->size + 511) / 512),
        .st_atim = af_timespec_of_ns(node->atime_ns),
        .st_mtim = af_timespec_of_ns(node->mtime_ns),
        .st_ctim = af_timespec_of_ns(node->ctime_ns),
    };
}

void mux_attr_fill_of(const struct mux *mux, const struct mux_view *view,
                      const struct mux_node *node, uint64_t nodeid, struct stat *ret)
{
    mux_attr_fill(mux, view, node, ret);
    if (mux_alias_is_doubled(&view->alias, node->fid))
        ret->st_ino = mux_nodeid_fid(nodeid);
}

int64_t mux_attr_ttl_ns(const struct mux_view *view, const struct mux_node *node)
{
    return mux_alias_is_doubled(&view->alias, node->fid) ? 0 : MUX_TTL_NS;
}

void mux_entry_fill(const struct mux_op *op, const struct mux_node *node, struct mux_entry *ret)
{
    bool by_version = mux_node_is_shareable(node);
    mux_attr_fill(op->mux, op->view, node, &ret->st);
    ret->nodeid = by_version ? version_nodeid(op->mux, op->view->route, node->level, node->version)
                             : mux_view_shown(op->view, node->fid);
    ret->generation = by_version && !op->mux->no_sharing ? 0 : op->view->epoch;
    ret->entry_ttl_ns = MUX_TTL_NS;
    ret->attr_ttl_ns = mux_attr_ttl_ns(op->view, node);
}

void mux_entry_limit(const struct mux_op *op, uint64_t dir_fid, struct mux_entry *ret)
{
    if (mux_alias_is_doubled(&op->view->alias, dir_fid))
        ret->entry_ttl_ns = 0;
}

void mux_entry_fill_absent(struct mux_entry *ret)
{
    *ret = (struct mux_entry){.entry_ttl_ns = MUX_TTL_NS};
}

int mux_getattr(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, struct stat *ret,
                int64_t *ret_ttl_ns)
{
    (void)ctx;
    struct mux_node node;
    if (mux_top_owns(nodeid))
        return mux_top_getattr(mux, nodeid, ret, ret_ttl_ns);
    if (mux_nodeid_is_shared(nodeid)) {
        int rc = mux_node_load_shared(mux, nodeid, &node);
        if (rc < 0)
            return rc;
        mux_attr_fill(mux, NULL, &node, ret);
        *ret_ttl_ns = MUX_TTL_NS;
        return 0;
    }
    struct mux_op op;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0 && !mux_node_is_visible(&op, &node))
        rc = -ENOENT;
    if (rc == 0) {
        mux_attr_fill_of(mux, op.view, &node, nodeid, ret);
        *ret_ttl_ns = mux_attr_ttl_ns(op.view, &node);
        mux_node_fini(&op, &node);
    }
    return mux_op_leave(&op, rc);
}

// The record at hand, its target copied into buf.
static int copy_target(struct mux_op *op, const struct mux_node *node, char *buf)
{
    struct store_inode inode;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_op_inode(op, node->fid, &inode, NULL);
    if (rc < 0)
        return rc;
    if (inode.content != STORE_CONTENT_INLINE || inode.inline_len > AF_SYMLINK_MAX)
        return -EUCLEAN;
    memcpy(buf, inode.inline_data, inode.inline_len);
    buf[inode.inline_len] = '\0';
    return 0;
}

int mux_readlink(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, char *buf)
{
    (void)ctx;
    if (mux_top_owns(nodeid) || mux_nodeid_is_shared(nodeid))
        return -EINVAL;
    struct mux_op op;
    struct mux_node node;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0 && !mux_node_is_visible(&op, &node))
        rc = -ENOENT;
    else if (rc == 0 && !S_ISLNK(node.mode))
        rc = -EINVAL;
    else if (rc == 0 && node.level < RULES_READ)
        rc = -EACCES;
    else if (rc == 0)
        rc = copy_target(&op, &node, buf);
    return mux_op_leave(&op, rc);
}
