// The daemon's options: defaults, command line, YAML file.
//
// Every option exists as a flag and as a key of the file of the same name (flag --open-policy, key
// open_policy; flag --exec-output-bytes, key output_bytes in the section exec). A flag
// wins over the file, the file over the default. docs/agentfensed.yaml documents each key.
//
// Owns: the strings of struct af_config. No locks, no global state, no threads.
// Failure: -1 and INVALID_ARGUMENT (FAILED_PRECONDITION for a file that cannot be read) with a
// sentence that names the flag, or the file, line and key.
// Read next: api/config.c, the option table.
#ifndef AF_API_CONFIG_H
#define AF_API_CONFIG_H

#include "exec/exec.h"
#include "mux/base/error.h"
#include "mux/base/log.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum af_transport { AF_TRANSPORT_AUTO, AF_TRANSPORT_IO_URING, AF_TRANSPORT_DEV_FUSE };
enum af_open_policy { AF_OPEN_POLICY_KERNEL, AF_OPEN_POLICY_SERVER };

struct af_config {
    // Where. Absolute paths without a trailing slash; state and socket are always set.
    char *state;      // directory of the store, made when missing
    char *socket;     // unix socket of the API; default AF_SOCKET_DEFAULT
    char *mount;      // FUSE mount point; default STATE/mnt
    char *listen;     // "ADDR:PORT", or NULL: no TCP
    char *listen_tls; // "ADDR:PORT", or NULL: no TLS; then the next three are set
    char *tls_cert, *tls_key, *token_file;
    char *metrics;       // "ADDR:PORT" or "unix:PATH" of the Prometheus endpoint, or NULL: none
    bool metrics_public; // it may be on another address than a loopback one
    char *config_file;   // the file that was read, or NULL
    char *group;         // name or number of the group that may call, or NULL: root only
    gid_t group_id;      // of `group`; meaningful when `group` is set

    // File system.
    enum af_transport transport;
    enum af_open_policy open_policy;
    uint64_t passthrough_bytes; // of the server policy; 0: none
    unsigned fuse_workers;      // 0: as the CPUs are
    uint32_t node_cache;        // inodes kept in memory over all views
    uint32_t iops_max;          // requests a second of one sandbox; 0: none
    uint64_t bandwidth_max;     // bytes a second. What a sandbox leaves open is this.
    bool xattrs; // extended attributes; without them a file written costs a request less

    // API.
    unsigned workers;           // threads that run handlers; 0: as the CPUs are
    bool reflection;            // describe the services to who asks
    uint64_t message_bytes_max; // one gRPC message
    unsigned connections_max;
    unsigned connections_per_uid;
    int64_t stop_grace_ns; // how long a stop waits for calls in flight

    // Sandboxes.
    uid_t uid_base;     // host uids uid_base .. uid_base + uid_count - 1, one per attached view
    uint32_t uid_count; // 1 .. AF_SLOT_COUNT
    uint32_t sandboxes_per_owner_max; // 0: none

    struct {
        char *bwrap;               // program; default "bwrap", found through PATH
        char *init;                // static pid 1; NULL: agentfense-init beside the daemon
        enum exec_runtime runtime; // of sandboxes that name none
        char *docker_socket;       // of the Docker Engine API; NULL: no Docker runtime
        char *docker_image;        // of sandboxes that name none, and of the pool; NULL: none
        bool docker_pull;          // images that are missing are pulled
        uint32_t docker_pool;      // containers that are started ahead
        bool network_host;         // sandboxes may ask for the host's network
        char *roots;               // "NAME=DIR,...": root directories that sandboxes may name
        char *rootfs;              // root directory for sandboxes; NULL: the host's, minimal
        unsigned pool;             // boxes that are started ahead
        bool lazy;                 // a start makes no process; the first command does
        int64_t idle_end_ns;       // a box in which nothing runs for so long is ended; 0: never
        uint64_t tmp_bytes;        // size of a sandbox's private /tmp
        uint64_t home_bytes;       // of its private HOME
        uint64_t shm_bytes;        // of its /dev/shm
        char *cgroup;              // control group for sandboxes; NULL: the daemon's own
        uint64_t memory_max;       // of one sandbox; 0: none. What a sandbox leaves open is this.
        uint32_t cpu_quota_max;    // microseconds in each 100,000
        uint32_t pids_max;
        uint64_t output_bytes;      // kept of each of stdout and stderr
        int64_t timeout_default_ns; // of a command that names none
        int64_t timeout_max_ns;
    } exec;

    enum af_log_level log_level;
};

enum af_config_action {
    AF_CONFIG_RUN,     // *config is complete
    AF_CONFIG_HELP,    // --help was given: print af_config_usage and exit 0
    AF_CONFIG_VERSION, // --version
};

// Fills *config from the arguments and, when they name one, the file. On success the action
// and a config to be given to af_config_fini; on failure -1 and nothing to free.
// `argv` is not changed.
int af_config_load(int argc, char *const argv[], struct af_config *config,
                   enum af_config_action *ret_action, struct af_error *err);

// The defaults alone (state NULL), for tests and tools.
void af_config_init(struct af_config *config);
void af_config_fini(struct af_config *config);

// Applies the text of one YAML file to *config; public for tests. The text need not be
// NUL-terminated; `name` is for messages. On failure *config is partly changed, to be fini'ed.
int af_config_parse_yaml(struct af_config *config, const char *name, const char *text, size_t len,
                         struct af_error *err);

// Checks ranges and combinations, fills what depends on other options (mount, group_id).
int af_config_validate(struct af_config *config, struct af_error *err);

// The help text, one line per option, made from the option table.
void af_config_usage(FILE *out);

#endif
