// The engine: its event thread (epoll, timers, posts), start and end.
//
// Owns: the epoll set, the inbox, the timers, the graves, and the descriptors that boxes share.
// Locks: inbox_lock (rank 1), held for list operations only. Fails: exec_engine_new says what is
// missing; the running loop has no way to fail but a programming error (abort).
// Read next: engine_priv.h, setup.c (what exec_engine_new checks), box.c.
#include "exec/engine_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "exec/docker.h"
#include "exec/lane.h"
#include "exec/launcher.h"
#include "exec/setup.h"
#include "exec/stage.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#define BATCH 64

// ---- posts ---------------------------------------------------------------------

void exec_wake(struct exec_engine *e)
{
    const uint64_t one = 1;
    if (write(e->event_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        abort(); // an eventfd of our own cannot refuse
}

void exec_post(struct exec_engine *e, struct exec_post *post, void (*fn)(struct exec_post *))
{
    post->fn = fn;
    pthread_mutex_lock(&e->inbox_lock);
    bool first = !e->inbox_woken;
    e->inbox_woken = true;
    STAILQ_INSERT_TAIL(&e->inbox, post, link);
    pthread_mutex_unlock(&e->inbox_lock);
    if (first)
        exec_wake(e);
}

void exec_post_by(struct exec_engine *e, struct exec_post *post, void (*fn)(struct exec_post *),
                  int64_t at_ns)
{
    post->fn = fn;
    pthread_mutex_lock(&e->inbox_lock);
    STAILQ_INSERT_TAIL(&e->inbox, post, link);
    if (at_ns < e->alarm_ns) {
        const struct itimerspec at = {.it_value = af_timespec_of_ns(at_ns)};
        e->alarm_ns = at_ns;
        timerfd_settime(e->alarm.fd, TFD_TIMER_ABSTIME, &at, NULL); // of our own: cannot fail
    }
    pthread_mutex_unlock(&e->inbox_lock);
}

// Some post has to be seen now.
static void on_alarm(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_engine *e = EXEC_CONTAINER_OF(watch, struct exec_engine, alarm);
    uint64_t count;
    pthread_mutex_lock(&e->inbox_lock);
    if (read(watch->fd, &count, sizeof(count)) > 0)
        e->alarm_ns = INT64_MAX;
    pthread_mutex_unlock(&e->inbox_lock);
}

void exec_posts_run(struct exec_engine *e)
{
    struct exec_post_list list = STAILQ_HEAD_INITIALIZER(list);
    pthread_mutex_lock(&e->inbox_lock);
    STAILQ_CONCAT(&list, &e->inbox);
    e->inbox_woken = false;
    pthread_mutex_unlock(&e->inbox_lock);
    struct exec_post *post;
    while ((post = STAILQ_FIRST(&list))) {
        STAILQ_REMOVE_HEAD(&list, link);
        post->fn(post);
    }
}

// ---- watches and graves -----------------------------------------------------------------

int exec_watch_add(struct exec_engine *e, struct exec_watch *watch, int fd, uint32_t events,
                   void (*fn)(struct exec_watch *, uint32_t))
{
    watch->fd = fd;
    watch->fn = fn;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int exec_watch_change(struct exec_engine *e, struct exec_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(e->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) < 0 ? -errno : 0;
}

void exec_watch_close(struct exec_engine *e, struct exec_watch *watch)
{
    if (watch->fd < 0)
        return;
    // Explicitly: a descriptor that a child still shares would stay in the set after close.
    epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    close(watch->fd);
    watch->fd = -1;
}

void exec_engine_bury(struct exec_engine *e, struct exec_grave *grave,
                      void (*free_fn)(struct exec_grave *grave))
{
    grave->free_fn = free_fn;
    SLIST_INSERT_HEAD(&e->graves, grave, link);
}

static void graves_free(struct exec_engine *e)
{
    struct exec_grave *grave;
    while ((grave = SLIST_FIRST(&e->graves))) {
        SLIST_REMOVE_HEAD(&e->graves, link);
        grave->free_fn(grave);
    }
}

// ---- the loop ---------------------------------------------------------------------------

static void *event_main(void *arg)
{
    struct exec_engine *e = arg;
    pthread_setname_np(pthread_self(), "exec-event");
    struct epoll_event events[BATCH];
    while (!e->stopping || !LIST_EMPTY(&e->boxes)) {
        int wait_ms = exec_timers_wait_ms(&e->timers, af_monotonic_ns());
        int n = epoll_wait(e->epoll_fd, events, BATCH, wait_ms);
        if (n < 0 && errno != EINTR) {
            af_log(AF_LOG_ERROR, EXEC_AREA, "epoll_wait failed", "errno=%d", errno);
            abort();
        }
        exec_posts_run(e); // a command that epoll speaks of may be in one of them
        for (int i = 0; i < n; i++) {
            struct exec_watch *watch = events[i].data.ptr;
            uint64_t count;
            if (!watch) { // the eventfd
                if (read(e->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
                    abort();
            } else if (watch->fd >= 0) { // not closed earlier in this batch
                watch->fn(watch, events[i].events);
            }
        }
        exec_posts_run(e);
        exec_timers_run(&e->timers, af_monotonic_ns());
        graves_free(e);
    }
    return NULL;
}

static void on_end(struct exec_post *post)
{
    struct exec_engine *e = EXEC_CONTAINER_OF(post, struct exec_engine, end_post);
    e->stopping = true;
    struct exec_box *box, *next;
    for (box = LIST_FIRST(&e->boxes); box; box = next) {
        next = LIST_NEXT(box, link);
        exec_box_abandon(box);
    }
}

// ---- start and end ----------------------------------------------------------------------

static int loop_open(struct exec_engine *e, struct af_error *err)
{
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->alarm.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (e->epoll_fd < 0 || e->event_fd < 0 || e->alarm.fd < 0 ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->event_fd, &event) < 0 ||
        exec_watch_add(e, &e->alarm, e->alarm.fd, EPOLLIN, on_alarm) < 0)
        return af_error_errno(err, errno, "cannot set up the event loop for commands");
    return 0;
}

static void engine_destroy(struct exec_engine *e)
{
    const int fds[] = {e->epoll_fd, e->event_fd,      e->alarm.fd,      e->owner_fd, e->lock_fd,
                       e->init_fd,  e->filter_fds[0], e->filter_fds[1], e->null_fd};
    for (size_t i = 0; i < AF_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    exec_stages_free(e->stages);
    exec_cgroups_free(e->cgroups);
    exec_timers_fini(&e->timers);
    pthread_mutex_destroy(&e->inbox_lock);
    for (int i = 0; i < EXEC_LANES; i++)
        exec_lane_fini(&e->lanes[i]);
    free(e->run_dir);
    exec_docker_free(e->docker);
    free(e->bwrap_path);
    free(e->init_path);
    e->magic = 0;
    free(e);
}

static struct exec_engine *engine_alloc(void)
{
    struct exec_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->magic = EXEC_ENGINE_MAGIC;
    e->epoll_fd = e->event_fd = e->owner_fd = e->lock_fd = e->init_fd = e->null_fd = -1;
    e->filter_fds[0] = e->filter_fds[1] = e->alarm.fd = -1;
    e->alarm_ns = INT64_MAX;
    STAILQ_INIT(&e->inbox);
    SLIST_INIT(&e->graves);
    LIST_INIT(&e->boxes);
    pthread_mutex_init(&e->inbox_lock, NULL);
    for (int i = 0; i < EXEC_LANES; i++)
        exec_lane_init(&e->lanes[i]);
    return e;
}

int exec_thread_start(pthread_t *ret, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(ret, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

static void lanes_end(struct exec_engine *e)
{
    // The spawning one last: bubblewrap ends with the thread that started it (--die-with-parent).
    // The one of pulls before Docker's, to which it gives jobs back.
    for (int i = EXEC_LANES - 1; i >= 0; i--)
        exec_lane_end(&e->lanes[i]);
}

static int threads_start(struct exec_engine *e)
{
    int failed = exec_lane_start(&e->lanes[EXEC_LANE_SPAWN], "exec-spawn", NULL);
    if (!failed)
        failed = exec_lane_start(&e->lanes[EXEC_LANE_ATTACH], "exec-attach", exec_launch_thread);
    for (int i = 0; !failed && e->docker && i < EXEC_LANE_THREADS_MAX; i++)
        failed = exec_lane_start(&e->lanes[EXEC_LANE_DOCKER], "exec-docker", NULL);
    bool pulls = e->docker && e->options.docker.pull;
    for (int i = 0; !failed && pulls && i < EXEC_LANE_THREADS_MAX; i++)
        failed = exec_lane_start(&e->lanes[EXEC_LANE_PULL], "exec-pull", NULL);
    if (!failed)
        failed = exec_thread_start(&e->event_thread, event_main, e);
    if (failed)
        lanes_end(e);
    return failed;
}

int exec_engine_new(const struct exec_options *options, struct exec_engine **ret_engine,
                    struct af_error *err)
{
    struct exec_engine *e = engine_alloc();
    if (!e)
        return af_error_errno(err, ENOMEM, "cannot start the engine for commands");
    if (exec_setup(e, options, err) < 0 || loop_open(e, err) < 0) {
        engine_destroy(e);
        return -1;
    }
    int failed = threads_start(e);
    if (failed) {
        engine_destroy(e);
        return af_error_errno(err, failed, "cannot start the threads for commands");
    }
    if (exec_setup_trial(e, err) < 0) {
        exec_engine_free(e);
        return -1;
    }
    *ret_engine = e;
    return 0;
}

void exec_engine_close(struct exec_engine *e)
{
    AF_CHECK_MAGIC(e, EXEC_ENGINE_MAGIC);
    atomic_store(&e->ending, true);
}

void exec_engine_free(struct exec_engine *e)
{
    if (!e)
        return;
    AF_CHECK_MAGIC(e, EXEC_ENGINE_MAGIC);
    atomic_store(&e->ending, true);
    exec_post(e, &e->end_post, on_end);
    pthread_join(e->event_thread, NULL);
    lanes_end(e);
    engine_destroy(e);
}

const struct exec_features *exec_engine_features(const struct exec_engine *e)
{
    AF_CHECK_MAGIC(e, EXEC_ENGINE_MAGIC);
    return &e->features;
}
