// What is held back goes again: one thread that waits for the next call's time.
//
// It leaves a call to the turns pool, so that views which are let go come in turn with the others,
// and an answer that was held to the io loop's thread (slow.c says why). While anything is held it
// also looks whether who waits has been killed: the kernel lets a process go only once its request
// is answered. An INTERRUPT says that there is reason to look; it does not say whose (over io_uring
// libfuse tells no number), and a process that had another signal before sends none when it is
// killed, so the longest waiting are looked at every now and then as well. And it tells the kernel
// to let more READs be under way than are held.
//
// Owns the calls that go. The lock of limit.c, not held while a call is sent or a process looked
// at. Fails: a pool that is full for a moment is asked again. Read next: limit.c.
#include "fs/limit_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SEND_MAX     64 // calls that go in one round
#define RETRY_NS     (AF_NS_PER_SEC / 1000)
#define LOOK_NS      (AF_NS_PER_SEC / 10)  // from one look at those who wait to the next
#define LOOK_SOON_NS (AF_NS_PER_SEC / 100) // the same when one of them got a signal
#define LOOK_MAX     256                   // of them in one look
#define STATUS_BYTES 4096

// ---- sending -----------------------------------------------------------------------------

static void count(const struct fs_held *held)
{
    uint64_t held_ns = held->call.held_ns > 0 ? (uint64_t)held->call.held_ns : 0;
    fs_count(held->call.session, FS_COUNT_HELD, 1);
    fs_count(held->call.session, FS_COUNT_HELD_NS, held_ns);
    fs_count_view_held(&held->call, held_ns);
}

static void answer_on_io_thread(void *arg, ssize_t result)
{
    struct fs_held *held = arg;
    (void)result;
    fs_call_send(&held->call, held->rc);
    free(held);
}

static void answer(struct fs_held *held)
{
    char *payload;
    size_t size;
    if (!fs_call_payload(&held->call, &payload, &size)) {
        answer_on_io_thread(held, 0);
        return;
    }
    while (af_io_post(held->call.session->io, answer_on_io_thread, held) != 0)
        sched_yield(); // its queue is full for a moment
}

// False: not now.
static bool send_one(struct fs_limits *limits, struct fs_held *held)
{
    held->call.held_ns = af_monotonic_ns() - held->since_ns;
    if (!held->run) {
        count(held);
        answer(held);
        return true;
    }
    if (fs_slow_push(limits->session->turns, &held->call, held->run) != 0)
        return false;
    count(held);
    free(held);
    return true;
}

// Drops the lock meanwhile. False: some are left for later.
static bool send_all(struct fs_limits *limits)
{
    struct fs_held_list list;
    struct fs_held *held;
    bool sent = true;
    TAILQ_INIT(&list);
    TAILQ_CONCAT(&list, &limits->going, link);
    pthread_mutex_unlock(&limits->lock);
    while (sent && (held = TAILQ_FIRST(&list))) {
        TAILQ_REMOVE(&list, held, link);
        sent = send_one(limits, held);
        if (!sent)
            TAILQ_INSERT_HEAD(&list, held, link);
    }
    pthread_mutex_lock(&limits->lock);
    TAILQ_CONCAT(&list, &limits->going, link); // what is left was there first
    TAILQ_CONCAT(&limits->going, &list, link);
    return sent;
}

// ---- who has been killed -----------------------------------------------------------------

bool fs_thread_is_killed(pid_t tid)
{
    char path[32], text[STATUS_BYTES];
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ESRCH; // it has gone: a READ that it began is nobody's
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n < 0)
        return errno == ESRCH;
    text[n] = '\0';
    static const char *const sets[] = {"\nSigPnd:", "\nShdPnd:"};
    for (size_t i = 0; i < AF_ARRAY_LEN(sets); i++) {
        const char *line = strstr(text, sets[i]);
        if (line && strtoull(line + strlen(sets[i]), NULL, 16) & (1ULL << (SIGKILL - 1)))
            return true;
    }
    return false;
}

// Nobody else frees what is held.
void fs_limits_look(struct fs_limits *limits, int64_t now_ns)
{
    struct fs_held *some[LOOK_MAX], *held;
    unsigned n = 0;
    limits->interrupted = limits->interrupted && limits->held > LOOK_MAX;
    limits->looked_ns = now_ns;
    TAILQ_FOREACH(held, &limits->all, all)
    {
        if (n == LOOK_MAX)
            break;
        some[n++] = held;
    }
    for (unsigned i = 0; i < n; i++) {
        held = some[i];
        TAILQ_REMOVE(&limits->all, held, all);
        TAILQ_INSERT_TAIL(&limits->all, held, all);
    }
    pthread_mutex_unlock(&limits->lock);
    bool killed[LOOK_MAX];
    for (unsigned i = 0; i < n; i++)
        killed[i] = some[i]->call.ctx.pid > 0 && fs_thread_is_killed(some[i]->call.ctx.pid);
    pthread_mutex_lock(&limits->lock);
    for (unsigned i = 0; i < n; i++) {
        held = some[i];
        if (!killed[i] || !held->view) // NULL: it goes already
            continue;
        if (held->run) {
            held->run = NULL;
            held->rc = -EINTR;
            held->call.limited = false;
        }
        fs_limits_let_go(limits, held);
    }
}

void fs_limit_interrupted(struct fs_session *session)
{
    struct fs_limits *limits = session->limits;
    if (!limits || atomic_load(&limits->count) == 0)
        return;
    pthread_mutex_lock(&limits->lock);
    limits->interrupted = true;
    pthread_cond_signal(&limits->changed);
    pthread_mutex_unlock(&limits->lock);
}

// ---- the kernel's room for READs ---------------------------------------------------------

// READs are under way in the background, so many of all views together. Those held must not be
// the reason why others wait.
static unsigned background_wanted(const struct fs_limits *limits)
{
    unsigned wanted = limits->background;
    if (atomic_load(&limits->count) == 0)
        return FS_BACKGROUND;
    if (wanted < FS_BACKGROUND_STEP)
        return FS_BACKGROUND_STEP;
    if (2 * limits->reads_held > wanted && wanted < FS_BACKGROUND_MOST)
        return 2 * wanted;
    if (8 * limits->reads_held < wanted && wanted > FS_BACKGROUND_STEP)
        return wanted / 2;
    return wanted;
}

// Drops the lock meanwhile.
static void set_background(struct fs_limits *limits, unsigned wanted)
{
    struct fs_session *session = limits->session;
    pthread_mutex_unlock(&limits->lock);
    int rc = session->mounted ? fs_mount_set_background(session->minor, wanted) : 0;
    if (rc != 0)
        af_log(AF_LOG_WARN, "fs",
               "the kernel's room for reads under way stays as it is: limits of many readers at "
               "one time will not hold",
               "wanted=%u error=%d", wanted, -rc);
    pthread_mutex_lock(&limits->lock);
    if (rc == 0)
        limits->background = wanted;
    limits->background_fails = rc != 0;
}

// ---- the thread --------------------------------------------------------------------------

static int64_t look_due_ns(const struct fs_limits *limits)
{
    return limits->looked_ns + (limits->interrupted ? LOOK_SOON_NS : LOOK_NS);
}

static int64_t next_ns(const struct fs_limits *limits, bool is_late)
{
    int64_t next = is_late ? af_monotonic_ns() + RETRY_NS : fs_limits_due_ns(limits);
    return limits->held > 0 && look_due_ns(limits) < next ? look_due_ns(limits) : next;
}

static void wait_until(struct fs_limits *limits, int64_t next)
{
    if (next == INT64_MAX) {
        pthread_cond_wait(&limits->changed, &limits->lock);
        return;
    }
    struct timespec due = af_timespec_of_ns(next);
    pthread_cond_clockwait(&limits->changed, &limits->lock, CLOCK_MONOTONIC, &due);
}

static void *held_thread(void *arg)
{
    struct fs_limits *limits = arg;
    pthread_setname_np(pthread_self(), "af-fs-held");
    pthread_mutex_lock(&limits->lock);
    while (!limits->closed || !TAILQ_EMPTY(&limits->going)) {
        bool is_late = false;
        int64_t now_ns = af_monotonic_ns();
        fs_limits_collect(limits, now_ns, SEND_MAX);
        if (!TAILQ_EMPTY(&limits->going))
            is_late = !send_all(limits);
        unsigned wanted = background_wanted(limits);
        if (wanted != limits->background && !limits->background_fails)
            set_background(limits, wanted);
        if (limits->held == 0)
            limits->interrupted = false;
        else if (now_ns >= look_due_ns(limits))
            fs_limits_look(limits, now_ns);
        if (is_late || TAILQ_EMPTY(&limits->going))
            wait_until(limits, next_ns(limits, is_late));
    }
    pthread_mutex_unlock(&limits->lock);
    return NULL;
}

int fs_limits_start(struct fs_session *session)
{
    struct fs_limits *limits = session->limits;
    int rc = pthread_create(&limits->thread, NULL, held_thread, limits);
    limits->has_thread = rc == 0;
    return -rc;
}

void fs_limits_close(struct fs_session *session)
{
    struct fs_limits *limits = session->limits;
    struct fs_held *held;
    if (!limits)
        return;
    pthread_mutex_lock(&limits->lock);
    limits->closed = true;
    while ((held = TAILQ_FIRST(&limits->all)))
        fs_limits_let_go(limits, held);
    pthread_cond_signal(&limits->changed);
    pthread_mutex_unlock(&limits->lock);
    if (limits->has_thread)
        pthread_join(limits->thread, NULL);
    limits->has_thread = false;
}
