// The jobs that make a box, run on the lanes.
//
// Read next: launcher.c.
#ifndef AF_EXEC_LAUNCHER_H
#define AF_EXEC_LAUNCHER_H

#include "exec/engine_priv.h"

// What a thread needs before it attaches views.
void exec_launch_thread(void);
// event: starts a box's bwrap; launch->done is posted to `done`.
void exec_launch_start(struct exec_box *box, void (*done)(struct exec_post *));
// any: the start of a box that had to wait for something (backend.h) is tried anew.
void exec_launch_again(struct exec_box *box);
// event: checks the init unless that was done, and attaches the view, if any; likewise.
void exec_launch_attach(struct exec_box *box, void (*done)(struct exec_post *));

// event: removes what the box had outside of its processes, which have ended; likewise.
void exec_launch_remove(struct exec_box *box, void (*done)(struct exec_post *));

#endif
