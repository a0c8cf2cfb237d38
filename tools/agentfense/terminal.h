// The user's terminal: raw while a program in a sandbox has it, and always given back.
//
// The terminal's former settings come back when it is restored, when the tool exits, when it is
// stopped (and raw again when it goes on), and when it dies of a fault. Process-wide; one thread.
// Read next: terminal.c, stream.c.
#ifndef AF_TOOLS_AGENTFENSE_TERMINAL_H
#define AF_TOOLS_AGENTFENSE_TERMINAL_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <stdint.h>

// Makes the terminal on stdin raw. Nothing happens when stdin is none.
int terminal_raw(struct af_error *err);
// Gives it back. Twice is harmless.
void terminal_restore(void);

// The size of the terminal on stdin, stdout or stderr; false: there is none.
bool terminal_size(uint32_t *ret_rows, uint32_t *ret_columns);

// A descriptor that becomes readable when the size has changed, and taking that; -1: cannot.
int terminal_watch(void);
void terminal_watched(int fd);

#endif
