// What processes.c (the table) and process_output.c (kept output, readers) share.
//
// Read next: processes.h, processes.c.
#ifndef AF_API_PROCESSES_PRIV_H
#define AF_API_PROCESSES_PRIV_H

#include "api/processes.h"
#include "mux/base/ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

struct process {
    // Constant.
    struct af_id id;
    char sandbox_id[AF_ID_TEXT_MAX];
    struct processes *processes;
    char **argv;
    char *command_line;
    bool terminal, stdin_open, background;
    struct process_hooks hooks;
    void *arg;
    struct exec_command *command; // a reference; set before it is shown

    atomic_int refs;

    // The table's lock.
    bool known, counted_running;
    struct process *prev, *next; // of the group
    UT_hash_handle hh;

    pthread_mutex_t lock; // after the table's; guards the rest
    int64_t started_ns, ended_ns;
    struct process_end end;
    struct af_ring kept[2]; // by exec_output_kind
    LIST_HEAD(, process_reader) readers;
};

// Keeps output and tells who waits for some.
void process_keep(struct process *process, enum exec_output_kind kind, const char *bytes,
                  size_t len);
// Under the process's lock.
void process_wake_readers(struct process *process, bool ended);

#endif
