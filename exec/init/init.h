// What the files of agentfense-init share. Nothing outside this folder includes it.
//
// Single-threaded; no locks. Read next: main.c.
#ifndef AF_EXEC_INIT_INIT_H
#define AF_EXEC_INIT_INIT_H

#include <stdbool.h>
#include <sys/types.h>

#include "exec/init/protocol.h"

// What came with one START message. Descriptors that are not there are -1.
struct init_start {
    struct exec_msg_start head;
    const char *text; // inside the message; with EXEC_START_TEXT_FD NULL
    int status_fd;
    int stdout_fd;
    int stderr_fd;
    int stdin_fd;
    int text_fd;
    int channel_fds[2]; // in, out
};

// Bounds that every command gets, from the command line of the init.
struct init_limits {
    unsigned long processes_max;
    unsigned long open_files_max;
};

// Connects to the engine's socket, takes the descriptors that come, loads the filters (join.c).
void init_join(const char *path, int *ret_socket_fd, int *ret_lock_fd);

// Says what failed on stderr, and exits.
_Noreturn void init_die(const char *what);

// Children that are reaped in one go at most: a tree that forks all the time has always more.
#define INIT_REAP_MAX 64

// Life of a command's supervisor: starts the leader, reaps everything that it starts, reports on
// the status pipe. Runs in a fork of the init. Never returns.
_Noreturn void init_supervise(const struct init_start *start, const struct init_limits *limits);

// Writes one record on a status pipe; nobody is there to read it when it fails.
void init_report(int status_fd, uint32_t kind, int32_t value, uint32_t extra);

// tree.c: sends a signal to everything below this process, also to what is forked meanwhile as far
// as a few rounds find it. What forks faster than that is for END (main.c).
void init_signal_tree(int number);

// still.c: kills every process of the box that is not below a supervisor, while all stand still.
void init_kill_still(bool (*is_supervisor)(pid_t pid));

#endif
