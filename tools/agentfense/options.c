// Parsing and help: see options.h.
#include "tools/agentfense/options.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "tools/common/memory.h"
#include "tools/common/rpc.h"
#include "tools/common/version.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_ALL = 256,
    OPT_APPLY,
    OPT_DIFF,
    OPT_END_HOLDERS,
    OPT_ENV,
    OPT_FILE,
    OPT_JSON,
    OPT_KEEP,
    OPT_LABEL,
    OPT_PERMISSION,
    OPT_PRESET,
    OPT_REFUSE,
    OPT_SOCKET,
    OPT_TIMEOUT,
    OPT_VERSION,
    OPT_WORKDIR,
};

static const struct option long_options[] = {
    {"all", no_argument, NULL, OPT_ALL},
    {"apply", no_argument, NULL, OPT_APPLY},
    {"detach", no_argument, NULL, 'd'},
    {"diff", no_argument, NULL, OPT_DIFF},
    {"end-holders", no_argument, NULL, OPT_END_HOLDERS},
    {"env", required_argument, NULL, OPT_ENV},
    {"file", required_argument, NULL, OPT_FILE},
    {"follow", no_argument, NULL, 'f'},
    {"help", no_argument, NULL, 'h'},
    {"interactive", no_argument, NULL, 'i'},
    {"json", no_argument, NULL, OPT_JSON},
    {"keep", no_argument, NULL, OPT_KEEP},
    {"label", required_argument, NULL, OPT_LABEL},
    {"no-stdin", no_argument, NULL, 'n'},
    {"permission", required_argument, NULL, OPT_PERMISSION},
    {"preset", required_argument, NULL, OPT_PRESET},
    {"refuse", no_argument, NULL, OPT_REFUSE},
    {"signal", required_argument, NULL, 's'},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"terminal", no_argument, NULL, 't'},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"version", no_argument, NULL, OPT_VERSION},
    {"workdir", required_argument, NULL, OPT_WORKDIR},
    {0},
};

#define TAKES_RULES   1u
#define TAKES_COMMAND 2u
#define TAKES_RUN     4u
#define TAKES_LABELS  8u
#define TAKES_JSON    16u
#define TAKES_SET     32u
#define TAKES_STREAMS 64u  // -i, -t, -d
#define TAKES_SHELL   128u // a command, or the root's shell
#define TAKES_FOLLOW  256u
#define TAKES_KILL    512u
#define TAKES_COMMIT  1024u

static const struct command_row {
    const char *name, *arguments, *summary, *help;
    int min_args, max_args;
    unsigned takes;
} commands[] = {
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
         1, 1, TAKES_RULES | TAKES_COMMAND | TAKES_RUN},
    [COMMAND_CREATE] = {"create", "DIR", "makes a sandbox of DIR, starts it, and prints its id",
                        "Imports DIR into a new codebase. rm removes both.\n", 1, 1, TAKES_RULES},
    [COMMAND_LS] = {"ls", "", "lists sandboxes", "agentfense-fsctl views tells more.\n", 0, 0,
                    TAKES_LABELS | TAKES_JSON},
    [COMMAND_RULES] =
        {"rules", "SANDBOX [set RULE...]", "shows a sandbox's rules, or changes them while it runs",
         "SANDBOX is an id or the beginning of one; a RULE is PATTERN=LEVEL[@PRIORITY], where no\n"
         "priority means 20. set adds it, or puts it in the place of one with the same pattern "
         "and\n"
         "priority. The new rules hold when it returns.\n",
         1, 1025, TAKES_SET | TAKES_JSON},
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
                      1, 1, TAKES_COMMAND | TAKES_STREAMS},
    [COMMAND_SHELL] = {"shell", "SANDBOX [-- CMD [ARG...]]",
                       "opens a shell in a sandbox, in your terminal",
                       "The same as exec -it, of the sandbox's shell unless there is a CMD. Exit "
                       "code: the shell's.\n",
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
         1, 1, TAKES_FOLLOW},
    [COMMAND_ATTACH] = {"attach", "PROCESS",
                        "shows a background process, and passes stdin on to it",
                        "PROCESS is an id or the beginning of one. stdin is passed on when the "
                        "process was started\n"
                        "with -i; in a terminal Ctrl-P Ctrl-Q leaves it running, as an interrupt "
                        "does. Exit code: the\n"
                        "process's.\n",
                        1, 1, 0},
    [COMMAND_KILL] = {"kill", "PROCESS...", "sends a signal to processes",
                      "PROCESS is an id or the beginning of one.\n"
                      "\n"
                      "  -s, --signal SIG  a name or a number; default TERM\n"
                      "  --all             to everything that the process has started, too\n",
                      1, 1000, TAKES_KILL},
    [COMMAND_WAIT] =
        {"wait", "PROCESS...", "waits for the end of background processes",
         "PROCESS is an id or the beginning of one. Exit code: that of the last one; 124\n"
         "when it ran out of time, 125 when it has none.\n",
         1, 1000, 0},
    [COMMAND_COMMIT] =
        {"commit", "SANDBOX", "brings a sandbox's changes into its codebase",
         "SANDBOX is an id or the beginning of one. What others have changed\n"
         "meanwhile is merged, file by file; where both changed a file, the sandbox\n"
         "wins.\n"
         "\n"
         "  --refuse   change nothing when others changed what the sandbox changed\n",
         1, 1, TAKES_COMMIT},
    [COMMAND_ROLLBACK] =
        {"rollback", "SANDBOX", "drops a sandbox's changes",
         "SANDBOX is an id or the beginning of one. Its commands must have ended.\n", 1, 1, 0},
    [COMMAND_RM] = {"rm", "SANDBOX...", "destroys sandboxes, and the codebases made for them",
                    "SANDBOX is an id or the beginning of one.\n", 1, 1000, 0},
};

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
    if (takes & TAKES_COMMAND)
        fputs("  --env K=V      a variable for the command, may be repeated\n"
              "  --workdir DIR  where the command starts; default /workspace\n"
              "  --timeout S    end the command after S seconds; default: as long as the server "
              "allows\n"
              "  -n, --no-stdin do not pass stdin on. It is passed when it is not a terminal\n",
              out);
    if (takes & TAKES_LABELS)
        fputs("  --label K=V    only those with this label, may be repeated\n", out);
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

static void print_usage(FILE *out)
{
    fputs("Usage: agentfense [OPTION...] COMMAND [ARGUMENT...]\n"
          "Runs commands in sandboxes that see a directory by rules and change only a copy.\n"
          "\nCommands:\n",
          out);
    for (size_t i = 0; i < AF_ARRAY_LEN(commands); i++)
        fprintf(out, "  %s %s\n      %s\n", commands[i].name, commands[i].arguments,
                commands[i].summary);
    fputs("\n'agentfense COMMAND --help' tells more. agentfense-fsctl looks into views.\n", out);
}

static void print_help(const struct command_row *row, FILE *out)
{
    fprintf(out, "Usage: agentfense [OPTION...] %s %s\nThis %s.\n\n%s\n", row->name, row->arguments,
            row->summary, row->help);
    print_options(row->takes, out);
}

static int usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int usage_error(const char *fmt, ...)
{
    struct af_error err; // makes what was quoted printable
    va_list ap;
    va_start(ap, fmt);
    af_error_vset(&err, AF_INVALID_ARGUMENT, fmt, ap);
    va_end(ap);
    fprintf(stderr, "agentfense: %s. Try 'agentfense --help'.\n", err.text);
    return 2;
}

static bool parse_timeout(const char *text, int64_t *ret)
{
    char *end;
    errno = 0;
    double seconds = strtod(text, &end);
    if (errno || *end || end == text || !isfinite(seconds) || seconds <= 0 ||
        seconds > (double)AF_TIMEOUT_MAX_NS / (double)AF_NS_PER_SEC)
        return false;
    *ret = (int64_t)(seconds * (double)AF_NS_PER_SEC);
    return *ret > 0;
}

static int add_label(struct options *options, const char *text)
{
    if (!strchr(text, '=') || *text == '=')
        return usage_error("--label takes KEY=VALUE, not '%s'", text);
    options->labels = tool_grow(options->labels, options->n_labels, &options->max_labels,
                                sizeof *options->labels);
    options->labels[options->n_labels++] = text;
    return -1;
}

// 0: there is no such signal.
static int parse_signal(const char *text)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (end != text)
        return errno || *end || number < 1 || number >= NSIG ? 0 : (int)number;
    if (strncasecmp(text, "SIG", 3) == 0)
        text += 3;
    for (int i = 1; i < NSIG; i++)
        if (sigabbrev_np(i) && strcasecmp(sigabbrev_np(i), text) == 0)
            return i;
    return 0;
}

static void add_env(struct options *options, const char *text)
{
    options->env = tool_grow(options->env, options->n_env, &options->max_env, sizeof *options->env);
    options->env[options->n_env++] = text;
}

struct parse {
    struct options *options;
    unsigned used; // TAKES_... of the options that were given
    bool help;
};

// An option of the commands about processes.
static int take_process_option(struct parse *parse, int option, const char *name)
{
    struct options *options = parse->options;
    switch (option) {
    case 'i':
    case 't':
    case 'd':
        parse->used |= TAKES_STREAMS;
        *(option == 'i'   ? &options->interactive
          : option == 't' ? &options->terminal
                          : &options->detach) = true;
        return -1;
    case 'f':
        parse->used |= TAKES_FOLLOW;
        options->follow = true;
        return -1;
    case OPT_ALL:
        parse->used |= TAKES_KILL;
        options->all = true;
        return -1;
    case 's':
        parse->used |= TAKES_KILL;
        options->signal = parse_signal(optarg);
        return options->signal ? -1 : usage_error("there is no signal '%s'", optarg);
    default:
        return usage_error(option == ':' ? "%s needs a value" : "there is no option %s", name);
    }
}

// One option; -1 to go on, else the exit code.
static int take_option(struct parse *parse, int option, const char *name)
{
    struct options *options = parse->options;
    struct af_error err;
    switch (option) {
    case 'h':
        parse->help = true;
        return -1;
    case OPT_VERSION:
        puts("agentfense " AGENTFENSE_VERSION);
        return 0;
    case OPT_SOCKET:
        options->socket = optarg;
        return -1;
    case OPT_APPLY:
    case OPT_DIFF:
    case OPT_KEEP:
        parse->used |= TAKES_RUN;
        *(option == OPT_APPLY  ? &options->apply
          : option == OPT_DIFF ? &options->diff
                               : &options->keep) = true;
        return -1;
    case OPT_PRESET:
        parse->used |= TAKES_RULES;
        options->preset = preset_find(optarg);
        return options->preset ? -1 : usage_error("there is no preset '%s'", optarg);
    case OPT_PERMISSION:
        parse->used |= TAKES_RULES;
        return permissions_add(&options->permissions, optarg, &err) < 0
                   ? usage_error("%s", err.text)
                   : -1;
    case OPT_ENV:
        parse->used |= TAKES_COMMAND;
        if (!strchr(optarg, '=') || *optarg == '=')
            return usage_error("--env takes NAME=VALUE, not '%s'", optarg);
        add_env(options, optarg);
        return -1;
    case 'n':
        parse->used |= TAKES_COMMAND;
        options->no_stdin = true;
        return -1;
    case OPT_TIMEOUT:
        parse->used |= TAKES_COMMAND;
        if (parse_timeout(optarg, &options->timeout_ns))
            return -1;
        return usage_error("--timeout takes seconds, up to 86400, not '%s'", optarg);
    case OPT_LABEL:
        parse->used |= TAKES_LABELS;
        return add_label(options, optarg);
    case OPT_JSON:
        parse->used |= TAKES_JSON;
        options->json = true;
        return -1;
    case OPT_FILE:
        parse->used |= TAKES_SET;
        options->file = optarg;
        return -1;
    case OPT_END_HOLDERS:
    case OPT_REFUSE:
        parse->used |= option == OPT_REFUSE ? TAKES_COMMIT : TAKES_SET;
        *(option == OPT_REFUSE ? &options->refuse : &options->end_holders) = true;
        return -1;
    case OPT_WORKDIR:
        parse->used |= TAKES_COMMAND;
        options->workdir = optarg;
        return *optarg == '/' ? -1 : usage_error("--workdir takes an absolute path");
    default:
        return take_process_option(parse, option, name);
    }
}

static const struct command_row *find_row(const char *name)
{
    for (size_t i = 0; i < AF_ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int check(const struct parse *parse, const struct command_row *row, bool has_separator)
{
    static const struct {
        unsigned takes;
        const char *options;
    } words[] = {
        {TAKES_RUN, "--apply, --diff or --keep"},
        {TAKES_RULES, "--preset or --permission"},
        {TAKES_COMMAND, "--env, --workdir, --timeout or --no-stdin"},
        {TAKES_LABELS, "--label"},
        {TAKES_JSON, "--json"},
        {TAKES_SET, "--file or --end-holders"},
        {TAKES_COMMIT, "--refuse"},
        {TAKES_STREAMS, "-i, -t or -d"},
        {TAKES_FOLLOW, "--follow"},
        {TAKES_KILL, "--signal or --all"},
    };
    const struct options *options = parse->options;
    for (size_t i = 0; i < AF_ARRAY_LEN(words); i++)
        if (parse->used & ~row->takes & words[i].takes)
            return usage_error("%s does not take %s", row->name, words[i].options);
    if (options->n_args < row->min_args || options->n_args > row->max_args)
        return usage_error("%s takes %s", row->name, *row->arguments ? row->arguments : "nothing");
    if (row->takes & TAKES_COMMAND && !(row->takes & TAKES_SHELL && !has_separator) &&
        (!has_separator || options->argc == 0))
        return usage_error("%s needs a command after --", row->name);
    if (!(row->takes & TAKES_COMMAND) && has_separator)
        return usage_error("%s takes no command", row->name);
    if (options->keep && !options->socket)
        return usage_error("--keep needs --socket: a private daemon does not outlive the run");
    return -1;
}

int options_parse(int argc, char **argv, struct options *ret)
{
    struct parse parse = {.options = ret};
    int before = 1;
    memset(ret, 0, sizeof *ret);
    ret->preset = preset_find(PRESET_DEFAULT);
    while (before < argc && strcmp(argv[before], "--") != 0)
        before++;
    bool has_separator = before < argc;
    ret->argv = argv + before + has_separator;
    ret->argc = argc - before - has_separator;
    argv[before] = NULL; // getopt_long works on what is before
    opterr = 0;
    for (int option; (option = getopt_long(before, argv, ":hnitdfs:", long_options, NULL)) != -1;) {
        int code = take_option(&parse, option, argv[optind - 1]);
        if (code >= 0)
            return code;
    }
    const char *name = optind < before ? argv[optind] : NULL;
    const struct command_row *row = name ? find_row(name) : NULL;
    if (name && !row)
        return usage_error("there is no command '%s'", name);
    if (parse.help) {
        if (row)
            print_help(row, stdout);
        else
            print_usage(stdout);
        return 0;
    }
    if (!row)
        return usage_error("a command is missing");
    ret->command = (enum command)(row - commands);
    ret->args = argv + optind + 1;
    ret->n_args = before - optind - 1;
    ret->socket = rpc_socket_given(ret->socket);
    return check(&parse, row, has_separator);
}

const char *options_socket(const struct options *options)
{
    return options->socket ? options->socket : AF_SOCKET_DEFAULT;
}

void options_fini(struct options *options)
{
    permissions_fini(&options->permissions);
    free(options->env);
    free(options->labels);
}
