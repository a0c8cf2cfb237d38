// Asynchronous reads of backing files: io_uring, or a pool of threads where there is none.
//
// Owns the ring (or the pool) and a free list of operations. One mutex guards the submission
// side, the free list and the counts; completions are taken from the ring by one thread alone.
// The mutex is taken once per completion before the operation is looked at: the kernel orders
// submission before completion, the mutex says so to everyone else.
// Fails: af_io_new without io_uring falls back; a full submission queue is -EAGAIN.
// Read next: io.h.
#include "mux/base/io.h"

#include "mux/base/cleanup.h"
#include "mux/base/whole.h"

#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RING_ENTRIES    256
#define RING_CQ_ENTRIES 4096
#define POOL_THREADS    4
#define FREE_OPS_MAX    1024 // kept for reuse
#define IO_MAGIC        0xaf10100bU

struct op {
    struct op *next; // in the free list, or in the pool's queue
    af_io_fn fn;
    void *arg;
    char *buf; // NULL: a post
    size_t size;
    size_t done;
    off_t offset;
    int fd;
    bool offload;
};

struct af_io {
    unsigned magic;
    bool is_uring;
    struct io_uring ring;
    pthread_mutex_t lock;
    pthread_cond_t queued; // the pool's threads wait here
    pthread_cond_t idle;   // af_io_drain waits here
    struct op *free_ops;
    unsigned free_count;
    unsigned long pending; // queued and not yet completed
    struct op *head;
    struct op **tail;
    bool closed;
    bool stopping;
    pthread_t threads[POOL_THREADS];
    unsigned thread_count;
};

bool af_io_is_uring(const struct af_io *io)
{
    return io->is_uring;
}

// ---- operations --------------------------------------------------------------------------

static struct op *op_new_locked(struct af_io *io)
{
    struct op *op = io->free_ops;
    if (op) {
        io->free_ops = op->next;
        io->free_count--;
    } else {
        op = malloc(sizeof *op);
    }
    if (op)
        memset(op, 0, sizeof *op);
    return op;
}

static void op_free_locked(struct af_io *io, struct op *op)
{
    if (io->free_count >= FREE_OPS_MAX) {
        free(op);
        return;
    }
    op->next = io->free_ops;
    io->free_ops = op;
    io->free_count++;
}

// Gives the operation back and calls its owner.
static void op_complete(struct af_io *io, struct op *op, ssize_t result)
{
    af_io_fn fn = op->fn;
    void *arg = op->arg;
    pthread_mutex_lock(&io->lock);
    op_free_locked(io, op);
    pthread_mutex_unlock(&io->lock);
    fn(arg, result);
    pthread_mutex_lock(&io->lock);
    if (--io->pending == 0)
        pthread_cond_broadcast(&io->idle);
    pthread_mutex_unlock(&io->lock);
}

// ---- io_uring ----------------------------------------------------------------------------

static int submit_locked(struct af_io *io, struct op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
    if (!sqe) {
        io_uring_submit(&io->ring);
        sqe = io_uring_get_sqe(&io->ring);
        if (!sqe)
            return -EAGAIN;
    }
    if (op && op->buf)
        io_uring_prep_read(sqe, op->fd, op->buf + op->done, (unsigned)(op->size - op->done),
                           (uint64_t)op->offset + op->done);
    else
        io_uring_prep_nop(sqe);
    if (op && op->offload)
        sqe->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(sqe, op);
    // The kernel may be short of memory for a moment; nothing else fails on a valid ring.
    int rc;
    do {
        rc = io_uring_submit(&io->ring);
    } while (rc == -EINTR || rc == -EAGAIN || rc == -EBUSY);
    return 0;
}

// One completion: finished, or short in the middle of the file and read on.
static void ring_complete(struct af_io *io, struct op *op, int res)
{
    pthread_mutex_lock(&io->lock);
    bool again = res == -EINTR || res == -EAGAIN;
    if (res > 0)
        op->done += (size_t)res;
    if (op->buf && (again || (res > 0 && op->done < op->size)))
        again = submit_locked(io, op) == 0;
    else
        again = false;
    ssize_t result = res < 0 ? res : (ssize_t)op->done;
    pthread_mutex_unlock(&io->lock);
    if (!again)
        op_complete(io, op, result);
}

static void *ring_thread(void *arg)
{
    struct af_io *io = arg;
    pthread_setname_np(pthread_self(), "af-io");
    for (;;) {
        struct io_uring_cqe *cqe = NULL;
        if (io_uring_wait_cqe(&io->ring, &cqe) != 0 || !cqe)
            continue; // interrupted
        struct op *op = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&io->ring, cqe);
        if (!op)
            return NULL; // af_io_free's
        ring_complete(io, op, res);
    }
}

static int ring_init(struct af_io *io)
{
    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                                     .cq_entries = RING_CQ_ENTRIES};
    int rc = io_uring_queue_init_params(RING_ENTRIES, &io->ring, &params);
    if (rc != 0)
        return rc;
    struct io_uring_probe *probe = io_uring_get_probe_ring(&io->ring);
    bool usable = probe && io_uring_opcode_supported(probe, IORING_OP_READ) &&
                  (params.features & IORING_FEAT_NODROP);
    io_uring_free_probe(probe);
    if (!usable) {
        io_uring_queue_exit(&io->ring);
        return -ENOSYS;
    }
    return 0;
}

// ---- threads -----------------------------------------------------------------------------

static void *pool_thread(void *arg)
{
    struct af_io *io = arg;
    pthread_setname_np(pthread_self(), "af-io");
    pthread_mutex_lock(&io->lock);
    for (;;) {
        while (!io->head && !io->stopping)
            pthread_cond_wait(&io->queued, &io->lock);
        struct op *op = io->head;
        if (!op)
            break;
        io->head = op->next;
        if (!io->head)
            io->tail = &io->head;
        pthread_mutex_unlock(&io->lock);
        op_complete(io, op, op->buf ? af_read_whole(op->fd, op->buf, op->size, op->offset) : 0);
        pthread_mutex_lock(&io->lock);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

// ---- public ------------------------------------------------------------------------------

static int start_threads(struct af_io *io)
{
    unsigned wanted = io->is_uring ? 1 : POOL_THREADS;
    for (; io->thread_count < wanted; io->thread_count++) {
        int rc = pthread_create(&io->threads[io->thread_count], NULL,
                                io->is_uring ? ring_thread : pool_thread, io);
        if (rc != 0)
            return -rc;
    }
    return 0;
}

int af_io_new(enum af_io_mode mode, struct af_io **ret)
{
    struct af_io *io = calloc(1, sizeof *io);
    if (!io)
        return -ENOMEM;
    io->magic = IO_MAGIC;
    io->tail = &io->head;
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->queued, NULL);
    pthread_cond_init(&io->idle, NULL);
    int rc = mode == AF_IO_THREADS ? 0 : ring_init(io);
    io->is_uring = mode != AF_IO_THREADS && rc == 0;
    if (rc == 0 || mode == AF_IO_AUTO)
        rc = start_threads(io);
    if (rc != 0) {
        af_io_free(io);
        return rc;
    }
    *ret = io;
    return 0;
}

void af_io_drain(struct af_io *io)
{
    AF_CHECK_MAGIC(io, IO_MAGIC);
    pthread_mutex_lock(&io->lock);
    while (io->pending > 0)
        pthread_cond_wait(&io->idle, &io->lock);
    pthread_mutex_unlock(&io->lock);
}

void af_io_close(struct af_io *io)
{
    AF_CHECK_MAGIC(io, IO_MAGIC);
    pthread_mutex_lock(&io->lock);
    io->closed = true;
    pthread_mutex_unlock(&io->lock);
    af_io_drain(io);
}

void af_io_free(struct af_io *io)
{
    if (!io)
        return;
    af_io_close(io);
    pthread_mutex_lock(&io->lock);
    io->stopping = true;
    pthread_cond_broadcast(&io->queued);
    if (io->is_uring && io->thread_count > 0)
        while (submit_locked(io, NULL) != 0)
            ;
    pthread_mutex_unlock(&io->lock);
    for (unsigned i = 0; i < io->thread_count; i++)
        pthread_join(io->threads[i], NULL);
    if (io->is_uring)
        io_uring_queue_exit(&io->ring);
    while (io->free_ops) {
        struct op *next = io->free_ops->next;
        free(io->free_ops);
        io->free_ops = next;
    }
    pthread_cond_destroy(&io->idle);
    pthread_cond_destroy(&io->queued);
    pthread_mutex_destroy(&io->lock);
    free(io);
}

static int op_queue(struct af_io *io, const struct op *what)
{
    AF_CHECK_MAGIC(io, IO_MAGIC);
    pthread_mutex_lock(&io->lock);
    struct op *op = io->closed ? NULL : op_new_locked(io);
    int rc = op ? 0 : io->closed ? -ECANCELED : -ENOMEM;
    if (op) {
        *op = *what;
        io->pending++;
        if (io->is_uring) {
            rc = submit_locked(io, op);
        } else {
            *io->tail = op;
            io->tail = &op->next;
            pthread_cond_signal(&io->queued);
        }
        if (rc != 0) {
            io->pending--;
            op_free_locked(io, op);
        }
    }
    pthread_mutex_unlock(&io->lock);
    return rc;
}

int af_io_read(struct af_io *io, int fd, void *buf, size_t size, off_t offset, bool offload,
               af_io_fn fn, void *arg)
{
    if (size > INT32_MAX)
        return -EINVAL;
    struct op op = {.fn = fn,
                    .arg = arg,
                    .buf = buf,
                    .size = size,
                    .offset = offset,
                    .fd = fd,
                    .offload = offload};
    return op_queue(io, &op);
}

int af_io_post(struct af_io *io, af_io_fn fn, void *arg)
{
    struct op op = {.fn = fn, .arg = arg, .fd = -1};
    return op_queue(io, &op);
}
