// The Docker runtime: a container per box, whose entry point is our init.
//
// The container comes up without a view and without a command; the init connects to a socket that
// is bound into it, gets the lock and the filters, and from its HELLO on a box is a box: commands
// are forks of the init, and the view is attached at /workspace from outside (open_tree, setns,
// move_mount). So dockerd never has to see the FUSE mount: one that lives in a mount namespace of
// its own would show an empty directory, and a container can wait in a pool.
// The socket is reachable from inside by whatever runs there, so one peer is accepted, it has to be
// the container's process 1 (SO_PEERCRED against State.Pid), and the socket is unlinked.
// Containers carry the run directory as a label: those of a crashed engine are found by it.
// No lock is held over a request; pulling an image delays the start that asked for it, and at most
// the others of these threads.
// Owns: a container and a directory in the run directory for each box, until `remove`. Fails:
// af_error, with Docker's own words. Read next: docker_api.h, docker_spec.c, init/join.c.
#include "exec/docker.h"

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

#define REQUEST_MS 60000 // a container's start under load
#define REMOVE_MS  20000 // its processes have ended; a stop of the daemon waits for it
#define ASK_MS     10000
#define LOOK_MS    200 // between two looks whether the container is still there

// A request, and how long it may take.
struct asking {
    const char *method;
    const json_t *body; // or NULL
    long timeout_ms;
    const atomic_bool *unwanted; // or NULL
};

static int ask(const struct exec_docker *docker, const struct asking *asking,
               struct docker_reply *reply, struct af_error *err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static int ask(const struct exec_docker *docker, const struct asking *asking,
               struct docker_reply *reply, struct af_error *err, const char *fmt, ...)
{
    char path[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(path, sizeof(path), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(path))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the name of a Docker image is too long");
    return docker_request(docker->socket_path, asking->method, path, asking->body,
                          asking->timeout_ms, asking->unwanted, reply, err);
}

// ---- the directory of a box -------------------------------------------------------------

static void remove_dir(struct exec_engine *e, const char *name)
{
    static const char *const files[] = {DOCKER_SOCKET_NAME, DOCKER_PASSWD_NAME, DOCKER_GROUP_NAME};
    AF_CLEANUP_FD int dir =
        openat(e->docker->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    for (size_t i = 0; dir >= 0 && i < AF_ARRAY_LEN(files); i++)
        unlinkat(dir, files[i], 0);
    unlinkat(e->docker->dir_fd, name, AT_REMOVEDIR);
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

static int write_users(const struct exec_box *box, int dir_fd)
{
    char passwd[512], group[256];
    snprintf(passwd, sizeof(passwd),
             "root:x:0:0:root:/root:/sbin/nologin\n" EXEC_INSIDE_USER ":x:%u:%u::" EXEC_INSIDE_HOME
             ":/bin/sh\n"
             "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
             (unsigned)box->uid, (unsigned)box->gid);
    snprintf(group, sizeof(group),
             "root:x:0:\ntty:x:5:\n" EXEC_INSIDE_USER ":x:%u:\nnogroup:x:65534:\n",
             (unsigned)box->gid);
    int e = write_file(dir_fd, DOCKER_PASSWD_NAME, passwd);
    return e ? e : write_file(dir_fd, DOCKER_GROUP_NAME, group);
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
    snprintf(launch->docker_dir, sizeof(launch->docker_dir), "box-%u",
             atomic_fetch_add(&docker->serial, 1));
    remove_dir(box->engine, launch->docker_dir); // of an engine before us
    AF_CLEANUP_FD int dir = -1;
    if (mkdirat(docker->dir_fd, launch->docker_dir, 0711) == 0)
        dir = openat(docker->dir_fd, launch->docker_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int e = dir < 0 || fchmod(dir, 0711) < 0 ? -errno : write_users(box, dir);
    if (e == 0) {
        *ret_listen_fd = listen_at(box, dir);
        e = *ret_listen_fd < 0 ? *ret_listen_fd : 0;
    }
    return e < 0 ? af_error_errno(err, e, "cannot prepare the container of %s", box->id) : 0;
}

// ---- create and start -------------------------------------------------------------------

static int refuse(const struct docker_reply *reply, const char *what, struct af_error *err)
{
    return af_error_set(err, AF_FAILED_PRECONDITION, "Docker cannot %s: %s (status %ld)", what,
                        reply->text, reply->status);
}

// Docker answers a pull with 200 and reports a failure in the stream, of which the last line
// counts; whether the image is there is asked by the next create.
static int pull(const struct exec_box *box, struct af_error *err)
{
    const struct exec_docker *docker = box->engine->docker;
    const char *image = box->image;
    struct docker_reply reply;
    AF_CLEANUP_FREE char *name = docker_encode(image);
    if (!name)
        return af_error_errno(err, ENOMEM, "cannot pull %s", image);
    af_log(AF_LOG_INFO, EXEC_AREA, "pulling an image", "image=%s", image);
    const char *colon = strrchr(image, ':');
    bool tagged = strchr(image, '@') || (colon && !strchr(colon, '/'));
    // One whose sandbox is not wanted any more goes on: the image is there for the next.
    if (ask(docker, &(struct asking){"POST", NULL, 0, &box->engine->ending}, &reply, err,
            "/images/create?fromImage=%s%s", name, tagged ? "" : "&tag=latest") < 0)
        return -1;
    int rc = reply.status == 200 ? 0 : refuse(&reply, "pull the image", err);
    docker_reply_fini(&reply);
    return rc;
}

// One attempt: 0, -1, or 1 when the image is missing.
static int try_create(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    const struct exec_docker *docker = box->engine->docker;
    struct docker_reply reply;
    json_t *body = docker_container(box, launch->docker_dir);
    if (!body)
        return af_error_errno(err, ENOMEM, "cannot make the container of %s", box->id);
    int rc = ask(docker, &(struct asking){"POST", body, REQUEST_MS, &box->ending}, &reply, err,
                 "/containers/create");
    json_decref(body);
    if (rc < 0)
        return -1;
    const char *id = json_string_value(json_object_get(reply.body, "Id"));
    if (reply.status == 404)
        rc = 1;
    else if (reply.status != 201 || !id || strlen(id) >= sizeof(launch->container))
        rc = refuse(&reply, "make a container", err);
    else
        strcpy(launch->container, id);
    docker_reply_fini(&reply);
    return rc;
}

static int create(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    const struct exec_docker *docker = box->engine->docker;
    int rc = try_create(box, launch, err);
    if (rc > 0 && docker->pull)
        rc = pull(box, err) < 0 ? -1 : try_create(box, launch, err);
    if (rc > 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "Docker has no image %s: %s", box->image,
                            docker->pull ? "and it could not be pulled"
                                         : "pull it (`docker pull`), or allow the server to with "
                                           "exec.docker_pull");
    return rc;
}

static int start_container(const struct exec_box *box, const struct exec_launch *launch,
                           struct af_error *err)
{
    struct docker_reply reply;
    if (ask(box->engine->docker, &(struct asking){"POST", NULL, REQUEST_MS, &box->ending}, &reply,
            err, "/containers/%s/start", launch->container) < 0)
        return -1;
    int rc = reply.status == 204 ? 0 : refuse(&reply, "start the container", err);
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

// Reads the container's pid, and its environment, which is the image's.
static int inspect(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    struct docker_reply reply;
    if (ask(box->engine->docker, &(struct asking){"GET", NULL, ASK_MS, &box->ending}, &reply, err,
            "/containers/%s/json", launch->container) < 0)
        return -1;
    json_t *state = json_object_get(reply.body, "State");
    json_int_t pid = json_integer_value(json_object_get(state, "Pid"));
    int rc = 0;
    if (reply.status != 200)
        rc = refuse(&reply, "look at the container", err);
    else if (pid <= 1)
        rc = af_error_set(err, AF_FAILED_PRECONDITION,
                          "the container of %s ended at its start: %s (exit code %lld)", box->id,
                          json_string_value(json_object_get(state, "Error")),
                          (long long)json_integer_value(json_object_get(state, "ExitCode")));
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

static int docker_start(const struct exec_box *box, struct exec_launch *launch,
                        struct af_error *err)
{
    AF_CLEANUP_FD int listen_fd = -1;
    AF_CLEANUP_FD int fd = -1;
    if (make_dir(box, launch, &listen_fd, err) < 0 || create(box, launch, err) < 0 ||
        start_container(box, launch, err) < 0 || inspect(box, launch, err) < 0 ||
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
    struct docker_reply reply;
    struct af_error err;
    if (launch->container[0]) {
        int rc = ask(docker, &(struct asking){"DELETE", NULL, REMOVE_MS, NULL}, &reply, &err,
                     "/containers/%s?force=1&v=1", launch->container);
        if (rc == 0 && reply.status != 204 && reply.status != 404)
            rc = refuse(&reply, "remove the container", &err);
        if (rc == 0)
            docker_reply_fini(&reply);
        // Its processes have ended; the container goes with the next start of a daemon.
        if (rc < 0)
            af_log(AF_LOG_WARN, EXEC_AREA, "a container is left behind",
                   "sandbox=%s container=%.12s error=\"%s\"", box->id, launch->container, err.text);
    }
    if (launch->docker_dir[0])
        remove_dir(box->engine, launch->docker_dir);
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
    if (ask(docker, &(struct asking){"GET", NULL, ASK_MS, NULL}, &reply, err, "/version") < 0)
        return -1;
    const char *version = json_string_value(json_object_get(reply.body, "Version"));
    int rc = reply.status == 200 && version ? 0 : refuse(&reply, "say its version", err);
    if (rc == 0)
        snprintf(docker->version, sizeof(docker->version), "%s", version);
    docker_reply_fini(&reply);
    return rc;
}

static int remove_orphans(const struct exec_docker *docker, const char *run_dir,
                          struct af_error *err)
{
    struct docker_reply reply;
    json_t *filters = json_pack("{s:[s+]}", "label", DOCKER_LABEL "=", run_dir);
    AF_CLEANUP_FREE char *text = filters ? json_dumps(filters, JSON_COMPACT) : NULL;
    AF_CLEANUP_FREE char *query = text ? docker_encode(text) : NULL;
    json_decref(filters);
    if (!query)
        return af_error_errno(err, ENOMEM, "cannot look for containers");
    if (ask(docker, &(struct asking){"GET", NULL, ASK_MS, NULL}, &reply, err,
            "/containers/json?all=1&filters=%s", query) < 0)
        return -1;
    size_t count = json_array_size(reply.body), removed = 0;
    for (size_t i = 0; i < count; i++) {
        struct docker_reply gone;
        const char *id = json_string_value(json_object_get(json_array_get(reply.body, i), "Id"));
        if (id && ask(docker, &(struct asking){"DELETE", NULL, REMOVE_MS, NULL}, &gone, err,
                      "/containers/%s?force=1&v=1", id) == 0) {
            docker_reply_fini(&gone);
            removed++;
        }
    }
    docker_reply_fini(&reply);
    if (count > 0)
        af_log(AF_LOG_WARN, EXEC_AREA, "removed the containers of a daemon that had crashed",
               "found=%zu removed=%zu", count, removed);
    return 0;
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
    if (docker->socket_path && read_version(docker, err) == 0 &&
        remove_orphans(docker, e->run_dir, err) == 0) {
        AF_CLEANUP_FD int run = open(e->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (run >= 0 && (mkdirat(run, DOCKER_DIR_NAME, 0711) == 0 || errno == EEXIST))
            docker->dir_fd = openat(run, DOCKER_DIR_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (docker->dir_fd >= 0) {
            *ret = docker;
            return 0;
        }
        af_error_errno(err, errno, "cannot make %s/" DOCKER_DIR_NAME, e->run_dir);
    }
    exec_docker_free(docker);
    return -1;
}

void exec_docker_free(struct exec_docker *docker)
{
    if (!docker)
        return;
    if (docker->dir_fd >= 0)
        close(docker->dir_fd);
    free(docker->socket_path);
    free(docker);
}

const char *exec_docker_version(const struct exec_docker *docker)
{
    return docker->version;
}
