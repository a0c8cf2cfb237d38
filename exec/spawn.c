// Making processes out of a daemon with many threads and much memory: clone(CLONE_VM), never fork.
//
// Both children below run on a stack of their own in the daemon's address space. They make raw
// system calls only: libc's wrappers would write errno or, for the set*id family, signal the
// daemon's threads. The compiler's sanitizers are told to leave them alone.
// Owns: nothing that outlives a call. Locks: none. Fails: af_error or -errno.
// Read next: bwrap.c.
#include "exec/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/init/protocol.h"
#include "exec/raw.h"
#include "mux/base/cleanup.h"

#define STACK_BYTES (64u << 10)

static void *stack_new(void)
{
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    return stack == MAP_FAILED ? NULL : stack;
}

// ---- user namespaces --------------------------------------------------------------------

// Waits to be killed, inside the new namespace. Dies with the daemon.
RAW_CHILD_CODE static int holder(void *arg)
{
    raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
    // A daemon that died before the line above sends no signal.
    while (raw(SYS_getppid, 0, 0, 0, 0) == (long)(intptr_t)arg)
        raw(SYS_ppoll, 0, 0, 0, 0);
    raw(SYS_exit_group, 0, 0, 0, 0);
    return 0;
}

static int map_write(pid_t pid, const char *file, unsigned inside, unsigned outside)
{
    char path[64], line[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    int len = snprintf(line, sizeof(line), "%u %u 1\n", inside, outside);
    AF_CLEANUP_FD int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, line, (size_t)len) != len)
        return -errno;
    return 0;
}

static int holder_use(pid_t pid, uid_t uid, gid_t gid, int *ret_fd)
{
    char path[64];
    int e = map_write(pid, "uid_map", EXEC_INSIDE_UID, uid);
    if (e == 0)
        e = map_write(pid, "gid_map", EXEC_INSIDE_UID, gid);
    if (e < 0)
        return e;
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
    return *ret_fd < 0 ? -errno : 0;
}

// The kernel counts what a namespace uses (inotify instances and watches, queued signals, locked
// memory, message queues, further namespaces) not only in it, but also, in the namespace above, for
// the user who made it. Were that root, a sandbox could use up what root of the machine may have,
// and what all the others may. So this thread, and no other, is the sandbox's user for a moment;
// its real and saved uids stay root's, which keeps the way back and its capabilities.
static int be_user(uid_t uid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
    long e = raw(SYS_setresuid, -1, (long)uid, -1, 0);
    if (e == 0)
        e = raw(SYS_capget, (long)&header, (long)caps, 0, 0);
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        caps[i].effective =
            caps[i].permitted; // needed where making namespaces is not for everybody
    return e == 0 ? (int)raw(SYS_capset, (long)&header, (long)caps, 0, 0) : (int)e;
}

// What a change of user takes away: the mark that the daemon's memory may be looked at (by
// debuggers, say), and the wish to be told of the parent's death, which is the thread's.
struct root_state {
    int dumpable, death_signal;
    pid_t parent;
};

static struct root_state root_state_now(void)
{
    struct root_state state = {.dumpable = prctl(PR_GET_DUMPABLE), .parent = getppid()};
    prctl(PR_GET_PDEATHSIG, &state.death_signal);
    return state;
}

// Going back makes the capabilities effective again.
static void be_root(const struct root_state *state)
{
    if (raw(SYS_setresuid, -1, 0, -1, 0) != 0)
        abort(); // with half of root's rights, and files that belong to somebody else, nothing goes
                 // on
    if (state->dumpable == 1)
        prctl(PR_SET_DUMPABLE, 1);
    if (state->death_signal == 0)
        return;
    prctl(PR_SET_PDEATHSIG, state->death_signal);
    if (getppid() != state->parent) // it died meanwhile, and nobody was told
        raise(state->death_signal);
}

static pid_t clone_holder(uid_t uid, void *stack, int *ret_pidfd)
{
    const struct root_state state = root_state_now();
    // No exit signal: the daemon has no child that ends here. CLONE_FILES: with many sandboxes
    // there are thousands of descriptors, which would be copied and closed.
    long pid = be_user(uid);
    if (pid == 0)
        pid = raw_clone(CLONE_VM | CLONE_FILES | CLONE_NEWUSER | CLONE_PIDFD,
                        (char *)stack + STACK_BYTES, ret_pidfd, holder, (void *)(intptr_t)getpid());
    be_root(&state);
    return (pid_t)pid;
}

// By its owner, for root may be without CAP_SYS_RESOURCE.
int exec_userns_bound(uid_t uid, pid_t pid, uint64_t processes_max)
{
    const struct rlimit limit = {processes_max, processes_max};
    const struct root_state state = root_state_now();
    long e = be_user(uid);
    if (e == 0)
        e = raw(SYS_prlimit64, pid, RLIMIT_NPROC, (long)&limit, 0);
    be_root(&state);
    return (int)e;
}

int exec_userns_new(uid_t uid, gid_t gid, int *ret_fd, struct af_error *err)
{
    void *stack = stack_new();
    if (!stack)
        return af_error_errno(err, ENOMEM, "cannot make a user namespace");
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); // no handler of the daemon runs in the child
    int pidfd = -1;
    pid_t pid = clone_holder(uid, stack, &pidfd);
    int e = pid < 0 ? pid : 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e == 0) {
        e = holder_use(pid, uid, gid, ret_fd);
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        close(pidfd);
    }
    munmap(stack, STACK_BYTES);
    if (e == 0)
        return 0;
    if (e == -ENOSPC || e == -EPERM || e == -EUSERS)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "cannot make a user namespace (%s): run the daemon as root, and see "
                            "the sysctls user.max_user_namespaces and "
                            "kernel.unprivileged_userns_clone",
                            strerror(-e));
    return exec_spawn_error(err, e, "cannot make a user namespace");
}

int exec_spawn_error(struct af_error *err, int errnum, const char *what)
{
    if (errnum == -EAGAIN)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%s: the daemon may have no more processes (pids.max of its control "
                            "group, TasksMax of its service, or kernel.pid_max)",
                            what);
    return af_error_errno(err, errnum, "%s", what);
}

// ---- programs ---------------------------------------------------------------------------

struct child {
    const struct exec_spawn *spawn;
    char *const *envp;
    long error; // -errno of the step that failed
};

RAW_CHILD_CODE static int child_main(void *arg)
{
    struct child *child = arg;
    const struct exec_spawn *spawn = child->spawn;
    const int from[3] = {spawn->stdin_fd, spawn->stdout_fd, spawn->stderr_fd};
    long e = raw(SYS_setgroups, 0, 0, 0, 0);
    // Root and working directory are this child's own (no CLONE_FS), as that needs.
    if (e == 0 && spawn->mount_ns_fd >= 0)
        e = raw(SYS_setns, spawn->mount_ns_fd, CLONE_NEWNS, 0, 0);
    // Nothing that someone in the daemon forgot to mark goes along.
    if (e == 0)
        e = raw(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC, 0);
    for (int i = 0; e == 0 && i < 3; i++) {
        e = raw(SYS_dup3, from[i], i, 0, 0); // the sources are above 2
        if (e > 0)
            e = 0;
    }
    for (size_t i = 0; e == 0 && i < spawn->keep_count; i++)
        e = raw(SYS_fcntl, spawn->keep_fds[i], F_SETFD, 0, 0);
    if (e == 0 && spawn->nice)
        e = raw(SYS_setpriority, PRIO_PROCESS, 0, spawn->nice, 0);
    if (e == 0)
        e = raw(SYS_execve, (long)spawn->path, (long)spawn->argv, (long)child->envp, 0);
    child->error = e;
    raw(SYS_exit_group, 127, 0, 0, 0);
    return 0;
}

int exec_spawn(const struct exec_spawn *spawn, pid_t *ret_pid, int *ret_pidfd)
{
    static char *const no_environment[] = {NULL};
    struct child child = {.spawn = spawn, .envp = no_environment};
    void *stack = stack_new();
    if (!stack)
        return -ENOMEM;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int pidfd = -1;
    pid_t pid = (pid_t)raw_clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
                                 (char *)stack + STACK_BYTES, &pidfd, child_main, &child);
    int e = pid < 0 ? pid : 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    munmap(stack, STACK_BYTES);
    if (e == 0 && child.error) {
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        close(pidfd);
        e = (int)child.error;
    }
    if (e < 0)
        return e;
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}
