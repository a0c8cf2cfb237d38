// Bringing a sandbox's changes back into a directory: all of them, or none.
//
//   1. verify    nothing that the agent changed may have changed in the directory (verify.h)
//   2. stage     every new content is written into DIR/.agentfense-apply-XXXXXX, mode 0700, where
//                a full disk or a lost daemon does no harm
//   3. commit    only renames, exchanges and mkdirs: what goes is renamed into the stage, what
//                comes is renamed out of it; each step is noted and checked again
//   4. attributes of directories and of what was renamed or only changed in mode or times
//   5. the stage, with what was removed, is deleted
// When a step of 3 or 4 fails, the steps before it are undone in reverse order. What cannot be
// undone stays in the stage, and is said. A regular file is replaced by an exchange with a
// complete one: no reader sees a part of it.
// Names that the sandbox has for one new content are names of one file in the directory, too, where
// its file system can. A new name of a file that did not change is a file of its own.
// Never through a symbolic link: every path is resolved by beneath.h.
// Owners: a replaced file keeps its owner, group and extended attributes; new files get the
// directory's owner and group. Set-id bits are taken over only where the file had them and its
// content is the same. Sockets are not taken over.
// Signals must be held by the caller from apply_commit on. Thread: one.
// Read next: plan.h, stage.c, apply.c.
#ifndef AF_TOOLS_AGENTFENSE_APPLY_H
#define AF_TOOLS_AGENTFENSE_APPLY_H

#include "mux/base/error.h"
#include "tools/agentfense/plan.h"
#include "tools/agentfense/verify.h"

#define APPLY_STAGE_MAX 40

// Writes the content of a regular file, by its new path, to fd.
typedef int (*apply_fetch)(void *arg, const char *path, int fd, struct af_error *err);

struct apply_step {
    enum { STEP_TAKE, STEP_MKDIR, STEP_PLACE, STEP_EXCHANGE, STEP_SET_ASIDE, STEP_META } kind;
    size_t index; // into the plan's takes (STEP_TAKE) or puts
};

struct apply {
    int root;
    struct plan *plan;
    apply_fetch fetch;
    void *arg;
    char stage[APPLY_STAGE_MAX]; // name in root, "" while there is none
    struct stat root_stat;
    size_t *same_as;          // per put: the put that stages the file of which it is a name
    struct stat *before;      // per put: attributes before STEP_META
    struct apply_step *steps; // what was done, in order; room for all is made first
    size_t n_steps;
    struct lines conflicts; // why nothing was applied
    struct lines notes;     // what was left out on purpose
    struct lines stuck;     // what could not be undone
    size_t fail_after;      // for tests: fail before step number n; 0: never
};

// Borrows root and plan.
void apply_init(struct apply *apply, int root, struct plan *plan, apply_fetch fetch, void *arg);
// Removes the stage unless something is stuck in it.
void apply_fini(struct apply *apply);

// Steps 1 and 2. On failure the directory is as it was (conflicts: FAILED_PRECONDITION).
int apply_prepare(struct apply *apply, struct af_error *err);
// Steps 3 to 5. On failure everything has been undone but for what apply->stuck says.
int apply_commit(struct apply *apply, struct af_error *err);

// ---- between stage.c and apply.c

// The path of a staged file: letter 'n' (new content of put `index`), 't' (a take), 'o' (the old
// file of put `index`, where the file system has no exchange).
void apply_stage_path(const struct apply *apply, char letter, size_t index,
                      char out[APPLY_STAGE_MAX + 32]);
// Whether a put is left out: a socket.
bool apply_is_left_out(const struct plan_put *put);
// The permission bits that a put gives.
mode_t apply_mode(const struct plan_put *put);
int apply_stage_all(struct apply *apply, struct af_error *err);

#endif
