// The slow pool: runs what mux cannot answer without waiting (copy-ups, fsyncs). Its small brother,
// the turns pool, runs what a worker leaves to it so that other views come first (fair.c).
//
// A call that mux answered MUX_SLOW is copied, queued by view and run again by a pool thread with
// may_block. In the turns pool it may not block either, and goes on to the slow one if it has to.
// Queues are served round robin, one call at a time, so that a view with a thousand fsyncs delays
// another's by one, not by a thousand. The queue is bounded in calls and in bytes of copied data,
// in total and per view.
//
// A request that came over io_uring is not answered by the pool thread but by the io loop's
// thread: the kernel delivers the next request of that ring entry through the thread that
// answered the last one, and a pool thread may by then sleep in the next fsync.
//
// Owns the queued calls. One mutex, a leaf: nothing else is taken under it, no call is run under
// it. Fails: -EAGAIN when full, -ENOMEM. Read next: call.h.
#include "fs/session_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <stdlib.h>
#include <string.h>

#define QUEUES      256 // views share a queue when their slots are equal modulo this
#define JOBS_MAX    8192
#define BYTES_MAX   (256u << 20)
#define PER_VIEW    4 // one queue may hold at most 1/PER_VIEW of either
#define THREADS_MAX 64

struct job {
    struct job *next;
    struct fs_slow *slow;
    struct fs_call call;
    struct stat attr;
    fs_run_fn run;
    int rc;
    struct queue *queue;
    size_t bytes;
    char storage[];
};

struct queue {
    struct job *head;
    struct job **tail;
    unsigned jobs;
    size_t bytes;
    struct queue *next_ready;
    bool is_ready; // in the list of queues with work
};

struct fs_slow {
    struct fs_session *session;
    bool may_block; // false: the turns pool
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t idle;
    struct queue queues[QUEUES];
    struct queue *ready_head;
    struct queue **ready_tail;
    unsigned queued;
    unsigned unanswered; // queued, running, or waiting to be answered
    size_t bytes;
    bool closed;
    bool stopping;
    unsigned thread_count;
    pthread_t threads[THREADS_MAX];
};

// ---- queues ------------------------------------------------------------------------------

static struct queue *queue_of(struct fs_slow *slow, const struct fs_call *call)
{
    return &slow->queues[fs_call_slot(call) % QUEUES];
}

static void make_ready_locked(struct fs_slow *slow, struct queue *queue)
{
    queue->is_ready = true;
    queue->next_ready = NULL;
    *slow->ready_tail = queue;
    slow->ready_tail = &queue->next_ready;
}

static struct job *pop_locked(struct fs_slow *slow)
{
    struct queue *queue = slow->ready_head;
    if (!queue)
        return NULL;
    slow->ready_head = queue->next_ready;
    if (!slow->ready_head)
        slow->ready_tail = &slow->ready_head;
    queue->is_ready = false;
    struct job *job = queue->head;
    queue->head = job->next;
    if (!queue->head)
        queue->tail = &queue->head;
    else
        make_ready_locked(slow, queue);
    slow->queued--;
    return job;
}

static bool has_room_locked(const struct fs_slow *slow, const struct queue *queue, size_t bytes)
{
    return !slow->closed && slow->unanswered < JOBS_MAX && queue->jobs < JOBS_MAX / PER_VIEW &&
           slow->bytes + bytes <= BYTES_MAX && queue->bytes + bytes <= BYTES_MAX / PER_VIEW;
}

// ---- jobs --------------------------------------------------------------------------------

static struct job *job_new(struct fs_slow *slow, const struct fs_call *call, fs_run_fn run)
{
    size_t bytes = fs_call_copy_bytes(call);
    struct job *job = malloc(sizeof *job + bytes);
    if (!job)
        return NULL;
    job->next = NULL;
    job->slow = slow;
    job->run = run;
    job->bytes = bytes;
    fs_call_copy(call, &job->call, &job->attr, job->storage);
    job->call.ctx.may_block = slow->may_block;
    return job;
}

// Its call has been answered, or will be by others.
static void job_free(struct job *job)
{
    struct fs_slow *slow = job->slow;
    pthread_mutex_lock(&slow->lock);
    job->queue->jobs--;
    job->queue->bytes -= job->bytes;
    slow->bytes -= job->bytes;
    if (--slow->unanswered == 0)
        pthread_cond_broadcast(&slow->idle);
    pthread_mutex_unlock(&slow->lock);
    free(job);
}

static void job_finish(struct job *job)
{
    fs_call_send(&job->call, job->rc);
    job_free(job);
}

static void answer_on_io_thread(void *arg, ssize_t result)
{
    (void)result;
    job_finish(arg);
}

static void answer(struct job *job)
{
    char *payload;
    size_t size;
    if (!fs_call_payload(&job->call, &payload, &size)) {
        job_finish(job);
        return;
    }
    fs_call_detach(&job->call);
    while (af_io_post(job->call.session->io, answer_on_io_thread, job) != 0)
        sched_yield(); // its queue is full for a moment
}

static void job_run(struct job *job)
{
    job->rc = job->run(&job->call);
    if (job->rc == MUX_SLOW && !job->slow->may_block) {
        job->rc = fs_slow_push(job->call.session->slow, &job->call, job->run);
        if (job->rc == 0) {
            job_free(job);
            return;
        }
    }
    if (job->rc == FS_PENDING) {
        job_free(job);
        return;
    }
    if (job->rc == MUX_SLOW) {
        af_log(AF_LOG_ERROR, "fs", "mux is slow although it may block", "op=%s",
               fs_op_name(job->call.op));
        job->rc = -EIO;
    }
    answer(job);
}

static void *slow_thread(void *arg)
{
    struct fs_slow *slow = arg;
    pthread_setname_np(pthread_self(), "af-fs-slow");
    pthread_mutex_lock(&slow->lock);
    for (;;) {
        struct job *job = pop_locked(slow);
        if (job) {
            pthread_mutex_unlock(&slow->lock);
            job_run(job);
            pthread_mutex_lock(&slow->lock);
        } else if (slow->stopping) {
            break;
        } else {
            pthread_cond_wait(&slow->work, &slow->lock);
        }
    }
    pthread_mutex_unlock(&slow->lock);
    return NULL;
}

// ---- for the session ---------------------------------------------------------------------

int fs_slow_push(struct fs_slow *slow, const struct fs_call *call, fs_run_fn run)
{
    struct job *job = job_new(slow, call, run);
    if (!job)
        return -ENOMEM;
    pthread_mutex_lock(&slow->lock);
    struct queue *queue = queue_of(slow, call);
    bool room = has_room_locked(slow, queue, job->bytes);
    if (room) {
        job->queue = queue;
        *queue->tail = job;
        queue->tail = &job->next;
        queue->jobs++;
        queue->bytes += job->bytes;
        slow->bytes += job->bytes;
        slow->queued++;
        slow->unanswered++;
        if (!queue->is_ready)
            make_ready_locked(slow, queue);
        pthread_cond_signal(&slow->work);
    }
    pthread_mutex_unlock(&slow->lock);
    if (!slow->may_block)
        fs_count(slow->session, FS_COUNT_DEFERRED, room);
    else
        fs_count(slow->session, room ? FS_COUNT_SLOW : FS_COUNT_SLOW_REFUSED, 1);
    if (!room)
        free(job);
    return room ? 0 : -EAGAIN;
}

unsigned fs_slow_queued(struct fs_slow *slow)
{
    pthread_mutex_lock(&slow->lock);
    unsigned queued = slow->queued;
    pthread_mutex_unlock(&slow->lock);
    return queued;
}

void fs_slow_close(struct fs_slow *slow)
{
    pthread_mutex_lock(&slow->lock);
    slow->closed = true;
    while (slow->unanswered > 0)
        pthread_cond_wait(&slow->idle, &slow->lock);
    pthread_mutex_unlock(&slow->lock);
}

bool fs_slow_drain(struct fs_slow *slow, int64_t timeout_ns)
{
    struct timespec until = af_timespec_of_ns(af_monotonic_ns() + timeout_ns);
    int rc = 0;
    pthread_mutex_lock(&slow->lock);
    while (slow->unanswered > 0 && rc == 0)
        rc = pthread_cond_timedwait(&slow->idle, &slow->lock, &until);
    bool drained = slow->unanswered == 0;
    pthread_mutex_unlock(&slow->lock);
    return drained;
}

int fs_slow_new(struct fs_session *session, unsigned threads, bool may_block, struct fs_slow **ret)
{
    struct fs_slow *slow = calloc(1, sizeof *slow);
    if (!slow)
        return -ENOMEM;
    slow->session = session;
    slow->may_block = may_block;
    slow->ready_tail = &slow->ready_head;
    for (unsigned i = 0; i < QUEUES; i++)
        slow->queues[i].tail = &slow->queues[i].head;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&slow->lock, NULL);
    pthread_cond_init(&slow->work, NULL);
    pthread_cond_init(&slow->idle, &attr);
    pthread_condattr_destroy(&attr);
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    for (; slow->thread_count < threads; slow->thread_count++) {
        int rc = pthread_create(&slow->threads[slow->thread_count], NULL, slow_thread, slow);
        if (rc != 0) {
            fs_slow_free(slow);
            return -rc;
        }
    }
    *ret = slow;
    return 0;
}

void fs_slow_free(struct fs_slow *slow)
{
    if (!slow)
        return;
    pthread_mutex_lock(&slow->lock);
    slow->stopping = true;
    pthread_cond_broadcast(&slow->work);
    pthread_mutex_unlock(&slow->lock);
    for (unsigned i = 0; i < slow->thread_count; i++)
        pthread_join(slow->threads[i], NULL);
    fs_slow_close(slow); // answers handed to the io thread
    pthread_cond_destroy(&slow->idle);
    pthread_cond_destroy(&slow->work);
    pthread_mutex_destroy(&slow->lock);
    free(slow);
}
