// What it means that nothing of a command has run, as a sentence. See failure.h.
#include "exec/failure.h"

#include <errno.h>
#include <string.h>

void exec_failure_set(struct exec_command *command, const struct exec_status_record *record)
{
    struct af_error *err = &command->error;
    int e = record->value > 0 && record->value < 4096 ? record->value : EPROTO;
    switch (record->extra) {
    case EXEC_STAGE_CHDIR:
        af_error_set(err, AF_INVALID_ARGUMENT, "workdir %s cannot be used in the sandbox: %s",
                     command->workdir, strerror(e));
        break;
    case EXEC_STAGE_EXEC:
        af_error_set(err, AF_INVALID_ARGUMENT, "cannot run %s in the sandbox: %s", command->program,
                     strerror(e));
        break;
    case EXEC_STAGE_FORK:
    case EXEC_STAGE_SLOTS:
        if (e == EAGAIN)
            af_error_set(err, AF_RESOURCE_EXHAUSTED,
                         "the sandbox is at its process limit: end some of its processes, or give "
                         "it a higher limit");
        else
            af_error_set(err, AF_RESOURCE_EXHAUSTED, "the sandbox cannot start another process: %s",
                         strerror(e));
        break;
    default:
        af_error_set(err, AF_INTERNAL, "the sandbox could not set up the command: %s", strerror(e));
    }
}
