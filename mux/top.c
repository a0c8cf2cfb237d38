// The top directory and its sentinel. Read next: top.h.
#include "mux/top.h"

#include "mux/attr.h"
#include "mux/base/clock.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>

static const char sentinel_text[] = "This is the mount of an AgentFense daemon.\n";

// Readdir positions: ".", "..", the sentinel, then the slots.
#define COOKIE_DOT      1
#define COOKIE_DOTDOT   2
#define COOKIE_SENTINEL 3

int mux_top_getattr(struct mux *mux, uint64_t nodeid, struct stat *ret, int64_t *ret_ttl_ns)
{
    bool is_dir = nodeid == MUX_NODEID_TOP;
    struct timespec opened = af_timespec_of_ns(mux->opened_ns);
    *ret = (struct stat){
        .st_ino = nodeid,
        .st_mode = is_dir ? S_IFDIR | 0700 : S_IFREG | 0444,
        .st_nlink = 1,
        .st_size = is_dir ? 4096 : (off_t)sizeof sentinel_text - 1,
        .st_blksize = 4096,
        .st_blocks = 8,
        .st_atim = opened,
        .st_mtim = opened,
        .st_ctim = opened,
    };
    *ret_ttl_ns = MUX_TTL_NS;
    return 0;
}

static int root_entry(struct mux *mux, const struct mux_ctx *ctx, uint64_t root_nodeid,
                      struct mux_entry *ret)
{
    (void)ctx;
    struct mux_op op;
    struct mux_node node;
    int rc = mux_op_enter(mux, root_nodeid, &op);
    if (rc < 0)
        return rc;
    atomic_store(&op.view->shown, true);
    rc = mux_node_load(&op, mux_op_fid(&op, root_nodeid), &node);
    if (rc == 0) {
        mux_entry_fill(&op, &node, ret);
        ret->entry_ttl_ns = 0;
        mux_node_fini(&op, &node);
    }
    return mux_op_leave(&op, rc);
}

int mux_top_lookup(struct mux *mux, const struct mux_ctx *ctx, const char *name,
                   struct mux_entry *ret)
{
    uint64_t root, last = 0;
    if (strcmp(name, MUX_SENTINEL_NAME) == 0) {
        *ret = (struct mux_entry){.nodeid = MUX_NODEID_SENTINEL, .entry_ttl_ns = MUX_TTL_NS};
        return mux_top_getattr(mux, MUX_NODEID_SENTINEL, &ret->st, &ret->attr_ttl_ns);
    }
    // Once more for one that has been moved in between.
    for (; mux_view_find(mux, name, &root) && root != last; last = root) {
        int rc = root_entry(mux, ctx, root, ret);
        if (rc != -ESTALE)
            return rc;
    }
    return -ENOENT;
}

int mux_top_read(uint64_t nodeid, size_t size, off_t offset, struct mux_read *ret)
{
    size_t len = sizeof sentinel_text - 1;
    if (nodeid == MUX_NODEID_TOP)
        return -EISDIR;
    if (offset < 0)
        return -EINVAL;
    size_t at = (uint64_t)offset < len ? (size_t)offset : len;
    *ret = (struct mux_read){.data = sentinel_text + at, .fd = -1, .offset = offset};
    ret->size = size < len - at ? size : len - at;
    return 0;
}

int mux_top_readdir(struct mux *mux, const struct mux_ctx *ctx, uint64_t cookie, bool plus,
                    mux_readdir_fn fn, void *arg)
{
    struct mux_entry entry = {0};
    mux_top_getattr(mux, MUX_NODEID_TOP, &entry.st, &entry.attr_ttl_ns);
    if (cookie < COOKIE_DOT && !fn(arg, ".", 1, COOKIE_DOT, &entry))
        return 0;
    if (cookie < COOKIE_DOTDOT && !fn(arg, "..", 2, COOKIE_DOTDOT, &entry))
        return 0;
    if (cookie < COOKIE_SENTINEL) {
        int rc = mux_top_lookup(mux, ctx, MUX_SENTINEL_NAME, &entry);
        if (rc < 0 ||
            !fn(arg, MUX_SENTINEL_NAME, strlen(MUX_SENTINEL_NAME), COOKIE_SENTINEL, &entry))
            return rc;
    }
    uint32_t slot = cookie > STORE_COOKIE_FIRST ? (uint32_t)(cookie - STORE_COOKIE_FIRST) + 1 : 1;
    struct af_id id;
    uint64_t root;
    for (; mux_view_next(mux, &slot, &id, &root); slot++) {
        entry = (struct mux_entry){
            .st = {.st_ino = mux_nodeid_fid(root), .st_mode = S_IFDIR},
        };
        if (plus && root_entry(mux, ctx, root, &entry) < 0)
            continue; // detached meanwhile
        if (!fn(arg, id.text, strlen(id.text), STORE_COOKIE_FIRST + slot, &entry))
            return 0;
    }
    return 0;
}
