// Room and holes in files: FALLOCATE, LSEEK, COPY_FILE_RANGE.
//
// mux decides; an answer of EOPNOTSUPP to a copy has the kernel read and write by itself, this time
// only. Owns nothing. Read next: mux/ops.h, mux/space.c.
#include "fs/ops.h"

#include "fs/session_priv.h"

static int run_fallocate(struct fs_call *call)
{
    return mux_fallocate(call->session->mux, &call->ctx, call->nodeid, (int)call->flags,
                         call->offset, call->length);
}

void fs_op_fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                     struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_FALLOCATE, nodeid);
    call.flags = (unsigned)mode;
    call.offset = offset;
    call.length = length;
    fs_call_dispatch(&call, run_fallocate);
}

static int run_lseek(struct fs_call *call)
{
    int rc = mux_lseek(call->session->mux, &call->ctx, call->nodeid, call->offset, (int)call->flags,
                       &call->out.offset);
    if (rc == 0)
        call->answer = FS_ANSWER_OFFSET;
    return rc;
}

void fs_op_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t offset, int whence,
                 struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_LSEEK, nodeid);
    call.offset = offset;
    call.flags = (unsigned)whence;
    fs_call_dispatch(&call, run_lseek);
}

static int run_copy(struct fs_call *call)
{
    size_t copied = 0;
    int rc = mux_copy_range(call->session->mux, &call->ctx, call->nodeid, call->offset,
                            call->new_parent, call->to_offset, call->size, &copied);
    if (rc == 0) {
        call->size = copied;
        call->answer = FS_ANSWER_WRITTEN;
    }
    return rc;
}

void fs_op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
                           struct fuse_file_info *from_file, fuse_ino_t to, off_t to_offset,
                           struct fuse_file_info *to_file, size_t size, int flags)
{
    (void)from_file;
    (void)to_file;
    (void)flags; // none are defined
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_COPY_FILE_RANGE, from);
    call.offset = from_offset;
    call.new_parent = to;
    call.to_offset = to_offset;
    call.size = size;
    fs_call_dispatch(&call, run_copy);
}
