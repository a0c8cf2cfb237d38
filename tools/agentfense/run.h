// The commands of `agentfense`, each returning the tool's exit code.
#ifndef AF_TOOLS_AGENTFENSE_RUN_H
#define AF_TOOLS_AGENTFENSE_RUN_H

#include "tools/agentfense/options.h"

#define EXIT_TIMED_OUT 124 // as timeout(1)
#define EXIT_TOOL      125 // the tool itself failed, as env(1) and docker run

// run.c
int command_run(const struct options *options);
// lifecycle.c
int command_start(const struct options *options);
int command_stop(const struct options *options);
int command_diff(const struct options *options);
// watch.c
int command_watch(const struct options *options);
// copy.c
int command_cp(const struct options *options);
// commits.c
int command_commit(const struct options *options);
int command_rollback(const struct options *options);
// settings.c
int command_set(const struct options *options);
int command_rebase(const struct options *options);
// sandboxes.c
int command_create(const struct options *options);
int command_ls(const struct options *options);
int command_rules(const struct options *options);
int command_rm(const struct options *options);
// shell.c
int command_exec(const struct options *options);
int command_shell(const struct options *options);
// processes.c
int command_ps(const struct options *options);
int command_logs(const struct options *options);
int command_attach(const struct options *options);
int command_kill(const struct options *options);
int command_wait(const struct options *options);

// Prints a failure, or the signal that came instead. Returns the exit code: `code`, or 128 +
// signal.
int complain(const struct af_error *err, int code);

#endif
