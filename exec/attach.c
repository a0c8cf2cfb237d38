// Attaching a view, after the box is up: open_tree, setns, move_mount.
//
// The view is attached to a running box and not by bwrap, so that a box can be started before
// anyone knows which view it gets. Entering a mount namespace is refused to a thread that shares
// its root with others (EINVAL): the launcher unshares it once. The box's user namespace owns
// the mount namespace; root of the initial user namespace has capabilities over both and need not
// enter the former. Only the init runs at that time, so nothing inside can race the lookup.
// Owns: nothing. Locks: none. Fails: af_error; a thread that cannot come home aborts the daemon,
// since everything it did later would happen in the wrong place.
// Read next: launcher.c.
#include "exec/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec/pty.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#define OOM_SCORE "500"

#define WORKSPACE   "/workspace"
#define TERMINALS   "/dev/pts"
#define MS_PRIVATE_ (1u << 18) // MS_PRIVATE; sys/mount.h and linux/mount.h exclude each other

static int open_tree(int dir, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, dir, path, flags);
}

static int move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
    return (int)syscall(SYS_move_mount, from, from_path, to, to_path, flags);
}

static int mount_setattr(int dir, const char *path, unsigned flags, struct mount_attr *attr)
{
    return (int)syscall(SYS_mount_setattr, dir, path, flags, attr, sizeof(*attr));
}

int exec_attach_thread_init(int *ret_home_fd, struct af_error *err)
{
    AF_CLEANUP_FD int home = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (home < 0 || unshare(CLONE_FS) < 0)
        return af_error_errno(err, errno, "cannot set up the thread that attaches views");
    *ret_home_fd = af_take_fd(&home);
    return 0;
}

static int detached_copy(const char *path, int *ret_fd)
{
    AF_CLEANUP_FD int tree =
        open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    // Private: nothing that is mounted below it later on one side shows on the other.
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                              .propagation = MS_PRIVATE_};
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr) < 0)
        return -errno;
    *ret_fd = af_take_fd(&tree);
    return 0;
}

// In the init's mount namespace.
static int mount_terminals(int *ret_pts_fd)
{
    AF_CLEANUP_FD int pts = -1;
    int e = exec_pty_mount_new(&pts);
    if (e == 0 && move_mount(pts, "", AT_FDCWD, TERMINALS, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        e = -errno;
    if (e == 0)
        *ret_pts_fd = af_take_fd(&pts);
    return e;
}

int exec_attach_error(struct af_error *err, int errnum, const char *what)
{
    if (abs(errnum) == ESRCH)
        return af_error_set(err, AF_UNAVAILABLE, "the sandbox's init ended at its start");
    return af_error_errno(err, errnum, "%s", what);
}

int exec_attach(int home_fd, int init_pidfd, const char *path, int *ret_pts_fd,
                struct af_error *err)
{
    AF_CLEANUP_FD int tree = -1;
    int e = path ? detached_copy(path, &tree) : 0;
    if (e == -ENOENT || e == -ENOTDIR)
        return af_error_set(err, AF_NOT_FOUND, "there is no directory %s to attach", path);
    if (e < 0)
        return af_error_errno(err, e, "cannot attach the sandbox's files");
    if (setns(init_pidfd, CLONE_NEWNS) < 0)
        return exec_attach_error(err, errno, "cannot enter the sandbox's mount namespace");
    if (tree >= 0 && move_mount(tree, "", AT_FDCWD, WORKSPACE, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        e = -errno;
    int terminals = ret_pts_fd ? mount_terminals(ret_pts_fd) : 0;
    if (setns(home_fd, CLONE_NEWNS) < 0) {
        af_log(AF_LOG_ERROR, "exec", "cannot leave a sandbox's mount namespace", "errno=%d", errno);
        abort();
    }
    if (e == -ENOTDIR || e == -EINVAL)
        return af_error_set(err, AF_NOT_FOUND, "%s is not a directory", path);
    if (e < 0)
        return af_error_errno(err, e, "cannot attach %s at " WORKSPACE, path);
    if (terminals < 0)
        return af_error_errno(err, terminals, "cannot mount " TERMINALS " in the sandbox");
    return 0;
}

// ---- checks -----------------------------------------------------------------------------

// The rest of the line that begins with `name`, "" when there is none.
static const char *field(const char *status, const char *name)
{
    for (const char *line = status; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, strlen(name)) == 0)
            return line + strlen(name);
    }
    return "";
}

static bool ids_are(const char *text, unsigned id)
{
    unsigned seen[4];
    if (sscanf(text, " %u %u %u %u", &seen[0], &seen[1], &seen[2], &seen[3]) != 4)
        return false;
    return seen[0] == id && seen[1] == id && seen[2] == id && seen[3] == id;
}

static bool no_capabilities(const char *status)
{
    static const char *const sets[] = {"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"};
    for (size_t i = 0; i < AF_ARRAY_LEN(sets); i++) {
        unsigned long long set;
        if (sscanf(field(status, sets[i]), " %llx", &set) != 1 || set != 0)
            return false;
    }
    return true;
}

// No group but the process's own, which container managers repeat here.
static bool no_groups(const char *text, gid_t gid)
{
    text += strspn(text, " \t");
    char *end;
    if (*text != '\n' && strtoul(text, &end, 10) == gid)
        text = end + strspn(end, " \t");
    return *text == '\n';
}

// What is wrong with a process of a box, or NULL.
static const char *breach(const char *status, pid_t bwrap_pid, uid_t uid, gid_t gid)
{
    int parent = 0, flag = 0, outer = 0, inner = 0;
    if (sscanf(field(status, "PPid:"), " %d", &parent) != 1 ||
        (bwrap_pid && parent != (int)bwrap_pid))
        return "it is not bwrap's child";
    if (!ids_are(field(status, "Uid:"), uid) || !ids_are(field(status, "Gid:"), gid))
        return "it runs under other ids than its own";
    if (!no_groups(field(status, "Groups:"), gid))
        return "it has supplementary groups";
    if (!no_capabilities(status))
        return "it has capabilities";
    if (sscanf(field(status, "NoNewPrivs:"), " %d", &flag) != 1 || flag != 1)
        return "it has no no_new_privs";
    if (sscanf(field(status, "Seccomp:"), " %d", &flag) != 1 || flag != 2)
        return "it has no system call filter";
    // As seen from the daemon's own pid namespace down to the box's.
    if (sscanf(field(status, "NSpid:"), " %d %d", &outer, &inner) != 2 || inner != 1)
        return "it is not process 1 of a pid namespace";
    return NULL;
}

// Before the daemon, its commands go when the machine has no memory left. Said by root (with
// CAP_SYS_RESOURCE) this is also the least that they may set themselves.
static int set_oom_score(pid_t init_pid, struct af_error *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", (int)init_pid);
    AF_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
        return af_error_errno(err, errno, "cannot set the out-of-memory score of the sandbox");
    return 0;
}

int exec_attach_check(pid_t init_pid, int init_pidfd, pid_t bwrap_pid, uid_t uid, gid_t gid,
                      struct af_error *err)
{
    char path[64], status[8192];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)init_pid);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, status, sizeof(status) - 1);
    // Still there: what was read is about the process that the pidfd names.
    if (n < 0 || pidfd_send_signal(init_pidfd, 0, NULL, 0) < 0)
        return af_error_set(err, AF_UNAVAILABLE, "the sandbox's init ended at its start");
    status[n] = '\0';
    const char *what = breach(status, bwrap_pid, uid, gid);
    if (what)
        return af_error_set(err, AF_INTERNAL, "the sandbox is not isolated as it must be: %s",
                            what);
    return set_oom_score(init_pid, err);
}

static bool missing(long result)
{
    return result < 0 && errno == ENOSYS;
}

int exec_attach_probe(struct af_error *err)
{
    struct mount_attr attr = {0};
    const char *name = missing(open_tree(-1, "", OPEN_TREE_CLOEXEC)) ? "open_tree"
                       : missing(move_mount(-1, "", -1, "", 0))      ? "move_mount"
                       : missing(mount_setattr(-1, "", 0, &attr))    ? "mount_setattr"
                       : missing(pidfd_open(-1, 0))                  ? "pidfd_open"
                                                                     : NULL;
    if (name)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the kernel has no %s: Linux 5.12 or newer is needed", name);
    return 0;
}
