// The jobs of the launcher thread.
//
// Read next: launcher.c.
#ifndef AF_EXEC_LAUNCHER_H
#define AF_EXEC_LAUNCHER_H

#include "exec/engine_priv.h"

// event: starts a box's bwrap on the launcher thread; launch->done is posted to `done`.
void exec_launch_start(struct exec_box *box, void (*done)(struct exec_post *));
// event: checks the init and attaches the view on the launcher thread; likewise.
void exec_launch_attach(struct exec_box *box, void (*done)(struct exec_post *));

#endif
