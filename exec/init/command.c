// One command inside the box: its supervisor and the steps that lead to its program.
//
// The supervisor is a child of the init and a subreaper: whatever the command double-forks or
// moves to another session stays below it. It is not dumpable and blocks every signal, but shares
// its uid with the command, which can therefore kill it: then the engine sees a status pipe that
// closed without a word, and the init kills what it left (main.c). Nothing is ever invented.
// Orders of the engine (signals) come over the status socket of commands that have one; the
// supervisor is the parent, so that the pid it signals is never another's.
// Supervisor and leader have the memory of the init (CLONE_VM): a copy of it, made and dropped for
// each, would be a fifth of a short command. Nothing else has it: the leader loses it with execve,
// and none of the three is dumpable. Each runs on a stack of its command's, makes raw system calls
// only (errno and libc's heap are the init's), and changes nothing but that command.
// Owns: its copies of the descriptors. Fails: by a FAILED record. Read next: tree.c, protocol.h.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "exec/init/init.h"
#include "exec/raw.h"
#include "exec/slice.h"

#define SCRIPT_SHELL "/bin/sh"
#define SIGSET_BYTES 8 // the kernel's

// The strings of one START, as execve wants them.
struct command_text {
    char **argv; // there is room for one more before it
    char **envp;
    const char *workdir;
};

struct supervisor {
    struct init_command *command;
    int status_fd;
    pid_t leader; // 0: it has ended
};

void init_report(int status_fd, uint32_t kind, int32_t value, uint32_t extra)
{
    const struct exec_status_record record = {.kind = kind, .value = value, .extra = extra};
    while (raw(SYS_write, status_fd, (long)&record, sizeof(record), 0) == -EINTR)
        ;
}

static _Noreturn void quit(int code)
{
    for (;;)
        raw(SYS_exit_group, code, 0, 0, 0);
}

static _Noreturn void fail(int status_fd, enum exec_stage stage, int errnum)
{
    init_report(status_fd, EXEC_STATUS_FAILED, errnum, stage);
    quit(1);
}

// Splits the text into pointers. 0 or an errno value.
static int text_split(const struct init_command *command, struct command_text *ret)
{
    const struct exec_msg_start *head = &command->head;
    size_t strings = (size_t)head->argc + head->envc + 1;
    char **pointers = command->pointers + 1;
    char *at = command->text, *end = command->text + head->text_bytes;
    size_t slot = 0;
    for (size_t i = 0; i < strings; i++) {
        char *nul = memchr(at, 0, (size_t)(end - at));
        if (!nul)
            return EBADMSG;
        if (i == head->argc)
            pointers[slot++] = NULL;
        if (i == strings - 1)
            ret->workdir = at;
        else
            pointers[slot++] = at;
        at = nul + 1;
    }
    pointers[slot] = NULL;
    ret->argv = pointers;
    ret->envp = pointers + head->argc + 1;
    return at == end ? 0 : EBADMSG;
}

// Lowers a limit; one that is lower already stays. 0 or an errno value.
static int limit_set(int resource, rlim_t value)
{
    struct rlimit limit;
    long e = raw(SYS_prlimit64, 0, resource, 0, (long)&limit);
    if (e < 0)
        return (int)-e;
    if (limit.rlim_max > value)
        limit.rlim_max = value;
    limit.rlim_cur = limit.rlim_max;
    return (int)-raw(SYS_prlimit64, 0, resource, (long)&limit, 0);
}

static int limits_set(const struct init_limits *limits)
{
    int e = limit_set(RLIMIT_NOFILE, limits->open_files_max);
    return e ? e : limit_set(RLIMIT_NPROC, limits->processes_max);
}

static long dup_to(long from, int to)
{
    return from < 0 ? from : raw(SYS_dup3, from, to, 0, 0);
}

static long dup_above(int fd, int least)
{
    return raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, least, 0);
}

// Puts the three streams at 0 to 2. The sources are above 2: the init keeps 0 to 2 open.
static int streams_set(const struct init_command *command)
{
    long in = command->stdin_fd;
    if (in < 0)
        in = raw(SYS_openat, AT_FDCWD, (long)"/dev/null", O_RDONLY | O_CLOEXEC, 0);
    long e = dup_to(in, 0);
    if (e >= 0)
        e = dup_to(command->stdout_fd, 1);
    if (e >= 0)
        e = dup_to(command->stderr_fd, 2);
    return e < 0 ? (int)-e : 0;
}

// Puts a session's channel at its two numbers. By way of higher ones, for the sources may have the
// numbers that are wanted. 0 or an errno value.
static int channel_set(const struct init_command *command, int *status_fd)
{
    if (command->channel_fds[0] < 0)
        return 0;
    long status = dup_above(*status_fd, EXEC_CHANNEL_OUT + 1);
    long in = dup_above(command->channel_fds[0], EXEC_CHANNEL_OUT + 1);
    long out = dup_above(command->channel_fds[1], EXEC_CHANNEL_OUT + 1);
    if (status < 0)
        return (int)-status;
    *status_fd = (int)status;
    long e = dup_to(in, EXEC_CHANNEL_IN);
    if (e >= 0)
        e = dup_to(out, EXEC_CHANNEL_OUT);
    return e < 0 ? (int)-e : 0;
}

// Executes a file; one without a header that the kernel knows is taken for a script. Returns an
// errno value.
static int execute_file(const struct command_text *text, const char *path)
{
    long e = raw(SYS_execve, (long)path, (long)text->argv, (long)text->envp, 0);
    if (e != -ENOEXEC)
        return (int)-e;
    char **argv = text->argv - 1, *name = argv[1];
    argv[0] = (char *)SCRIPT_SHELL;
    argv[1] = (char *)path;
    e = raw(SYS_execve, (long)SCRIPT_SHELL, (long)argv, (long)text->envp, 0);
    argv[1] = name;
    return (int)-e;
}

static const char *search_path(char *const *envp)
{
    for (; *envp; envp++)
        if (strncmp(*envp, "PATH=", 5) == 0)
            return *envp + 5;
    return "/bin:/usr/bin";
}

// As execvpe: a name without a slash is looked for in PATH. Returns an errno value.
static int execute(const struct command_text *text)
{
    const char *name = text->argv[0];
    if (strchr(name, '/') || !*name)
        return execute_file(text, name);
    if (strlen(name) > NAME_MAX)
        return ENAMETOOLONG;
    char path[PATH_MAX + NAME_MAX + 2];
    bool denied = false;
    for (const char *dir = search_path(text->envp);; dir++) {
        size_t len = strcspn(dir, ":");
        if (len < PATH_MAX) {
            memcpy(path, dir, len);
            path[len] = '/';
            strcpy(path + len + (len > 0), name);
            int e = execute_file(text, path);
            denied = denied || e == EACCES;
            if (e != EACCES && e != ENOENT && e != ENOTDIR && e != ESTALE && e != ENODEV &&
                e != ETIMEDOUT)
                return e;
        }
        dir += len;
        if (!*dir)
            return denied ? EACCES : ENOENT;
    }
}

static int lead(void *arg)
{
    const struct init_command *command = arg;
    struct command_text text;
    int status_fd = command->status_fd;
    const uint64_t no_signals = 0;
    int e = text_split(command, &text);
    if (!e)
        e = streams_set(command);
    if (!e)
        e = channel_set(command, &status_fd);
    if (!e)
        e = limits_set(command->limits);
    if (!e)
        e = raw(SYS_setsid, 0, 0, 0, 0) < 0 ? EPERM : 0;
    if (!e && command->head.flags & EXEC_START_TERMINAL)
        e = (int)-raw(SYS_ioctl, 0, TIOCSCTTY, 0, 0);
    if (e)
        fail(status_fd, EXEC_STAGE_SETUP, e);
    e = (int)-raw(SYS_chdir, (long)text.workdir, 0, 0, 0);
    if (e)
        fail(status_fd, EXEC_STAGE_CHDIR, e);
    raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&no_signals, 0, SIGSET_BYTES);
    if (command->on_one_cpu)
        raw(SYS_sched_setaffinity, 0, sizeof(command->cpus), (long)&command->cpus, 0);
    exec_slice_set(EXEC_SLICE_NORMAL_NS);
    fail(status_fd, EXEC_STAGE_EXEC, execute(&text));
}

// ---- the supervisor ---------------------------------------------------------------------

static long wait_child(int *ret_status, int options)
{
    return raw(SYS_wait4, -1, (long)ret_status, options, 0);
}

// Whether any child is left, without waiting; reaps those that have ended, but not for ever.
static bool children_left(void)
{
    long pid = 1;
    for (int i = 0; i < INIT_REAP_MAX && pid > 0; i++)
        pid = wait_child(NULL, WNOHANG);
    return pid >= 0;
}

static void close_fds(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            raw(SYS_close, fds[i], 0, 0, 0);
}

// What the command writes to. Held until its leader has ended, so that the engine hears of that
// once and not of the end of each pipe before.
static void close_outputs(const struct init_command *command)
{
    close_fds((const int[]){command->stdout_fd, command->stderr_fd}, 2);
}

// A child has ended, or (pid < 0) none is left. Returns unless that was the end of everything.
static void take_end(struct supervisor *supervisor, long pid, int status)
{
    if (pid == supervisor->leader) {
        supervisor->leader = 0; // its pid may soon be another's
        bool left = children_left();
        init_report(supervisor->status_fd, EXEC_STATUS_EXITED, status, left);
        if (!left)
            quit(0);
        if (!(supervisor->command->head.flags & EXEC_START_TERMINAL))
            close_outputs(supervisor->command);
    } else if (pid < 0) {
        init_report(supervisor->status_fd, EXEC_STATUS_GONE, 0, 0);
        quit(0);
    }
}

static _Noreturn void wait_for_children(struct supervisor *supervisor)
{
    for (;;) {
        int status;
        long pid = wait_child(&status, 0);
        if (pid != -EINTR)
            take_end(supervisor, pid, status);
    }
}

// Returns false when there is none, or nobody any more to give one.
static bool take_order(struct supervisor *supervisor, struct pollfd *polled)
{
    struct exec_order order;
    struct iovec iov = {&order, sizeof(order)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    long n = raw(SYS_recvmsg, supervisor->status_fd, (long)&msg, MSG_DONTWAIT, 0);
    if (n == -EAGAIN || n == -EINTR)
        return false;
    if (n <= 0) {
        polled->fd = -1;
        return false;
    }
    if (n != sizeof(order) || order.kind != EXEC_ORDER_SIGNAL)
        return true; // an order that this version does not know
    if (order.all)
        init_signal_tree(supervisor->command, order.signal);
    else if (supervisor->leader > 0)
        raw(SYS_kill, supervisor->leader, order.signal, 0, 0);
    return true;
}

static _Noreturn void wait_for_children_and_orders(struct supervisor *supervisor)
{
    const uint64_t child = 1ull << (SIGCHLD - 1);
    const int flags = SFD_CLOEXEC | SFD_NONBLOCK;
    int signal_fd = (int)raw(SYS_signalfd4, -1, (long)&child, SIGSET_BYTES, flags);
    struct pollfd polled[] = {{.fd = supervisor->status_fd, .events = POLLIN},
                              {.fd = signal_fd, .events = POLLIN}};
    init_report(supervisor->status_fd, EXEC_STATUS_STARTED, 0, 0);
    if (signal_fd < 0) // out of descriptors: without orders, then
        wait_for_children(supervisor);
    for (;;) {
        int status, ended = 0;
        long pid;
        while (ended++ < INIT_REAP_MAX && (pid = wait_child(&status, WNOHANG)) != 0)
            take_end(supervisor, pid, status);
        struct timespec at_once = {0}, *wait = ended > INIT_REAP_MAX ? &at_once : NULL;
        if (raw(SYS_ppoll, (long)polled, 2, (long)wait, 0) <= 0)
            continue;
        struct signalfd_siginfo info;
        while (polled[1].revents && raw(SYS_read, signal_fd, (long)&info, sizeof(info), 0) > 0)
            ;
        while (polled[0].revents && take_order(supervisor, &polled[0]))
            ;
    }
}

int init_supervise(void *arg)
{
    struct init_command *command = arg;
    struct supervisor supervisor = {.command = command, .status_fd = command->status_fd};
    raw(SYS_close, INIT_SOCKET_FD, 0, 0, 0);
    raw(SYS_close, INIT_LOCK_FD, 0, 0, 0);
    long e = raw(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
    if (e < 0)
        fail(command->status_fd, EXEC_STAGE_SETUP, (int)-e);
    // Who reports the start waits for it; nobody else has a reason to.
    unsigned long wait = command->head.flags & EXEC_START_CONTROL ? CLONE_VFORK : 0;
    e = raw_clone(CLONE_VM | wait | SIGCHLD, command->leader_stack_end, NULL, lead, command);
    if (e < 0)
        fail(command->status_fd, EXEC_STAGE_FORK, (int)-e);
    supervisor.leader = (pid_t)e;
    // Held here they would keep a writer of stdin, and who waits for the end of a terminal.
    const int fds[] = {command->stdin_fd, command->text_fd, command->channel_fds[0],
                       command->channel_fds[1]};
    close_fds(fds, sizeof(fds) / sizeof(fds[0]));
    if (command->head.flags & EXEC_START_TERMINAL)
        close_outputs(command);
    if (command->head.flags & EXEC_START_CONTROL)
        wait_for_children_and_orders(&supervisor);
    wait_for_children(&supervisor);
}
