// The sessions of every sandbox: which there are, and what has become of them.
//
// They live in memory: after a restart of the daemon none is known. A session that is over stays
// known as closed until its sandbox is destroyed (of many, the newest AF_SESSIONS_KNOWN_MAX).
// Threads: any. Callbacks run on exec's event thread and must not block.
// Lock: one mutex over the table, a leaf: not held across calls of runner and exec or callbacks.
// Errors: -1 with *err set, then no callback runs. Read next: sessions.c, exec/exec.h.
#ifndef AF_API_SESSIONS_H
#define AF_API_SESSIONS_H

#include "api/runner.h"
#include "mux/base/id.h"

struct sessions;

int sessions_new(struct runner *runner, struct sessions **ret, struct af_error *err);
// After the engine has gone. NULL is allowed.
void sessions_free(struct sessions *sessions);

// What a client may know of a session. Valid during the callback, its texts too.
struct session_info {
    const char *id, *sandbox_id, *shell;
    bool closed;
    int64_t created_ns, closed_ns; // wall clock
};

// err NULL: the session is open.
typedef void (*sessions_created)(void *arg, const struct af_error *err,
                                 const struct session_info *info);
// FAILED_PRECONDITION: the sandbox is not running. NOT_FOUND: there is none. RESOURCE_EXHAUSTED:
// it has AF_SESSIONS_MAX. INVALID_ARGUMENT: spec.
int sessions_create(struct sessions *sessions, const char *sandbox_id,
                    const struct exec_session_spec *spec, sessions_created done, void *arg,
                    struct af_error *err);

// Under the lock: must not call back into this file.
typedef int (*sessions_seen)(void *arg, const struct session_info *info);
// NOT_FOUND. Otherwise what `seen` returned.
int sessions_get(struct sessions *sessions, const char *id, sessions_seen seen, void *arg,
                 struct af_error *err);
// Oldest first, until `seen` returns something else than 0, which is then returned.
int sessions_list(struct sessions *sessions, const char *sandbox_id, sessions_seen seen, void *arg);

// Ends the session; `done` runs when no process of it is left, at once when it is over already.
int sessions_close(struct sessions *sessions, const char *id, runner_done done, void *arg,
                   struct af_error *err);

// exec_session_run. NOT_FOUND; FAILED_PRECONDITION when it is closed.
int sessions_run(struct sessions *sessions, const char *id, const struct exec_turn_spec *spec,
                 exec_command_done done, void *arg, struct exec_turn **ret_turn,
                 struct af_error *err);

// exec_session_run as a turn of the sandbox (turn_command.c).
int session_run_turn(struct turns *turns, const char *sandbox_id, struct exec_session *session,
                     const struct exec_turn_spec *spec, exec_command_done done, void *arg,
                     struct exec_turn **ret_turn, struct af_error *err);

// The sandbox is no more: its sessions, which are over, are forgotten.
void sessions_forget(struct sessions *sessions, const char *sandbox_id);

#endif
