// Answers: recording one in a call, and sending it.
//
// The only file whose functions answer requests. Owns a buffer per thread for answers to
// requests from /dev/fuse; requests over io_uring bring their own. Takes no locks (libfuse does).
// Fails: an answer the kernel does not want any more (the caller was killed) is dropped; nodeids
// need no undoing, since no table counts them. Read next: call.h, slow.c.
#include "fs/limit.h"
#include "fs/session_priv.h"
#include "fs/taps_priv.h"

#include "mux/base/clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

// ---- buffers -----------------------------------------------------------------------------

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void buffer_key_init(void)
{
    if (pthread_key_create(&buffer_key, free) != 0)
        abort();
}

static char *thread_buffer(void)
{
    pthread_once(&buffer_once, buffer_key_init);
    char *buf = pthread_getspecific(buffer_key);
    if (!buf) {
        buf = malloc(FS_IO_MAX);
        if (buf && pthread_setspecific(buffer_key, buf) != 0) {
            free(buf);
            buf = NULL;
        }
    }
    return buf;
}

bool fs_call_payload(const struct fs_call *call, char **ret, size_t *ret_size)
{
    return fs_compat_payload(call->req, ret, ret_size);
}

char *fs_call_buffer(struct fs_call *call, size_t *size)
{
    char *buf;
    size_t room = FS_IO_MAX;
    if (!fs_call_payload(call, &buf, &room))
        buf = thread_buffer();
    if (*size > room)
        *size = room;
    return buf;
}

void fs_call_detach(struct fs_call *call)
{
    char *payload;
    size_t room;
    if (call->answer != FS_ANSWER_BUF || !fs_call_payload(call, &payload, &room))
        return;
    size_t size = call->out.buf.size < room ? call->out.buf.size : room;
    if (call->out.buf.mem != payload && size > 0)
        memcpy(payload, call->out.buf.mem, size);
    call->out.buf.mem = payload;
    call->out.buf.size = size;
    if (call->read_open) {
        mux_read_done(call->session->mux, &call->read);
        call->read_open = false;
    }
}

// ---- recording ---------------------------------------------------------------------------

static double seconds(int64_t ns)
{
    return ns > 0 ? (double)ns / (double)AF_NS_PER_SEC : 0.0;
}

void fs_fill_entry(struct fuse_entry_param *ret, const struct mux_entry *entry)
{
    ret->ino = entry->nodeid;
    ret->generation = entry->generation;
    ret->attr = entry->st;
    ret->attr_timeout = seconds(entry->attr_ttl_ns);
    ret->entry_timeout = seconds(entry->entry_ttl_ns);
}

void fs_answer_entry(struct fs_call *call, const struct mux_entry *entry)
{
    call->answer = FS_ANSWER_ENTRY;
    fs_fill_entry(&call->out.entry, entry);
}

void fs_answer_create(struct fs_call *call, const struct mux_entry *entry)
{
    call->answer = FS_ANSWER_CREATE;
    fs_fill_entry(&call->out.entry, entry);
}

void fs_answer_attr(struct fs_call *call, const struct stat *st, int64_t ttl_ns)
{
    call->answer = FS_ANSWER_ATTR;
    call->out.attr_out.st = *st;
    call->out.attr_out.timeout = seconds(ttl_ns);
}

void fs_answer_buf(struct fs_call *call, const void *mem, size_t size)
{
    call->answer = FS_ANSWER_BUF;
    call->out.buf.mem = mem;
    call->out.buf.size = size;
}

int fs_check_name(const char *name)
{
    return strnlen(name, AF_NAME_MAX + 1) > AF_NAME_MAX ? -ENAMETOOLONG : 0;
}

// ---- sending -----------------------------------------------------------------------------

static void send_create(struct fs_call *call)
{
    // In the `kernel` policy no RELEASE will come: the kernel remembers ENOSYS. Pages stay. Who can
    // only write needs none, and without them the kernel does not ask for security.capability.
    struct fuse_file_info file = {
        .direct_io = FS_FUSE_KILLPRIV_RELIABLE && (call->flags & O_ACCMODE) == O_WRONLY,
        .flags = (int)call->flags,
        .fh = FS_HANDLE_PLAIN,
        .keep_cache = 1,
        .noflush = 1,
    };
    fs_count_references(call->session, call->out.entry.ino, 1);
    fuse_reply_create(call->req, &call->out.entry, &file);
}

static void send_open(struct fs_call *call)
{
    bool is_dir = call->op == FS_OP_OPENDIR;
    struct fuse_file_info file = {.flags = (int)call->flags, .fh = call->out.open.handle};
    if (call->out.open.backing > 0) {
        fs_compat_set_backing(&file, call->out.open.backing); // excludes keep_cache
    } else {
        file.keep_cache = 1;
        file.cache_readdir = is_dir;
    }
    file.noflush = !is_dir;
    // Who was killed meanwhile gets it all the same, and a RELEASE follows. Only a connection at
    // its end takes no answer; the table goes with it.
    fuse_reply_open(call->req, &file);
}

void fs_call_send(struct fs_call *call, int rc)
{
    int64_t now_ns = af_monotonic_ns();
    int64_t took_ns = now_ns - call->start_ns - call->held_ns;
    if (call->limited && fs_limit_settle(call, rc, now_ns))
        return;
    if (!call->session->no_counting) {
        fs_count_answer(call->session, call->op, rc, took_ns);
        fs_count_view(call, rc, took_ns);
    }
    if (fs_taps_any(call->session))
        fs_taps_answer(call, rc, took_ns);
    if (rc < 0) {
        fuse_reply_err(call->req, -rc);
    } else {
        switch (call->answer) {
        case FS_ANSWER_NONE:
            fuse_reply_err(call->req, 0);
            break;
        case FS_ANSWER_ENTRY:
            if (call->out.entry.ino != 0)
                fs_count_references(call->session, call->out.entry.ino, 1);
            fuse_reply_entry(call->req, &call->out.entry);
            break;
        case FS_ANSWER_CREATE:
            send_create(call);
            break;
        case FS_ANSWER_OPEN:
            send_open(call);
            break;
        case FS_ANSWER_ATTR:
            fuse_reply_attr(call->req, &call->out.attr_out.st, call->out.attr_out.timeout);
            break;
        case FS_ANSWER_BUF:
            fuse_reply_buf(call->req, call->out.buf.mem, call->out.buf.size);
            break;
        case FS_ANSWER_WRITTEN:
            fuse_reply_write(call->req, call->size);
            break;
        case FS_ANSWER_STATFS:
            fuse_reply_statfs(call->req, &call->out.statvfs);
            break;
        case FS_ANSWER_OFFSET:
            fuse_reply_lseek(call->req, call->out.offset);
            break;
        case FS_ANSWER_LENGTH:
            fuse_reply_xattr(call->req, call->out.length);
            break;
        }
    }
    if (call->read_open) {
        mux_read_done(call->session->mux, &call->read);
        call->read_open = false;
    }
}

// libfuse cancels the threads of its rings at the end; one that is in mux must not be, for it may
// hold a lock there.
static void forbid_cancel(void)
{
    static __thread bool done;
    if (!done) {
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        done = true;
    }
}

void fs_call_begin(struct fs_call *call, fuse_req_t req, enum fs_op op, uint64_t nodeid)
{
    forbid_cancel();
    const struct fuse_ctx *caller = fuse_req_ctx(req);
    call->session = fuse_req_userdata(req);
    call->req = req;
    call->op = op;
    call->start_ns = af_monotonic_ns();
    call->ctx.uid = caller->uid;
    call->ctx.gid = caller->gid;
    call->ctx.pid = caller->pid;
    call->ctx.may_block = false;
    call->nodeid = nodeid;
    call->new_parent = 0;
    call->name = NULL;
    call->new_name = NULL;
    call->mode = 0;
    call->flags = 0;
    call->set = 0;
    call->attr = NULL;
    call->data = NULL;
    call->size = 0;
    call->offset = 0;
    call->to_offset = 0;
    call->length = 0;
    call->answer = FS_ANSWER_NONE;
    call->read_open = false;
    call->limited = false;
    call->ring = 0; // set where it matters (limit.c)
    call->charged_bytes = 0;
    call->held_ns = 0;
    if (!call->session->no_counting)
        fs_count_request(call->session, op, 1);
}

static void run_and_send(struct fs_call *call, fs_run_fn run)
{
    int rc = run(call);
    if (rc == MUX_SLOW) {
        rc = fs_slow_push(call->session->slow, call, run);
        if (rc == 0)
            return;
    }
    if (rc != FS_PENDING)
        fs_call_send(call, rc);
}

void fs_call_dispatch(struct fs_call *call, fs_run_fn run)
{
    if (fs_limit_holds(call, run))
        ; // held.c has it
    else if (!fs_fair_defers(call) || fs_slow_push(call->session->turns, call, run) != 0)
        run_and_send(call, run);
    fs_fair_served(af_monotonic_ns());
}
