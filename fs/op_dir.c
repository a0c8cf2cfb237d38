// Listing directories: READDIR and READDIRPLUS.
//
// Offsets are mux's cookies: stable while names come and go. The listing is built straight into
// the buffer it is sent from. A READDIRPLUS entry counts as a lookup in the kernel, except for
// "." and ".." (nodeid 0). Owns nothing; allocates nothing. Read next: mux/ops.h, mux_readdir.
#include "fs/ops.h"

#include "fs/session_priv.h"
#include "mux/base/limits.h"

struct listing {
    fuse_req_t req;
    char *buf;
    size_t size;
    size_t used;
};

// libfuse takes NUL-terminated names; mux gives bytes and a length.
static void terminate(char text[AF_NAME_MAX + 1], const char *name, size_t name_len)
{
    memcpy(text, name, name_len);
    text[name_len] = '\0';
}

static bool add_plain(void *arg, const char *name, size_t name_len, uint64_t cookie,
                      const struct mux_entry *entry)
{
    struct listing *list = arg;
    size_t left = list->size - list->used;
    char text[AF_NAME_MAX + 1];
    terminate(text, name, name_len);
    size_t need =
        fuse_add_direntry(list->req, list->buf + list->used, left, text, &entry->st, (off_t)cookie);
    if (need > left)
        return false;
    list->used += need;
    return true;
}

static bool add_plus(void *arg, const char *name, size_t name_len, uint64_t cookie,
                     const struct mux_entry *entry)
{
    struct listing *list = arg;
    size_t left = list->size - list->used;
    struct fuse_entry_param param;
    char text[AF_NAME_MAX + 1];
    terminate(text, name, name_len);
    fs_fill_entry(&param, entry);
    size_t need = fuse_add_direntry_plus(list->req, list->buf + list->used, left, text, &param,
                                         (off_t)cookie);
    if (need > left)
        return false;
    if (entry->nodeid != 0)
        fs_count_references(fuse_req_userdata(list->req), entry->nodeid, 1);
    list->used += need;
    return true;
}

static int run_readdir(struct fs_call *call)
{
    bool plus = call->op == FS_OP_READDIRPLUS;
    struct listing list = {.req = call->req, .size = call->size};
    list.buf = fs_call_buffer(call, &list.size);
    if (!list.buf)
        return -ENOMEM;
    int rc = mux_readdir(call->session->mux, &call->ctx, call->nodeid, (uint64_t)call->offset, plus,
                         plus ? add_plus : add_plain, &list);
    if (rc == 0)
        fs_answer_buf(call, list.buf, list.used);
    return rc;
}

static void list(fuse_req_t req, enum fs_op op, fuse_ino_t nodeid, size_t size, off_t offset)
{
    struct fs_call call;
    fs_call_begin(&call, req, op, nodeid);
    call.size = size;
    call.offset = offset;
    fs_call_dispatch(&call, run_readdir);
}

void fs_op_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                   struct fuse_file_info *file)
{
    (void)file;
    list(req, FS_OP_READDIR, nodeid, size, offset);
}

void fs_op_readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                       struct fuse_file_info *file)
{
    (void)file;
    list(req, FS_OP_READDIRPLUS, nodeid, size, offset);
}
