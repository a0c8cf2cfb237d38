// Inode records on their way into the delta. Read next: record.h, create.c.
#include "mux/record.h"

#include "mux/links.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

// What a record is in its tree: regular files with a name are counted, each once.
static void count_in_tree(const struct store_inode *inode, int64_t *ret_files, int64_t *ret_bytes)
{
    bool counts = S_ISREG(inode->mode) && inode->nlink > 0;
    *ret_files = counts ? 1 : 0;
    *ret_bytes = counts ? (int64_t)inode->size : 0;
}

int mux_record_load(struct mux_op *op, uint64_t fid, struct mux_record *ret)
{
    struct store_inode inode;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = mux_op_inode(op, fid, &inode, &ret->index);
    if (rc < 0)
        return rc == -ENOENT ? -ESTALE : rc;
    if (inode.inline_len > sizeof ret->data)
        return -EUCLEAN;
    ret->inode = inode;
    if (inode.name_len > 0)
        memcpy(ret->name, inode.name, inode.name_len);
    ret->inode.name = ret->name;
    if (inode.inline_len > 0)
        memcpy(ret->data, inode.inline_data, inode.inline_len);
    ret->inode.inline_data = inode.inline_len > 0 ? ret->data : NULL;
    ret->gone = false;
    if (ret->index > 0)
        ret->inode.blob_owned = false;
    count_in_tree(&ret->inode, &ret->counted_files, &ret->counted_bytes);
    return 0;
}

int mux_record_load_held(struct mux_op *op, uint64_t fid, struct mux_record *ret)
{
    int rc = mux_record_load(op, fid, ret);
    if (rc < 0 || !mux_gone_has(&op->view->gone, fid))
        return rc;
    ret->gone = true;
    ret->inode.nlink = 0;
    count_in_tree(&ret->inode, &ret->counted_files, &ret->counted_bytes);
    return 0;
}

static int adopt_orphan(struct mux_op *op, uint64_t fid)
{
    if (op->n_orphans >= MUX_OP_ORPHANS_MAX)
        return -EUCLEAN;
    op->orphans[op->n_orphans++] = fid;
    return store_orphan_put(op->txn, mux_op_delta(op), fid);
}

int mux_record_put(struct mux_op *op, struct mux_record *record)
{
    int rc = 0;
    int64_t files, bytes;
    if (record->index > 0)
        rc = store_new_id(op->mux->store, &record->inode.version);
    count_in_tree(&record->inode, &files, &bytes);
    record->inode.tree_files = files - record->counted_files;
    record->inode.tree_bytes = bytes - record->counted_bytes;
    if (rc == 0)
        rc = store_inode_put(op->txn, mux_op_delta(op), &record->inode);
    if (rc == 0 && record->gone && record->index > 0)
        rc = adopt_orphan(op, record->inode.fid);
    if (rc == 0 && record->gone && record->index > 0)
        rc = mux_gone_adopt(&op->view->gone, op->txn, record->inode.fid);
    if (rc < 0)
        return rc;
    record->counted_files = files;
    record->counted_bytes = bytes;
    record->index = 0;
    if (op->n_touched >= MUX_OP_TOUCHED_MAX)
        return -EOVERFLOW; // a mistake in this folder: no operation changes that many
    mux_node_of_inode(mux_view_nodeid(op->view, record->inode.fid), &record->inode, 0,
                      &op->touched[op->n_touched++]);
    return 0;
}

void mux_record_set_name(struct mux_record *record, uint64_t parent, const char *name,
                         size_t name_len)
{
    memcpy(record->name, name, name_len);
    record->inode.name = record->name;
    record->inode.name_len = (uint8_t)name_len;
    record->inode.parent = parent;
}

int mux_record_touch_dir(struct mux_op *op, uint64_t fid)
{
    struct mux_record record;
    int rc = mux_record_load(op, fid, &record);
    if (rc < 0)
        return rc;
    record.inode.mtime_ns = record.inode.ctime_ns = op->now_ns;
    return mux_record_put(op, &record);
}

int mux_record_drop_link(struct mux_op *op, uint64_t fid, uint64_t parent, const char *name,
                         size_t name_len)
{
    struct mux_record record;
    struct mux_link link = {.parent = parent, .name = name, .name_len = name_len};
    int rc = mux_record_load(op, fid, &record);
    if (rc < 0)
        return rc;
    if (record.inode.nlink == 0 || op->n_orphans >= MUX_OP_ORPHANS_MAX)
        return -EUCLEAN;
    rc = mux_links_lose(op->txn, mux_op_layers(op), &record.inode, &link, record.name);
    if (rc < 0)
        return rc;
    record.inode.nlink = S_ISDIR(record.inode.mode) ? 0 : record.inode.nlink - 1;
    record.inode.ctime_ns = op->now_ns;
    rc = mux_record_put(op, &record);
    if (rc < 0 || record.inode.nlink > 0)
        return rc;
    return adopt_orphan(op, fid);
}

uint64_t mux_record_growth(const struct mux_record *record, uint64_t new_size)
{
    const struct store_inode *inode = &record->inode;
    uint64_t counted = record->index == 0 ? inode->size : 0;
    uint64_t follows = record->index == 0 ? 0 : inode->xattr_bytes;
    return new_size + follows > counted ? new_size + follows - counted : 0;
}
