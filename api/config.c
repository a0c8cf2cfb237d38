// The option table, the command line and the help text.
//
// Owns: the table. Failure: see config.h. Read next: config_value.c, config_yaml.c.
#include "api/config_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/base/places.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1u << 20)
#define OPTIONS_MAX    80

static const char *const transport_names[] = {"auto", "io_uring", "dev_fuse", NULL};
static const char *const open_policy_names[] = {"kernel", "server", NULL};
static const char *const runtime_names[] = {"bwrap", "docker", NULL};
static const char *const log_level_names[] = {"debug", "info", "warn", "error", NULL};

#define AT(field)   offsetof(struct af_config, field)
#define UID_MIN     65536u
#define UID_MAX     4294901759u // below the last 64 Ki, where (uid_t)-1 and -2 are
#define DURATION(s) ((uint64_t)(s)*1000000000u)

const struct config_option config_options[] = {
    {"state", NULL, "state", CONFIG_PATH, AT(state), 0, 0, NULL, "DIR",
     "directory of the store; made when missing (required)"},
    {"socket", NULL, "socket", CONFIG_PATH, AT(socket), 0, 0, NULL, "PATH",
     "unix socket of the API; default " AF_SOCKET_DEFAULT},
    {"mount", NULL, "mount", CONFIG_PATH, AT(mount), 0, 0, NULL, "DIR",
     "mount point; default STATE/mnt"},
    {"listen", NULL, "listen", CONFIG_TEXT, AT(listen), 0, 0, NULL, "ADDR:PORT",
     "also listen on TCP, loopback only"},
    {"listen-tls", NULL, "listen_tls", CONFIG_TEXT, AT(listen_tls), 0, 0, NULL, "ADDR:PORT",
     "also listen on TCP with TLS, on any address; callers show a token"},
    {"tls-cert", NULL, "tls_cert", CONFIG_PATH, AT(tls_cert), 0, 0, NULL, "FILE",
     "certificate chain for --listen-tls, PEM"},
    {"tls-key", NULL, "tls_key", CONFIG_PATH, AT(tls_key), 0, 0, NULL, "FILE",
     "its private key, PEM, readable by its owner alone"},
    {"token-file", NULL, "token_file", CONFIG_PATH, AT(token_file), 0, 0, NULL, "FILE",
     "tokens of callers over TLS, one a line, readable by its owner alone"},
    {"metrics", NULL, "metrics", CONFIG_TEXT, AT(metrics), 0, 0, NULL, "ADDR:PORT",
     "Prometheus endpoint, loopback only; or unix:PATH"},
    {"metrics-public", NULL, "metrics_public", CONFIG_BOOL, AT(metrics_public), 0, 0, NULL, NULL,
     "allow --metrics on an address beyond this machine"},
    {"group", NULL, "group", CONFIG_TEXT, AT(group), 0, 0, NULL, "NAME",
     "group whose members may call the API; default: root only"},
    {"transport", NULL, "transport", CONFIG_ENUM, AT(transport), 0, 0, transport_names, "NAME",
     "FUSE transport: auto, io_uring or dev_fuse"},
    {"open-policy", NULL, "open_policy", CONFIG_ENUM, AT(open_policy), 0, 0, open_policy_names,
     "NAME", "who decides about opens: kernel or server"},
    {"passthrough-bytes", NULL, "passthrough_bytes", CONFIG_BYTES, AT(passthrough_bytes), 0,
     1ull << 50, NULL, "BYTES",
     "open policy server: read-only files from this size on are read without the daemon; 0: none"},
    {"fuse-workers", NULL, "fuse_workers", CONFIG_U32, AT(fuse_workers), 0, 256, NULL, "N",
     "threads that serve the file system; 0: as the CPUs are"},
    {"node-cache", NULL, "node_cache", CONFIG_U32, AT(node_cache), 1, 1u << 24, NULL, "N",
     "inodes kept in memory over all views, about 250 bytes each"},
    {"iops-max", NULL, "iops_max", CONFIG_U32, AT(iops_max), 0, AF_IOPS_MAX, NULL, "N",
     "file system requests a second of one sandbox at most; 0: as it asks"},
    {"bandwidth-max", NULL, "bandwidth_max", CONFIG_BYTES, AT(bandwidth_max), 0, AF_BANDWIDTH_MAX,
     NULL, "BYTES", "bytes a second of one sandbox at most; 0: as it asks"},
    {"xattrs", NULL, "xattrs", CONFIG_BOOL, AT(xattrs), 0, 0, NULL, NULL,
     "extended attributes; on unless the file says false"},
    {"workers", NULL, "workers", CONFIG_U32, AT(workers), 0, 256, NULL, "N",
     "threads that run API calls; 0: as the CPUs are"},
    {"reflection", NULL, "reflection", CONFIG_BOOL, AT(reflection), 0, 0, NULL, NULL,
     "answer gRPC server reflection (grpcurl); on unless the file says false"},
    {"message-bytes-max", NULL, "message_bytes_max", CONFIG_BYTES, AT(message_bytes_max), 64u << 10,
     64u << 20, NULL, "BYTES", "largest gRPC message"},
    {"connections-max", NULL, "connections_max", CONFIG_U32, AT(connections_max), 1, 1u << 20, NULL,
     "N", "API connections in all"},
    {"connections-per-uid", NULL, "connections_per_uid", CONFIG_U32, AT(connections_per_uid), 1,
     1u << 20, NULL, "N", "API connections of one uid"},
    {"stop-grace", NULL, "stop_grace", CONFIG_DURATION, AT(stop_grace_ns), 0, DURATION(600), NULL,
     "TIME", "how long a stop waits for calls in flight"},
    {"uid-base", NULL, "uid_base", CONFIG_U32, AT(uid_base), UID_MIN, UID_MAX, NULL, "UID",
     "first host uid for sandboxes; nobody else may use them"},
    {"uid-count", NULL, "uid_count", CONFIG_U32, AT(uid_count), 1, AF_SLOT_COUNT, NULL, "N",
     "how many host uids, one per running sandbox"},
    {"sandboxes-per-owner-max", NULL, "sandboxes_per_owner_max", CONFIG_U32,
     AT(sandboxes_per_owner_max), 0, 100000000, NULL, "N",
     "sandboxes that exist of one owner at most; 0: any number"},
    {"exec-bwrap", "exec", "bwrap", CONFIG_TEXT, AT(exec.bwrap), 0, 0, NULL, "PROGRAM",
     "bubblewrap"},
    {"exec-init", "exec", "init", CONFIG_PATH, AT(exec.init), 0, 0, NULL, "PATH",
     "pid 1 of sandboxes; default: agentfense-init beside the daemon"},
    {"exec-rootfs", "exec", "rootfs", CONFIG_PATH, AT(exec.rootfs), 0, 0, NULL, "DIR",
     "root directory of sandboxes; default: a minimal one of the host's /usr"},
    {"exec-roots", "exec", "roots", CONFIG_TEXT, AT(exec.roots), 0, 0, NULL, "NAME=DIR,...",
     "more root directories, which sandboxes name as their image"},
    {"exec-runtime", "exec", "runtime", CONFIG_ENUM, AT(exec.runtime), 0, 0, runtime_names, "NAME",
     "of sandboxes that name none: bwrap or docker"},
    {"exec-docker-socket", "exec", "docker_socket", CONFIG_PATH, AT(exec.docker_socket), 0, 0, NULL,
     "PATH", "socket of the Docker daemon; default: no Docker runtime"},
    {"exec-docker-image", "exec", "docker_image", CONFIG_TEXT, AT(exec.docker_image), 0, 0, NULL,
     "IMAGE", "of sandboxes with Docker that name none"},
    {"exec-docker-pull", "exec", "docker_pull", CONFIG_BOOL, AT(exec.docker_pull), 0, 0, NULL, NULL,
     "pull images that are missing"},
    {"exec-docker-pool", "exec", "docker_pool", CONFIG_U32, AT(exec.docker_pool), 0, 1024, NULL,
     "N", "containers of the default image that are started ahead"},
    {"exec-network-host", "exec", "network_host", CONFIG_BOOL, AT(exec.network_host), 0, 0, NULL,
     NULL, "allow sandboxes that ask for the host's network"},
    {"exec-pool", "exec", "pool", CONFIG_U32, AT(exec.pool), 0, 1024, NULL, "N",
     "sandboxes that are started ahead, so that a start only attaches the view"},
    {"exec-lazy", "exec", "lazy", CONFIG_BOOL, AT(exec.lazy), 0, 0, NULL, NULL,
     "start a sandbox's process with its first command"},
    {"exec-idle-end", "exec", "idle_end", CONFIG_DURATION, AT(exec.idle_end_ns), 0,
     DURATION(30 * 24 * 3600), NULL, "TIME",
     "end the processes of a sandbox without commands after so long; the next starts them again"},
    {"exec-tmp-bytes", "exec", "tmp_bytes", CONFIG_BYTES, AT(exec.tmp_bytes), 1u << 20, 1ull << 40,
     NULL, "BYTES", "size of a sandbox's private /tmp"},
    {"exec-home-bytes", "exec", "home_bytes", CONFIG_BYTES, AT(exec.home_bytes), 1u << 20,
     1ull << 40, NULL, "BYTES", "size of a sandbox's private HOME"},
    {"exec-shm-bytes", "exec", "shm_bytes", CONFIG_BYTES, AT(exec.shm_bytes), 4096, 1ull << 40,
     NULL, "BYTES", "size of a sandbox's /dev/shm"},
    {"exec-cgroup", "exec", "cgroup", CONFIG_TEXT, AT(exec.cgroup), 0, 0, NULL, "GROUP",
     "control group below which those of sandboxes are made; default: the daemon's own"},
    {"exec-memory-max", "exec", "memory_max", CONFIG_BYTES, AT(exec.memory_max), 0, 1ull << 50,
     NULL, "BYTES", "memory of one sandbox at most; 0: as it asks"},
    {"exec-cpu-quota-max", "exec", "cpu_quota_max", CONFIG_U32, AT(exec.cpu_quota_max), 0,
     1000000000, NULL, "US", "microseconds of CPU in each 100000 at most; 0: as it asks"},
    {"exec-pids-max", "exec", "pids_max", CONFIG_U32, AT(exec.pids_max), 0, 4194304, NULL, "N",
     "processes and threads of one sandbox at most; 0: as it asks"},
    {"exec-output-bytes", "exec", "output_bytes", CONFIG_BYTES, AT(exec.output_bytes), 4096,
     AF_OUTPUT_MAX, NULL, "BYTES", "kept of a command's stdout, and of its stderr"},
    {"exec-timeout-default", "exec", "timeout_default", CONFIG_DURATION,
     AT(exec.timeout_default_ns), 1, AF_TIMEOUT_MAX_NS, NULL, "TIME",
     "timeout of a command that names none"},
    {"exec-timeout-max", "exec", "timeout_max", CONFIG_DURATION, AT(exec.timeout_max_ns), 1,
     AF_TIMEOUT_MAX_NS, NULL, "TIME", "longest timeout that a command may name"},
    {"log-level", NULL, "log_level", CONFIG_ENUM, AT(log_level), 0, 0, log_level_names, "NAME",
     "debug, info, warn or error"},
};
const size_t config_option_count = AF_ARRAY_LEN(config_options);

static char *must_dup(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        abort(); // a few bytes at start-up
    return copy;
}

void af_config_init(struct af_config *config)
{
    *config = (struct af_config){
        .socket = must_dup(AF_SOCKET_DEFAULT),
        .transport = AF_TRANSPORT_AUTO,
        .open_policy = AF_OPEN_POLICY_KERNEL,
        .passthrough_bytes = AF_PASSTHROUGH_BYTES_DEFAULT,
        .node_cache = AF_NODE_CACHE_DEFAULT,
        .reflection = true,
        .xattrs = true,
        .message_bytes_max = AF_MESSAGE_MAX,
        .connections_max = AF_CONNS_MAX,
        .connections_per_uid = AF_CONNS_PER_UID,
        .stop_grace_ns = DURATION(10),
        .uid_base = 200000,
        .uid_count = AF_SLOT_COUNT,
        .exec = {.bwrap = must_dup("bwrap"),
                 .pool = 4,
                 .tmp_bytes = 256u << 20,
                 .home_bytes = 256u << 20,
                 .shm_bytes = 64u << 20,
                 .output_bytes = AF_OUTPUT_MAX,
                 .timeout_default_ns = AF_TIMEOUT_DEFAULT_NS,
                 .timeout_max_ns = AF_TIMEOUT_MAX_NS},
        .log_level = AF_LOG_INFO,
    };
}

void af_config_fini(struct af_config *config)
{
    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        if (option->type == CONFIG_TEXT || option->type == CONFIG_PATH)
            free(*(char **)((char *)config + option->offset));
    }
    free(config->config_file);
    memset(config, 0, sizeof *config);
}

// ---- the command line -------------------------------------------------------------------

enum { OPT_CONFIG = 1000, OPT_HELP, OPT_VERSION };

// Fills `out` (OPTIONS_MAX) for getopt_long; an option's value is its place in the table.
static void make_long_options(struct option *out)
{
    size_t count = 0;
    for (; count < config_option_count; count++)
        out[count] = (struct option){
            .name = config_options[count].flag,
            .has_arg = config_options[count].type == CONFIG_BOOL ? no_argument : required_argument,
            .val = (int)count};
    out[count++] = (struct option){"config", required_argument, NULL, OPT_CONFIG};
    out[count++] = (struct option){"help", no_argument, NULL, OPT_HELP};
    out[count++] = (struct option){"version", no_argument, NULL, OPT_VERSION};
    out[count] = (struct option){0};
}

static int bad_usage(struct af_error *err, const char *what, const char *argument)
{
    return af_error_set(err, AF_INVALID_ARGUMENT, "%s %s: see agentfensed --help", what,
                        argument ? argument : "");
}

// Walks the arguments once. With config_file NULL it sets options; otherwise it only looks for
// --config, --help and --version.
static int walk_flags(int argc, char *const argv[], struct af_config *config,
                      const char **config_file, enum af_config_action *action, struct af_error *err)
{
    struct option long_options[OPTIONS_MAX];
    _Static_assert(AF_ARRAY_LEN(config_options) + 4 <= OPTIONS_MAX, "raise OPTIONS_MAX");
    make_long_options(long_options);
    optind = 0; // also forgets where an earlier walk was
    opterr = 0;
    int value;
    while ((value = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
        const char *argument = optind > 0 && optind <= argc ? argv[optind - 1] : "";
        if (value == '?')
            return bad_usage(err, "unknown or ambiguous option", argument);
        if (value == ':')
            return bad_usage(err, "missing value after", argument);
        if (value == OPT_HELP || value == OPT_VERSION) {
            *action = value == OPT_HELP ? AF_CONFIG_HELP : AF_CONFIG_VERSION;
            return 0;
        }
        if (value == OPT_CONFIG) {
            if (config_file)
                *config_file = optarg;
            continue;
        }
        char where[64];
        snprintf(where, sizeof where, "--%s", config_options[value].flag);
        if (!config_file &&
            config_set(config, &config_options[value], optarg ? optarg : "true", where, err))
            return -1;
    }
    if (optind < argc)
        return bad_usage(err, "unexpected argument", argv[optind]);
    return 0;
}

// Reads at most FILE_BYTES_MAX into *ret_text, to be freed.
static int read_text(const char *path, char **ret_text, size_t *ret_len, struct af_error *err)
{
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "cannot read the configuration %s: %s",
                            path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the configuration %s is not a regular file of at most 1 MiB", path);
    char *text = malloc((size_t)st.st_size + 1);
    size_t len = 0;
    ssize_t n = text ? 1 : -1;
    while (n > 0 && len < (size_t)st.st_size &&
           (n = read(fd, text + len, (size_t)st.st_size - len)) > 0)
        len += (size_t)n;
    if (n < 0) {
        af_error_set(err, AF_FAILED_PRECONDITION, "cannot read the configuration %s: %s", path,
                     strerror(errno));
        free(text);
        return -1;
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

static int read_file(struct af_config *config, const char *path, struct af_error *err)
{
    char *text = NULL;
    size_t len = 0;
    if (read_text(path, &text, &len, err))
        return -1;
    config->config_file = must_dup(path);
    int rc = af_config_parse_yaml(config, path, text, len, err);
    free(text);
    return rc;
}

int af_config_load(int argc, char *const argv[], struct af_config *config,
                   enum af_config_action *ret_action, struct af_error *err)
{
    struct af_config loaded;
    const char *file = NULL;
    enum af_config_action action = AF_CONFIG_RUN;
    af_config_init(&loaded);
    int rc = walk_flags(argc, argv, &loaded, &file, &action, err);
    if (rc == 0 && action == AF_CONFIG_RUN) {
        if (file)
            rc = read_file(&loaded, file, err);
        if (rc == 0)
            rc = walk_flags(argc, argv, &loaded, NULL, &action, err);
        if (rc == 0)
            rc = af_config_validate(&loaded, err);
    }
    if (rc != 0) {
        af_config_fini(&loaded);
        return -1;
    }
    *config = loaded;
    *ret_action = action;
    return 0;
}

void af_config_usage(FILE *out)
{
    fputs("usage: agentfensed --state DIR [OPTION]...\n"
          "Serves sandboxes over a gRPC API on a unix socket, in the foreground.\n\n"
          "  --config FILE                 YAML file with the same options (flags win)\n",
          out);
    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", option->flag, option->value ? " " : "",
                 option->value ? option->value : "");
        fprintf(out, "  --%-27s %s\n", left, option->help);
    }
    fputs("  --help, --version\n\n"
          "BYTES may end in K, M or G; TIME in ms, s, m or h.\n",
          out);
}
