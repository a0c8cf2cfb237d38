// Threads for imports, in turns. Read next: archive_turns.h.
//
// Each call has a thread of its own, for one that reads a directory takes on its caller's rights. A
// thread that ends starts the one of the next call that waits.
#include "api/services/archive_turns.h"

#include "api/net/grpc.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct archives {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned threads;
    TAILQ_HEAD(, archive_turn) queue; // holds a reference to each call
    atomic_uint waiting;              // in the queue
};

// What a thread begins with.
struct start {
    struct archives *archives;
    struct archive_turn *turn;
};

int archives_new(struct archives **ret, struct af_error *err)
{
    struct archives *archives = calloc(1, sizeof *archives);
    if (!archives)
        return af_error_errno(err, ENOMEM, "cannot prepare the archive service");
    pthread_mutex_init(&archives->lock, NULL);
    pthread_cond_init(&archives->ended, NULL);
    TAILQ_INIT(&archives->queue);
    *ret = archives;
    return 0;
}

void archives_free(struct archives *archives)
{
    if (!archives)
        return;
    pthread_mutex_lock(&archives->lock);
    while (archives->threads > 0)
        pthread_cond_wait(&archives->ended, &archives->lock);
    pthread_mutex_unlock(&archives->lock);
    pthread_cond_destroy(&archives->ended);
    pthread_mutex_destroy(&archives->lock);
    free(archives);
}

const atomic_uint *archives_waiting(const struct archives *archives)
{
    return &archives->waiting;
}

static void leave_queue(struct archives *archives, struct archive_turn *turn)
{
    TAILQ_REMOVE(&archives->queue, turn, link);
    turn->waits = false;
    atomic_fetch_sub(&archives->waiting, 1);
}

static void *run(void *arg);

// The lock is held. Counts the thread.
static int start_thread(struct archives *archives, struct archive_turn *turn)
{
    sigset_t all, before;
    pthread_t thread;
    struct start *start = malloc(sizeof *start);
    if (!start)
        return ENOMEM;
    *start = (struct start){.archives = archives, .turn = turn};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, run, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_detach(thread);
    else
        free(start);
    archives->threads += error == 0;
    return error;
}

static int no_thread(struct af_error *err, int error)
{
    return af_error_errno(err, error, "cannot start a thread for the import");
}

// Starts the thread of whoever is next. NULL: it runs, or nobody waits, and the present thread
// counts no more; else the call that it could not be started for.
static struct grpc_call *start_next(struct archives *archives, int *ret_error)
{
    struct grpc_call *failed = NULL;
    pthread_mutex_lock(&archives->lock);
    struct archive_turn *turn = TAILQ_FIRST(&archives->queue);
    if (turn) {
        leave_queue(archives, turn);
        *ret_error = start_thread(archives, turn);
        failed = *ret_error == 0 ? NULL : turn->call;
    }
    if (!failed) {
        archives->threads--;
        pthread_cond_signal(&archives->ended);
    }
    pthread_mutex_unlock(&archives->lock);
    return failed;
}

// The thread's last act: whoever waits has its turn.
static void end_thread(struct archives *archives)
{
    struct grpc_call *failed;
    struct af_error err;
    int error;
    while ((failed = start_next(archives, &error))) {
        no_thread(&err, error);
        grpc_call_finish_error(failed, &err);
        grpc_call_unref(failed);
    }
}

static void *run(void *arg)
{
    struct start *start = arg;
    struct archives *archives = start->archives;
    struct archive_turn *turn = start->turn;
    struct grpc_call *call = turn->call;
    free(start);
    pthread_setname_np(pthread_self(), "import");
    turn->work(call);
    grpc_call_unref(call); // the turn goes with it
    end_thread(archives);
    return NULL;
}

int archive_turn_begin(struct archives *archives, struct archive_turn *turn, struct grpc_call *call,
                       void (*work)(struct grpc_call *call), struct af_error *err)
{
    int error = 0;
    turn->call = grpc_call_ref(call);
    turn->work = work;
    pthread_mutex_lock(&archives->lock);
    turn->waits = archives->threads >= AF_ARCHIVE_THREADS_MAX;
    bool waits = turn->waits;
    if (waits) {
        TAILQ_INSERT_TAIL(&archives->queue, turn, link);
        atomic_fetch_add(&archives->waiting, 1);
    } else {
        error = start_thread(archives, turn);
    }
    pthread_mutex_unlock(&archives->lock);
    if (error == 0)
        return waits ? 1 : 0;
    grpc_call_unref(call);
    return no_thread(err, error);
}

void archive_turn_leave(struct archives *archives, struct archive_turn *turn)
{
    pthread_mutex_lock(&archives->lock);
    bool waited = turn->waits;
    if (waited)
        leave_queue(archives, turn);
    pthread_mutex_unlock(&archives->lock);
    if (waited)
        grpc_call_unref(turn->call);
}
