// One request on its way through fs: its arguments, its answer, and where it is counted.
//
// An op (fs/op_*.c) is a function run(call): it asks mux, records an answer in the call and
// returns 0 or -errno; it never talks to libfuse. So the same function runs on a FUSE worker
// and, when mux says MUX_SLOW, again in the slow pool on a copy of the arguments.
//
//   handler(req, ...)      fs/ops.c's table: fill a call, then fs_call_dispatch
//   fs_call_dispatch       run, then send; or hand over to the slow pool
//   fs_call_send           the one place that answers (fs/reply.c)
//
// A call belongs to one thread at a time. Only what is needed is initialised: no allocation and
// no large clear per request. Read next: fs/reply.c, then fs/slow.c.
#ifndef AF_FS_CALL_H
#define AF_FS_CALL_H

#include "fs/compat.h"
#include "fs/fs.h"
#include "mux/ops.h"

#include <sys/statvfs.h>

// Returned by a run function whose answer comes later from elsewhere (an asynchronous read).
#define FS_PENDING (-4096)

// What the handle of an open file says.
#define FS_HANDLE_PLAIN   0
#define FS_HANDLE_COUNTED 1 // passthrough.c counts it

// The flags of a WRITE: the kernel writes back pages of a map, and nobody waits for the answer.
#define FS_WRITE_BACK 1

enum fs_answer {
    FS_ANSWER_NONE, // success without content
    FS_ANSWER_ENTRY,
    FS_ANSWER_CREATE,
    FS_ANSWER_ATTR,
    FS_ANSWER_BUF,
    FS_ANSWER_WRITTEN,
    FS_ANSWER_STATFS,
    FS_ANSWER_OFFSET, // of an lseek
    FS_ANSWER_OPEN,
    FS_ANSWER_LENGTH, // of an extended attribute, or of the list of them
};

struct fs_call {
    struct fs_session *session;
    fuse_req_t req;
    enum fs_op op;
    int64_t start_ns;
    struct mux_ctx ctx;

    // Arguments; which ones are set depends on the operation. Names and data belong to libfuse
    // and are gone once the handler has returned, unless the call was copied.
    uint64_t nodeid;
    uint64_t new_parent;
    const char *name;
    const char *new_name; // the target of a symlink, too
    mode_t mode;
    unsigned flags;
    unsigned set;      // enum mux_set
    struct stat *attr; // points into the handler's frame, or the copy's
    const char *data;
    size_t size;
    off_t offset;
    off_t to_offset; // of a copy; its other file is new_parent
    off_t length;    // of a fallocate

    enum fs_answer answer;
    union {
        struct fuse_entry_param entry;
        struct {
            struct stat st;
            double timeout;
        } attr_out;
        struct {
            const char *mem;
            size_t size;
        } buf;
        struct {
            uint64_t handle; // FS_HANDLE_*
            int backing;     // id of a backing file; 0: none
        } open;
        struct statvfs statvfs;
        off_t offset;
        size_t length;
    } out;
    bool read_open; // `read` must be given back once the answer is sent
    struct mux_read read;

    // limit.c
    bool limited;           // its bytes are settled before it is answered
    unsigned ring;          // whose entry it keeps while it is held, or FS_RINGS_MAX
    uint64_t charged_bytes; // of a READ: what its view was charged for already
    int64_t held_ns;        // how long it was held back; no part of its latency
};

typedef int (*fs_run_fn)(struct fs_call *call);

// Starts a call: who asks, when, counted. Sets everything but the arguments.
void fs_call_begin(struct fs_call *call, fuse_req_t req, enum fs_op op, uint64_t nodeid);

// Runs it and answers, now or later.
void fs_call_dispatch(struct fs_call *call, fs_run_fn run);

// Sends the recorded answer, or the error when rc is negative; counts it.
void fs_call_send(struct fs_call *call, int rc);

// Whether the request came over io_uring; its payload buffer stays valid until it is answered.
bool fs_call_payload(const struct fs_call *call, char **ret, size_t *ret_size);

// Moves an answer out of memory that only this thread may use into the request's own payload
// buffer. Only for requests that came over io_uring.
void fs_call_detach(struct fs_call *call);

// Memory to build an answer of up to *size bytes in: the payload buffer of the request, or this
// thread's own (both hold FS_IO_MAX). Lowers *size to what is there. NULL: out of memory.
char *fs_call_buffer(struct fs_call *call, size_t *size);

// Answers to record.
void fs_answer_entry(struct fs_call *call, const struct mux_entry *entry);
void fs_answer_create(struct fs_call *call, const struct mux_entry *entry);
void fs_answer_attr(struct fs_call *call, const struct stat *st, int64_t ttl_ns);
void fs_answer_buf(struct fs_call *call, const void *mem, size_t size);
void fs_fill_entry(struct fuse_entry_param *ret, const struct mux_entry *entry);

// 0, or -ENAMETOOLONG: the kernel passes names of up to 1,024 bytes.
int fs_check_name(const char *name);

#endif
