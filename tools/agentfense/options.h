// The command line of `agentfense`: one struct for all of its commands.
//
// Owns the arrays; strings point into argv. Thread: one.
// Failure: options_parse returns the exit code to end with (0 after --help, 2 for wrong usage, the
// sentence printed), or -1 to go on. Read next: main.c, and options.c for the help texts.
#ifndef AF_TOOLS_AGENTFENSE_OPTIONS_H
#define AF_TOOLS_AGENTFENSE_OPTIONS_H

#include "tools/agentfense/creation.h"
#include "tools/common/permissions.h"

#include <stdbool.h>
#include <stdint.h>

enum command {
    COMMAND_RUN,
    COMMAND_CREATE,
    COMMAND_LS,
    COMMAND_START,
    COMMAND_STOP,
    COMMAND_EXEC,
    COMMAND_SHELL,
    COMMAND_PS,
    COMMAND_LOGS,
    COMMAND_ATTACH,
    COMMAND_KILL,
    COMMAND_WAIT,
    COMMAND_CP,
    COMMAND_DIFF,
    COMMAND_WATCH,
    COMMAND_RULES,
    COMMAND_SET,
    COMMAND_COMMIT,
    COMMAND_ROLLBACK,
    COMMAND_REBASE,
    COMMAND_RM,
};

struct options {
    enum command command;
    const char *socket; // --socket or the environment, or NULL
    const struct preset_rules *preset;
    struct permissions permissions;
    struct creation creation;
    const char **env; // NAME=VALUE
    size_t n_env, max_env;
    const char *workdir;
    int64_t timeout_ns; // 0: not given
    bool diff, apply, keep, no_stdin;
    const char **labels; // KEY=VALUE
    size_t n_labels, max_labels;
    bool interactive, terminal, detach; // -i, -t, -d
    bool json, end_holders, follow, all;
    int signal;       // of kill
    bool denied;      // of watch
    uint64_t count;   // of watch; 0: without end
    uint64_t copies;  // of create; 0: not given
    bool refuse;      // conflicts
    const char *file; // of rules
    char **args;      // before "--"
    int n_args;
    char **argv; // after "--"
    int argc;
};

// The daemon's socket for commands that need one that runs already.
const char *options_socket(const struct options *options);

int options_parse(int argc, char **argv, struct options *ret);
void options_fini(struct options *options);

#endif
