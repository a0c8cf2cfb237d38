// Turns: what happens before a sandbox's command starts and after it has ended, so that under the
// policy on_exec commands and codebase see each other's files.
//
// Before: when no other command of the sandbox runs, its view is brought onto the codebase's head,
// and the kernel has forgotten what changed before the command starts. After: when the last of its
// running commands has ended, the delta is pushed, and only then is its end told. What lasts
// (background processes, terminals) is no running command but at its two ends: it starts on the
// head, holds up nobody's rebase or push meanwhile, and is pushed when it ends. Nor is a session.
// A command in a view that is on the head, or that changed nothing, costs two looks, no transaction
// and no change of thread.
// Threads: any; merges and waits for the kernel happen on threads of its own. Lock: one mutex over
// the table of busy sandboxes, a leaf but for exec's queue. Errors: -1 with *err set, then no
// callback runs. Read next: turns.c, docs/COMMIT.md.
#ifndef AF_API_TURNS_H
#define AF_API_TURNS_H

#include "exec/exec.h"
#include "mux/commit.h"

struct turns;

struct turns_options {
    struct mux *mux; // borrowed
    // Waits until the kernel has forgotten what it was told to (fs_invalidate_flush), with fs.
    void (*flush)(void *fs, const char *sandbox_id);
    void *fs;
};

int turns_new(const struct turns_options *options, struct turns **ret, struct af_error *err);
// Finishes what is under way: every command must have ended, exec's engine must still be there.
// NULL is ignored.
void turns_free(struct turns *turns);

// A command under way, between its caller and exec: it is started with turn_done (and turn_output,
// turn_started, where the caller has one) as its callbacks and the turn as their arg. The turn
// frees itself after its end.
struct turn;
struct turn_spec {
    exec_command_done done; // told on exec's thread, or on one of the turns'
    exec_command_output on_output;
    exec_command_started on_started;
    void *arg;
    bool lasting;
};

// Enters a command of the sandbox. *ret_held: it has to be started held, and turn_began must
// follow, which has it released.
int turns_enter(struct turns *turns, const char *sandbox_id, const struct turn_spec *spec,
                struct turn **ret, bool *ret_held, struct af_error *err);
// A held one was started: one of the two, with a reference that the turn takes over.
void turn_began(struct turn *turn, struct exec_command *command, struct exec_turn *session_turn);
// It could not be started; frees the turn.
void turn_failed(struct turn *turn);
void turn_done(void *turn, const struct af_error *err, const struct exec_result *result);
bool turn_output(void *turn, enum exec_output_kind kind, const char *bytes, size_t len);
void turn_started(void *turn);

// Commands of the sandbox that have not ended: also those that wait, and those that last.
unsigned turns_running(struct turns *turns, const char *sandbox_id);

// Waits for the kernel as before a command.
void turns_flush(struct turns *turns, const char *sandbox_id);

// Keeps commands of the sandbox from starting until turns_leave_alone. False: some are running.
bool turns_enter_alone(struct turns *turns, const char *sandbox_id);
void turns_leave_alone(struct turns *turns, const char *sandbox_id);

// After a sandbox has stopped, or before its record goes: pushes what its policy says. 0 also when
// there is nothing to push, or nothing to push to; fails only where the policy is on_destroy, and
// then nothing is lost. Blocks for as long as a push takes.
int turns_settle(struct turns *turns, const char *sandbox_id, bool destroyed, struct af_error *err);

#endif
