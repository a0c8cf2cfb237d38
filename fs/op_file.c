// Content: READ, WRITE, FSYNC.
//
// READ: mux says where the bytes are. In memory: answered from there. In a backing file: tried
// without waiting, straight into the buffer the answer travels in; when a disk is needed the read
// goes to the io loop and the answer follows from there, so no worker ever waits for a disk.
// Owns the asynchronous reads under way, one allocation each; locks nothing.
// Fails: a read error is the caller's errno; bytes that the backing file does not have are zeros.
// Read next: mux/ops.h (mux_read), mux/base/io.h, slow.c.
#include "fs/ops.h"

#include "fs/session_priv.h"
#include "mux/nodeid.h"
#include "mux/base/whole.h"

#include <linux/magic.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

// ---- read --------------------------------------------------------------------------------

struct async_read {
    struct fs_call call;
    char *owned; // the buffer, unless it is the request's payload
    char *buf;
    size_t have; // read without waiting
};

static void async_read_done(void *arg, ssize_t result)
{
    struct async_read *read = arg;
    struct fs_call *call = &read->call;
    if (result >= 0) {
        size_t have = read->have + (size_t)result;
        memset(read->buf + have, 0, call->read.size - have);
        fs_answer_buf(call, read->buf, call->read.size);
    }
    fs_call_send(call, result < 0 ? (int)result : 0);
    free(read->owned);
    free(read);
}

static int read_async(struct fs_call *call, char *payload, size_t have, bool offload)
{
    struct async_read *read = malloc(sizeof *read);
    if (!read)
        return -ENOMEM;
    *read = (struct async_read){.call = *call, .buf = payload, .have = payload ? have : 0};
    if (!payload) {
        read->owned = read->buf = malloc(call->read.size);
        if (!read->owned) {
            free(read);
            return -ENOMEM;
        }
    }
    fs_count(call->session, FS_COUNT_READ_ASYNC, 1);
    // From here on the completion may run, and answer, at any time.
    int rc = af_io_read(call->session->io, call->read.fd, read->buf + read->have,
                        call->read.size - read->have, call->read.offset + (off_t)read->have,
                        offload, async_read_done, read);
    if (rc != 0) {
        free(read->owned);
        free(read);
        return rc;
    }
    return FS_PENDING;
}

// Reads everything, waiting as long as it takes. Only in the slow pool, or on a memory file
// system, where nothing waits.
static int read_blocking(struct fs_call *call, char *buf)
{
    ssize_t n = af_read_whole(call->read.fd, buf, call->read.size, call->read.offset);
    if (n < 0)
        return (int)n;
    memset(buf + n, 0, call->read.size - (size_t)n);
    fs_answer_buf(call, buf, call->read.size);
    return 0;
}

// May wait.
static bool is_in_memory(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

static int read_blob(struct fs_call *call)
{
    size_t room = call->read.size;
    char *buf = fs_call_buffer(call, &room);
    if (!buf)
        return -ENOMEM;
    call->read.size = room;
    if (call->ctx.may_block && !atomic_load(&call->session->backing_known)) {
        atomic_store(&call->session->backing_in_memory, is_in_memory(call->read.fd));
        atomic_store(&call->session->backing_known, true);
    }
    if (call->ctx.may_block || atomic_load(&call->session->backing_in_memory))
        return read_blocking(call, buf);
    struct iovec iov = {.iov_base = buf, .iov_len = call->read.size};
    ssize_t n = preadv2(call->read.fd, &iov, 1, call->read.offset, RWF_NOWAIT);
    if (n == (ssize_t)call->read.size) {
        fs_answer_buf(call, buf, call->read.size);
        return 0;
    }
    // Some file systems cannot tell. Whether this one is memory is asked once, and not here:
    // even statfs may wait, on a network's file system.
    bool offload = n < 0 && errno == EOPNOTSUPP;
    if (offload && !atomic_load(&call->session->backing_known))
        return -EAGAIN;
    char *payload = NULL;
    size_t ignored;
    fs_call_payload(call, &payload, &ignored);
    return read_async(call, payload, n > 0 ? (size_t)n : 0, offload);
}

static int run_read(struct fs_call *call)
{
    if (call->size > FS_IO_MAX)
        call->size = FS_IO_MAX;
    int rc = mux_read(call->session->mux, &call->ctx, call->nodeid, call->size, call->offset,
                      &call->read);
    if (rc != 0)
        return rc;
    call->read_open = true;
    if (call->read.data || call->read.size == 0) {
        fs_answer_buf(call, call->read.data, call->read.size);
        return 0;
    }
    rc = read_blob(call);
    if (rc == -EAGAIN && !call->ctx.may_block) { // the io loop is full, or see above
        mux_read_done(call->session->mux, &call->read);
        call->read_open = false;
        return MUX_SLOW;
    }
    return rc;
}

void fs_op_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                struct fuse_file_info *file)
{
    (void)file;
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_READ, nodeid);
    call.size = size;
    call.offset = offset;
    fs_call_dispatch(&call, run_read);
}

// ---- write -------------------------------------------------------------------------------

static int run_write(struct fs_call *call)
{
    int rc = mux_write(call->session->mux, &call->ctx, call->nodeid, call->data, call->size,
                       call->offset);
    if (rc == 0)
        call->answer = FS_ANSWER_WRITTEN;
    return rc;
}

void fs_op_write(fuse_req_t req, fuse_ino_t nodeid, const char *data, size_t size, off_t offset,
                 struct fuse_file_info *file)
{
    struct fs_call call;
    fs_call_begin(&call, req, FS_OP_WRITE, nodeid);
    call.data = data;
    call.size = size;
    call.offset = offset;
    // The suid and sgid bits that it may ask to clear, mux_write clears always.
    call.flags = file->writepage ? FS_WRITE_BACK : 0;
    if (mux_nodeid_is_shared(nodeid)) {
        // mux refuses it, but the pages that every view shares are already dirtied.
        fs_count(call.session, FS_COUNT_SHARED_WRITE, 1);
        fs_invalidate_inode(call.session, nodeid, 0, 0);
    }
    fs_call_dispatch(&call, run_write);
}

// ---- fsync -------------------------------------------------------------------------------

static int run_fsync(struct fs_call *call)
{
    return mux_fsync(call->session->mux, &call->ctx, call->nodeid, call->flags != 0);
}

static void sync_node(fuse_req_t req, enum fs_op op, fuse_ino_t nodeid, int datasync)
{
    struct fs_call call;
    fs_call_begin(&call, req, op, nodeid);
    call.flags = datasync != 0;
    fs_call_dispatch(&call, run_fsync);
}

void fs_op_fsync(fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *file)
{
    (void)file;
    sync_node(req, FS_OP_FSYNC, nodeid, datasync);
}

void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *file)
{
    (void)file;
    sync_node(req, FS_OP_FSYNCDIR, nodeid, datasync);
}
