// Puts the daemon together and takes it apart.
//
// Order: what a crashed daemon left behind is cleaned up first (commands, then the mount), then
// mux, fs, exec, runner, server; down in the opposite order. Every step says what is wrong in one
// sentence. Read next: daemon.h, then services/common.h.
#include "api/daemon.h"

#include "api/metrics_http.h"
#include "api/services/archive_turns.h"
#include "api/services/common.h"
#include "api/services/health_service.h"
#include "api/services/watch_service.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOB_THREADS    4
#define STOP_STATUS_NS (5 * AF_NS_PER_SEC) // for the statuses of calls that a stop has cancelled

// ---- directories

// Makes a directory and its parents, private to root. EEXIST is fine when it is a directory.
static int make_directory(const char *path, struct af_error *err)
{
    AF_CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return af_error_errno(err, ENOMEM, "cannot make %s", path);
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char saved = *p;
        *p = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return af_error_errno(err, errno, "cannot make the directory %s", copy);
        *p = saved;
        if (saved == '\0')
            break;
    }
    struct stat st;
    if (stat(path, &st) < 0)
        return af_error_errno(err, errno, "cannot use %s", path);
    if (!S_ISDIR(st.st_mode))
        return af_error_set(err, AF_FAILED_PRECONDITION, "%s is no directory", path);
    return 0;
}

// The directory that holds a path: the mount point itself may be a dead mount, not to be looked at.
static int make_parent(const char *path, struct af_error *err)
{
    AF_CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return af_error_errno(err, ENOMEM, "cannot make %s", path);
    char *slash = strrchr(copy, '/');
    if (!slash || slash == copy)
        return 0;
    *slash = '\0';
    return make_directory(copy, err);
}

// The socket's directory, which those whom the socket's mode admits must be able to pass. Only the
// last component is made: what is above it is the system's (/run).
static int make_socket_dir(const char *socket, struct af_error *err)
{
    AF_CLEANUP_FREE char *copy = strdup(socket);
    if (!copy)
        return af_error_errno(err, ENOMEM, "cannot make %s", socket);
    char *slash = strrchr(copy, '/');
    if (!slash || slash == copy)
        return 0;
    *slash = '\0';
    if (mkdir(copy, 0755) < 0)
        return errno == EEXIST ? 0
                               : af_error_errno(err, errno, "cannot make the directory %s", copy);
    return chmod(copy, 0755) < 0 ? af_error_errno(err, errno, "cannot use %s", copy) : 0;
}

static bool is_below(const char *path, const char *directory)
{
    size_t len = strlen(directory);
    return strncmp(path, directory, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

// A root for sandboxes without a shell would start, and then fail every command.
static int check_rootfs(const char *where, const char *rootfs, struct af_error *err)
{
    AF_CLEANUP_FD int fd = rootfs ? open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (!rootfs)
        return 0;
    if (fd < 0)
        return af_error_errno(err, errno, "%s: cannot use %s", where, rootfs);
    // Links in it are meant for the sandbox; lstat does not follow the last one.
    struct stat st;
    if (fstatat(fd, "bin/sh", &st, AT_SYMLINK_NOFOLLOW) < 0 &&
        fstatat(fd, "usr/bin/sh", &st, AT_SYMLINK_NOFOLLOW) < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s: %s has no bin/sh, so no command could run", where, rootfs);
    return 0;
}

static int check_roots(const struct af_config *config, struct af_error *err)
{
    if (check_rootfs("exec.rootfs", config->exec.rootfs, err) < 0)
        return -1;
    AF_CLEANUP_FREE char *roots = strdup(config->exec.roots ? config->exec.roots : "");
    char *rest = roots;
    for (char *item; roots && (item = strsep(&rest, ","));) {
        char *path = strchr(item, '=');
        if (!*item && !config->exec.roots)
            continue;
        if (!path || path == item || path[1] != '/' || path - item > AF_IMAGE_MAX)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "exec.roots: '%s' is not NAME=/ABSOLUTE/DIRECTORY", item);
        *path++ = '\0';
        if (is_below(path, config->mount))
            return af_error_set(err, AF_INVALID_ARGUMENT, "%s lies inside the mount point %s", path,
                                config->mount);
        char where[AF_IMAGE_MAX + 16];
        snprintf(where, sizeof where, "exec.roots: %s", item);
        if (check_rootfs(where, path, err) < 0)
            return -1;
    }
    return 0;
}

// A mount hides what the directory holds: somebody's files.
static int check_empty(const char *path, struct af_error *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return af_error_errno(err, errno, "cannot use the mount directory %s", path);
    unsigned names = 0;
    while (names <= 2 && readdir(dir))
        names++;
    closedir(dir);
    if (names <= 2) // "." and ".."
        return 0;
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "the mount directory %s is not empty: choose a directory of its own", path);
}

// The daemon must never depend on its own mount: a store or socket below it would deadlock.
static int check_paths(const struct af_config *config, struct af_error *err)
{
    const char *inside[] = {config->state, config->socket, config->exec.rootfs};
    for (size_t i = 0; i < AF_ARRAY_LEN(inside); i++)
        if (inside[i] && is_below(inside[i], config->mount))
            return af_error_set(err, AF_INVALID_ARGUMENT, "%s lies inside the mount point %s",
                                inside[i], config->mount);
    if (geteuid() != 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "agentfensed must be started as root: it mounts a file system and "
                            "gives each sandbox a user id of its own");
    return check_roots(config, err);
}

// ---- up

static int recover(struct daemon *daemon, struct af_error *err)
{
    unsigned processes = 0, mounts = 0;
    if (fs_lock_mountpoint(daemon->config.mount, &daemon->mount_lock, err) < 0 ||
        exec_recover(daemon->run_dir, &processes, err) < 0 ||
        fs_recover(daemon->config.mount, &mounts, err) < 0)
        return -1;
    if (processes || mounts)
        af_log(AF_LOG_WARN, "daemon", "cleaned up after a daemon that had crashed",
               "processes=%u mounts=%u", processes, mounts);
    return 0;
}

static int start_mux(struct daemon *daemon, struct af_error *err)
{
    struct mux_options options = {
        .state_dir = daemon->config.state,
        .uid_base = daemon->config.uid_base,
        .uid_count = daemon->config.uid_count,
        // Slots count from 1: the last one runs as uid_base + uid_count.
        .reserved_uid = daemon->config.uid_base + daemon->config.uid_count + 1,
        .nodes_max = daemon->config.node_cache,
        .no_sharing = daemon->config.open_policy == AF_OPEN_POLICY_SERVER,
        .iops_max = daemon->config.iops_max,
        .bandwidth_max = daemon->config.bandwidth_max,
    };
    return mux_open(&options, &daemon->mux, err);
}

static int start_fs(struct daemon *daemon, struct af_error *err)
{
    static const enum fs_transport transports[] = {
        [AF_TRANSPORT_AUTO] = FS_TRANSPORT_AUTO,
        [AF_TRANSPORT_IO_URING] = FS_TRANSPORT_IO_URING,
        [AF_TRANSPORT_DEV_FUSE] = FS_TRANSPORT_DEV_FUSE,
    };
    static const enum fs_open_policy policies[] = {
        [AF_OPEN_POLICY_KERNEL] = FS_OPEN_KERNEL,
        [AF_OPEN_POLICY_SERVER] = FS_OPEN_SERVER,
    };
    struct fs_options options = {
        .mux = daemon->mux,
        .mountpoint = daemon->config.mount,
        .uid_base = daemon->config.uid_base,
        .transport = transports[daemon->config.transport],
        .open_policy = policies[daemon->config.open_policy],
        .passthrough_bytes = daemon->config.passthrough_bytes,
        .workers = daemon->config.fuse_workers,
        .no_xattrs = !daemon->config.xattrs,
    };
    if (fs_session_new(&options, &daemon->fs, err) < 0 || fs_session_start(daemon->fs, err) < 0)
        return -1;
    char line[512];
    fs_session_describe(daemon->fs, line, sizeof line);
    af_log(AF_LOG_INFO, "fs", line, "mount=%s", daemon->config.mount);
    return 0;
}

// The runner's word: sessions know nothing of the store.
static void sandbox_destroyed(void *arg, const char *id)
{
    struct daemon *daemon = arg;
    if (daemon->sessions)
        sessions_forget(daemon->sessions, id);
    if (daemon->processes)
        processes_forget(daemon->processes, id);
    if (daemon->watches)
        watches_forget(daemon->watches, id);
}

static void flush_kernel(void *fs, const char *sandbox_id)
{
    fs_invalidate_flush(fs, sandbox_id);
}

static int start_exec(struct daemon *daemon, struct af_error *err)
{
    const struct af_config *config = &daemon->config;
    struct exec_options options = {
        .run_dir = daemon->run_dir,
        .bwrap_path = strchr(config->exec.bwrap, '/') ? config->exec.bwrap : NULL,
        .init_path = config->exec.init,
        .cgroup_parent = config->exec.cgroup,
        .docker = {.socket = config->exec.docker_socket, .pull = config->exec.docker_pull},
    };
    if (exec_engine_new(&options, &daemon->engine, err) < 0)
        return -1;
    struct runner_options runner = {
        .mux = daemon->mux,
        .destroyed = sandbox_destroyed,
        .arg = daemon,
    };
    af_log(AF_LOG_INFO, "exec", "commands run in bubblewrap", "version=%s docker=%s limits=\"%s\"",
           exec_engine_features(daemon->engine)->bwrap_version,
           *exec_engine_features(daemon->engine)->docker_version
               ? exec_engine_features(daemon->engine)->docker_version
               : "none",
           exec_engine_features(daemon->engine)->cgroups);
    const struct boxes_options boxes = {
        .mux = daemon->mux,
        .engine = daemon->engine,
        .config = config,
    };
    if (boxes_new(&boxes, &daemon->boxes, err) < 0)
        return -1;
    const struct turns_options turns = {
        .mux = daemon->mux, .flush = flush_kernel, .fs = daemon->fs};
    if (turns_new(&turns, &daemon->turns, err) < 0)
        return -1;
    runner.boxes = daemon->boxes;
    runner.turns = daemon->turns;
    if (runner_new(&runner, &daemon->runner, err) < 0 ||
        jobs_new(JOB_THREADS, &daemon->jobs, err) < 0)
        return -1;
    if (sessions_new(daemon->runner, &daemon->sessions, err) < 0)
        return -1;
    return processes_new(daemon->runner, &daemon->processes, err);
}

static int add_methods(struct net_server *server, bool reflection, struct af_error *err)
{
    const struct {
        const struct grpc_method *methods;
        size_t count;
    } tables[] = {
        {codebase_methods, codebase_methods_count}, {sandbox_methods, sandbox_methods_count},
        {exec_methods, exec_methods_count},         {inspect_methods, inspect_methods_count},
        {fsck_methods, fsck_methods_count},         {tree_methods, tree_methods_count},
        {session_methods, session_methods_count},   {health_methods, health_methods_count},
        {view_methods, view_methods_count},         {archive_methods, archive_methods_count},
        {commit_methods, commit_methods_count},     {process_methods, process_methods_count},
        {file_methods, file_methods_count},         {monitor_methods, monitor_methods_count},
        {watch_methods, watch_methods_count},
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(tables); i++)
        if (net_server_add_methods(server, tables[i].methods, tables[i].count, err) < 0)
            return -1;
    return reflection
               ? net_server_add_methods(server, reflection_methods, reflection_methods_count, err)
               : 0;
}

static int start_server(struct daemon *daemon, struct af_error *err)
{
    const struct af_config *config = &daemon->config;
    struct net_server_options options = {
        .context = daemon,
        .workers = config->workers,
        .check_group = config->group != NULL,
        .group = config->group_id,
        .refused_uid = config->uid_base,
        .refused_uid_count = config->uid_count + 1, // slots count from 1
        .tls_cert = config->tls_cert,
        .tls_key = config->tls_key,
        .token_file = config->token_file,
        .limits.message_bytes_max = config->message_bytes_max,
        .limits.conns_max = config->connections_max,
        .limits.conns_per_uid = config->connections_per_uid,
    };
    if (health_new(&daemon->health, err) < 0 || watches_new(&daemon->watches, err) < 0 ||
        archives_new(&daemon->archives, err) < 0 ||
        net_server_new(&options, &daemon->server, err) < 0 ||
        add_methods(daemon->server, config->reflection, err) < 0 ||
        make_socket_dir(config->socket, err) < 0 ||
        net_server_listen_unix(daemon->server, config->socket, err) < 0)
        return -1;
    if ((config->listen && net_server_listen_tcp(daemon->server, config->listen, NULL, err) < 0) ||
        (config->listen_tls &&
         net_server_listen_tls(daemon->server, config->listen_tls, NULL, err) < 0))
        return -1;
    if (net_server_start(daemon->server, err) < 0)
        return -1;
    if (!config->metrics)
        return 0;
    if (strncmp(config->metrics, "unix:", 5) == 0 && make_socket_dir(config->metrics + 5, err) < 0)
        return -1;
    return metrics_http_start(daemon, &daemon->metrics, err);
}

int daemon_start(struct af_config *config, struct daemon **ret, struct af_error *err)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    if (!daemon) {
        af_config_fini(config);
        return af_error_errno(err, ENOMEM, "daemon");
    }
    daemon->config = *config;
    daemon->mount_lock = -1;
    daemon->started_ns = af_wall_ns();
    if (asprintf(&daemon->run_dir, "%s/run", daemon->config.state) < 0)
        daemon->run_dir = NULL;
    fs_end_dying(daemon->config.mount);
    // mux_open comes before the clean-up: its lock on the state directory proves that the daemon
    // whose left-overs these are is gone.
    if (!daemon->run_dir || check_paths(&daemon->config, err) < 0 || start_mux(daemon, err) < 0 ||
        make_directory(daemon->run_dir, err) < 0 || make_parent(daemon->config.mount, err) < 0 ||
        recover(daemon, err) < 0 || make_directory(daemon->config.mount, err) < 0 ||
        check_empty(daemon->config.mount, err) < 0 || start_fs(daemon, err) < 0 ||
        start_exec(daemon, err) < 0 || fs_session_guard(daemon->fs, err) < 0 ||
        start_server(daemon, err) < 0) {
        daemon_stop(daemon);
        return -1;
    }
    *ret = daemon;
    return 0;
}

void daemon_reload(struct daemon *daemon)
{
    const struct af_config *config = &daemon->config;
    struct af_error err;
    if (!config->tls_cert) { // tokens go with it
        af_log(AF_LOG_INFO, "daemon", "nothing to read again", "files=0");
        return;
    }
    if (net_server_reload(daemon->server, config->tls_cert, config->tls_key, config->token_file,
                          &err) < 0)
        af_log(AF_LOG_ERROR, "daemon", "certificate and tokens stay as they were", "error=\"%s\"",
               err.text);
    else
        af_log(AF_LOG_INFO, "daemon", "read again what can change while it runs", "files=3");
}

void daemon_stop(struct daemon *daemon)
{
    if (!daemon)
        return;
    // What would never end by itself is told so; the rest may end in time.
    health_stop(daemon->health);
    watches_stop(daemon->watches);
    if (daemon->server)
        net_server_drain(daemon->server, daemon->config.stop_grace_ns);
    // Commands are ended before the server, so that the calls that wait for them get a status.
    if (daemon->runner)
        runner_close(daemon->runner);
    if (daemon->engine)
        exec_engine_close(daemon->engine);
    metrics_http_stop(daemon->metrics);
    if (daemon->server)
        net_server_stop(daemon->server, STOP_STATUS_NS);
    jobs_free(daemon->jobs); // while the mount is served: they wait for the kernel
    runner_free(daemon->runner);
    turns_free(daemon->turns); // the ends of commands are pushed; exec still takes releases
    boxes_free(daemon->boxes);
    exec_engine_free(daemon->engine);
    archives_free(daemon->archives); // their threads hold calls
    net_server_free(daemon->server);
    health_free(daemon->health);
    watches_free(daemon->watches);
    sessions_free(daemon->sessions);
    processes_free(daemon->processes);
    if (daemon->fs)
        fs_session_free(daemon->fs);
    if (daemon->mux)
        mux_close(daemon->mux);
    fs_unlock_mountpoint(daemon->config.mount, daemon->mount_lock);
    af_config_fini(&daemon->config);
    free(daemon->run_dir);
    free(daemon);
}
