// Changing an inode, from the nodeid to the commit. Read next: edit.h, body.c, setattr.c.
#include "mux/edit.h"

#include "mux/attr.h"
#include "mux/room.h"
#include "mux/top.h"

#include <errno.h>

#define TRIES_MAX 16 // a copy was overtaken this often: the store must be damaged

static bool changes_content(const struct mux_edit *edit)
{
    return edit->data || edit->space != MUX_SPACE_NONE || (edit->set & MUX_SET_SIZE);
}

static int check(const struct mux_op *op, const struct mux_node *node, const struct mux_edit *edit)
{
    if (!mux_node_is_visible(op, node))
        return -ENOENT;
    if (!mux_node_is_writable(node))
        return -EACCES;
    if (changes_content(edit) && !S_ISREG(node->mode))
        return S_ISDIR(node->mode) ? -EISDIR : -EINVAL;
    return 0;
}

static int change_record(struct mux_op *op, const struct mux_edit *edit, struct mux_record *record,
                         struct mux_copy *copy, struct mux_body *body, struct mux_copy *need)
{
    struct store_inode *inode = &record->inode;
    bool copied_up = record->index > 0;
    inode->ctime_ns = op->now_ns;
    if (changes_content(edit)) {
        mux_kill_suidgid(inode);
        inode->mtime_ns = op->now_ns;
    }
    int rc = mux_edit_attributes(op, edit, inode);
    if (rc == 0 && changes_content(edit))
        rc = mux_body_change(op, edit, record, copy, body, need);
    if (rc == 0)
        rc = mux_op_write(op);
    if (rc == 0)
        rc = mux_record_put(op, record);
    if (rc == 0)
        rc = mux_op_commit(op);
    if (rc == 0 && copied_up)
        mux_count(&op->mux->counters.copy_ups);
    return rc;
}

struct outcome {
    struct stat st;
    int64_t ttl_ns; // of st
    bool mode_changed;
    bool has_tail; // after MUX_BODY_TAIL
};

static int edit_in(struct mux_op *op, uint64_t nodeid, const struct mux_edit *edit,
                   struct mux_copy *copy, struct mux_copy *need, struct outcome *ret)
{
    struct mux_node node;
    struct mux_record record;
    struct mux_body body = {0};
    int rc = mux_node_load(op, mux_op_fid(op, nodeid), &node);
    if (rc < 0)
        return rc;
    rc = check(op, &node, edit);
    if (rc == 0)
        rc = mux_record_load_held(op, node.fid, &record);
    if (rc == 0) {
        rc = change_record(op, edit, &record, copy, &body, need);
        mux_body_finish(&body, rc == 0);
    }
    if (rc == MUX_BODY_TAIL) {
        int settled = mux_tail_settle(op, node.fid, &ret->has_tail);
        rc = settled < 0 ? settled : rc;
    }
    if (rc == 0) {
        struct mux_node after;
        mux_node_of_inode(nodeid, &record.inode, 0, &after);
        after.state = node.state; // borrowed
        mux_attr_fill_of(op->mux, op->view, &after, nodeid, &ret->st);
        ret->ttl_ns = mux_attr_ttl_ns(op->view, &after);
        ret->mode_changed = record.inode.mode != node.mode;
    }
    mux_node_fini(op, &node);
    return rc;
}

// A write to a nodeid that all views share cannot happen while its attributes are what the kernel
// enforces. It has dirtied pages that others see: have them dropped, and say so.
static int refuse_shared(struct mux *mux, uint64_t nodeid, const struct mux_edit *edit)
{
    if (!changes_content(edit))
        return -EPERM;
    mux_count(&mux->counters.shared_write_alarms);
    mux_notify_inval_inode(mux, nodeid, 0, 0);
    return -EACCES;
}

// What mux_body_change has asked for. A worker copies what is small and in the page cache.
static int make_copy(struct mux *mux, const struct mux_ctx *ctx, const struct mux_copy *need,
                     struct mux_copy *ret)
{
    if (need->bytes > MUX_COPY_FAST_BYTES && !ctx->may_block)
        return MUX_SLOW;
    int rc = mux_copy_blob(mux, need->source, need->bytes, ctx->may_block, ret);
    // Gone: somebody else made the content the view's own.
    return rc == 0 || rc == -ENOENT ? MUX_BODY_COPY : rc;
}

static int edit_once(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
                     const struct mux_edit *edit, struct stat *ret, int64_t *ret_ttl_ns)
{
    struct mux_copy copy = {0}, need = {0};
    struct mux_edit attempt = *edit;
    struct outcome outcome;
    int rc = MUX_BODY_COPY;
    for (unsigned tries = 0; rc == MUX_BODY_COPY || rc == MUX_BODY_TAIL; tries++) {
        struct mux_op op;
        rc = mux_op_enter_change(mux, nodeid, &op);
        if (rc < 0)
            break;
        rc = edit_in(&op, nodeid, &attempt, &copy, &need, &outcome);
        mux_op_leave(&op, rc < 0 ? rc : 0);
        if (rc != MUX_BODY_COPY && rc != MUX_BODY_TAIL)
            break;
        mux_copy_discard(&copy);
        if (tries >= TRIES_MAX)
            rc = -EIO;
        else if (rc == MUX_BODY_COPY)
            rc = make_copy(mux, ctx, &need, &copy);
        else
            attempt.copies = !outcome.has_tail;
    }
    mux_copy_discard(&copy);
    if (rc < 0)
        return rc;
    if ((edit->data || edit->space != MUX_SPACE_NONE) && outcome.mode_changed)
        mux_notify_inval_inode(mux, nodeid, -1, 0);
    if (ret)
        *ret = outcome.st;
    if (ret_ttl_ns)
        *ret_ttl_ns = outcome.ttl_ns;
    return 0;
}

int mux_edit(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
             const struct mux_edit *edit, struct stat *ret, int64_t *ret_ttl_ns)
{
    bool tried = false;
    int rc;
    if (mux_top_owns(nodeid))
        return -EPERM;
    if (mux_nodeid_is_shared(nodeid))
        return refuse_shared(mux, nodeid, edit);
    do {
        rc = edit_once(mux, ctx, nodeid, edit, ret, ret_ttl_ns);
    } while (mux_made_room(mux, ctx, nodeid, &rc, &tried));
    // A page that a map had dirtied before its view was frozen: the file does not have it.
    if (edit->data && (rc == -EROFS || rc == -EACCES))
        mux_notify_inval_inode(mux, nodeid, 0, 0);
    return rc;
}
