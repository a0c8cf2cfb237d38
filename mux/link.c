// Hard links: one more name for an inode.
//
// All names of an inode lead to one nodeid, hence to one level: that of its most restricted name
// (node.c). So a link needs level write where the file is and where it will be (P8: below write
// the answer is the same whether or not the new name exists), and grants nothing that was not
// there. The record goes to the delta and counts the name; its content stays where it is, and a
// later copy-up is seen under every name (D8). A file without names that the kernel may link is one
// made by O_TMPFILE: it is no orphan any more.
// Exclusive in the view, one transaction. Owns nothing. Read next: links.h, create.c, unlink.c.
#include "mux/attr.h"
#include "mux/links.h"
#include "mux/names.h"
#include "mux/record.h"
#include "mux/room.h"
#include "mux/top.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

static int check(const struct mux_op *op, const struct mux_node *node, const struct mux_node *dir,
                 const struct mux_name *name)
{
    uint64_t orphan = MUX_ORPHAN_DEAD;
    if (!mux_node_is_visible(op, node) || dir->nlink == 0)
        return -ENOENT;
    if (S_ISDIR(node->mode))
        return -EPERM;
    if (!mux_node_is_writable(node) || name->level < RULES_WRITE)
        return -EACCES;
    if (name->exists)
        return -EEXIST;
    if (node->nlink == 0 &&
        (!mux_fid_map_get(&op->view->orphans, node->fid, &orphan) || orphan == MUX_ORPHAN_DEAD))
        return -ENOENT;
    return node->nlink >= AF_LINKS_MAX ? -EMLINK : 0;
}

// From one name to two both are indexed; from none to one the record alone knows it.
static int index_names(struct mux_op *op, const struct store_inode *inode, uint64_t dir,
                       const struct mux_name *name)
{
    uint64_t delta = mux_op_delta(op);
    int rc = 0;
    if (inode->nlink == 0)
        return store_orphan_del(op->txn, delta, inode->fid);
    if (inode->nlink == 1)
        rc =
            store_link_put(op->txn, delta, inode->fid, inode->parent, inode->name, inode->name_len);
    return rc < 0 ? rc : store_link_put(op->txn, delta, inode->fid, dir, name->text, name->len);
}

static int record(struct mux_op *op, const struct mux_node *node, const struct mux_node *dir,
                  const struct mux_name *name, struct mux_node *ret)
{
    struct mux_record record;
    int rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_record_load_held(op, node->fid, &record);
    if (rc == 0)
        rc = mux_op_check_quota(op, mux_record_growth(&record, record.inode.size),
                                record.index > 0 ? 1 : 0);
    if (rc == 0)
        rc = index_names(op, &record.inode, dir->fid, name);
    if (rc < 0)
        return rc;
    if (record.inode.nlink == 0) {
        mux_record_set_name(&record, dir->fid, name->text, name->len);
        op->named = node->fid;
    }
    record.inode.nlink++;
    record.inode.ctime_ns = op->now_ns;
    rc = mux_record_put(op, &record);
    if (rc == 0)
        rc = store_entry_put(op->txn, mux_op_delta(op), dir->fid, name->text, name->len, node->fid,
                             (uint8_t)IFTODT(record.inode.mode));
    if (rc == 0)
        rc = mux_record_touch_dir(op, dir->fid);
    if (rc < 0)
        return rc;
    op->names_changed = true;
    mux_node_of_inode(node->nodeid, &record.inode, 0, ret);
    return 0;
}

static int link_in(struct mux_op *op, uint64_t nodeid, uint64_t new_parent, const char *text,
                   struct mux_entry *ret)
{
    struct mux_node node, dir, after;
    struct mux_name name;
    int rc = mux_node_load(op, mux_op_fid(op, nodeid), &node);
    if (rc < 0)
        return rc;
    rc = mux_dir_load(op, new_parent, &dir);
    if (rc < 0) {
        mux_node_fini(op, &node);
        return rc;
    }
    rc = mux_name_resolve_change(op, &dir, text, &name);
    if (rc == 0) {
        rc = check(op, &node, &dir, &name);
        if (rc == 0)
            rc = record(op, &node, &dir, &name, &after);
        if (rc == 0)
            rc = mux_op_commit(op);
        if (rc == 0) {
            mux_entry_fill(op, &after, ret);
            mux_entry_limit(op, dir.fid, ret);
        }
        mux_name_fini(op, &name);
    }
    mux_node_fini(op, &dir);
    mux_node_fini(op, &node);
    return rc;
}

int mux_link(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, uint64_t new_parent,
             const char *new_name, struct mux_entry *ret)
{
    bool tried = false;
    int rc;
    if (mux_top_owns(nodeid) || mux_top_owns(new_parent))
        return -EPERM;
    if (mux_nodeid_is_shared(new_parent))
        return -ENOTDIR;
    if (mux_nodeid_is_shared(nodeid))
        return -EACCES; // below write
    if (mux_nodeid_route(nodeid) != mux_nodeid_route(new_parent))
        return -EXDEV; // two sandboxes
    do {
        struct mux_op op;
        rc = mux_op_enter_change(mux, new_parent, &op);
        if (rc < 0)
            return rc;
        rc = link_in(&op, nodeid, new_parent, new_name, ret);
        rc = mux_op_leave(&op, rc);
    } while (mux_made_room(mux, ctx, new_parent, &rc, &tried));
    return rc;
}
