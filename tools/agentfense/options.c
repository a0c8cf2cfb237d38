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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_APPLY = 256,
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
    {"apply", no_argument, NULL, OPT_APPLY},
    {"diff", no_argument, NULL, OPT_DIFF},
    {"end-holders", no_argument, NULL, OPT_END_HOLDERS},
    {"env", required_argument, NULL, OPT_ENV},
    {"file", required_argument, NULL, OPT_FILE},
    {"help", no_argument, NULL, 'h'},
    {"json", no_argument, NULL, OPT_JSON},
    {"keep", no_argument, NULL, OPT_KEEP},
    {"label", required_argument, NULL, OPT_LABEL},
    {"no-stdin", no_argument, NULL, 'n'},
    {"permission", required_argument, NULL, OPT_PERMISSION},
    {"preset", required_argument, NULL, OPT_PRESET},
    {"refuse", no_argument, NULL, OPT_REFUSE},
    {"socket", required_argument, NULL, OPT_SOCKET},
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
#define TAKES_COMMIT  256u

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
         "stdout and nothing else; it comes when CMD has ended, and is cut after 1 MiB, as stderr\n"
         "is, which is then said on stderr.\n",
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
                      "SANDBOX is an id or the beginning of one. Exit code as for run.\n", 1, 1,
                      TAKES_COMMAND},
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
              "  -n, --no-stdin do not pass stdin on. It is passed, to its end and at most 3 MiB,\n"
              "                 when it is not a terminal\n",
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
        return usage_error(option == ':' ? "%s needs a value" : "there is no option %s", name);
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
    };
    const struct options *options = parse->options;
    for (size_t i = 0; i < AF_ARRAY_LEN(words); i++)
        if (parse->used & ~row->takes & words[i].takes)
            return usage_error("%s does not take %s", row->name, words[i].options);
    if (options->n_args < row->min_args || options->n_args > row->max_args)
        return usage_error("%s takes %s", row->name, *row->arguments ? row->arguments : "nothing");
    if (row->takes & TAKES_COMMAND && (!has_separator || options->argc == 0))
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
    for (int option; (option = getopt_long(before, argv, ":hn", long_options, NULL)) != -1;) {
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

void options_fini(struct options *options)
{
    permissions_fini(&options->permissions);
    free(options->env);
    free(options->labels);
}
