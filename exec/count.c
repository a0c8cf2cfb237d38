// Commands and lines of sessions counted as they end. A session's shell is none of either.
//
// Owns nothing; the counts are the process's (mux/base/metrics.h). Read next: command.c, turn.c.
#include "exec/count.h"

#include "mux/base/metrics.h"

void exec_count_begin(void)
{
    af_metric_add(AF_METRIC_COMMANDS_RUNNING, 1);
}

void exec_count_end(const struct af_error *err, const struct exec_result *result)
{
    enum af_command_result how = AF_COMMAND_FAILURE;
    if (err)
        how = err->status == AF_CANCELLED ? AF_COMMAND_CANCELLED : AF_COMMAND_ERROR;
    else if (result->timed_out)
        how = AF_COMMAND_TIMEOUT;
    else if (result->signal)
        how = AF_COMMAND_SIGNAL;
    else if (result->exit_code == 0)
        how = AF_COMMAND_SUCCESS;
    af_metric_add(AF_METRIC_COMMANDS_RUNNING, -1);
    af_metric_command(how, result->duration_ns);
}
