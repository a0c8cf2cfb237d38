// agentfense: runs commands in sandboxes. See docs/TOOLS.md and options.c for the command line.
//
// Exit code: that of the command that was run, else 0 done, 1 failed, 2 wrong usage; for run and
// exec 124 out of time, 125 failed. Read next: run.c.
#include "mux/base/streams.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES_WANTED 8192 // removing a tree holds one descriptor per level

static void prepare_process(void)
{
    af_streams_init();
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_WANTED) {
        files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    interrupt_init();
}

static int run_command(const struct options *options)
{
    static int (*const commands[])(const struct options *) = {
        [COMMAND_RUN] = command_run,       [COMMAND_CREATE] = command_create,
        [COMMAND_LS] = command_ls,         [COMMAND_START] = command_start,
        [COMMAND_STOP] = command_stop,     [COMMAND_EXEC] = command_exec,
        [COMMAND_SHELL] = command_shell,   [COMMAND_PS] = command_ps,
        [COMMAND_LOGS] = command_logs,     [COMMAND_ATTACH] = command_attach,
        [COMMAND_KILL] = command_kill,     [COMMAND_WAIT] = command_wait,
        [COMMAND_CP] = command_cp,         [COMMAND_DIFF] = command_diff,
        [COMMAND_WATCH] = command_watch,   [COMMAND_RULES] = command_rules,
        [COMMAND_COMMIT] = command_commit, [COMMAND_ROLLBACK] = command_rollback,
        [COMMAND_RM] = command_rm,         [COMMAND_SET] = command_set,
        [COMMAND_REBASE] = command_rebase,
    };
    return commands[options->command](options);
}

int main(int argc, char **argv)
{
    struct options options;
    prepare_process();
    int code = options_parse(argc, argv, &options);
    bool runs = code < 0 && (options.command == COMMAND_RUN || options.command == COMMAND_EXEC);
    if (code < 0)
        code = run_command(&options);
    options_fini(&options);
    if (code == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        fprintf(stderr, "agentfense: cannot write the output: %s\n", strerror(errno));
        code = runs ? EXIT_TOOL : EXIT_FAILURE;
    }
    return code;
}
