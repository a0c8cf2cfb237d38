// The runner: which sandboxes are running, and the steps between their states.
//
// It joins mux (the view) and exec (the box) without either knowing the other: start = attach the
// view, start the box (boxes.h; a lazy one starts with its first command); stop = end the box,
// detach the view; destroy = stop, then remove the record. One entry per sandbox that is starting,
// running or stopping; none for an idle one. Threads: functions may be called from any thread, run
// short store transactions on it, and never wait for a process. Callbacks run once, on one of the
// runner's threads, and may block briefly; they may run before the function that was given them
// returns.
// Lock: one mutex over the table; held over calls of exec (which do not block), never over mux.
// Errors: -1 with *err set, then no callback runs; what goes wrong later arrives in the callback.
// Read next: runner.c.
#ifndef AF_API_RUNNER_H
#define AF_API_RUNNER_H

#include "api/boxes.h"
#include "api/turns.h"
#include "exec/exec.h"
#include "mux/sandbox.h"

struct runner;

struct runner_options {
    struct mux *mux;     // borrowed
    struct boxes *boxes; // borrowed
    struct turns *turns; // borrowed
    // A sandbox's record was removed, its callers not told yet. On the runner's or a caller's
    // thread.
    void (*destroyed)(void *arg, const char *id);
    void *arg;
};

int runner_new(const struct runner_options *options, struct runner **ret, struct af_error *err);
// The daemon is stopping: nothing starts any more, and every command ends with CANCELLED. Does not
// wait. Twice is harmless.
void runner_close(struct runner *runner);
// Closes, waits until every box has gone, and frees. No other call may be under way.
void runner_free(struct runner *runner);

// err NULL: done.
typedef void (*runner_done)(void *arg, const struct af_error *err);

// PENDING or STOPPED -> RUNNING. One that is being stopped, or has just ended, is started after
// that. FAILED_PRECONDITION while it starts or runs.
int runner_start(struct runner *runner, const char *id, runner_done done, void *arg,
                 struct af_error *err);
// RUNNING -> STOPPED. FAILED_PRECONDITION when it is not running.
int runner_stop(struct runner *runner, const char *id, runner_done done, void *arg,
                struct af_error *err);
// From any state. Its commands end first.
int runner_destroy(struct runner *runner, const char *id, runner_done done, void *arg,
                   struct af_error *err);

// exec_command_start in the box of a running sandbox, as a turn (turns.h): `done` runs on exec's
// thread or on one of the turns'. FAILED_PRECONDITION when it is not running, NOT_FOUND when there
// is no such sandbox. (turn_command.c)
int runner_command(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                   exec_command_done done, void *arg, struct exec_command **ret_command,
                   struct af_error *err);
// The same for what may run for hours, a background process or a terminal: a turn that lasts.
int runner_background(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                      exec_command_done done, void *arg, struct exec_command **ret_command,
                      struct af_error *err);
struct turns *runner_turns(struct runner *runner);

// What both do between: exec_command_start, without a turn. Errors as above.
int runner_launch(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                  exec_command_done done, void *arg, struct exec_command **ret_command,
                  struct af_error *err);

// exec_session_start in the box of a running sandbox. Errors as above.
int runner_session(struct runner *runner, const char *id, const struct exec_session_spec *spec,
                   exec_session_ready ready, exec_session_closed closed, void *arg,
                   struct exec_session **ret_session, struct af_error *err);

// exec_box_init of a running sandbox; false when it is not running.
bool runner_init(struct runner *runner, const char *id, pid_t *ret_pid, uid_t *ret_uid);

// A sandbox was made that expires at this wall-clock time: it is destroyed soon after.
void runner_expect_expiry(struct runner *runner, int64_t expires_ns);

// Sandboxes that have a box now.
size_t runner_count(struct runner *runner);

#endif
