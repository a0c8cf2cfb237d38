// The keeper process: see keeper.h.
//
// In the keeper nothing is inherited but the two pipes and stderr is the daemon's log: a program
// that reads the tool's output must not wait for the keeper.
#include "tools/agentfense/keeper.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS    60000
#define STOP_MS     30000
#define LOG_EXCERPT 400 // bytes of the log in an error sentence

static void path_in(const struct keeper *keeper, const char *name, char out[KEEPER_DIR_MAX + 16])
{
    snprintf(out, KEEPER_DIR_MAX + 16, "%s/%s", keeper->dir, name);
}

// agentfensed beside the program that runs, as it is built, or in ../sbin, as it is installed.
static int daemon_path(char *out, size_t size, struct af_error *err)
{
    ssize_t len = readlink("/proc/self/exe", out, size - 1);
    if (len < 0)
        return af_error_errno(err, errno, "cannot find the program's own path");
    out[len] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash || (size_t)(slash + 1 - out) + sizeof "../sbin/agentfensed" > size)
        return af_error_set(err, AF_INTERNAL, "the program's own path is too long");
    memcpy(slash + 1, "../sbin/agentfensed", sizeof "../sbin/agentfensed");
    if (access(out, X_OK) == 0)
        return 0;
    memcpy(slash + 1, "agentfensed", sizeof "agentfensed");
    if (access(out, X_OK) < 0)
        return af_error_set(
            err, AF_FAILED_PRECONDITION,
            "there is no program %s: it belongs beside this one (or name the socket "
            "of a running daemon with --socket)",
            out);
    return 0;
}

static int make_dir(struct keeper *keeper, struct af_error *err)
{
    const char *base = getenv("TMPDIR");
    struct stat st;
    if (!base || *base != '/' || strlen(base) + sizeof "/agentfense-XXXXXX" > KEEPER_DIR_MAX ||
        stat(base, &st) < 0 || !S_ISDIR(st.st_mode))
        base = "/tmp";
    snprintf(keeper->dir, sizeof keeper->dir, "%s/agentfense-XXXXXX", base);
    if (!mkdtemp(keeper->dir)) {
        int saved = errno;
        keeper->dir[0] = '\0';
        return af_error_errno(err, saved, "cannot make a directory in %s", base);
    }
    snprintf(keeper->socket, sizeof keeper->socket, "%s/socket", keeper->dir);
    return 0;
}

// ---- in the keeper and the daemon

// Host uids of its own for a private daemon, so that two of them, or one and the machine's daemon,
// never run sandboxes as the same user: a random range far above the default one.
#define PRIVATE_UIDS      16u
#define PRIVATE_UID_FIRST 1000000000u
#define PRIVATE_UID_SPAN  (1u << 27) // ranges

static void choose_uids(char base[16])
{
    uint32_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        random = (uint32_t)getpid();
    snprintf(base, 16, "%u", PRIVATE_UID_FIRST + random % PRIVATE_UID_SPAN * PRIVATE_UIDS);
}

static void exec_daemon(const struct keeper *keeper, const char *program, int out, pid_t parent)
{
    char uid_base[16], uid_count[16];
    choose_uids(uid_base);
    snprintf(uid_count, sizeof uid_count, "%u", PRIVATE_UIDS - 2); // two to spare around it
    char state[KEEPER_DIR_MAX + 16], mount[KEEPER_DIR_MAX + 16];
    sigset_t none;
    path_in(keeper, "state", state);
    path_in(keeper, "mnt", mount);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent || dup2(out, 1) < 0)
        _exit(127);
    execl(program, program, "--state", state, "--socket", keeper->socket, "--mount", mount,
          "--uid-base", uid_base, "--uid-count", uid_count, (char *)NULL);
    fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

static pid_t spawn_daemon(const struct keeper *keeper, const char *program, int *ret_out)
{
    int out[2];
    if (pipe2(out, O_CLOEXEC) < 0)
        return -1;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        exec_daemon(keeper, program, out[1], parent);
    close(out[1]);
    *ret_out = out[0];
    return pid;
}

// Waits for the line "ready"; false when the daemon ended, the tool ended, or time is up.
static bool wait_ready(int out, int control)
{
    char seen[256];
    size_t len = 0;
    int64_t end_ns = af_monotonic_ns() + READY_MS * 1000000LL;
    for (;;) {
        struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = control, .events = POLLIN}};
        int64_t left_ms = (end_ns - af_monotonic_ns()) / 1000000;
        int n = left_ms > 0 ? poll(fds, 2, (int)left_ms) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || fds[1].revents)
            return false;
        ssize_t got = read(out, seen + len, sizeof seen - 1 - len);
        if (got <= 0)
            return false;
        len += (size_t)got;
        seen[len] = '\0';
        char *line = strstr(seen, "ready\n");
        if (line && (line == seen || line[-1] == '\n'))
            return true;
        if (len == sizeof seen - 1) { // keep the end, which may be the beginning of the line
            memmove(seen, seen + len - 8, 8);
            len = 8;
        }
    }
}

// SIGTERM, and SIGKILL when that does not help.
static void stop_daemon(pid_t pid)
{
    kill(pid, SIGTERM);
    for (int64_t end_ns = af_monotonic_ns() + STOP_MS * 1000000LL; af_monotonic_ns() < end_ns;) {
        pid_t ended = waitpid(pid, NULL, WNOHANG);
        if (ended == pid || (ended < 0 && errno == ECHILD))
            return;
        poll(NULL, 0, 5);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static bool remove_all(const struct keeper *keeper)
{
    char mount[KEEPER_DIR_MAX + 16];
    path_in(keeper, "mnt", mount);
    while (umount2(mount, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        ;
    return nftw(keeper->dir, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0;
}

// The keeper itself. Tells 'r' or 'f' on `status` and ends with 0 when nothing is left behind.
static void keep(const struct keeper *keeper, const char *program, int control, int status)
{
    char log[KEEPER_DIR_MAX + 16];
    setsid(); // a terminal's Ctrl-C is for the tool
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT};
    for (size_t i = 0; i < AF_ARRAY_LEN(ignored); i++)
        signal(ignored[i], SIG_IGN);
    path_in(keeper, "log", log);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int err = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (null >= 0 && err >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        dup2(err, 2);
    }
    (void)!chdir("/");
    int out = -1;
    pid_t pid = null >= 0 && err >= 0 ? spawn_daemon(keeper, program, &out) : -1;
    bool ready = pid > 0 && wait_ready(out, control);
    (void)!write(status, ready ? "r" : "f", 1);
    close(status);
    char byte;
    while (read(control, &byte, 1) < 0 && errno == EINTR)
        ; // returns 0 when the tool is gone or done
    if (pid > 0)
        stop_daemon(pid);
    _exit(remove_all(keeper) ? 0 : 1);
}

// ---- in the tool

static void close_pair(int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static int fork_keeper(struct keeper *keeper, const char *program, int *ret_status,
                       struct af_error *err)
{
    int control[2], status[2];
    if (pipe2(control, O_CLOEXEC) < 0)
        return af_error_errno(err, errno, "cannot make a pipe");
    if (pipe2(status, O_CLOEXEC) < 0) {
        close_pair(control);
        return af_error_errno(err, errno, "cannot make a pipe");
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        close_pair(control);
        close_pair(status);
        return af_error_errno(err, errno, "cannot start a process");
    }
    if (pid == 0) {
        close(control[1]);
        close(status[0]);
        keep(keeper, program, control[0], status[1]);
    }
    close(control[0]);
    close(status[1]);
    keeper->pid = pid;
    keeper->control = control[1];
    *ret_status = status[0];
    return 0;
}

// The last lines of the daemon's log as a part of a sentence.
static void log_end(const struct keeper *keeper, char out[LOG_EXCERPT + 1])
{
    char path[KEEPER_DIR_MAX + 16];
    path_in(keeper, "log", path);
    out[0] = '\0';
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    off_t from = st.st_size > LOG_EXCERPT ? st.st_size - LOG_EXCERPT : 0;
    ssize_t len = pread(fd, out, LOG_EXCERPT, from);
    len = len < 0 ? 0 : len;
    while (len > 0 && out[len - 1] == '\n')
        len--;
    out[len] = '\0';
    for (char *c = out; *c; c++)
        if (*c == '\n')
            *c = ' ';
}

int keeper_start(struct keeper *keeper, struct af_error *err)
{
    char program[4096], answer = 'f', log[LOG_EXCERPT + 1];
    memset(keeper, 0, sizeof *keeper);
    if (geteuid() != 0)
        return af_error_set(err, AF_PERMISSION_DENIED,
                            "a private daemon must be started by root; as another user name the "
                            "socket of a running one with --socket");
    if (daemon_path(program, sizeof program, err) < 0 || make_dir(keeper, err) < 0)
        return -1;
    int status = -1;
    if (fork_keeper(keeper, program, &status, err) < 0) {
        rmdir(keeper->dir);
        return -1;
    }
    ssize_t got;
    while ((got = read(status, &answer, 1)) < 0 && errno == EINTR)
        ;
    close(status);
    if (got == 1 && answer == 'r')
        return 0;
    log_end(keeper, log);
    keeper_stop(keeper);
    return af_error_set(err, AF_UNAVAILABLE, "the private daemon did not start: %s",
                        *log ? log : "it said nothing");
}

bool keeper_stop(struct keeper *keeper)
{
    if (keeper->pid == 0)
        return true;
    close(keeper->control);
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(keeper->pid, &status, 0)) < 0 && errno == EINTR)
        ;
    keeper->pid = 0;
    bool clean = ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!clean)
        fprintf(stderr, "agentfense: could not remove %s: delete it\n", keeper->dir);
    return clean;
}
