// What it means that nothing of a command has run. Read next: command.c, init/protocol.h.
#ifndef AF_EXEC_FAILURE_H
#define AF_EXEC_FAILURE_H

#include "exec/engine_priv.h"

// event: makes the command's error of a FAILED record, whose number may be anything.
void exec_failure_set(struct exec_command *command, const struct exec_status_record *record);

#endif
