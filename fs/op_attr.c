// Names and attributes: LOOKUP, FORGET, GETATTR, SETATTR, READLINK, STATFS, ACCESS, IOCTL.
//
// Owns nothing, locks nothing, allocates nothing. Fails with mux's errno; a nodeid whose view is
// gone is -ESTALE, which makes the kernel look the name up again. Read next: call.h, mux/ops.h.
#include "fs/ops.h"

#include "fs/session_priv.h"

static int run_lookup(struct fs_call *call)
{
    int rc = fs_check_name(call->name);
    if (rc != 0)
        return rc;
    struct mux_entry entry;
    rc = mux_lookup(call->session->mux, &call->ctx, call->nodeid, call->name, &entry);
    if (rc != 0)
        return rc;
    fs_answer_entry(call, &entry); // nodeid 0: absent, and cached as such
    return 0;
}

void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_LOOKUP, parent);
    call.name = name;
    fs_call_dispatch(&call, run_lookup);
}

void fs_op_forget(fuse_req_t req, fuse_ino_t nodeid, uint64_t count)
{
    // The kernel sends one FORGET with all its references to an inode.
    struct fs_session *session = fuse_req_userdata(req);
    fs_count_request(session, FS_OP_FORGET, 1);
    fs_count_references(session, nodeid, -(int64_t)count);
    mux_forget(session->mux, nodeid);
    fuse_reply_none(req);
}

void fs_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct fs_session *session = fuse_req_userdata(req);
    fs_count_request(session, FS_OP_FORGET, (unsigned)count);
    for (size_t i = 0; i < count; i++) {
        fs_count_references(session, forgets[i].ino, -(int64_t)forgets[i].nlookup);
        mux_forget(session->mux, forgets[i].ino);
    }
    fuse_reply_none(req);
}

static int run_getattr(struct fs_call *call)
{
    struct stat st;
    int64_t ttl_ns;
    int rc = mux_getattr(call->session->mux, &call->ctx, call->nodeid, &st, &ttl_ns);
    if (rc == 0)
        fs_answer_attr(call, &st, ttl_ns);
    return rc;
}

void fs_op_getattr(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_GETATTR, nodeid);
    fs_call_dispatch(&call, run_getattr);
}

static int run_setattr(struct fs_call *call)
{
    struct stat st;
    int64_t ttl_ns;
    int rc = mux_setattr(call->session->mux, &call->ctx, call->nodeid, call->attr, call->set, &st,
                         &ttl_ns);
    if (rc == 0)
        fs_answer_attr(call, &st, ttl_ns);
    return rc;
}

static unsigned set_of_fuse(int set)
{
    static const struct {
        int fuse;
        unsigned mux;
    } map[] = {
        {FUSE_SET_ATTR_MODE, MUX_SET_MODE},
        {FUSE_SET_ATTR_UID, MUX_SET_UID},
        {FUSE_SET_ATTR_GID, MUX_SET_GID},
        {FUSE_SET_ATTR_SIZE, MUX_SET_SIZE},
        {FUSE_SET_ATTR_ATIME, MUX_SET_ATIME},
        {FUSE_SET_ATTR_MTIME, MUX_SET_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, MUX_SET_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME_NOW, MUX_SET_MTIME_NOW},
        {FUSE_SET_ATTR_CTIME, MUX_SET_CTIME},
        {FUSE_SET_ATTR_KILL_SUID, MUX_SET_KILL_SUIDGID}, // the wire's one bit for both
        {FUSE_SET_ATTR_KILL_SGID, MUX_SET_KILL_SUIDGID},
    };
    unsigned ret = 0;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        if (set & map[i].fuse)
            ret |= map[i].mux;
    return ret;
}

void fs_op_setattr(fuse_req_t req, fuse_ino_t nodeid, struct stat *attr, int set,
                   struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_SETATTR, nodeid);
    call.attr = attr;
    call.set = set_of_fuse(set);
    fs_call_dispatch(&call, run_setattr);
}

static int run_readlink(struct fs_call *call)
{
    size_t room = AF_SYMLINK_MAX + 1;
    char *buf = fs_call_buffer(call, &room);
    if (!buf || room < AF_SYMLINK_MAX + 1)
        return -ENOMEM;
    int rc = mux_readlink(call->session->mux, &call->ctx, call->nodeid, buf);
    if (rc == 0)
        fs_answer_buf(call, buf, strlen(buf));
    return rc;
}

void fs_op_readlink(fuse_req_t req, fuse_ino_t nodeid)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_READLINK, nodeid);
    fs_call_dispatch(&call, run_readlink);
}

static int run_statfs(struct fs_call *call)
{
    int rc = mux_statfs(call->session->mux, &call->ctx, call->nodeid, &call->out.statvfs);
    if (rc == 0)
        call->answer = FS_ANSWER_STATFS;
    return rc;
}

void fs_op_statfs(fuse_req_t req, fuse_ino_t nodeid)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_STATFS, nodeid);
    fs_call_dispatch(&call, run_statfs);
}

// With default_permissions the kernel decides by itself, and remembers ENOSYS.
void fs_op_access(fuse_req_t req, fuse_ino_t nodeid, int mask)
{
    (void)mask;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_ACCESS, nodeid);
    fs_call_send(&call, -ENOSYS);
}

static int run_ioctl(struct fs_call *call)
{
    (void)call;
    return -ENOSYS; // ENOTTY to the program
}

// There is none that we know. The kernel, who remembers ENOSYS of other operations, sends each one
// (TCGETS above all, with which programs ask whether a file is a terminal): so they count, and a
// view's limit holds for them as well.
void fs_op_ioctl(fuse_req_t req, fuse_ino_t nodeid, unsigned cmd, void *arg,
                 struct fuse_file_info *file, unsigned flags, const void *in, size_t in_size,
                 size_t out_size)
{
    (void)cmd;
    (void)arg;
    (void)file;
    (void)flags;
    (void)in;
    (void)in_size;
    (void)out_size;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_IOCTL, nodeid);
    fs_call_dispatch(&call, run_ioctl);
}
