// The processes of every sandbox: commands that clients talk to, and what is left of ended ones.
//
// A foreground process belongs to the call that runs it: its output goes there, and when it ends it
// is forgotten. A background process outlives the call that starts it; the last
// AF_PROCESS_OUTPUT_MAX bytes of each of its streams are kept, and any number of readers may follow
// them, none of which slows it. When it has ended, its end and its output stay known until its
// sandbox is destroyed (of many, the newest AF_PROCESSES_KEPT_MAX). Everything is in memory: after
// a restart of the daemon no process is known, and none is left.
// Threads: any. Hooks run on exec's event thread and must not block.
// Locks: the table's, then one per process; not held across calls of runner and exec, nor hooks.
// A reader's `wake` is called under the process's lock and may take those of a call.
// Errors: -1 with *err set, then no hook runs. Read next: processes.c, exec/exec.h.
#ifndef AF_API_PROCESSES_H
#define AF_API_PROCESSES_H

#include "api/runner.h"
#include "mux/base/id.h"

#include <sys/queue.h>

struct process;
struct processes;

int processes_new(struct runner *runner, struct processes **ret, struct af_error *err);
// After the engine has gone. NULL is allowed.
void processes_free(struct processes *processes);

// ---- what is known ----------------------------------------------------------------------

struct process_end {
    int exit_code; // -1: there is none (timed_out, or error)
    int signal;
    int64_t duration_ns;
    bool timed_out, out_of_memory;
    struct af_error error; // why there is no exit code, or AF_OK
};

// Valid during the callback, its texts too.
struct process_info {
    const char *id, *sandbox_id;
    const char *const *argv; // NULL-terminated, or NULL
    const char *command;     // a command line, or NULL; neither: the root's shell
    bool terminal, stdin_open, background;
    int64_t started_ns, ended_ns;  // wall clock; 0: not yet
    const struct process_end *end; // NULL while it runs
};

// Under a lock: must not call back into this file.
typedef int (*process_seen)(void *arg, const struct process_info *info);
// What `seen` returned.
int process_look(struct process *process, process_seen seen, void *arg);
// Of a sandbox, or (NULL) of all; oldest first in each, until `seen` returns something else than 0.
int processes_list(struct processes *processes, const char *sandbox_id, process_seen seen,
                   void *arg);
// A reference, for process_unref. NOT_FOUND.
int processes_find(struct processes *processes, const char *id, struct process **ret,
                   struct af_error *err);
void process_unref(struct process *process); // NULL is allowed

// ---- life -------------------------------------------------------------------------------

struct process_hooks {
    // It runs. At most once, before any output.
    void (*launched)(void *arg, const struct process_info *info);
    // As exec_command_output; NULL: a background process.
    exec_command_output output;
    // As exec_command_done. Exactly once. Without `launched` before, it never ran.
    exec_command_done ended;
};

// Starts a process. Of `spec` what concerns output and control is set here. *ret is a reference.
// FAILED_PRECONDITION: the sandbox is not running. NOT_FOUND: there is none. RESOURCE_EXHAUSTED: it
// has AF_PROCESSES_MAX. INVALID_ARGUMENT: spec.
int processes_start(struct processes *processes, const char *sandbox_id,
                    const struct exec_command_spec *spec, const struct process_hooks *hooks,
                    void *arg, struct process **ret, struct af_error *err);

// As exec_command_cancel and so on. FAILED_PRECONDITION also when it has ended.
void process_cancel(struct process *process);
void process_resume(struct process *process);
int process_write(struct process *process, const void *bytes, size_t len, bool eof,
                  exec_command_written done, void *arg, struct af_error *err);
int process_signal(struct process *process, int number, bool all, struct af_error *err);
int process_close_output(struct process *process, bool out, bool err_output, struct af_error *err);
int process_resize(struct process *process, const struct exec_window *window, struct af_error *err);

// The sandbox is no more: its processes, which have ended, are forgotten.
void processes_forget(struct processes *processes, const char *sandbox_id);

// ---- readers ----------------------------------------------------------------------------

// One reader of a process: of its kept output, or of its end alone. Embedded in its owner.
struct process_reader {
    struct process *process; // a reference; NULL: not open
    bool end_only;
    void (*wake)(void *arg); // once after a read that found nothing, when there is something
    void *arg;
    // The process's lock.
    uint64_t at[2]; // by exec_output_kind
    bool armed;
    LIST_ENTRY(process_reader) link;
};

enum process_read {
    PROCESS_NOTHING, // `wake` will tell
    PROCESS_OUTPUT,  // *ret_piece is filled
    PROCESS_ENDED,   // and everything has been read
};

struct process_piece {
    enum exec_output_kind kind;
    uint64_t skipped; // bytes of this stream before these that are no longer kept
    size_t len;
    char bytes[32 << 10];
};

// Takes the caller's reference to the process over. `wake` and `arg` are set before.
void process_reader_open(struct process_reader *reader, struct process *process);
// The next piece. ret_piece may be NULL for a reader of the end.
enum process_read process_reader_read(struct process_reader *reader,
                                      struct process_piece *ret_piece);
// Afterwards `wake` is not called any more. Allowed when it is not open.
void process_reader_close(struct process_reader *reader);

#endif
