// Names to nodeids: the hot path. Read next: names.h, attr.h.
#include "mux/attr.h"
#include "mux/names.h"
#include "mux/top.h"
#include "mux/view.h"

#include <errno.h>

static int lookup_in(struct mux_op *op, uint64_t parent, const char *text, struct mux_entry *ret)
{
    struct mux_node dir, node;
    struct mux_name name;
    int rc = mux_dir_load(op, parent, &dir);
    if (rc < 0)
        return rc;
    rc = mux_name_resolve(op, &dir, text, &name);
    mux_node_fini(op, &dir); // its fid stays
    if (rc < 0)
        return rc;
    if (!name.visible) {
        if (name.hidden || name.exists)
            mux_count(&op->mux->counters.lookups_hidden);
        mux_entry_fill_absent(ret);
    } else {
        rc = mux_name_load(op, &name, &node);
        if (rc == 0) {
            mux_entry_fill(op, &node, ret);
            mux_node_fini(op, &node);
        }
    }
    if (rc == 0)
        mux_entry_limit(op, dir.fid, ret);
    mux_name_fini(op, &name);
    return rc == -ESTALE ? -EUCLEAN : rc; // an entry that leads nowhere: the store is damaged
}

int mux_lookup(struct mux *mux, const struct mux_ctx *ctx, uint64_t parent, const char *name,
               struct mux_entry *ret)
{
    struct mux_op op;
    if (parent == MUX_NODEID_TOP)
        return mux_top_lookup(mux, ctx, name, ret);
    if (parent == MUX_NODEID_SENTINEL || mux_nodeid_is_shared(parent))
        return -ENOTDIR;
    int rc = mux_op_enter(mux, parent, &op);
    if (rc < 0)
        return rc;
    return mux_op_leave(&op, lookup_in(&op, parent, name, ret));
}
