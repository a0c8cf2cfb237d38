// The table of commands and the texts of --help: see help.h.
#include "tools/agentfense/help.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/creation.h"
#include "tools/agentfense/options.h"
#include "tools/common/rpc.h"

const struct command_row command_rows[] = {
    [COMMAND_RUN] =
        {"run", "DIR -- CMD [ARG...]", "runs a command on a copy of DIR, and shows what it changed",
         "DIR is imported, with modes, links and times, and CMD runs in a sandbox that sees it as\n"
         "/workspace. DIR itself stays untouched unless --apply is given. Without a socket, a\n"
         "private daemon is started for the run (as root) and removed afterwards.\n"
         "\n"
         "  --diff     show changed files as unified diffs, on stderr\n"
         "  --apply    bring the changes into DIR, all or none: nothing is applied when DIR "
         "changed\n"
         "             meanwhile at a path that CMD changed. Also applied when CMD failed, but "
         "not\n"
         "             when it ran out of time or was interrupted\n"
         "  --keep     keep the sandbox and its codebase (with --socket only); prints the id\n"
         "\n"
         "Exit code: that of CMD (128 + signal when a signal ended it); 124 out of time, 125 the\n"
         "tool itself failed or the changes could not be applied, 2 wrong usage. Stdout has CMD's\n"
         "stdout and nothing else, as it comes.\n",
         1, 1, TAKES_RULES | TAKES_COMMAND | TAKES_RUN | TAKES_CREATION | TAKES_QUOTA | TAKES_JSON},
    [COMMAND_CREATE] =
        {"create", "DIR|CODEBASE",
         "makes a sandbox of DIR or a codebase, starts it, and prints its id",
         "DIR is imported into a new codebase, which rm removes with the sandbox; a codebase's id\n"
         "(cb_...) is used as it is, and stays. With --json an object with both ids is printed.\n"
         "\n"
         "  --copies N  so many alike, in one step; prints an id a line, with --json a list. "
         "Exit code\n"
         "              1 when some could not be made\n",
         1, 1,
         TAKES_RULES | TAKES_CREATION | TAKES_QUOTA | TAKES_LIVING | TAKES_POLICY | TAKES_LABELS |
             TAKES_JSON},
    [COMMAND_LS] = {"ls", "", "lists sandboxes", "agentfense-fsctl views tells more.\n", 0, 0,
                    TAKES_LABELS | TAKES_JSON},
    [COMMAND_CP] =
        {"cp", "SOURCE TARGET", "copies files and trees to and from sandboxes and codebases",
         "One of the two is ID:PATH, where ID is a codebase's (cb_...) or a sandbox's, or "
         "its beginning;\n"
         "the other is on this machine. What a directory holds goes into the target, which "
         "is made when\n"
         "missing; what else is there stays. A file becomes TARGET, or TARGET/NAME when "
         "that is a\n"
         "directory, or ends in a slash. A sandbox is read and written as its agent "
         "would, rules included;\n"
         "FIFOs do not go into it. Exit code 1 also when something was left out.\n",
         2, 2, TAKES_JSON},
    [COMMAND_DIFF] = {"diff", "SANDBOX", "lists what a sandbox changed",
                      "SANDBOX is an id or the beginning of one. A added, M modified, D deleted, "
                      "R renamed.\n",
                      1, 1, TAKES_JSON},
    [COMMAND_WATCH] =
        {"watch", "SANDBOX|CODEBASE [PATH]",
         "shows what changes in a sandbox or a codebase, as it happens",
         "SANDBOX is an id or the beginning of one; CODEBASE is an id (cb_...), and what changes "
         "in "
         "it by\n"
         "uploads, imports and commits is shown once it is committed, with the sandbox whose "
         "commit "
         "it was.\n"
         "PATH, below /workspace or the codebase's root, leaves out what is elsewhere.\n"
         "One line for each change: created, modified, deleted, renamed; with --json an object "
         "each. Ends\n"
         "with the sandbox or codebase, or when interrupted. agentfense-fsctl trace shows reading, "
         "too.\n"
         "\n"
         "  --denied   also what was refused: by a rule, or since the sandbox is frozen\n"
         "  --count N  end after N lines\n",
         1, 2, TAKES_WATCH | TAKES_JSON},
    [COMMAND_RULES] =
        {"rules", "SANDBOX [set RULE...]", "shows a sandbox's rules, or changes them while it runs",
         "SANDBOX is an id or the beginning of one; a RULE is PATTERN=LEVEL[@PRIORITY], where no\n"
         "priority means 20. set adds it, or puts it in the place of one with the same pattern "
         "and\n"
         "priority. The new rules hold when it returns.\n",
         1, 1025, TAKES_SET | TAKES_JSON},
    [COMMAND_START] = {"start", "SANDBOX...", "starts sandboxes that are stopped",
                       "SANDBOX is an id or the beginning of one.\n", 1, 1000, TAKES_JSON},
    [COMMAND_STOP] = {"stop", "SANDBOX...", "ends what runs in sandboxes; their changes stay",
                      "SANDBOX is an id or the beginning of one.\n", 1, 1000, TAKES_JSON},
    [COMMAND_EXEC] = {"exec", "SANDBOX -- CMD [ARG...]", "runs a command in a sandbox",
                      "SANDBOX is an id or the beginning of one. Exit code as for run. With -d CMD "
                      "goes on in the\n"
                      "background, and its id is printed: see ps, logs, attach, kill and wait.\n"
                      "\n"
                      "  -i, --interactive  pass stdin on also when it is a terminal; with -d, "
                      "keep CMD's stdin\n"
                      "                     open for attach\n"
                      "  -t, --terminal     CMD gets a terminal, of the size of yours; with -i "
                      "your keys go to it\n"
                      "  -d, --detach       run in the background\n",
                      1, 1, TAKES_COMMAND | TAKES_STREAMS | TAKES_JSON},
    [COMMAND_SHELL] =
        {"shell", "SANDBOX [-- CMD [ARG...]]", "opens a shell in a sandbox, in your terminal",
         "The same as exec -it, of the sandbox's shell unless there is a CMD; reads its "
         "commands from\nstdin when that is no terminal. Exit code: the shell's.\n",
         1, 1, TAKES_COMMAND | TAKES_SHELL},
    [COMMAND_PS] = {"ps", "[SANDBOX]",
                    "lists processes, also those in the background that have ended",
                    "SANDBOX is an id or the beginning of one.\n", 0, 1, TAKES_JSON},
    [COMMAND_LOGS] =
        {"logs", "PROCESS", "prints what a background process has printed",
         "PROCESS is an id or the beginning of one. The last 256 KiB of stdout and of\n"
         "stderr are kept, also after its end.\n"
         "\n"
         "  -f, --follow  go on until the process ends; exit code as for wait\n",
         1, 1, TAKES_FOLLOW | TAKES_JSON},
    [COMMAND_ATTACH] = {"attach", "PROCESS",
                        "shows a background process, and passes stdin on to it",
                        "PROCESS is an id or the beginning of one. stdin is passed on when the "
                        "process was started\n"
                        "with -i; in a terminal Ctrl-P Ctrl-Q leaves it running, as an interrupt "
                        "does. Exit code: the\n"
                        "process's.\n",
                        1, 1, TAKES_JSON},
    [COMMAND_KILL] = {"kill", "PROCESS...", "sends a signal to processes",
                      "PROCESS is an id or the beginning of one.\n"
                      "\n"
                      "  -s, --signal SIG  a name or a number; default TERM\n"
                      "  --all             to everything that the process has started, too\n",
                      1, 1000, TAKES_KILL | TAKES_JSON},
    [COMMAND_WAIT] =
        {"wait", "PROCESS...", "waits for the end of background processes",
         "PROCESS is an id or the beginning of one. Exit code: that of the last one; 124\n"
         "when it ran out of time, 125 when it has none.\n",
         1, 1000, TAKES_JSON},
    [COMMAND_SET] = {"set", "SANDBOX",
                     "changes a sandbox's lifetime, commit policy, quota or limits",
                     "SANDBOX is an id or the beginning of one. What is not given stays.\n", 1, 1,
                     TAKES_LIVING | TAKES_QUOTA | TAKES_JSON},
    [COMMAND_COMMIT] =
        {"commit", "SANDBOX", "brings a sandbox's changes into its codebase",
         "SANDBOX is an id or the beginning of one. What others have changed\n"
         "meanwhile is merged, file by file; where both changed a file, the sandbox\n"
         "wins.\n"
         "\n"
         "  --refuse   change nothing when others changed what the sandbox changed\n",
         1, 1, TAKES_COMMIT | TAKES_JSON},
    [COMMAND_ROLLBACK] =
        {"rollback", "SANDBOX", "drops a sandbox's changes",
         "SANDBOX is an id or the beginning of one. Its commands must have ended.\n", 1, 1,
         TAKES_JSON},
    [COMMAND_REBASE] = {"rebase", "SANDBOX", "brings a sandbox onto its codebase's present state",
                        "SANDBOX is an id or the beginning of one. Its own changes stay on top.\n",
                        1, 1, TAKES_JSON},
    [COMMAND_RM] = {"rm", "SANDBOX...", "destroys sandboxes, and the codebases made for them",
                    "SANDBOX is an id or the beginning of one.\n", 1, 1000, TAKES_JSON},
};

const size_t command_row_count = AF_ARRAY_LEN(command_rows);

static void print_options(unsigned takes, FILE *out)
{
    fputs("Options:\n", out);
    if (takes & TAKES_RULES) {
        fputs("  --preset NAME  the rules to begin with; default " PRESET_DEFAULT "\n", out);
        for (const struct preset_rules *preset = presets_all; preset->name; preset++)
            fprintf(out, "                   %-12s %s\n", preset->name, preset->summary);
        fputs(
            "  --permission 'PATTERN=LEVEL[@PRIORITY]'\n"
            "                 one more rule, may be repeated. LEVEL is none, view, read or write.\n"
            "                 The highest priority that matches a path decides; without one it is\n"
            "                 20: above a preset's general rules (0 and 10), below what a preset\n"
            "                 protects (.git 50; .env, secrets and keys 100)\n",
            out);
    }
    creation_print_help(takes, out);
    if (takes & TAKES_COMMAND)
        fputs("  --env K=V      a variable for the command, may be repeated\n"
              "  --workdir DIR  where the command starts; default /workspace\n"
              "  --timeout S    end the command after S seconds; default: as long as the server "
              "allows\n"
              "  -n, --no-stdin do not pass stdin on. It is passed when it is not a terminal\n",
              out);
    if (takes & TAKES_LABELS)
        fputs("  --label K=V    of what is made: gets this label; of what is listed: must have it. "
              "May be\n"
              "                 repeated\n",
              out);
    if (takes & TAKES_SET)
        fputs("  --file FILE    the rules in FILE, one a line, in the place of all\n"
              "  --end-holders  end processes that hold a file open which is forbidden now\n",
              out);
    if (takes & TAKES_JSON)
        fputs("  --json         JSON, for programs\n", out);
    fputs("  --socket PATH  the daemon's socket; default $" AF_SOCKET_ENV, out);
    fputs(takes & TAKES_RUN ? ", else a private daemon\n" : ", else " AF_SOCKET_DEFAULT "\n", out);
    fputs("  --help         this text, or a command's\n  --version      the version\n", out);
}

void help_print_usage(FILE *out)
{
    fputs("Usage: agentfense [OPTION...] COMMAND [ARGUMENT...]\n"
          "Runs commands in sandboxes that see a directory by rules and change only a copy.\n"
          "\nCommands:\n",
          out);
    for (size_t i = 0; i < AF_ARRAY_LEN(command_rows); i++)
        fprintf(out, "  %s%s%s\n      %s\n", command_rows[i].name,
                *command_rows[i].arguments ? " " : "", command_rows[i].arguments,
                command_rows[i].summary);
    fputc('\n', out);
    print_options(0, out);
    fputs("\n'agentfense COMMAND --help' tells more. agentfense-fsctl looks into views.\n", out);
}

void help_print_command(const struct command_row *row, FILE *out)
{
    fprintf(out, "Usage: agentfense [OPTION...] %s%s%s\nThis %s.\n\n%s\n", row->name,
            *row->arguments ? " " : "", row->arguments, row->summary, row->help);
    print_options(row->takes, out);
}
