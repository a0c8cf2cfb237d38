// What is said to a running command: signals, by an order to its supervisor over the command's
// status socket, and that nobody reads its output any more, by closing a pipe.
//
// The engine does not know the pids of a box; the supervisor is the parent of what it signals. The
// socket was made for this command alone, so an order cannot reach another one. It may be sent
// before the supervisor exists: the socket keeps it.
// Owns: orders until they are sent. Thread: event, but for the public function. Locks: none.
// Fails: an order to a supervisor that does not take any (stopped from inside) is dropped when the
// socket is full; ending the command does not depend on it. Read next: init/command.c, command.c.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "exec/engine_priv.h"
#include "exec/stream.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

struct signal_post {
    struct exec_post post;
    struct exec_command *command; // a reference
    struct exec_order order;
};

static void on_signal(struct exec_post *post)
{
    struct signal_post *signal = EXEC_CONTAINER_OF(post, struct signal_post, post);
    struct exec_command *command = signal->command;
    if (command->status.fd >= 0 &&
        send(command->status.fd, &signal->order, sizeof(signal->order),
             MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
        errno == EAGAIN && !command->deaf) {
        command->deaf = true; // said once: signals come as often as a client likes
        af_log(AF_LOG_WARN, EXEC_AREA, "a command's supervisor takes no signals", "sandbox=%s",
               command->box->id);
    }
    exec_command_unref(command);
    free(signal);
}

int exec_command_signal(struct exec_command *command, int number, bool all, struct af_error *err)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (number < 1 || number >= NSIG)
        return af_error_set(err, AF_INVALID_ARGUMENT, "there is no signal %d: they are 1 to %d",
                            number, NSIG - 1);
    if (!command->controlled)
        return af_error_set(err, AF_FAILED_PRECONDITION, "the command takes no signals");
    struct signal_post *post = calloc(1, sizeof(*post));
    if (!post)
        return af_error_errno(err, ENOMEM, "cannot send a signal");
    post->command = command;
    post->order = (struct exec_order){.kind = EXEC_ORDER_SIGNAL, .signal = number, .all = all};
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &post->post, on_signal);
    return 0;
}

struct close_post {
    struct exec_post post;
    struct exec_command *command; // a reference
    bool out, err;
};

static void on_close(struct exec_post *post)
{
    struct close_post *close = EXEC_CONTAINER_OF(post, struct close_post, post);
    struct exec_command *command = close->command;
    if (command->state != COMMAND_QUEUED && command->state != COMMAND_OVER)
        exec_streams_close(command, close->out, close->err);
    exec_command_unref(command);
    free(close);
}

int exec_command_close_output(struct exec_command *command, bool out, bool err_output,
                              struct af_error *err)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (command->terminal)
        return af_error_set(err, AF_FAILED_PRECONDITION, "the output of a terminal stays open");
    struct close_post *post = calloc(1, sizeof(*post));
    if (!post)
        return af_error_errno(err, ENOMEM, "cannot close an output");
    post->command = command;
    post->out = out;
    post->err = err_output;
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &post->post, on_close);
    return 0;
}
