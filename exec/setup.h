// What exec_engine_new checks and prepares before it accepts work.
//
// Read next: setup.c; seccomp.h and recover.h for the parts.
#ifndef AF_EXEC_SETUP_H
#define AF_EXEC_SETUP_H

#include "exec/engine_priv.h"

// Copies the options with their defaults, takes the lock, compiles the filters, opens what
// boxes share. On failure the caller destroys the engine. Thread: the caller's.
int exec_setup(struct exec_engine *engine, const struct exec_options *options,
               struct af_error *err);

// Starts and ends one box without a view: whatever this machine lacks is said now, in bwrap's own
// words, and not at the first command. Blocks. Threads are running.
int exec_setup_trial(struct exec_engine *engine, struct af_error *err);

#endif
