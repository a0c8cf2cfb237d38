// The guard: a small process that aborts the mount of a daemon that is killed and cannot end.
//
// A thread that takes a name back waits in the kernel for a directory that a request has locked.
// Killed meanwhile, the daemon never answers that request, and so never ends: its files stay open,
// the connection stays, whoever uses the mount hangs, and no supervisor is told of an end. The
// kernel does tell a child of the thread that made it (PR_SET_PDEATHSIG). So the guard is a fork of
// the daemon that holds none of its files and waits for that. It allocates nothing and takes no
// lock, since other threads may have held any when it was made. Owns: the process, until
// fs_guard_stop. Read next: lock.c, which does it at the next start.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// Of the kernel, when the daemon's first thread ends. Nobody else sends it to a daemon's group, as
// terminals and shells do SIGHUP.
#define END_SIGNAL SIGPWR
#define LOOK_MS    20

bool fs_is_half_dead(pid_t pid)
{
    char path[32], stat[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
    if (n <= 0)
        return false;
    stat[n] = '\0';
    const char *close = strrchr(stat, ')'); // of its name
    return close && close[1] == ' ' && (close[2] == 'Z' || close[2] == 'X');
}

// Keeps two files, as 0 and 1: the daemon's pidfd, and what aborts its mount.
static bool keep_files(pid_t daemon, int abort_fd)
{
    int pidfd = pidfd_open(daemon, 0);
    if (pidfd < 0)
        return false;
    pidfd = fcntl(pidfd, F_DUPFD, 2);
    abort_fd = fcntl(abort_fd, F_DUPFD, 2);
    return pidfd >= 0 && abort_fd >= 0 && dup2(pidfd, 0) == 0 && dup2(abort_fd, 1) == 1 &&
           close_range(2, ~0u, 0) == 0;
}

static _Noreturn void guard(pid_t daemon, int abort_fd)
{
    sigset_t set;
    struct pollfd end = {.fd = 0, .events = POLLIN};
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    prctl(PR_SET_PDEATHSIG, END_SIGNAL);
    prctl(PR_SET_NAME, "af-fs-guard");
    if (!keep_files(daemon, abort_fd))
        _exit(1);
    sigemptyset(&set);
    sigaddset(&set, END_SIGNAL);
    while (getppid() == daemon && sigwaitinfo(&set, NULL) != END_SIGNAL)
        continue;
    // The kernel may tell of the thread before the process looks dead.
    while (!fs_is_half_dead(daemon) && poll(&end, 1, LOOK_MS) == 0)
        continue;
    _exit(write(1, "1", 1) == 1 ? 0 : 1);
}

int fs_session_guard(struct fs_session *session, struct af_error *err)
{
    AF_CHECK_MAGIC(session, FS_SESSION_MAGIC);
    // Not by its number: that may be the next daemon's mount's when a busy machine lets us run.
    AF_CLEANUP_FD int abort_fd = fs_mount_open_abort(session->minor);
    if (abort_fd < 0) {
        af_log(AF_LOG_WARN, "fs",
               "the mount has no guard: if this process is killed and hangs on it, only the next "
               "start ends it",
               "errno=%d", -abort_fd);
        return 0;
    }
    pid_t daemon = getpid(), pid = fork();
    if (pid < 0)
        return af_error_errno(err, errno, "cannot start the guard of the mount");
    if (pid == 0)
        guard(daemon, abort_fd);
    session->guard = pid;
    return 0;
}

void fs_guard_stop(struct fs_session *session)
{
    if (session->guard <= 0)
        return;
    kill(session->guard, SIGKILL);
    while (waitpid(session->guard, NULL, 0) < 0 && errno == EINTR)
        continue;
    session->guard = 0;
}
