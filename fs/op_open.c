// Opening and closing: OPEN, OPENDIR, FLUSH, RELEASE, RELEASEDIR, under both open policies.
//
// `kernel`: the answer is ENOSYS once, at the priming, and from then on the kernel opens by itself.
// `server`: mux decides each one. What the kernel caches of a file or a listing stays (whatever
// changes behind its back is invalidated), no FLUSH is asked for, and large content that never
// changes is passed through (passthrough.c). No handle means anything but whether its inode is in
// the table of passed-through ones. Locks stay in the kernel under either policy (docs/FUSE.md).
// Owns nothing. Fails with mux's errno. Read next: mux/ops.h (mux_open_check), passthrough.c.
#include "fs/ops.h"

#include "fs/session_priv.h"

#include <fcntl.h>

static int run_open(struct fs_call *call)
{
    struct mux_opened opened;
    bool write = (call->flags & O_ACCMODE) != O_RDONLY;
    int rc = mux_open_check(call->session->mux, &call->ctx, call->nodeid, write, &opened);
    if (rc != 0)
        return rc;
    call->answer = FS_ANSWER_OPEN;
    call->out.open.handle = FS_HANDLE_PLAIN;
    call->out.open.backing = 0;
    return opened.fixed_size == 0 ? 0 : fs_passthrough_open(call, opened.fixed_size);
}

// ENOSYS, which the kernel remembers, in the `kernel` policy.
static void answer_open(fuse_req_t req, enum fs_op op, fuse_ino_t nodeid, int flags)
{
    struct fs_call call;
    fs_call_begin(&call, req, op, nodeid);
    char *payload;
    size_t size;
    if (fs_call_payload(&call, &payload, &size))
        atomic_store(&call.session->transport.ring_seen, true);
    call.flags = (unsigned)flags;
    if (call.session->policy == FS_OPEN_KERNEL)
        fs_call_send(&call, -ENOSYS);
    else
        fs_call_dispatch(&call, run_open);
}

void fs_op_open(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    answer_open(req, FS_OP_OPEN, nodeid, file->flags);
}

void fs_op_opendir(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    (void)file;
    answer_open(req, FS_OP_OPENDIR, nodeid, O_RDONLY);
}

// Nothing is kept back until a close, so there is nothing to flush.
void fs_op_flush(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_FLUSH, nodeid);
    fs_call_send(&call, -ENOSYS);
}

static void answer_release(fuse_req_t req, enum fs_op op, fuse_ino_t nodeid, uint64_t handle)
{
    struct fs_call call;
    fs_call_begin(&call, req, op, nodeid);
    if (handle == FS_HANDLE_COUNTED)
        fs_passthrough_close(call.session, req, nodeid);
    fs_call_send(&call, 0);
}

void fs_op_release(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    answer_release(req, FS_OP_RELEASE, nodeid, file->fh);
}

void fs_op_releasedir(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    (void)file;
    answer_release(req, FS_OP_RELEASEDIR, nodeid, FS_HANDLE_PLAIN);
}
