// What is said to a box's init: by the event thread, and by the threads of callers. Read next:
// send.c.
#ifndef AF_EXEC_SEND_H
#define AF_EXEC_SEND_H

#include "exec/engine_priv.h"

void exec_sender_init(struct exec_sender *sender);
void exec_sender_fini(struct exec_sender *sender);

// event: from now on callers may send to the box, which is up; until it is closed.
void exec_send_open(struct exec_box *box);
// event: before the socket is closed, and before anything is done with the box in which no command
// may begin.
void exec_send_close(struct exec_box *box);

// any: sends the START of a command that needs nothing else, and watches it. True: its start_post
// is on its way and comes before anything else that is heard of the command. False: nothing was
// done.
bool exec_send_directly(struct exec_command *command, void (*on_start)(struct exec_post *));
// event, in that post: whether it has been sent. Its error is what could not be done after that.
bool exec_send_was_direct(struct exec_command *command);

// event: 0 or -errno.
int exec_send_start(struct exec_command *command, int socket_fd);
int exec_send_end(struct exec_command *command, int socket_fd);
// event: the init has done with the command. Allowed again.
void exec_send_done(struct exec_command *command);
// event: whether the init has been told of such a command.
bool exec_send_knows(struct exec_box *box, uint64_t id);
// any: commands that the init has.
unsigned exec_send_slots(struct exec_box *box);

#endif
