// The bubblewrap command line of a box, and what its processes inherit.
//
// bwrap gets a user namespace made here (spawn.c): made by bwrap itself, run by root, the
// sandbox's user would be the host's root. It drops every capability, also from the bounding set,
// and sets no_new_privs; the filters are loaded before the init runs, so the init lives under
// them too. The init is executed through /proc/self/fd: it needs no place in the root.
// Descriptors: the box's socket, the run directory's lock and the init's file are kept; anything
// else is closed by close-on-exec, and once more by the init.
// Owns: nothing after the start. Locks: none. Thread: launcher. Fails: af_error.
// Read next: stage.c, root.c, init/main.c, attach.c.
#include "exec/bwrap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/argv.h"
#include "exec/attach.h"
#include "exec/backend.h"
#include "exec/root.h"
#include "exec/stage.h"
#include "exec/userns.h"
#include "mux/base/cleanup.h"

#define VERSION_MAJOR   0
#define VERSION_MINOR   5 // --add-seccomp-fd, --perms, --size
#define VERSION_WAIT_MS 5000

// Descriptors that only one start needs.
struct start_fds {
    int userns;
    int filters[2];
    int socket;                 // the init's end
    int files[EXEC_ROOT_FILES]; // those of /etc that this box has of its own, else -1
};

static void cleanup_start_fds(struct start_fds *fds)
{
    af_cleanup_fd(&fds->userns);
    af_cleanup_fd(&fds->filters[0]);
    af_cleanup_fd(&fds->filters[1]);
    af_cleanup_fd(&fds->socket);
    for (int i = 0; i < EXEC_ROOT_FILES; i++)
        af_cleanup_fd(&fds->files[i]);
}

// ---- command line -----------------------------------------------------------------------

static void add_tmpfs(struct exec_argv *argv, const char *perms, uint64_t bytes, const char *path)
{
    exec_argv_add(argv, "--perms");
    exec_argv_add(argv, "%s", perms);
    exec_argv_add(argv, "--size");
    exec_argv_add(argv, "%" PRIu64, bytes);
    exec_argv_add(argv, "--tmpfs");
    exec_argv_add(argv, "%s", path);
}

static void add_words(struct exec_argv *argv, const char *const *words)
{
    for (; *words; words++)
        exec_argv_add(argv, "%s", *words);
}

static void add_namespaces(struct exec_argv *argv, const struct exec_box *box,
                           const struct start_fds *fds)
{
    static const char *const words[] = {
        "--unshare-ipc", "--unshare-pid", "--unshare-uts",     "--unshare-cgroup-try", "--cap-drop",
        "ALL",           "--new-session", "--die-with-parent", "--as-pid-1",           NULL};
    exec_argv_add(argv, "--userns");
    exec_argv_add(argv, "%d", fds->userns);
    add_words(argv, words);
    if (box->network != EXEC_NETWORK_HOST)
        exec_argv_add(argv, "--unshare-net");
    exec_argv_add(argv, "--uid");
    exec_argv_add(argv, "%d", EXEC_INSIDE_UID);
    exec_argv_add(argv, "--gid");
    exec_argv_add(argv, "%d", EXEC_INSIDE_UID);
    exec_argv_add(argv, "--hostname");
    exec_argv_add(argv, "%s", box->hostname);
}

// The root as it lies on the stage, devices included; its mounts are sealed already.
static void add_root(struct exec_argv *argv, const struct start_fds *fds)
{
    exec_argv_add3(argv, "--dev-bind", EXEC_STAGE_ROOT, "/");
    for (int i = 0; i < EXEC_ROOT_FILES; i++) {
        if (fds->files[i] < 0)
            continue;
        exec_argv_add3(argv, "--perms", "0644", "--ro-bind-data");
        exec_argv_add(argv, "%d", fds->files[i]);
        exec_argv_add(argv, "%s", exec_root_file_path(i));
    }
    exec_argv_add(argv, "--proc");
    exec_argv_add(argv, "/proc");
}

static void add_private(struct exec_argv *argv, const struct exec_limits *limits)
{
    add_tmpfs(argv, "1777", limits->shm_bytes, "/dev/shm");
    add_tmpfs(argv, "1777", limits->tmp_bytes, "/tmp");
    add_tmpfs(argv, "0700", limits->home_bytes, EXEC_INSIDE_HOME);
    exec_argv_add(argv, "--chdir");
    exec_argv_add(argv, "/");
}

static int build_argv(struct exec_argv *argv, const struct exec_box *box,
                      const struct start_fds *fds, struct af_error *err)
{
    const struct exec_engine *e = box->engine;
    exec_argv_init(argv);
    exec_argv_add(argv, "bwrap");
    add_namespaces(argv, box, fds);
    add_root(argv, fds);
    add_private(argv, &box->limits);
    for (int i = 0; i < 2; i++) {
        exec_argv_add(argv, "--add-seccomp-fd");
        exec_argv_add(argv, "%d", fds->filters[i]);
    }
    exec_argv_add(argv, "--");
    exec_argv_add(argv, "/proc/self/fd/%d", e->init_fd);
    exec_argv_add(argv, "%d", fds->socket);
    exec_argv_add(argv, "%d", e->lock_fd);
    exec_argv_add(argv, "%" PRIu32, box->limits.processes_max);
    exec_argv_add(argv, "%" PRIu32, box->limits.open_files_max);
    if (argv->overflow)
        return af_error_set(err, AF_INTERNAL, "bubblewrap's command line is too long");
    return 0;
}

// ---- start ------------------------------------------------------------------------------

// A memfd read by two processes at once needs two offsets.
static int reopen(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

// What differs from the root on the stage.
static int open_files(const struct exec_box *box, struct start_fds *fds)
{
    bool named = strcmp(box->hostname, EXEC_HOSTNAME) != 0;
    const bool own[EXEC_ROOT_FILES] = {[EXEC_ROOT_HOSTNAME] = named, [EXEC_ROOT_HOSTS] = named};
    int e = 0;
    for (int i = 0; e == 0 && i < EXEC_ROOT_FILES; i++)
        if (own[i] && exec_root_has(box->rootfs, i))
            e = exec_root_file_new(i, box->hostname, &fds->files[i]);
    return e;
}

static int open_start_fds(const struct exec_box *box, struct start_fds *fds, int *ret_socket,
                          struct af_error *err)
{
    if (exec_userns_new(box->uid, box->gid, &fds->userns, err) < 0)
        return -1;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return af_error_errno(err, errno, "cannot make a socket for %s", box->id);
    fds->socket = pair[1];
    AF_CLEANUP_FD int ours = pair[0];
    const int one = 1;
    if (fcntl(ours, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ||
        setsockopt(ours, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
        return af_error_errno(err, errno, "cannot set up the socket for %s", box->id);
    for (int i = 0; i < 2; i++) {
        fds->filters[i] = reopen(box->engine->filter_fds[i]);
        if (fds->filters[i] < 0)
            return af_error_errno(err, errno, "cannot reopen the system call filter");
    }
    int e = open_files(box, fds);
    if (e < 0)
        return af_error_errno(err, e, "cannot generate /etc for %s", box->id);
    *ret_socket = af_take_fd(&ours);
    return 0;
}

static int spawn_bwrap(const struct exec_engine *e, int stage_fd, int nice,
                       const struct start_fds *fds, const struct exec_argv *argv, int words_fd,
                       struct exec_launch *launch)
{
    int keep[6 + EXEC_ROOT_FILES] = {fds->userns, fds->filters[0], fds->filters[1],
                                     fds->socket, e->lock_fd,      e->init_fd};
    size_t count = 6;
    for (int i = 0; i < EXEC_ROOT_FILES; i++)
        if (fds->files[i] >= 0)
            keep[count++] = fds->files[i];
    const struct exec_spawn spawn = {.path = e->bwrap_path,
                                     .argv = argv->items,
                                     .stdin_fd = e->null_fd,
                                     .stdout_fd = e->null_fd,
                                     .stderr_fd = words_fd,
                                     .keep_fds = keep,
                                     .keep_count = count,
                                     .mount_ns_fd = stage_fd,
                                     .nice = nice};
    return exec_spawn(&spawn, &launch->bwrap_pid, &launch->bwrap_pidfd);
}

static int bwrap_start(const struct exec_box *box, struct exec_launch *launch, struct af_error *err)
{
    const struct exec_engine *e = box->engine;
    AF_CLEANUP(cleanup_start_fds) struct start_fds fds = {-1, {-1, -1}, -1, {-1, -1, -1, -1, -1}};
    AF_CLEANUP_FD int ours = -1;
    int stage_fd;
    const struct exec_root root = {box->rootfs, box->network == EXEC_NETWORK_HOST};
    if (exec_stages_get(e->stages, &root, &stage_fd, err) < 0 ||
        open_start_fds(box, &fds, &ours, err) < 0)
        return -1;
    AF_CLEANUP_FD int words = memfd_create("agentfense-bwrap", MFD_CLOEXEC);
    if (words < 0)
        return af_error_errno(err, errno, "cannot start %s", box->id);
    AF_CLEANUP_FREE struct exec_argv *argv = malloc(sizeof(*argv));
    if (!argv)
        return af_error_errno(err, ENOMEM, "cannot start %s", box->id);
    if (build_argv(argv, box, &fds, err) < 0)
        return -1;
    int failed =
        spawn_bwrap(e, stage_fd, box->pool ? EXEC_POOL_NICE : 0, &fds, argv, words, launch);
    if (failed == -ENOENT || failed == -EACCES)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "cannot start %s: %s; install bubblewrap again, or name its program "
                            "in the configuration",
                            e->bwrap_path, strerror(-failed));
    if (failed < 0)
        return exec_spawn_error(err, failed, "cannot start bubblewrap");
    launch->socket_fd = af_take_fd(&ours);
    launch->words_fd = af_take_fd(&words);
    return 0;
}

static int bwrap_check(const struct exec_box *box, const struct exec_launch *launch,
                       struct af_error *err)
{
    return exec_attach_check(launch->init_pid, launch->init_pidfd, launch->bwrap_pid, box->uid,
                             box->gid, err);
}

const struct exec_backend exec_backend_bwrap = {
    .name = "bwrap",
    .lane = EXEC_LANE_SPAWN,
    .start = bwrap_start,
    .check = bwrap_check,
};

// ---- version ----------------------------------------------------------------------------

static int run_for_version(const char *path, int null_fd, int words_fd)
{
    char *const argv[] = {"bwrap", "--version", NULL};
    const struct exec_spawn spawn = {.path = path,
                                     .argv = argv,
                                     .stdin_fd = null_fd,
                                     .stdout_fd = words_fd,
                                     .stderr_fd = null_fd,
                                     .mount_ns_fd = -1};
    pid_t pid;
    AF_CLEANUP_FD int pidfd = -1;
    int e = exec_spawn(&spawn, &pid, &pidfd);
    if (e < 0)
        return e;
    struct pollfd polled = {.fd = pidfd, .events = POLLIN};
    if (poll(&polled, 1, VERSION_WAIT_MS) <= 0)
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    int status = 0;
    while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
        ;
    return status == 0 ? 0 : -EIO;
}

int exec_bwrap_version(const char *path, int null_fd, char *ret_version, size_t size,
                       struct af_error *err)
{
    AF_CLEANUP_FD int words = memfd_create("agentfense-bwrap", MFD_CLOEXEC);
    if (words < 0)
        return af_error_errno(err, errno, "cannot run %s", path);
    int e = run_for_version(path, null_fd, words);
    if (e < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "cannot run %s --version: %s", path,
                            strerror(-e));
    char text[128];
    ssize_t n = pread(words, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    unsigned major = 0, minor = 0;
    const char *number = strrchr(text, ' ');
    if (!number || sscanf(number, " %u.%u", &major, &minor) != 2)
        return af_error_set(err, AF_FAILED_PRECONDITION, "%s --version says nothing of use", path);
    if (major == VERSION_MAJOR && minor < VERSION_MINOR)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s is version %u.%u: bubblewrap %d.%d or newer is needed", path, major,
                            minor, VERSION_MAJOR, VERSION_MINOR);
    snprintf(ret_version, size, "%.*s", (int)strcspn(number + 1, "\n"), number + 1);
    return 0;
}
