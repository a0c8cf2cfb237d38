// Extended attributes: SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR.
//
// Nothing here may be answered ENOSYS: the kernel would not ask again. It asks for
// security.capability before a write (docs/FUSE.md has how often), so names that mux does not keep
// are answered without asking it. Owns nothing. Read next: mux/ops.h, mux/xattr.c.
#include "fs/ops.h"

#include "fs/session_priv.h"
#include "mux/base/limits.h"

static bool is_kept(const char *name)
{
    return strncmp(name, "user.", 5) == 0;
}

static int run_setxattr(struct fs_call *call)
{
    return mux_setxattr(call->session->mux, &call->ctx, call->nodeid, call->name, call->data,
                        call->size, (int)call->flags);
}

void fs_op_setxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, const char *value,
                    size_t size, int flags)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_SETXATTR, nodeid);
    call.name = name;
    call.data = size > 0 ? value : NULL;
    call.size = size;
    call.flags = (unsigned)flags;
    fs_call_dispatch(&call, run_setxattr);
}

static int answer(struct fs_call *call, int rc, const char *buf, size_t len)
{
    if (rc == 0 && call->size == 0) {
        call->answer = FS_ANSWER_LENGTH;
        call->out.length = len;
    } else if (rc == 0) {
        fs_answer_buf(call, buf, len);
    }
    return rc;
}

static int run_getxattr(struct fs_call *call)
{
    size_t size = call->size, len = 0;
    char *buf = size > 0 ? fs_call_buffer(call, &size) : NULL;
    if (call->size > 0 && !buf)
        return -ENOMEM;
    int rc =
        mux_getxattr(call->session->mux, &call->ctx, call->nodeid, call->name, buf, size, &len);
    return answer(call, rc, buf, len);
}

void fs_op_getxattr(fuse_req_t req, fuse_ino_t nodeid, const char *name, size_t size)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_GETXATTR, nodeid);
    call.name = name;
    call.size = size;
    if (is_kept(name))
        fs_call_dispatch(&call, run_getxattr);
    else
        fs_call_send(&call, -EOPNOTSUPP);
}

static int run_listxattr(struct fs_call *call)
{
    size_t size = call->size, len = 0;
    char *buf = size > 0 ? fs_call_buffer(call, &size) : NULL;
    if (call->size > 0 && !buf)
        return -ENOMEM;
    int rc = mux_listxattr(call->session->mux, &call->ctx, call->nodeid, buf, size, &len);
    return answer(call, rc, buf, len);
}

void fs_op_listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_LISTXATTR, nodeid);
    call.size = size;
    fs_call_dispatch(&call, run_listxattr);
}

static int run_removexattr(struct fs_call *call)
{
    return mux_removexattr(call->session->mux, &call->ctx, call->nodeid, call->name);
}

void fs_op_removexattr(fuse_req_t req, fuse_ino_t nodeid, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_REMOVEXATTR, nodeid);
    call.name = name;
    fs_call_dispatch(&call, run_removexattr);
}
