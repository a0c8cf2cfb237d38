// Parsing and help: see options.h.
#include "tools/agentfense/options.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "tools/agentfense/help.h"
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
    OPT_COPIES,
    OPT_COUNT,
    OPT_DENIED,
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

#define PLAIN_OPTIONS 26 // the table below
#define OPTIONS_MAX   64

static const struct option plain_options[PLAIN_OPTIONS] = {
    {"all", no_argument, NULL, OPT_ALL},
    {"apply", no_argument, NULL, OPT_APPLY},
    {"copies", required_argument, NULL, OPT_COPIES},
    {"count", required_argument, NULL, OPT_COUNT},
    {"denied", no_argument, NULL, OPT_DENIED},
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
};

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

// 0: it is no number from 1.
static uint64_t parse_count(const char *text)
{
    char *end;
    errno = 0;
    uint64_t count = strtoull(text, &end, 10);
    return errno || *end || text[0] < '0' || text[0] > '9' ? 0 : count;
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

// An option of what is made.
static int take_creation_option(struct parse *parse, size_t index)
{
    struct af_error err;
    parse->used |= creation_options[index].takes;
    if (creation_take(&parse->options->creation, index, optarg, &err) == 0)
        return -1;
    return usage_error("%s", err.text);
}

// An option of the commands about processes, or of what is made.
static int take_process_option(struct parse *parse, int option, const char *name)
{
    struct options *options = parse->options;
    if (option >= CREATION_OPTION_FIRST)
        return take_creation_option(parse, (size_t)(option - CREATION_OPTION_FIRST));
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
    case OPT_DENIED:
        parse->used |= TAKES_WATCH;
        options->denied = true;
        return -1;
    case OPT_COUNT:
        parse->used |= TAKES_WATCH;
        options->count = parse_count(optarg);
        return options->count ? -1 : usage_error("--count takes a number from 1, not '%s'", optarg);
    case OPT_COPIES:
        parse->used |= TAKES_POLICY;
        options->copies = parse_count(optarg);
        return options->copies >= 1 && options->copies <= AF_BATCH_MAX
                   ? -1
                   : usage_error("--copies takes a number from 1 to %d, not '%s'", AF_BATCH_MAX,
                                 optarg);
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

// All options: those above, and those of the table in creation.c.
static void list_options(struct option out[OPTIONS_MAX])
{
    size_t count = 0;
    for (; count < PLAIN_OPTIONS; count++)
        out[count] = plain_options[count];
    for (size_t i = 0; i < creation_option_count && count < OPTIONS_MAX - 1; i++)
        out[count++] = (struct option){creation_options[i].name, required_argument, NULL,
                                       CREATION_OPTION_FIRST + (int)i};
    out[count] = (struct option){0};
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
        return parse_timeout(optarg, &options->timeout_ns)
                   ? -1
                   : usage_error("--timeout takes seconds, up to 86400, not '%s'", optarg);
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
    for (size_t i = 0; i < command_row_count; i++) {
        if (strcmp(command_rows[i].name, name) == 0)
            return &command_rows[i];
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
        {TAKES_CREATION, "limits, a runtime or a network"},
        {TAKES_QUOTA, "--quota, --quota-inodes, --iops or --bandwidth"},
        {TAKES_LIVING, "--commit-policy, --conflicts or --expires-in"},
        {TAKES_POLICY, "--owner or --copies"},
        {TAKES_SET, "--file or --end-holders"},
        {TAKES_COMMIT, "--refuse"},
        {TAKES_STREAMS, "-i, -t or -d"},
        {TAKES_FOLLOW, "--follow"},
        {TAKES_KILL, "--signal or --all"},
        {TAKES_WATCH, "--denied or --count"},
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
    if (options->json && options->terminal)
        return usage_error("--json does not go with a terminal");
    if (row == &command_rows[COMMAND_SET] && !(parse->used & row->takes & ~TAKES_JSON))
        return usage_error("set needs something to change: see agentfense set --help");
    if (options->keep && !options->socket)
        return usage_error("--keep needs --socket: a private daemon does not outlive the run");
    return -1;
}

int options_parse(int argc, char **argv, struct options *ret)
{
    struct parse parse = {.options = ret};
    struct option long_options[OPTIONS_MAX];
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
    list_options(long_options);
    for (int option; (option = getopt_long(before, argv, ":hnitdfs:", long_options, NULL)) != -1;) {
        int code = take_option(&parse, option, argv[optind - 1]);
        if (code >= 0)
            return code;
    }
    const char *name = optind < before ? argv[optind] : NULL;
    if (name && strcmp(name, "help") == 0) {
        parse.help = true;
        name = ++optind < before ? argv[optind] : NULL;
    }
    const struct command_row *row = name ? find_row(name) : NULL;
    if (name && !row)
        return usage_error("there is no command '%s'", name);
    if (parse.help) {
        if (row)
            help_print_command(row, stdout);
        else
            help_print_usage(stdout);
        return 0;
    }
    if (!row)
        return usage_error("a command is missing");
    ret->command = (enum command)(row - command_rows);
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
