// Opening: the verdict on an OPEN or OPENDIR, for the policy in which they are asked for.
//
// The kernel has checked mode bits; the rules and the view's access are checked here, as they are
// now, whatever the kernel remembers. Under the view's shared lock; owns nothing.
// Read next: ops.h, attr.h.
#include "mux/names.h"
#include "mux/top.h"
#include "mux/view.h"

#include <errno.h>

static int verdict(const struct mux_op *op, const struct mux_node *node, bool write)
{
    if (!mux_node_is_visible(op, node))
        return -ENOENT;
    if (S_ISDIR(node->mode))
        return write ? -EISDIR : 0;
    if (node->level < RULES_READ || (write && !mux_node_is_writable(node)))
        return -EACCES;
    return write && op->view->access == STORE_ACCESS_READ_ONLY ? -EROFS : 0;
}

// A version is never written: whoever may write the file by now has to look its name up again.
static int check_version(struct mux *mux, uint64_t nodeid, bool write, struct mux_opened *ret)
{
    struct mux_node node;
    int rc = mux_node_load_shared(mux, nodeid, &node);
    if (rc < 0)
        return rc;
    if (node.level < RULES_READ || write)
        return -EACCES;
    *ret = (struct mux_opened){.level = node.level, .fixed_size = node.size};
    return 0;
}

int mux_open_check(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool write,
                   struct mux_opened *ret)
{
    (void)ctx;
    if (mux_top_owns(nodeid)) {
        *ret = (struct mux_opened){.level = RULES_READ};
        return write ? -EPERM : 0;
    }
    if (mux_nodeid_is_shared(nodeid))
        return check_version(mux, nodeid, write, ret);
    struct mux_op op;
    struct mux_node node;
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0) {
        rc = verdict(&op, &node, write);
        if (rc == 0)
            *ret = (struct mux_opened){.level = node.level};
        mux_node_fini(&op, &node);
    }
    return mux_op_leave(&op, rc);
}
