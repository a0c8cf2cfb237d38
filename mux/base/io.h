// Asynchronous reads of backing files, and work for the thread that completes them.
//
// One loop, one completion thread. Reads go through io_uring; where the kernel has none (or a
// sandboxed host forbids it) a small pool of threads reads instead, behind the same calls.
// Thread: af_io_read and af_io_post may be called from any thread, callbacks included.
// Locks: one mutex, held while a read is queued and submitted; never while a callback runs.
// Fails: -errno from af_io_read when the read could not be queued; then there is no callback.
#ifndef AF_BASE_IO_H
#define AF_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct af_io;

enum af_io_mode {
    AF_IO_AUTO,    // io_uring if it works here, else threads
    AF_IO_URING,   // fail rather than fall back
    AF_IO_THREADS, // for tests, and for hosts where io_uring is not wanted
};

// result: the number of bytes read, less than asked for only at the end of the file, or -errno.
// Runs on the completion thread (a pool thread in the fallback); must not block for long.
typedef void (*af_io_fn)(void *arg, ssize_t result);

// *ret is owned by the caller. Returns 0 or -errno.
int af_io_new(enum af_io_mode mode, struct af_io **ret);
// Waits for every read and post under way, then frees. No other call may be under way or come
// later. NULL is ignored.
void af_io_free(struct af_io *io);

bool af_io_is_uring(const struct af_io *io);

// Reads size bytes at offset into buf, which must stay valid until fn(arg, result) is called.
// `offload`: for a file that cannot be read without waiting (preadv2 with RWF_NOWAIT is
// EOPNOTSUPP): not even the attempt is made on the calling thread.
int af_io_read(struct af_io *io, int fd, void *buf, size_t size, off_t offset, bool offload,
               af_io_fn fn, void *arg);

// Calls fn(arg, 0) on the completion thread soon.
int af_io_post(struct af_io *io, af_io_fn fn, void *arg);

// Refuses what comes from now on (-ECANCELED) and waits for what is under way. Not from a
// callback.
void af_io_close(struct af_io *io);

// Waits until every read and post queued before has been completed. Not from a callback.
void af_io_drain(struct af_io *io);

#endif
