// agentfense-fsctl: looks into the views of a running daemon.
//
//   agentfense-fsctl [--socket PATH] [--json] COMMAND [ARGUMENT...]
//
// Exit code: 0 done, 1 it failed (one sentence on stderr), 2 wrong usage; fsck has codes of its
// own. Owns the connection.
// One file per command beside this one; read next: fsctl.h, docs/TOOLS.md.
#include "tools/fsctl/fsctl.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/base/streams.h"
#include "mux/base/text.h"
#include "tools/common/version.h"

#include <errno.h>
#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_ALL = 256,
    OPT_COUNT,
    OPT_DEEP,
    OPT_DENIED,
    OPT_DEPTH,
    OPT_END_HOLDERS,
    OPT_FILE,
    OPT_INTERVAL,
    OPT_JSON,
    OPT_REPAIR,
    OPT_SOCKET,
    OPT_VERSION,
};

static const struct option long_options[] = {
    {"all", no_argument, NULL, OPT_ALL},
    {"count", required_argument, NULL, OPT_COUNT},
    {"deep", no_argument, NULL, OPT_DEEP},
    {"denied", no_argument, NULL, OPT_DENIED},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"end-holders", no_argument, NULL, OPT_END_HOLDERS},
    {"file", required_argument, NULL, OPT_FILE},
    {"help", no_argument, NULL, 'h'},
    {"interval", required_argument, NULL, OPT_INTERVAL},
    {"json", no_argument, NULL, OPT_JSON},
    {"repair", no_argument, NULL, OPT_REPAIR},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"version", no_argument, NULL, OPT_VERSION},
    {0},
};

static const struct fsctl_command commands[] = {
    {"views", "", "every sandbox's view",
     "Lists every sandbox: its status, slot and host uid while it runs, the layers below its own,\n"
     "the content bytes and inodes it changed, and how many rules it has.\n",
     0, 0, 0, fsctl_views},
    {"tree", "VIEW [PATH]", "the files below a directory, each with its level",
     "  --all      also what the sandbox does not see\n"
     "  --depth N  at most N levels below PATH\n",
     1, 2, FSCTL_TAKES_TREE, fsctl_tree},
    {"stat", "VIEW PATH", "one file: attributes, level, where it is stored",
     "Shows attributes as stored, the level, the layer that holds the record, where the content\n"
     "is, and whether its pages are shared with other views.\n",
     2, 2, 0, fsctl_stat},
    {"explain", "VIEW PATH", "which rule decides a path's level, and why",
     "Lists every rule that matches PATH, the deciding one first. PATH need not exist.\n", 2, 2, 0,
     fsctl_explain},
    {"diff", "VIEW", "what the sandbox changed",
     "One line for each change: A added, M modified (or its mode or times), D deleted, R "
     "renamed.\n",
     1, 1, 0, fsctl_diff},
    {"rules", "VIEW [set RULE...]", "its rules; set changes them, also while it runs",
     "A RULE is PATTERN=LEVEL[@PRIORITY] (without a priority 20). set adds it, or puts it in the\n"
     "place of one with the same pattern and priority. Returns when the new rules hold.\n"
     "  --file FILE    the rules in FILE, one a line, in the place of all\n"
     "  --end-holders  end the sandbox's processes that hold a file open which is forbidden now\n",
     1, 1025, FSCTL_TAKES_RULES, fsctl_rules},
    {"quota", "VIEW BYTES [INODES]", "sets how much it may add; at once",
     "Numbers, with K, M, G or T, or none. Lower than what is used: it cannot grow any more.\n", 2,
     3, 0, fsctl_quota},
    {"access", "VIEW ACCESS", "freezes it, cuts it off, or gives it back; at once",
     "ACCESS is normal, read-only (every change is refused) or cut-off (everything is).\n", 2, 2, 0,
     fsctl_access},
    {"requests", "VIEW", "what the kernel asked for it, by operation",
     "Counts and times since the sandbox was started: the mean and the slowest, from a request's\n"
     "arrival in the daemon to its answer.\n"
     "  --interval S  again and again, what was asked for within S seconds; with --json a line\n"
     "                each time\n"
     "  --count N     with --interval: N times\n",
     1, 1, FSCTL_TAKES_INTERVAL | FSCTL_TAKES_COUNT, fsctl_requests},
    {"trace", "VIEW [PATH]", "its requests as they come, with verdict and rule",
     "Only what is at or below PATH. What the kernel answers from its caches is no request: every\n"
     "change is seen, every refusal of the daemon, and the first look at each file. With --json a\n"
     "line for each. Ends when interrupted, or with the sandbox.\n"
     "  --denied   only what a rule or the view's access refuses\n"
     "  --count N  end after N\n",
     1, 2, FSCTL_TAKES_DENIED | FSCTL_TAKES_COUNT, fsctl_trace},
    {"top", "", "what running sandboxes ask for, in the whole terminal",
     "Rates of each, sorted: press h for the keys, q to quit. With --json a line for each "
     "interval.\n"
     "  --interval S  how long one lasts; default 1\n"
     "  --count N     end after N\n",
     0, 0, FSCTL_TAKES_INTERVAL | FSCTL_TAKES_COUNT, fsctl_top},
    {"handles", "VIEW", "what its processes have open, and what is held for it",
     "Files, directories, programs and maps of the view, with descriptor, position and locks; "
     "then\n"
     "the kernel's references to its files, the daemon's cached inodes, and files without a name\n"
     "that are kept for who has them open. The list is of no single moment.\n",
     1, 1, 0, fsctl_handles},
    {"cache", "", "the daemon's caches: how full, how often they help",
     "Inodes, and content files that are kept open. A directory is listed without a cache, and "
     "the\n"
     "kernel's own caches tell no figures.\n",
     0, 0, 0, fsctl_cache},
    {"du", "[VIEW]", "the space that sandboxes take",
     "PRIVATE is what the sandbox added or changed; SHARED is what the layers below hold, which\n"
     "other sandboxes and the codebase may have too.\n",
     0, 1, 0, fsctl_du},
    {"layers", "[VIEW | CODEBASE]", "its layers, top first; without one, all",
     "DEPTH is the position in the stack; a frozen layer never changes. REFS says how many stacks\n"
     "and owners hold it.\n",
     0, 1, 0, fsctl_layers},
    {"blobs", "", "content files: size, space on disk, references",
     "Small contents are in records of the database, not in files.\n", 0, 0, 0, fsctl_blobs},
    {"gc", "", "what nobody refers to any more, after removing it",
     "Removes it now instead of in the background, and returns when it is gone from the disk.\n", 0,
     0, 0, fsctl_gc},
    {"drop-caches", "[VIEW]", "how many cached inodes were dropped",
     "They are read again from the store when they are needed. The kernel's own caches stay.\n", 0,
     1, 0, fsctl_drop_caches},
    {"fsck", "[DIR]", "checks the store, and repairs it",
     "Without DIR: the store of the running daemon, read-only. With DIR, the state directory of a\n"
     "stopped one:\n"
     "  --repair   repair what can be repaired; content that no name leads to any more is kept in\n"
     "             DIR/lost+found\n"
     "  --deep     read all content that has a digest, and compare\n"
     "Exit code: 0 clean, 1 repaired, 4 something is left, 8 it could not be checked.\n",
     0, 1, FSCTL_TAKES_FSCK, fsctl_fsck},
    {"stats", "[VIEW]", "every figure of the daemon, or of one sandbox",
     "The names are those of the Prometheus endpoint. Of a histogram: how many, the mean, and "
     "what\n"
     "half and 99 of 100 are below.\n",
     0, 1, 0, fsctl_stats},
};

static void print_common(FILE *out)
{
    fputs("Options:\n"
          "  --socket PATH  the daemon's socket; default $" AF_SOCKET_ENV
          ", else " AF_SOCKET_DEFAULT "\n"
          "  --json         JSON, for programs; names that are not UTF-8 have a _hex member\n"
          "  --help         this text, or a command's\n"
          "  --version      the version\n"
          "\n"
          "VIEW is a sandbox id or the beginning of one. PATH is relative to the view's root.\n"
          "Colours are used on a terminal unless NO_COLOR is set.\n",
          out);
}

static void print_usage(FILE *out)
{
    fputs("Usage: agentfense-fsctl [OPTION...] COMMAND [ARGUMENT...]\n"
          "Looks into the views of a running agentfensed.\n\nCommands:\n",
          out);
    for (size_t i = 0; i < AF_ARRAY_LEN(commands); i++) {
        int used = fprintf(out, "  %s %s", commands[i].name, commands[i].arguments);
        fprintf(out, "%*s%s\n", used < 24 ? 24 - used : 1, "", commands[i].summary);
    }
    fputc('\n', out);
    print_common(out);
}

static void print_command_help(const struct fsctl_command *command, FILE *out)
{
    fprintf(out, "Usage: agentfense-fsctl [OPTION...] %s%s%s\nShows %s.\n\n%s\n", command->name,
            *command->arguments ? " " : "", command->arguments, command->summary, command->help);
    print_common(out);
}

static int usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int usage_error(const char *fmt, ...)
{
    struct af_error err; // makes what was quoted printable
    va_list ap;
    va_start(ap, fmt);
    af_error_vset(&err, AF_INVALID_ARGUMENT, fmt, ap);
    va_end(ap);
    fprintf(stderr, "agentfense-fsctl: %s. Try 'agentfense-fsctl --help'.\n", err.text);
    return 2;
}

int fsctl_path(const char *text, char *out, ProtobufCBinaryData *ret, struct af_error *err)
{
    size_t len = strlen(text);
    if (len > AF_PATH_MAX || af_path_normalize(text, len, true, out, &ret->len) < 0)
        return af_error_set(
            err, AF_INVALID_ARGUMENT,
            "'%s' is no path in a view: give one relative to its root, without '..'", text);
    ret->data = (uint8_t *)out;
    return 0;
}

static const char *colour(const struct fsctl *ctl, const char *code)
{
    return ctl->colour ? code : "";
}

const char *fsctl_level_colour(const struct fsctl *ctl, Agentfense__V1__Level level)
{
    static const char *const codes[] = {"", "\033[31m", "\033[33m", "\033[36m", "\033[32m"};
    return (int)level > 0 && (size_t)level < AF_ARRAY_LEN(codes) ? colour(ctl, codes[level]) : "";
}

const char *fsctl_change_colour(const struct fsctl *ctl, Agentfense__V1__DiffEntry__Change change)
{
    static const char *const codes[] = {"",         "\033[32m", "\033[33m",
                                        "\033[31m", "\033[33m", "\033[36m"};
    return (int)change > 0 && (size_t)change < AF_ARRAY_LEN(codes) ? colour(ctl, codes[change])
                                                                   : "";
}

const char *fsctl_bold(const struct fsctl *ctl)
{
    return colour(ctl, "\033[1m");
}

const char *fsctl_plain(const struct fsctl *ctl)
{
    return colour(ctl, "\033[0m");
}

static const struct fsctl_command *find_command(const char *name)
{
    for (size_t i = 0; i < AF_ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static bool parse_count(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return !errno && !*end && text[0] >= '0' && text[0] <= '9' && *ret > 0;
}

static bool parse_depth(const char *text, uint32_t *ret)
{
    uint64_t value;
    bool is_one = parse_count(text, &value) && value <= UINT32_MAX;
    *ret = is_one ? (uint32_t)value : 0;
    return is_one;
}

static bool parse_interval(const char *text, double *ret)
{
    char *end;
    errno = 0;
    *ret = strtod(text, &end);
    return !errno && !*end && end != text && *ret >= 0.1 && *ret <= 86400;
}

struct invocation {
    const struct fsctl_command *command;
    const char *socket;
    bool help;
    unsigned given; // FSCTL_TAKES_... of the options that were given
};

static int check_options(const struct invocation *call)
{
    static const struct {
        unsigned takes;
        const char *text;
    } words[] = {
        {FSCTL_TAKES_TREE, "--all and --depth belong to tree"},
        {FSCTL_TAKES_FSCK, "--repair and --deep belong to fsck"},
        {FSCTL_TAKES_RULES, "--file and --end-holders belong to rules"},
        {FSCTL_TAKES_DENIED, "--denied belongs to trace"},
        {FSCTL_TAKES_INTERVAL, "--interval belongs to requests and top"},
        {FSCTL_TAKES_COUNT, "--count belongs to trace, requests and top"},
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(words); i++)
        if (call->given & ~call->command->takes & words[i].takes)
            return usage_error("%s", words[i].text);
    return -1;
}

// One option. Returns -1 to go on, else the exit code.
static int take_option(int option, const char *text, struct fsctl *ctl, struct invocation *call)
{
    const struct {
        int option;
        unsigned takes;
        bool *flag;
    } flags[] = {
        {OPT_JSON, 0, &ctl->json},
        {OPT_ALL, FSCTL_TAKES_TREE, &ctl->all},
        {OPT_REPAIR, FSCTL_TAKES_FSCK, &ctl->repair},
        {OPT_DEEP, FSCTL_TAKES_FSCK, &ctl->deep},
        {OPT_END_HOLDERS, FSCTL_TAKES_RULES, &ctl->end_holders},
        {OPT_DENIED, FSCTL_TAKES_DENIED, &ctl->denied},
        {'h', 0, &call->help},
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(flags); i++) {
        if (flags[i].option != option)
            continue;
        call->given |= flags[i].takes;
        *flags[i].flag = true;
        return -1;
    }
    switch (option) {
    case OPT_VERSION:
        puts("agentfense-fsctl " AGENTFENSE_VERSION);
        return 0;
    case OPT_SOCKET:
        call->socket = optarg;
        return -1;
    case OPT_FILE:
        call->given |= FSCTL_TAKES_RULES;
        ctl->file = optarg;
        return -1;
    case OPT_DEPTH:
        call->given |= FSCTL_TAKES_TREE;
        return parse_depth(optarg, &ctl->depth)
                   ? -1
                   : usage_error("--depth takes a number from 1, not '%s'", optarg);
    case OPT_COUNT:
        call->given |= FSCTL_TAKES_COUNT;
        return parse_count(optarg, &ctl->count)
                   ? -1
                   : usage_error("--count takes a number from 1, not '%s'", optarg);
    case OPT_INTERVAL:
        call->given |= FSCTL_TAKES_INTERVAL;
        return parse_interval(optarg, &ctl->interval_s)
                   ? -1
                   : usage_error("--interval takes seconds, 0.1 to 86400, not '%s'", optarg);
    default:
        return usage_error(option == ':' ? "%s needs a value" : "there is no option %s", text);
    }
}

// Returns -1 to go on, else the exit code.
static int parse(int argc, char **argv, struct fsctl *ctl, struct invocation *call)
{
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":h", long_options, NULL)) != -1;) {
        int code = take_option(option, argv[optind - 1], ctl, call);
        if (code >= 0)
            return code;
    }
    const char *name = optind < argc ? argv[optind] : NULL;
    call->command = name ? find_command(name) : NULL;
    if (name && !call->command)
        return usage_error("there is no command '%s'", name);
    if (call->help) {
        if (call->command)
            print_command_help(call->command, stdout);
        else
            print_usage(stdout);
        return 0;
    }
    if (!name)
        return usage_error("a command is missing");
    ctl->argc = argc - optind - 1;
    ctl->argv = argv + optind + 1;
    if (ctl->argc < call->command->min_args || ctl->argc > call->command->max_args)
        return usage_error("%s takes %s", name,
                           *call->command->arguments ? call->command->arguments : "no arguments");
    return check_options(call);
}

static int run(struct fsctl *ctl, const struct invocation *call, struct af_error *err)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    ctl->colour =
        isatty(STDOUT_FILENO) && !(no_colour && *no_colour) && !(term && strcmp(term, "dumb") == 0);
    ctl->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    const char *socket = rpc_socket_given(call->socket);
    bool offline = call->command->run == fsctl_fsck && ctl->argc > 0;
    if (!offline && rpc_connect(socket ? socket : AF_SOCKET_DEFAULT, &ctl->client, NULL, err) < 0)
        return -1;
    int rc = call->command->run(ctl, err);
    if (ctl->client)
        af_client_free(ctl->client);
    return rc;
}

int main(int argc, char **argv)
{
    struct fsctl ctl = {.out = stdout};
    struct invocation call = {0};
    struct af_error err;
    af_streams_init();
    setlocale(LC_CTYPE, "");
    int code = parse(argc, argv, &ctl, &call);
    if (code > 0)
        return code;
    int rc = code < 0 ? run(&ctl, &call, &err) : 0;
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = af_error_errno(&err, errno, "cannot write the output");
    bool is_fsck = call.command && call.command->run == fsctl_fsck;
    if (rc == 0)
        return is_fsck ? ctl.exit_code : 0;
    fflush(stdout);
    fprintf(stderr, "agentfense-fsctl: %s\n", err.text);
    return is_fsck ? FSCTL_FSCK_FAILED : 1;
}
