// What the files of agentfense-init share. Nothing outside this folder includes it.
//
// The init is one thread; supervisors and, until they execute their programs, leaders are processes
// of their own that have the init's memory (command.c). What they may touch of it is their command.
// Read next: main.c.
#ifndef AF_EXEC_INIT_INIT_H
#define AF_EXEC_INIT_INIT_H

#include <sched.h>
#include <stdbool.h>
#include <sys/types.h>

#include "exec/init/protocol.h"

// Where the init keeps what it has from the engine.
#define INIT_SOCKET_FD 3
#define INIT_LOCK_FD   4

// Bounds that every command gets, from the command line of the init.
struct init_limits {
    unsigned long processes_max;
    unsigned long open_files_max;
};

// One command: what came with its START, and the stacks of its supervisor and its leader. The
// init's, who makes it before and frees it after them. Descriptors that are not there are -1.
struct init_command {
    size_t bytes; // of all of it
    const struct init_limits *limits;
    struct exec_msg_start head;
    int status_fd;
    int stdout_fd;
    int stderr_fd;
    int stdin_fd;
    int text_fd;
    int channel_fds[2]; // in, out
    char *text;         // head.text_bytes
    char **pointers;    // head.argc + head.envc + INIT_POINTERS_MORE
    pid_t *seen;        // INIT_SEEN_MAX, with EXEC_START_CONTROL
    char *leader_stack_end, *supervisor_stack_end;
    bool on_one_cpu; // until the program runs, which may use these:
    cpu_set_t cpus;
};

#define INIT_SEEN_MAX      65536
#define INIT_POINTERS_MORE 3 // two NULLs, and one before the first for a script's interpreter

// Connects to the engine's socket, takes the descriptors that come, loads the filters (join.c).
void init_join(const char *path, int *ret_socket_fd, int *ret_lock_fd);

// Says what failed on stderr, and exits.
_Noreturn void init_die(const char *what);

// Children that are reaped in one go at most: a tree that forks all the time has always more.
#define INIT_REAP_MAX 64

// Memory for a command with this START; NULL: there is none, or the START cannot be (errno). The
// text is still to be filled in.
struct init_command *init_command_new(const struct exec_msg_start *head);
void init_command_free(struct init_command *command);

// Life of a command's supervisor, a struct init_command: starts the leader, reaps everything that
// it starts, reports on the status pipe. Runs in a process of its own. Never returns.
int init_supervise(void *command);

// Writes one record on a status pipe; nobody is there to read it when it fails.
void init_report(int status_fd, uint32_t kind, int32_t value, uint32_t extra);

// tree.c: sends a signal to everything below this process, also to what is forked meanwhile as far
// as a few rounds find it. What forks faster than that is for END (main.c).
void init_signal_tree(struct init_command *command, int number);

// still.c: kills every process of the box that is not below a supervisor, while all stand still.
void init_kill_still(bool (*is_supervisor)(pid_t pid));

#endif
