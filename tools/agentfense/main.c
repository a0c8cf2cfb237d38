// agentfense: runs commands in sandboxes. See docs/TOOLS.md and options.c for the command line.
//
// Exit code: that of the command that was run, else 0 done, 1 failed, 2 wrong usage; for run and
// exec 124 out of time, 125 failed. Read next: run.c.
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES_WANTED 8192 // removing a tree holds one descriptor per level

static void prepare_process(void)
{
    // Whoever started us may have closed these; nothing else may land there.
    for (int fd = open("/dev/null", O_RDWR); fd >= 0 && fd <= STDERR_FILENO;)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_WANTED) {
        files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    interrupt_init();
}

static int run_command(const struct options *options)
{
    switch (options->command) {
    case COMMAND_RUN:
        return command_run(options);
    case COMMAND_CREATE:
        return command_create(options);
    case COMMAND_LS:
        return command_ls(options);
    case COMMAND_EXEC:
        return command_exec(options);
    case COMMAND_RULES:
        return command_rules(options);
    case COMMAND_COMMIT:
        return command_commit(options);
    case COMMAND_ROLLBACK:
        return command_rollback(options);
    case COMMAND_RM:
        return command_rm(options);
    }
    return 2;
}

int main(int argc, char **argv)
{
    struct options options;
    prepare_process();
    int code = options_parse(argc, argv, &options);
    if (code < 0)
        code = run_command(&options);
    options_fini(&options);
    if (fflush(stdout) != 0 && code == 0)
        code = 1;
    return code;
}
