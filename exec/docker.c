// The Docker runtime: a container per box, whose entry point is our init.
//
// The container comes up without a view and without a command; the init connects to a socket that
// is bound into it, gets the lock and the filters, and from its HELLO on a box is a box: commands
// are forks of the init, and the view is attached at /workspace from outside (open_tree, setns,
// move_mount). So dockerd never has to see the FUSE mount: one that lives in a mount namespace of
// its own would show an empty directory, and a container can wait in a pool.
// The socket is reachable from inside by whatever runs there, so one peer is accepted, it has to be
// the container's process 1 (SO_PEERCRED against State.Pid), and the socket is unlinked.
// Containers carry the run directory as a label: those of a crashed engine are found by it. Their
// names are given by us, so that one whose create was given up can be removed all the same.
// No lock is held over a request; pulling an image delays the starts that need it and no other.
// Owns: a container and a directory in the run directory for each box, until `remove`. Fails:
// af_error, with Docker's own words. Read next: docker_api.h, docker_spec.c, docker_pull.c,
// docker_late.c, init/join.c.
#include "exec/docker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "exec/attach.h"
#include "exec/backend.h"
#include "exec/docker_api.h"
#include "exec/docker_priv.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#define BOX_PREFIX "box-" // of the names of the directories
#define REQUEST_MS 60000  // a container's start under load
#define ASK_MS     10000
#define LOOK_MS    200 // between two looks whether the container is still there

int docker_ask(const struct exec_docker *docker, const struct docker_request *request,
               struct docker_reply *reply, struct af_error *err, const char *fmt, ...)
{
    char path[1024];
    va_list ap;
    *reply = (struct docker_reply){.unsent = true};
    va_start(ap, fmt);
    int n = vsnprintf(path, sizeof(path), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(path))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the name of a Docker image is too long");
    return docker_request(docker->socket_path, path, request, reply, err);
}

int docker_refuse(const struct docker_reply *reply, const char *what, struct af_error *err)
{
    return af_error_set(err, AF_FAILED_PRECONDITION, "Docker cannot %s: %s (status %ld)", what,
                        reply->text, reply->status);
}

// ---- the directory of a box -------------------------------------------------------------

static void remove_dir(const struct exec_docker *docker, const char *name)
{
    static const char *const files[] = {DOCKER_SOCKET_NAME, DOCKER_PASSWD_NAME, DOCKER_GROUP_NAME,
                                        DOCKER_HOSTS_NAME};
    AF_CLEANUP_FD int dir =
        openat(docker->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    for (size_t i = 0; dir >= 0 && i < AF_ARRAY_LEN(files); i++)
        unlinkat(dir, files[i], 0);
    unlinkat(docker->dir_fd, name, AT_REMOVEDIR);
}

// Of an engine before us.
static void remove_dirs(const struct exec_docker *docker)
{
    int fd = openat(docker->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (strncmp(entry->d_name, BOX_PREFIX, strlen(BOX_PREFIX)) == 0)
            remove_dir(docker, entry->d_name);
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

static int write_file(int dir_fd, const char *name, const char *text)
{
    AF_CLEANUP_FD int fd =
        openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0 || fchmod(fd, 0644) < 0)
        return -errno;
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len ? 0 : -EIO;
}

static int write_etc(const struct exec_box *box, int dir_fd)
{
    char passwd[512], group[256], hosts[256];
    snprintf(passwd, sizeof(passwd),
             "root:x:0:0:root:/root:/sbin/nologin\n" EXEC_INSIDE_USER ":x:%u:%u::" EXEC_INSIDE_HOME
             ":/bin/sh\n"
             "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
             (unsigned)box->uid, (unsigned)box->gid);
    snprintf(group, sizeof(group),
             "root:x:0:\ntty:x:5:\n" EXEC_INSIDE_USER ":x:%u:\nnogroup:x:65534:\n",
             (unsigned)box->gid);
    // Docker writes no names for who has no network.
    snprintf(hosts, sizeof(hosts),
             "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 %s\n",
             box->hostname);
    int e = write_file(dir_fd, DOCKER_PASSWD_NAME, passwd);
    if (e == 0)
        e = write_file(dir_fd, DOCKER_GROUP_NAME, group);
    return e ? e : write_file(dir_fd, DOCKER_HOSTS_NAME, hosts);
}

// The path may be longer than a socket's address can be: it is taken by way of the descriptor.
static int listen_at(const struct exec_box *box, int dir_fd)
{
    AF_CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" DOCKER_SOCKET_NAME,
             dir_fd);
    const int one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        fchmodat(dir_fd, DOCKER_SOCKET_NAME, 0600, 0) < 0 ||
        fchownat(dir_fd, DOCKER_SOCKET_NAME, box->uid, box->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        listen(fd, 4) < 0)
        return -errno;
    return af_take_fd(&fd);
}

static int make_dir(const struct exec_box *box, struct exec_launch *launch, int *ret_listen_fd,
                    struct af_error *err)
{
    struct exec_docker *docker = box->engine->docker;
    snprintf(launch->docker_dir, sizeof(launch->docker_dir), BOX_PREFIX "%u",
             atomic_fetch_add(&docker->serial, 1));
    AF_CLEANUP_FD int dir = -1;
    if (mkdirat(docker->dir_fd, launch->docker_dir, 0711) == 0)
        dir = openat(docker->dir_fd, launch->docker_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int e = dir < 0 || fchmod(dir, 0711) < 0 ? -errno : write_etc(box, dir);
    if (e == 0) {
        *ret_listen_fd = listen_at(box, dir);
        e = *ret_listen_fd < 0 ? *ret_listen_fd : 0;
    }
    return e < 0 ? af_error_errno(err, e, "cannot prepare the container of %s", box->id) : 0;
}

// ---- create and start -------------------------------------------------------------------

// 0, -1, or 1 when the image is missing. *ret_volumes is the caller's; NULL: there are none.
static int image_volumes(const struct exec_box *box, json_t **ret_volumes, struct af_error *err)
{
    struct docker_reply reply;
    const struct docker_request request = {
        .method = "GET", .timeout_ms = REQUEST_MS, .unwanted = &box->ending};
    AF_CLEANUP_FREE char *name = docker_encode(box->image);
    if (!name)
        return af_error_errno(err, ENOMEM, "cannot make the container of %s", box->id);
    if (docker_ask(box->engine->docker, &request, &reply, err, "/images/%s/json", name) < 0)
        return -1;
    int rc = reply.status == 200   ? 0
             : reply.status == 404 ? 1
                                   : docker_refuse(&reply, "look at the image", err);
    if (rc == 0)
        *ret_volumes =
            json_incref(json_object_get(json_object_get(reply.body, "Config"), "Volumes"));
    docker_reply_fini(&reply);
    return rc;
}

// 0, -1, or 1 when the image is missing.
static int create(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    const struct exec_docker *docker = box->engine->docker;
    struct docker_reply reply;
    json_t *volumes = NULL;
    int missing = image_volumes(box, &volumes, err);
    if (missing != 0)
        return missing;
    json_t *body = docker_container(box, launch->docker_dir, volumes);
    json_decref(volumes);
    if (!body)
        return af_error_errno(err, ENOMEM, "cannot make the container of %s", box->id);
    const struct docker_request request = {
        .method = "POST", .body = body, .timeout_ms = REQUEST_MS, .unwanted = &box->ending};
    snprintf(launch->container, sizeof(launch->container), "%s-%s", docker->names.text,
             launch->docker_dir);
    int rc =
        docker_ask(docker, &request, &reply, err, "/containers/create?name=%s", launch->container);
    json_decref(body);
    launch->may_come = rc < 0 && !reply.unsent;
    if (reply.status != 201 && !launch->may_come)
        launch->container[0] = '\0'; // none was made
    if (rc < 0)
        return -1;
    if (reply.status == 404)
        rc = 1;
    else if (reply.status != 201)
        rc = docker_refuse(&reply, "make a container", err);
    docker_reply_fini(&reply);
    return rc;
}

static int start_container(const struct exec_box *box, const struct exec_launch *launch,
                           struct af_error *err)
{
    struct docker_reply reply;
    const struct docker_request request = {
        .method = "POST", .timeout_ms = REQUEST_MS, .unwanted = &box->ending};
    if (docker_ask(box->engine->docker, &request, &reply, err, "/containers/%s/start",
                   launch->container) < 0)
        return -1;
    int rc = reply.status == 204 ? 0 : docker_refuse(&reply, "start the container", err);
    docker_reply_fini(&reply);
    return rc;
}

// ---- the init ---------------------------------------------------------------------------

static int keep_env(struct exec_launch *launch, const json_t *env)
{
    size_t count = json_array_size(env);
    launch->env = calloc(count + 1, sizeof(*launch->env));
    for (size_t i = 0; launch->env && i < count; i++) {
        const char *text = json_string_value(json_array_get(env, i));
        launch->env[i] = strdup(text && strchr(text, '=') ? text : "=");
        if (!launch->env[i])
            return -ENOMEM;
    }
    return launch->env ? 0 : -ENOMEM;
}

// Whether a container has a place on the host's disk that it may write to. The image may have been
// replaced since its volumes were asked for.
static bool has_disk(const json_t *container)
{
    const json_t *mounts = json_object_get(container, "Mounts");
    for (size_t i = 0; i < json_array_size(mounts); i++) {
        const json_t *mount = json_array_get(mounts, i);
        const char *type = json_string_value(json_object_get(mount, "Type"));
        const char *path = json_string_value(json_object_get(mount, "Destination"));
        if (!json_is_false(json_object_get(mount, "RW")) && !(type && strcmp(type, "tmpfs") == 0) &&
            !(path && docker_is_tmpfs(path)))
            return true;
    }
    return false;
}

// Reads the container's pid, and its environment, which is the image's.
static int inspect(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    struct docker_reply reply;
    const struct docker_request request = {
        .method = "GET", .timeout_ms = ASK_MS, .unwanted = &box->ending};
    if (docker_ask(box->engine->docker, &request, &reply, err, "/containers/%s/json",
                   launch->container) < 0)
        return -1;
    json_t *state = json_object_get(reply.body, "State");
    json_int_t pid = json_integer_value(json_object_get(state, "Pid"));
    int rc = 0;
    if (reply.status != 200)
        rc = docker_refuse(&reply, "look at the container", err);
    else if (pid <= 1)
        rc = af_error_set(err, AF_FAILED_PRECONDITION,
                          "the container of %s ended at its start: %s (exit code %lld)", box->id,
                          json_string_value(json_object_get(state, "Error")),
                          (long long)json_integer_value(json_object_get(state, "ExitCode")));
    else if (has_disk(reply.body))
        rc = af_error_set(err, AF_UNAVAILABLE,
                          "the image %s was replaced by one with other volumes meanwhile: start "
                          "%s again",
                          box->image, box->id);
    else if (keep_env(launch, json_object_get(json_object_get(reply.body, "Config"), "Env")) < 0)
        rc = af_error_errno(err, ENOMEM, "cannot start %s", box->id);
    else
        launch->init_pid = (pid_t)pid;
    docker_reply_fini(&reply);
    return rc;
}

// Accepts the init, and nobody else.
static int accept_init(const struct exec_box *box, const struct exec_launch *launch, int listen_fd,
                       int *ret_fd, struct af_error *err)
{
    int64_t until_ns = af_monotonic_ns() + box->engine->options.start_timeout_ns;
    while (af_monotonic_ns() < until_ns) {
        struct pollfd polled = {.fd = listen_fd, .events = POLLIN};
        if (poll(&polled, 1, LOOK_MS) <= 0) {
            if (kill(launch->init_pid, 0) < 0)
                break;
            continue;
        }
        AF_CLEANUP_FD int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct ucred peer;
        socklen_t size = sizeof(peer);
        const int one = 1;
        if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
            peer.pid != launch->init_pid || peer.uid != box->uid)
            continue;
        if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
            return af_error_errno(err, errno, "cannot set up the socket for %s", box->id);
        *ret_fd = af_take_fd(&fd);
        return 0;
    }
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "the init did not come up in the container of %s: see `docker logs`",
                        box->id);
}

static int send_setup(const struct exec_box *box, int fd, struct af_error *err)
{
    const struct exec_engine *e = box->engine;
    const int fds[EXEC_SETUP_FDS] = {e->lock_fd, e->filter_fds[0], e->filter_fds[1]};
    const struct exec_msg_head head = {.kind = EXEC_MSG_SETUP};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(fds))];
    } control = {0};
    struct iovec iov = {(void *)&head, sizeof(head)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(fds));
    memcpy(CMSG_DATA(c), fds, sizeof(fds));
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
        return af_error_errno(err, errno, "cannot set up the init of %s", box->id);
    return 0;
}

// 0, -1, or 1: the job waits for a pull, and nothing of it may be touched any more.
static int create_or_pull(const struct exec_box *box, struct exec_launch *launch,
                          struct af_error *err)
{
    const struct exec_docker *docker = box->engine->docker;
    int rc = create(box, launch, err);
    if (rc <= 0)
        return rc;
    if (docker->pull && launch->pull == EXEC_PULL_NONE) {
        remove_dir(box->engine->docker, launch->docker_dir);
        launch->docker_dir[0] = '\0';
        return docker_pull_wait(box, launch, err);
    }
    return af_error_set(err, AF_FAILED_PRECONDITION, "Docker has no image %s: %s", box->image,
                        docker->pull ? "it was pulled, but is gone again"
                                     : "pull it (`docker pull`), or allow the server to with "
                                       "exec.docker_pull");
}

static int docker_start(const struct exec_box *box, struct exec_launch *launch,
                        struct af_error *err)
{
    AF_CLEANUP_FD int listen_fd = -1;
    AF_CLEANUP_FD int fd = -1;
    if (launch->pull == EXEC_PULL_FAILED)
        return -1; // why is in launch->error already
    if (make_dir(box, launch, &listen_fd, err) < 0)
        return -1;
    int rc = create_or_pull(box, launch, err);
    if (rc != 0)
        return rc;
    if (start_container(box, launch, err) < 0 || inspect(box, launch, err) < 0 ||
        accept_init(box, launch, listen_fd, &fd, err) < 0 || send_setup(box, fd, err) < 0)
        return -1;
    AF_CLEANUP_FD int dir =
        openat(box->engine->docker->dir_fd, launch->docker_dir, O_PATH | O_CLOEXEC);
    unlinkat(dir, DOCKER_SOCKET_NAME, 0);
    launch->socket_fd = af_take_fd(&fd);
    return 0;
}

static int docker_check(const struct exec_box *box, const struct exec_launch *launch,
                        struct af_error *err)
{
    return exec_attach_check(launch->init_pid, launch->init_pidfd, 0, box->uid, box->gid, err);
}

static void docker_remove(const struct exec_box *box, struct exec_launch *launch)
{
    struct exec_docker *docker = box->engine->docker;
    struct af_error err;
    if (launch->container[0]) {
        int rc = docker_delete(docker, launch->container, NULL, &err);
        if (rc < 0) // its processes have ended
            af_log(AF_LOG_WARN, EXEC_AREA, "a container is not removed yet",
                   "sandbox=%s container=%s error=\"%s\"", box->id, launch->container, err.text);
        if (rc < 0 || (rc == 0 && launch->may_come))
            docker_late_add(&docker->late, launch->container);
    }
    if (launch->docker_dir[0])
        remove_dir(box->engine->docker, launch->docker_dir);
}

const struct exec_backend exec_backend_docker = {
    .name = "docker",
    .lane = EXEC_LANE_DOCKER,
    .start = docker_start,
    .check = docker_check,
    .remove = docker_remove,
    .bounds_itself = true,
    .has_terminals = true,
};

// ---- the daemon -------------------------------------------------------------------------

static int read_version(struct exec_docker *docker, struct af_error *err)
{
    struct docker_reply reply;
    const struct docker_request request = {.method = "GET", .timeout_ms = ASK_MS};
    if (docker_ask(docker, &request, &reply, err, "/version") < 0)
        return -1;
    const char *version = json_string_value(json_object_get(reply.body, "Version"));
    int rc = reply.status == 200 && version ? 0 : docker_refuse(&reply, "say its version", err);
    if (rc == 0)
        snprintf(docker->version, sizeof(docker->version), "%s", version);
    docker_reply_fini(&reply);
    return rc;
}

// Those that cannot be removed now are removed later.
static void remove_all(struct exec_docker *docker, const json_t *containers)
{
    size_t count = json_array_size(containers), removed = 0;
    struct af_error err = {.status = AF_OK};
    for (size_t i = 0; i < count; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(containers, i), "Id"));
        if (!id)
            continue;
        // One answer that does not come is enough.
        if (err.status != AF_DEADLINE_EXCEEDED && docker_delete(docker, id, NULL, &err) >= 0)
            removed++;
        else
            docker_late_add(&docker->late, id);
    }
    if (removed < count)
        af_log(AF_LOG_WARN, EXEC_AREA,
               "containers of a daemon that had crashed are not removed yet",
               "found=%zu left=%zu error=\"%s\"", count, count - removed, err.text);
    else if (count > 0)
        af_log(AF_LOG_WARN, EXEC_AREA, "removed the containers of a daemon that had crashed",
               "removed=%zu", removed);
}

static int remove_orphans(struct exec_docker *docker, const char *run_dir, struct af_error *err)
{
    struct docker_reply reply;
    json_t *filters = json_pack("{s:[s+]}", "label", DOCKER_LABEL "=", run_dir);
    AF_CLEANUP_FREE char *text = filters ? json_dumps(filters, JSON_COMPACT) : NULL;
    AF_CLEANUP_FREE char *query = text ? docker_encode(text) : NULL;
    json_decref(filters);
    if (!query)
        return af_error_errno(err, ENOMEM, "cannot look for containers");
    const struct docker_request request = {.method = "GET", .timeout_ms = ASK_MS};
    if (docker_ask(docker, &request, &reply, err, "/containers/json?all=1&filters=%s", query) < 0)
        return -1;
    int rc = reply.status == 200 ? 0 : docker_refuse(&reply, "list its containers", err);
    if (rc == 0)
        remove_all(docker, reply.body);
    docker_reply_fini(&reply);
    return rc;
}

static int open_dir(struct exec_docker *docker, const char *run_dir, struct af_error *err)
{
    AF_CLEANUP_FD int run = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run >= 0 && (mkdirat(run, DOCKER_DIR_NAME, 0711) == 0 || errno == EEXIST))
        docker->dir_fd = openat(run, DOCKER_DIR_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (docker->dir_fd < 0)
        return af_error_errno(err, errno, "cannot make %s/" DOCKER_DIR_NAME, run_dir);
    remove_dirs(docker);
    return 0;
}

static int begin(struct exec_docker *docker, const char *run_dir, struct af_error *err)
{
    if (!docker->socket_path)
        return af_error_errno(err, ENOMEM, "cannot set up the Docker runtime");
    af_id_new("agentfense", &docker->names);
    if (read_version(docker, err) < 0 || remove_orphans(docker, run_dir, err) < 0 ||
        open_dir(docker, run_dir, err) < 0)
        return -1;
    int e = docker_late_start(&docker->late);
    return e ? af_error_errno(err, e, "cannot start a thread for the Docker runtime") : 0;
}

int exec_docker_new(struct exec_engine *e, struct exec_docker **ret, struct af_error *err)
{
    const struct exec_docker_options *options = &e->options.docker;
    struct exec_docker *docker = calloc(1, sizeof(*docker));
    if (!docker)
        return af_error_errno(err, ENOMEM, "cannot set up the Docker runtime");
    docker->dir_fd = -1;
    docker->pull = options->pull;
    docker->socket_path = strdup(options->socket);
    LIST_INIT(&docker->pulls);
    pthread_mutex_init(&docker->pull_lock, NULL);
    docker_late_init(&docker->late, docker);
    if (begin(docker, e->run_dir, err) < 0) {
        exec_docker_free(docker);
        return -1;
    }
    *ret = docker;
    return 0;
}

void exec_docker_free(struct exec_docker *docker)
{
    if (!docker)
        return;
    docker_late_fini(&docker->late);
    pthread_mutex_destroy(&docker->pull_lock);
    if (docker->dir_fd >= 0)
        close(docker->dir_fd);
    free(docker->socket_path);
    free(docker);
}

const char *exec_docker_version(const struct exec_docker *docker)
{
    return docker->version;
}
