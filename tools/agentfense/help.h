// The commands of `agentfense`: one table of what they are called, take and say about themselves.
//
// Help, the check of a command line, man pages and completion all come from it. Owns nothing, never
// fails. Read next: options.h for what becomes of a command line.
#ifndef AF_TOOLS_AGENTFENSE_HELP_H
#define AF_TOOLS_AGENTFENSE_HELP_H

#include <stddef.h>
#include <stdio.h>

// What a command's options are about; a bit for each group.
#define TAKES_RULES    1u
#define TAKES_COMMAND  2u
#define TAKES_RUN      4u
#define TAKES_LABELS   8u
#define TAKES_JSON     16u
#define TAKES_SET      32u
#define TAKES_STREAMS  64u  // -i, -t, -d
#define TAKES_SHELL    128u // a command, or the root's shell
#define TAKES_FOLLOW   256u
#define TAKES_KILL     512u
#define TAKES_COMMIT   1024u
#define TAKES_CREATION 2048u  // limits of what is made
#define TAKES_POLICY   4096u  // its owner, how many
#define TAKES_WATCH    8192u  // --denied, --count
#define TAKES_LIVING   16384u // what can be changed later: commit policy, lifetime
#define TAKES_QUOTA    32768u

struct command_row {
    const char *name, *arguments, *summary, *help;
    int min_args, max_args;
    unsigned takes;
};
extern const struct command_row command_rows[]; // by enum command
extern const size_t command_row_count;

void help_print_usage(FILE *out);
void help_print_command(const struct command_row *row, FILE *out);

#endif
