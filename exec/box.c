// Life of a box: launch, greeting, attach, up, end.
//
// Everything but the public functions runs on the event thread. A box ends in one way, whatever
// the reason: exec_box_kill, then the ends of its processes are awaited (pidfds), then box_gone
// tells commands and owner. When the init's pidfd says that it has ended, the kernel has ended
// and reaped every process of its pid namespace before it.
// What the init says is hostile: one packet is one message of a known kind, size and id.
// Owns: the box, its socket and pidfds. Locks: none. Fails: by ending the box with a reason.
// Read next: box_spec.c (how it is made), launcher.c, command.c.
#include "exec/engine_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/backend.h"
#include "exec/launcher.h"
#include "exec/send.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/base/log.h"
#include "mux/base/text.h"

#define END_CHECK_NS AF_NS_PER_SEC // how often an end that takes long is pushed

static void on_end_timer(struct exec_timer *timer);
static void box_check_gone(struct exec_box *box);

// ---- memory -----------------------------------------------------------------------------

static void box_exhume(struct exec_grave *grave)
{
    exec_box_free(EXEC_CONTAINER_OF(grave, struct exec_box, grave));
}

// Frees the box at the end of the batch; its owner is done with it.
static void box_bury(struct exec_box *box)
{
    exec_timer_clear(&box->engine->timers, &box->timer);
    if (box->timer_reserved)
        exec_timers_release(&box->engine->timers);
    LIST_REMOVE(box, link);
    exec_engine_bury(box->engine, &box->grave, box_exhume);
}

// ---- end --------------------------------------------------------------------------------

static void box_stopped(struct exec_box *box)
{
    if (box->stopped)
        box->stopped(box->stopped_arg);
    box_bury(box);
}

static void box_gone(struct exec_box *box)
{
    struct exec_command *command;
    while ((command = LIST_FIRST(&box->commands)))
        exec_command_box_gone(command, &box->why);
    af_cleanup_fd(&box->launch.words_fd);
    box->launch.words_fd = -1;
    af_cleanup_fd(&box->launch.pts_fd);
    box->launch.pts_fd = -1;
    exec_timer_clear(&box->engine->timers, &box->timer);
    box->state = BOX_GONE;
    exec_box_done done = box->done;
    box->done = NULL;
    if (done)
        done(box->arg, &box->why);
    else if (box->died && !box->stop_asked)
        box->died(box->arg, &box->why);
    // When the owner has called exec_box_stop, its post is the last to see the box.
    if (box->stop_asked && (box->stop_arrived || !atomic_load(&box->stop_posted)))
        box_stopped(box);
}

static void on_removed(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, launch.done);
    box->launch.running = false;
    box_check_gone(box);
}

static void box_remove(struct exec_box *box)
{
    box->removed = true;
    exec_launch_remove(box, on_removed);
}

static void box_check_gone(struct exec_box *box)
{
    if (box->state != BOX_ENDING || box->launch.running || box->bwrap_exit.fd >= 0 ||
        box->init_exit.fd >= 0)
        return;
    if (!box->removed && (box->launch.cgroup || box->backend->remove))
        box_remove(box);
    else
        box_gone(box);
}

// The processes that bwrap has started, before the init has said who it is.
static bool kill_children_of(pid_t pid)
{
    char path[64], line[32] = "";
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
        return false;
    // bwrap, our unreaped child, has exactly one; if it ends meanwhile, so does bwrap.
    return kill((pid_t)atol(line), SIGKILL) == 0;
}

// Kills what is known of the box. Before the HELLO only bwrap is: it is left to come to the
// init, which sees that its socket is closed. Killing bwrap between its clone and its child's
// first steps would leave that child waiting for ever, so that is the last resort.
static void box_push_end(struct exec_box *box, bool last_resort)
{
    if (box->init_exit.fd >= 0)
        pidfd_send_signal(box->init_exit.fd, SIGKILL, NULL, 0);
    else if (box->bwrap_exit.fd >= 0 && last_resort && !kill_children_of(box->launch.bwrap_pid))
        pidfd_send_signal(box->bwrap_exit.fd, SIGKILL, NULL, 0);
}

// A signal does not end a process that a control group (v1) keeps frozen, as `docker pause` does:
// there the backend, which knows how to thaw it, is not left for the end.
static void on_end_timer(struct exec_timer *timer)
{
    struct exec_box *box = EXEC_CONTAINER_OF(timer, struct exec_box, timer);
    af_log(AF_LOG_WARN, EXEC_AREA, "a sandbox's processes take long to end", "sandbox=%s", box->id);
    box_push_end(box, true);
    if (box->backend->remove && !box->removed && !box->launch.running)
        box_remove(box);
    exec_timer_set(&box->engine->timers, &box->timer, af_monotonic_ns() + END_CHECK_NS,
                   on_end_timer);
}

void exec_box_kill(struct exec_box *box, const struct af_error *why)
{
    if (box->state >= BOX_ENDING)
        return;
    box->state = BOX_ENDING;
    atomic_store(&box->ending, true);
    atomic_store(&box->open, false);
    atomic_store(&box->init_up, 0);
    box->why = *why;
    exec_send_close(box);
    exec_watch_close(box->engine, &box->socket);
    box_push_end(box, false);
    exec_timer_set(&box->engine->timers, &box->timer, af_monotonic_ns() + END_CHECK_NS,
                   on_end_timer);
    box_check_gone(box);
}

static void box_kill_text(struct exec_box *box, enum af_status status, const char *text)
{
    struct af_error why;
    af_error_set(&why, status, "%s", text);
    exec_box_kill(box, &why);
}

// What bwrap (or the init) wrote on stderr, as the reason of a start that failed.
static void box_kill_words(struct exec_box *box)
{
    char words[256];
    ssize_t n = pread(box->launch.words_fd, words, sizeof(words) - 1, 0);
    words[n > 0 ? n : 0] = '\0';
    words[strcspn(words, "\n")] = '\0';
    struct af_error why;
    if (words[0])
        af_error_set(&why, AF_FAILED_PRECONDITION, "the sandbox could not be started: %s", words);
    else
        af_error_set(&why, AF_UNAVAILABLE, "the sandbox's init ended at its start");
    exec_box_kill(box, &why);
}

// Its process 1 has ended, which is seen by its end, by its parent's, or by its socket.
static void box_kill_ended(struct exec_box *box)
{
    const struct exec_memory_events none = {0};
    // Before it is up the launch is its thread's.
    if (box->state == BOX_UP && exec_cgroup_ran_out(box->launch.cgroup, &none, true))
        box_kill_text(box, AF_RESOURCE_EXHAUSTED,
                      "the sandbox reached its memory limit and was ended: start it again");
    else
        box_kill_text(box, AF_UNAVAILABLE, "the sandbox's init ended: start the sandbox again");
}

static void on_init_exit(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_box *box = EXEC_CONTAINER_OF(watch, struct exec_box, init_exit);
    exec_watch_close(box->engine, watch);
    box_kill_ended(box);
    box_check_gone(box);
}

static void on_bwrap_exit(struct exec_watch *watch, uint32_t events)
{
    (void)events;
    struct exec_box *box = EXEC_CONTAINER_OF(watch, struct exec_box, bwrap_exit);
    while (waitpid(box->launch.bwrap_pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    exec_watch_close(box->engine, watch);
    if (box->state == BOX_GREETING)
        box_kill_words(box);
    else
        box_kill_ended(box);
    box_check_gone(box);
}

// ---- messages from the init -------------------------------------------------------------

static void box_breach(struct exec_box *box, const char *what)
{
    af_log(AF_LOG_WARN, EXEC_AREA, "an init broke the protocol", "sandbox=%s what=\"%s\"", box->id,
           what);
    box_kill_text(box, AF_INTERNAL, "the sandbox's init broke its protocol and was ended");
}

static void on_idle_timer(struct exec_timer *timer)
{
    struct exec_box *box = EXEC_CONTAINER_OF(timer, struct exec_box, timer);
    int64_t now_ns = af_monotonic_ns(), left_ns = box->idle_ns;
    bool busy = exec_box_busy(box);
    if (!busy)
        left_ns -= now_ns - box->used_ns;
    // Set before the callback, which may stop the box.
    exec_timer_set(&box->engine->timers, &box->timer,
                   now_ns + (left_ns > 0 ? left_ns : box->idle_ns), on_idle_timer);
    if (!busy && left_ns <= 0)
        box->idle(box->arg);
}

static void on_attached(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, launch.done);
    box->launch.running = false;
    af_cleanup_fd(&box->launch.init_pidfd);
    if (box->state != BOX_ATTACHING) {
        box_check_gone(box);
        return;
    }
    if (box->launch.failed) {
        exec_box_kill(box, &box->launch.error);
        return;
    }
    exec_timer_clear(&box->engine->timers, &box->timer);
    af_cleanup_fd(&box->launch.words_fd);
    box->launch.words_fd = -1;
    box->checked = true;
    box->state = BOX_UP;
    atomic_store(&box->init_up, box->launch.init_pid);
    atomic_store(&box->known, true);
    atomic_store(&box->open, true);
    exec_box_done done = box->done;
    box->done = NULL;
    box->used_ns = af_monotonic_ns();
    if (box->idle)
        exec_timer_set(&box->engine->timers, &box->timer, box->used_ns + box->idle_ns,
                       on_idle_timer);
    done(box->arg, NULL);
    exec_command_box_up(box);
    if (box->state == BOX_UP && (!box->pool || box->adopted))
        exec_send_open(box);
}

static void on_hello(struct exec_box *box, const struct exec_msg_hello *hello, pid_t sender)
{
    pid_t known = box->launch.init_pid; // to a backend that has found it by itself
    if (hello->version != EXEC_PROTO_VERSION || hello->shell > EXEC_SHELL_BASH || sender <= 0 ||
        (known && sender != known)) {
        box_breach(box, "HELLO");
        return;
    }
    int pidfd = pidfd_open(sender, 0);
    int e = pidfd < 0 ? -errno
                      : exec_watch_add(box->engine, &box->init_exit, pidfd, EPOLLIN, on_init_exit);
    if (e < 0) {
        struct af_error why;
        af_error_errno(&why, e, "cannot watch the init of %s", box->id);
        exec_box_kill(box, &why);
        return;
    }
    // A descriptor of the launcher's own: ours is closed when the init ends.
    box->launch.init_pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    box->launch.init_pid = sender;
    if (!atomic_load(&box->known)) // else other threads make commands by what was looked up
        box->shell = hello->shell;
    box->state = BOX_ATTACHING;
    exec_launch_attach(box, on_attached);
}

// Takes one message. Returns the number of bytes (0: the socket is closed) or -errno; *ret_sender
// is the pid that the kernel names. There is no room for descriptors: the kernel drops them.
static ssize_t receive(struct exec_box *box, struct exec_msg_hello *message, pid_t *ret_sender)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec iov = {message, sizeof(*message)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(box->socket.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    *ret_sender = 0;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS &&
        c->cmsg_len == CMSG_LEN(sizeof(struct ucred)))
        *ret_sender = ((const struct ucred *)CMSG_DATA(c))->pid;
    return msg.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}

static void on_message(struct exec_box *box, const struct exec_msg_hello *message, ssize_t size,
                       pid_t sender)
{
    const struct exec_msg_head *head = &message->head;
    if (box->state == BOX_GREETING && size == (ssize_t)sizeof(*message) &&
        head->kind == EXEC_MSG_HELLO)
        on_hello(box, message, sender);
    else if (box->state == BOX_UP && size == (ssize_t)sizeof(*head) &&
             head->kind == EXEC_MSG_ENDED && exec_send_knows(box, head->id))
        exec_command_on_ended(box, head->id);
    else
        box_breach(box, "unexpected message");
}

static void on_socket(struct exec_watch *watch, uint32_t events)
{
    struct exec_box *box = EXEC_CONTAINER_OF(watch, struct exec_box, socket);
    if (events & EPOLLOUT)
        exec_box_flush(box);
    // A bounded number at a time: a hostile init must not keep the thread.
    for (int i = 0; i < 32 && watch->fd >= 0; i++) {
        struct exec_msg_hello message;
        pid_t sender = 0;
        ssize_t n = receive(box, &message, &sender);
        if (n == -EAGAIN || n == -EINTR)
            return;
        if (n > 0) {
            on_message(box, &message, n, sender);
        } else if (n == 0 || n == -ECONNRESET) {
            exec_send_close(box);
            exec_watch_close(box->engine, watch);
            // While greeting bwrap's own words say more: its end follows.
            if (box->state != BOX_GREETING)
                box_kill_ended(box);
        } else {
            box_breach(box, "message too long");
        }
    }
}

void exec_box_flush(struct exec_box *box)
{
    struct exec_command *command;
    int e = 0;
    while (box->state == BOX_UP && (command = STAILQ_FIRST(&box->unsent))) {
        e = exec_command_send(command, box->socket.fd);
        if (e < 0)
            break;
        if (e > 0)
            continue; // it has ended, and is no longer in the list
        STAILQ_REMOVE_HEAD(&box->unsent, unsent_link);
        command->unsent = false;
    }
    if (box->state != BOX_UP || box->socket.fd < 0)
        return;
    bool wait = e == -EAGAIN;
    if (e < 0 && !wait)
        box_kill_ended(box);
    else if (wait != box->waits_to_send &&
             exec_watch_change(box->engine, &box->socket, wait ? EPOLLIN | EPOLLOUT : EPOLLIN) == 0)
        box->waits_to_send = wait;
}

// ---- start ------------------------------------------------------------------------------

static void on_launched(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, launch.done);
    struct exec_launch *launch = &box->launch;
    struct exec_engine *e = box->engine;
    launch->running = false;
    if (launch->failed) {
        exec_box_kill(box, &launch->error);
        box_check_gone(box); // for one that was ending already
        return;
    }
    // Its end has to be seen in any case; without memory for that the machine is lost.
    if (launch->bwrap_pidfd >= 0 &&
        exec_watch_add(e, &box->bwrap_exit, launch->bwrap_pidfd, EPOLLIN, on_bwrap_exit) < 0)
        abort();
    if (box->state != BOX_LAUNCHING) { // stopped meanwhile
        af_cleanup_fd(&launch->socket_fd);
        box_check_gone(box);
        return;
    }
    box->state = BOX_GREETING;
    int failed = exec_watch_add(e, &box->socket, launch->socket_fd, EPOLLIN, on_socket);
    if (failed < 0) {
        struct af_error why;
        af_error_errno(&why, failed, "cannot listen to the init of %s", box->id);
        exec_box_kill(box, &why);
    }
}

static void on_start_timer(struct exec_timer *timer)
{
    struct exec_box *box = EXEC_CONTAINER_OF(timer, struct exec_box, timer);
    bool may_pull = box->state == BOX_LAUNCHING && box->image && box->engine->options.docker.pull;
    box_kill_text(box, AF_DEADLINE_EXCEEDED,
                  may_pull ? "the sandbox did not start in time; its image may still be being "
                             "pulled: start it again later"
                           : "the sandbox did not start in time");
}

static void on_start(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, start_post);
    struct exec_engine *e = box->engine;
    LIST_INSERT_HEAD(&e->boxes, box, link);
    box->timer_reserved = exec_timers_reserve(&e->timers) == 0;
    if (!box->timer_reserved) {
        af_error_errno(&box->why, ENOMEM, "cannot start sandbox %s", box->id);
        atomic_store(&box->ending, true);
        box_gone(box);
        return;
    }
    exec_timer_set(&e->timers, &box->timer, af_monotonic_ns() + e->options.start_timeout_ns,
                   on_start_timer);
    exec_launch_start(box, on_launched);
}

void exec_box_launch(struct exec_box *box)
{
    exec_post(box->engine, &box->start_post, on_start);
}

int exec_box_start(struct exec_engine *e, const struct exec_box_spec *spec, exec_box_done done,
                   exec_box_died died, void *arg, struct exec_box **ret_box, struct af_error *err)
{
    AF_CHECK_MAGIC(e, EXEC_ENGINE_MAGIC);
    if (exec_box_check_spec(spec, err) < 0 ||
        exec_engine_check_resources(e, &spec->resources, err) < 0)
        return -1;
    if (atomic_load(&e->ending))
        return af_error_set(err, AF_UNAVAILABLE, "the daemon is stopping");
    struct exec_box *box = exec_box_new(e, spec);
    if (!box)
        return af_error_errno(err, ENOMEM, "cannot start sandbox %s", spec->id);
    box->done = done;
    box->died = died;
    box->arg = arg;
    *ret_box = box;
    exec_box_launch(box);
    return 0;
}

// ---- adoption ---------------------------------------------------------------------------

static void on_adopt(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, adoption.post);
    struct exec_adoption *adoption = &box->adoption;
    snprintf(box->id, sizeof(box->id), "%s", adoption->id);
    box->view_path = AF_TAKE_PTR(adoption->view_path);
    box->resources = adoption->resources;
    box->done = adoption->done;
    box->died = adoption->died;
    box->idle = adoption->idle;
    box->idle_ns = adoption->idle_ns;
    box->arg = adoption->arg;
    box->adopted = true;
    if (box->state == BOX_GONE) { // meanwhile; the pool has looked away
        exec_box_done done = box->done;
        box->done = NULL;
        done(box->arg, &box->why);
    }
    if (box->state != BOX_UP)
        return; // box_gone tells
    box->launch.init_pidfd = fcntl(box->init_exit.fd, F_DUPFD_CLOEXEC, 0);
    box->state = BOX_ATTACHING;
    exec_timer_set(&box->engine->timers, &box->timer,
                   af_monotonic_ns() + box->engine->options.start_timeout_ns, on_start_timer);
    exec_launch_attach(box, on_attached);
}

int exec_box_adopt(struct exec_box *box, const struct exec_box_spec *spec, exec_box_done done,
                   exec_box_died died, void *arg, struct af_error *err)
{
    AF_CHECK_MAGIC(box, EXEC_BOX_MAGIC);
    if (exec_box_check_spec(spec, err) < 0 ||
        exec_engine_check_resources(box->engine, &spec->resources, err) < 0)
        return -1;
    struct exec_adoption *adoption = &box->adoption;
    adoption->view_path = spec->view_path ? strdup(spec->view_path) : NULL;
    if (spec->view_path && !adoption->view_path)
        return af_error_errno(err, ENOMEM, "cannot start sandbox %s", spec->id);
    snprintf(adoption->id, sizeof(adoption->id), "%s", spec->id);
    af_text_make_printable(adoption->id);
    adoption->resources = spec->resources;
    adoption->done = done;
    adoption->died = died;
    adoption->idle = spec->idle_ns > 0 ? spec->idle : NULL;
    adoption->idle_ns = spec->idle_ns;
    adoption->arg = arg;
    exec_post(box->engine, &adoption->post, on_adopt);
    return 0;
}

// ---- stop -------------------------------------------------------------------------------

static void box_stop(struct exec_box *box)
{
    bool gone = box->state == BOX_GONE;
    box->stop_asked = true;
    if (gone)
        box_stopped(box);
    else
        box_kill_text(box, AF_CANCELLED, "the sandbox was stopped or destroyed");
}

static void on_stop(struct exec_post *post)
{
    struct exec_box *box = EXEC_CONTAINER_OF(post, struct exec_box, stop_post);
    box->stop_arrived = true;
    box_stop(box);
}

void exec_box_stop(struct exec_box *box, exec_box_stopped done, void *arg)
{
    AF_CHECK_MAGIC(box, EXEC_BOX_MAGIC);
    box->stopped = done;
    box->stopped_arg = arg;
    atomic_store(&box->stop_posted, true);
    exec_post(box->engine, &box->stop_post, on_stop);
}

void exec_box_abandon(struct exec_box *box)
{
    if (!atomic_load(&box->stop_posted))
        box_stop(box);
}

bool exec_box_is_ending(const struct exec_box *box)
{
    return atomic_load(&box->ending);
}

bool exec_box_refuses(const struct exec_box *box)
{
    return !atomic_load(&box->open) && !exec_box_is_ending(box);
}

bool exec_box_busy(const struct exec_box *box)
{
    return atomic_load(&box->users) > 0;
}

bool exec_box_init(const struct exec_box *box, pid_t *ret_pid, uid_t *ret_uid)
{
    pid_t pid = atomic_load(&box->init_up);
    if (pid == 0)
        return false;
    *ret_pid = pid;
    *ret_uid = box->uid;
    return true;
}
