// Where a file's bytes are, and room for them: fallocate, SEEK_DATA and SEEK_HOLE, copies.
//
// Changes go through mux_edit like writes. KEEP_SIZE reserves nothing: what lies behind the end of
// a file is void here, and no quota would count it. A copy within a view is made of writes of a
// bounded size, so that no lock is held for long; content small enough for a record, and copies
// between views, are left to the kernel, which reads and writes on behalf of the caller.
// Owns nothing after return. Errors: -errno, MUX_SLOW. Read next: edit.h, body.c.
#include "mux/edit.h"
#include "mux/top.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPY_STEP (1u << 20)  // bytes of one write
#define COPY_MAX  (16u << 20) // bytes of one request: the caller asks again

// ---- fallocate

int mux_fallocate(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, int mode,
                  off_t offset, off_t len)
{
    struct mux_edit edit = {.offset = (uint64_t)offset, .len = (uint64_t)len};
    if (offset < 0 || len <= 0)
        return -EINVAL;
    switch (mode) {
    case 0:
        edit.space = MUX_SPACE_RESERVE;
        break;
    case FALLOC_FL_KEEP_SIZE: // nothing to reserve; it counts as a change all the same
        if (mux_nodeid_is_shared(nodeid))
            return -EACCES;
        edit.set = MUX_SET_MTIME_NOW | MUX_SET_KILL_SUIDGID;
        return mux_edit(mux, ctx, nodeid, &edit, NULL, NULL);
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        edit.space = MUX_SPACE_PUNCH;
        break;
    case FALLOC_FL_ZERO_RANGE:
        edit.space = MUX_SPACE_ZERO;
        break;
    default:
        return -EOPNOTSUPP;
    }
    if (len > AF_FILE_SIZE_MAX || offset > AF_FILE_SIZE_MAX - len)
        return -EFBIG;
    if (len > (off_t)MUX_COPY_FAST_BYTES && !ctx->may_block)
        return MUX_SLOW;
    return mux_edit(mux, ctx, nodeid, &edit, NULL, NULL);
}

// ---- where data is

struct content {
    uint64_t size;
    enum store_content kind;
    struct store_blob *blob; // counted, or NULL
};

static int check_readable(const struct mux_node *node)
{
    if (!S_ISREG(node->mode))
        return S_ISDIR(node->mode) ? -EISDIR : -EINVAL;
    return node->level >= RULES_READ ? 0 : -EACCES;
}

static int open_node(struct mux *mux, const struct mux_node *node, struct content *ret)
{
    *ret = (struct content){.size = node->size, .kind = (enum store_content)node->content};
    return ret->kind == STORE_CONTENT_BLOB
               ? store_blob_open_sized(mux->store, node->blob, node->size, &ret->blob)
               : 0;
}

static int open_content(struct mux *mux, uint64_t nodeid, struct content *ret)
{
    struct mux_op op;
    struct mux_node node;
    if (mux_top_owns(nodeid))
        return -EOPNOTSUPP;
    if (mux_nodeid_is_shared(nodeid)) {
        int rc = mux_node_load_shared(mux, nodeid, &node);
        if (rc == 0)
            rc = check_readable(&node);
        if (rc == 0)
            rc = open_node(mux, &node, ret);
        return rc == -ENOENT ? -ESTALE : rc;
    }
    int rc = mux_op_enter(mux, nodeid, &op);
    if (rc < 0)
        return rc;
    rc = mux_node_load(&op, mux_op_fid(&op, nodeid), &node);
    if (rc == 0) {
        rc = mux_node_is_visible(&op, &node) ? check_readable(&node) : -ENOENT;
        if (rc == 0)
            rc = open_node(mux, &node, ret);
        mux_node_fini(&op, &node);
    }
    return mux_op_leave(&op, rc);
}

static void close_content(struct content *content)
{
    if (content->blob)
        store_blob_release(content->blob);
}

// Content in a record is all data.
static int seek(const struct content *content, uint64_t offset, int whence, off_t *ret)
{
    if (offset >= content->size)
        return -ENXIO;
    if (!content->blob) {
        *ret = whence == SEEK_DATA ? (off_t)offset : (off_t)content->size;
        return 0;
    }
    off_t at = lseek(store_blob_fd(content->blob), (off_t)offset, whence);
    if (at < 0 && errno != ENXIO)
        return -errno;
    if (whence == SEEK_DATA) {
        if (at < 0 || (uint64_t)at >= content->size)
            return -ENXIO;
    } else if (at < 0) {
        at = (off_t)offset; // behind the blob's end: a hole
    } else if ((uint64_t)at > content->size) {
        at = (off_t)content->size;
    }
    *ret = at;
    return 0;
}

int mux_lseek(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, off_t offset, int whence,
              off_t *ret)
{
    struct content content;
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (offset < 0)
        return -ENXIO;
    int rc = open_content(mux, nodeid, &content);
    if (rc < 0)
        return rc;
    rc = content.blob && !ctx->may_block ? MUX_SLOW : seek(&content, (uint64_t)offset, whence, ret);
    close_content(&content);
    return rc;
}

// ---- copies

static int read_zero_filled(int fd, char *buf, size_t size, off_t offset)
{
    ssize_t n = af_read_whole(fd, buf, size, offset);
    if (n < 0)
        return (int)n;
    memset(buf + n, 0, size - (size_t)n);
    return 0;
}

static int copy_steps(struct mux *mux, const struct mux_ctx *ctx, int fd, off_t from_offset,
                      uint64_t to, off_t to_offset, size_t size, size_t *ret)
{
    size_t done = 0;
    int rc = 0;
    AF_CLEANUP_FREE char *buf = malloc(size < COPY_STEP ? size : COPY_STEP);
    if (!buf)
        return -ENOMEM;
    while (rc == 0 && done < size) {
        size_t step = size - done < COPY_STEP ? size - done : COPY_STEP;
        rc = read_zero_filled(fd, buf, step, from_offset + (off_t)done);
        if (rc == 0)
            rc = mux_write(mux, ctx, to, buf, step, to_offset + (off_t)done);
        if (rc == 0)
            done += step;
    }
    if (done == 0)
        return rc;
    *ret = done; // what failed will fail again when the caller asks for the rest
    return 0;
}

int mux_copy_range(struct mux *mux, const struct mux_ctx *ctx, uint64_t from, off_t from_offset,
                   uint64_t to, off_t to_offset, size_t size, size_t *ret)
{
    struct content content;
    if (from_offset < 0 || to_offset < 0)
        return -EINVAL;
    if (mux_top_owns(from) || mux_top_owns(to) || mux_nodeid_is_shared(to) ||
        (!mux_nodeid_is_shared(from) && mux_nodeid_route(from) != mux_nodeid_route(to)))
        return -EOPNOTSUPP;
    if (!ctx->may_block)
        return MUX_SLOW;
    int rc = open_content(mux, from, &content);
    if (rc < 0)
        return rc;
    if (!content.blob) {
        rc = -EOPNOTSUPP;
    } else if ((uint64_t)from_offset >= content.size || size == 0) {
        *ret = 0;
    } else {
        uint64_t left = content.size - (uint64_t)from_offset;
        size = size < COPY_MAX ? size : COPY_MAX;
        size = size < left ? size : (size_t)left;
        rc = copy_steps(mux, ctx, store_blob_fd(content.blob), from_offset, to, to_offset, size,
                        ret);
    }
    close_content(&content);
    return rc;
}
