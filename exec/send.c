// What is said to a box's init: by the event thread, and by the threads of callers.
//
// Most commands need nothing of the event thread until they say something: their pipes are there,
// their text is made, their box is up. Their START goes out on the caller's thread, and the event
// thread is not woken for it: what it has to know is in its inbox, and it looks there before it
// looks at what epoll has reported. A timeout alone would not wake it; so the post says when it has
// to be seen at the latest (exec_post_by).
// Owns: nothing. Locks: sender->lock (rank 0; posts are made under it), held across a send that
// does not block; ids are given out under it, so that the init sees them in order.
// Fails: directly not at all, then the event thread tries. Read next: command.c, init/main.c.
#include "exec/send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/command_spec.h"
#include "exec/stream.h"
#include "mux/base/cleanup.h"

void exec_sender_init(struct exec_sender *sender)
{
    pthread_mutex_init(&sender->lock, NULL);
    sender->fd = -1;
}

void exec_sender_fini(struct exec_sender *sender)
{
    pthread_mutex_destroy(&sender->lock);
}

void exec_send_open(struct exec_box *box)
{
    pthread_mutex_lock(&box->sender.lock);
    box->sender.fd = box->socket.fd;
    pthread_mutex_unlock(&box->sender.lock);
}

void exec_send_close(struct exec_box *box)
{
    pthread_mutex_lock(&box->sender.lock);
    box->sender.fd = -1;
    pthread_mutex_unlock(&box->sender.lock);
}

unsigned exec_send_slots(struct exec_box *box)
{
    pthread_mutex_lock(&box->sender.lock);
    unsigned slots = box->sender.slots_used;
    pthread_mutex_unlock(&box->sender.lock);
    return slots;
}

void exec_send_done(struct exec_command *command)
{
    struct exec_sender *sender = &command->box->sender;
    pthread_mutex_lock(&sender->lock);
    sender->slots_used -= command->slot;
    command->slot = false;
    pthread_mutex_unlock(&sender->lock);
}

bool exec_send_knows(struct exec_box *box, uint64_t id)
{
    pthread_mutex_lock(&box->sender.lock);
    bool known = id > 0 && id <= box->sender.last_id;
    pthread_mutex_unlock(&box->sender.lock);
    return known;
}

// ---- messages ---------------------------------------------------------------------------

int exec_send_end(struct exec_command *command, int socket_fd)
{
    const struct exec_msg_head head = {.kind = EXEC_MSG_END, .id = command->id};
    ssize_t n = send(socket_fd, &head, sizeof(head), MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : 0;
}

// Under the lock.
static int send_start(struct exec_command *command, int socket_fd)
{
    struct exec_sender *sender = &command->box->sender;
    command->head.head.id = sender->last_id + 1;
    command->head.cpus = command->engine->cpus;
    command->memory = exec_cgroup_memory_events(command->box->launch.cgroup); // it may be over soon
    bool apart = command->head.flags & EXEC_START_TEXT_FD;
    struct iovec iov[] = {{&command->head, sizeof(command->head)},
                          {command->text, apart ? 0 : command->head.text_bytes}};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(command->fds))];
    } control = {0};
    size_t fds_bytes = (size_t)command->fd_count * sizeof(int);
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = 2,
                         .msg_control = control.bytes,
                         .msg_controllen = CMSG_SPACE(fds_bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds_bytes);
    memcpy(CMSG_DATA(c), command->fds, fds_bytes);
    if (sendmsg(socket_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return -errno;
    command->id = ++sender->last_id;
    command->slot = true;
    sender->slots_used++;
    return 0;
}

// What only the init needed.
static void drop_sent(struct exec_command *command)
{
    exec_command_close_fds(command);
    free(AF_TAKE_PTR(command->text));
}

int exec_send_start(struct exec_command *command, int socket_fd)
{
    pthread_mutex_lock(&command->box->sender.lock);
    int e = send_start(command, socket_fd);
    pthread_mutex_unlock(&command->box->sender.lock);
    if (e == 0)
        drop_sent(command);
    return e;
}

// ---- directly ---------------------------------------------------------------------------

// A terminal has to be opened, late text to be made, waiting input to be written, by the event
// thread; what is held waits for somebody else.
static bool needs_nothing(const struct exec_command *command)
{
    return !command->terminal && !command->held && !command->late && command->stdin_watch.fd < 0;
}

bool exec_send_directly(struct exec_command *command, void (*on_start)(struct exec_post *))
{
    struct exec_sender *sender = &command->box->sender;
    struct exec_engine *e = command->engine;
    if (!needs_nothing(command))
        return false;
    pthread_mutex_lock(&sender->lock);
    bool sent = sender->fd >= 0 && sender->slots_used < e->options.commands_per_box_max &&
                send_start(command, sender->fd) == 0;
    if (sent) {
        int64_t at_ns = command->endless ? INT64_MAX : command->started_ns + command->timeout_ns;
        exec_post_by(e, &command->start_post, on_start, at_ns);
        int failed = exec_command_watch(command);
        if (failed < 0) {
            af_error_errno(&command->error, failed, "cannot watch the command");
            exec_wake(e);
        }
        drop_sent(command);
    }
    pthread_mutex_unlock(&sender->lock);
    return sent;
}

bool exec_send_was_direct(struct exec_command *command)
{
    pthread_mutex_lock(&command->box->sender.lock); // its sender may not be done yet
    bool sent = command->id != 0;
    pthread_mutex_unlock(&command->box->sender.lock);
    return sent;
}
