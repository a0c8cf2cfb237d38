// SIGINT, SIGTERM and SIGHUP of the tool: the call under way fails, everything is put away.
//
// The handler notes the signal and shuts the connection down, so that a blocked call returns with
// UNAVAILABLE. Who sees a failure asks interrupt_signal() what it was. Process-wide; one thread.
#ifndef AF_TOOLS_AGENTFENSE_INTERRUPT_H
#define AF_TOOLS_AGENTFENSE_INTERRUPT_H

#include "mux/base/error.h"

#include <stdbool.h>

void interrupt_init(void);

// The connection to shut down; -1: none. From then on the descriptor must stay open until another
// is set.
void interrupt_set_fd(int fd);

// The signal that came, or 0.
int interrupt_signal(void);

// -1 with CANCELLED in *err when a signal came, else 0.
int interrupt_check(struct af_error *err);

// Between these two, signals wait: for steps that must not be left half done.
void interrupt_hold(void);
void interrupt_release(void);

#endif
