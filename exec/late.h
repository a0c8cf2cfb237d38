// What a command is, kept for later: in a box whose shell and image are not known yet.
//
// Read next: late.c.
#ifndef AF_EXEC_LATE_H
#define AF_EXEC_LATE_H

#include "exec/exec.h"

// A copy of what becomes a command's text: program, arguments and environment. NULL when memory is
// out. Freed with free().
struct exec_command_spec *exec_late_new(const struct exec_command_spec *spec);

#endif
