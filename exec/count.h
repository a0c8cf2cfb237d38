// Commands counted by how they ended and how long they took: see mux/base/metrics.h. Any thread.
#ifndef AF_EXEC_COUNT_H
#define AF_EXEC_COUNT_H

#include "exec/exec.h"

void exec_count_begin(void);
// Once for each exec_count_begin; err is NULL when there is an exit code or a timeout.
void exec_count_end(const struct af_error *err, const struct exec_result *result);

#endif
