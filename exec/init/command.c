// One command inside the box: its supervisor and the steps that lead to its program.
//
// The supervisor is a child of the init and a subreaper: whatever the command double-forks or
// moves to another session stays below it. It is not dumpable and blocks every signal, but shares
// its uid with the command, which can therefore kill it: then the engine sees a status pipe that
// closed without a word, and the init kills what it left (main.c). Nothing is ever invented.
// Orders of the engine (signals) come over the status socket of commands that have one; the
// supervisor is the parent, so that the pid it signals is never another's.
// Owns: its copies of the descriptors. Fails: by a FAILED record. Read next: tree.c, protocol.h.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/init/init.h"
#include "exec/slice.h"

// The strings of one START, as execve wants them.
struct command_text {
    char **argv;
    char **envp;
    const char *workdir;
};

struct supervisor {
    int status_fd;
    pid_t leader; // 0: it has ended
};

void init_report(int status_fd, uint32_t kind, int32_t value, uint32_t extra)
{
    const struct exec_status_record record = {.kind = kind, .value = value, .extra = extra};
    ssize_t n;
    do {
        n = write(status_fd, &record, sizeof(record));
    } while (n < 0 && errno == EINTR);
}

static _Noreturn void fail(int status_fd, enum exec_stage stage, int errnum)
{
    init_report(status_fd, EXEC_STATUS_FAILED, errnum, stage);
    _exit(1);
}

// Splits the text into pointers. 0 or an errno value.
static int text_split(char *text, const struct exec_msg_start *head, struct command_text *ret)
{
    size_t strings = (size_t)head->argc + head->envc + 1;
    char **pointers = calloc(strings + 2, sizeof(char *)); // two NULLs end argv and envp
    if (!pointers)
        return ENOMEM;
    char *at = text, *end = text + head->text_bytes;
    size_t slot = 0;
    for (size_t i = 0; i < strings; i++) {
        char *nul = memchr(at, 0, (size_t)(end - at));
        if (!nul)
            return EBADMSG;
        if (i == head->argc)
            slot++; // leaves the NULL after argv
        if (i == strings - 1)
            ret->workdir = at;
        else
            pointers[slot++] = at;
        at = nul + 1;
    }
    ret->argv = pointers;
    ret->envp = pointers + head->argc + 1;
    return at == end ? 0 : EBADMSG;
}

static int text_load(const struct init_start *start, struct command_text *ret)
{
    const struct exec_msg_start *head = &start->head;
    if (head->argc == 0 || head->argc > EXEC_PROTO_STRINGS_MAX ||
        head->envc > EXEC_PROTO_STRINGS_MAX || head->text_bytes == 0 ||
        head->text_bytes > EXEC_PROTO_MEMFD_MAX)
        return EBADMSG;
    if (start->text)
        return text_split((char *)start->text, head, ret);
    char *map =
        mmap(NULL, head->text_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, start->text_fd, 0);
    return map == MAP_FAILED ? errno : text_split(map, head, ret);
}

// Lowers a limit; one that is lower already stays.
static int limit_set(int resource, rlim_t value)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0)
        return errno;
    if (limit.rlim_max > value)
        limit.rlim_max = value;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit) < 0 ? errno : 0;
}

static int limits_set(const struct init_limits *limits)
{
    int e = limit_set(RLIMIT_NOFILE, limits->open_files_max);
    return e ? e : limit_set(RLIMIT_NPROC, limits->processes_max);
}

// Puts the three streams at 0 to 2. The sources are above 2: the init keeps 0 to 2 open.
static int streams_set(const struct init_start *start)
{
    int in = start->stdin_fd >= 0 ? start->stdin_fd : open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (in < 0 || dup2(in, 0) < 0 || dup2(start->stdout_fd, 1) < 0 || dup2(start->stderr_fd, 2) < 0)
        return errno;
    return 0;
}

// Puts a session's channel at its two numbers. By way of higher ones, for the sources may have the
// numbers that are wanted. 0 or an errno value.
static int channel_set(const struct init_start *start, int *status_fd)
{
    if (start->channel_fds[0] < 0)
        return 0;
    *status_fd = fcntl(*status_fd, F_DUPFD_CLOEXEC, EXEC_CHANNEL_OUT + 1);
    int in = fcntl(start->channel_fds[0], F_DUPFD_CLOEXEC, EXEC_CHANNEL_OUT + 1);
    int out = fcntl(start->channel_fds[1], F_DUPFD_CLOEXEC, EXEC_CHANNEL_OUT + 1);
    if (*status_fd < 0 || in < 0 || out < 0 || dup2(in, EXEC_CHANNEL_IN) < 0 ||
        dup2(out, EXEC_CHANNEL_OUT) < 0)
        return errno;
    return 0;
}

static _Noreturn void leader(const struct init_start *start, const struct init_limits *limits,
                             const struct command_text *text)
{
    int status_fd = start->status_fd;
    sigset_t none;
    sigemptyset(&none);
    int e = text->argv && text->argv[0] && text->workdir ? streams_set(start) : EBADMSG;
    if (!e)
        e = channel_set(start, &status_fd);
    if (!e)
        e = limits_set(limits);
    if (!e && setsid() < 0)
        e = errno;
    if (!e && start->head.flags & EXEC_START_TERMINAL && ioctl(0, TIOCSCTTY, 0) < 0)
        e = errno;
    if (e)
        fail(status_fd, EXEC_STAGE_SETUP, e);
    if (chdir(text->workdir) < 0)
        fail(status_fd, EXEC_STAGE_CHDIR, errno);
    sigprocmask(SIG_SETMASK, &none, NULL);
    exec_slice_set(EXEC_SLICE_NORMAL_NS);
    environ = text->envp; // execvpe looks PATH up here
    execvpe(text->argv[0], text->argv, text->envp);
    fail(status_fd, EXEC_STAGE_EXEC, errno);
}

// Whether any child is left, without waiting; reaps those that have ended, but not for ever.
static bool children_left(void)
{
    pid_t pid = 1;
    for (int i = 0; i < INIT_REAP_MAX && pid > 0; i++)
        pid = waitpid(-1, NULL, WNOHANG);
    return pid >= 0;
}

// A child has ended, or (pid < 0) none is left. Returns unless that was the end of everything.
static void take_end(struct supervisor *supervisor, pid_t pid, int status)
{
    if (pid == supervisor->leader) {
        supervisor->leader = 0; // its pid may soon be another's
        bool left = children_left();
        init_report(supervisor->status_fd, EXEC_STATUS_EXITED, status, left);
        if (!left)
            _exit(0);
    } else if (pid < 0) {
        init_report(supervisor->status_fd, EXEC_STATUS_GONE, 0, 0);
        _exit(0);
    }
}

static _Noreturn void wait_for_children(struct supervisor *supervisor)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid >= 0 || errno != EINTR)
            take_end(supervisor, pid, status);
    }
}

// Returns false when there is none, or nobody any more to give one.
static bool take_order(struct supervisor *supervisor, struct pollfd *polled)
{
    struct exec_order order;
    ssize_t n = recv(supervisor->status_fd, &order, sizeof(order), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        polled->fd = -1;
        return false;
    }
    if (n != sizeof(order) || order.kind != EXEC_ORDER_SIGNAL)
        return true; // an order that this version does not know
    if (order.all)
        init_signal_tree(order.signal);
    else if (supervisor->leader > 0)
        kill(supervisor->leader, order.signal);
    return true;
}

static _Noreturn void wait_for_children_and_orders(struct supervisor *supervisor)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    struct pollfd polled[] = {
        {.fd = supervisor->status_fd, .events = POLLIN},
        {.fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK), .events = POLLIN}};
    init_report(supervisor->status_fd, EXEC_STATUS_STARTED, 0, 0);
    if (polled[1].fd < 0) // out of descriptors: without orders, then
        wait_for_children(supervisor);
    for (;;) {
        int status, ended = 0;
        pid_t pid;
        while (ended++ < INIT_REAP_MAX && (pid = waitpid(-1, &status, WNOHANG)) != 0)
            take_end(supervisor, pid, status);
        if (poll(polled, 2, ended > INIT_REAP_MAX ? 0 : -1) <= 0)
            continue;
        struct signalfd_siginfo info;
        while (polled[1].revents && read(polled[1].fd, &info, sizeof(info)) > 0)
            ;
        while (polled[0].revents && take_order(supervisor, &polled[0]))
            ;
    }
}

_Noreturn void init_supervise(const struct init_start *start, const struct init_limits *limits)
{
    struct supervisor supervisor = {.status_fd = start->status_fd};
    struct command_text text = {0};
    int e = text_load(start, &text);
    if (!e && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        e = errno;
    if (e)
        fail(start->status_fd, EXEC_STAGE_SETUP, e);
    // vfork: nothing to do until the leader's program runs, and a copy of the memory would cost a
    // tenth of a short command. The leader changes nothing here that is used again.
    pid_t leader_pid = vfork(); // NOLINT(clang-analyzer-security.insecureAPI.vfork)
    if (leader_pid < 0)
        fail(start->status_fd, EXEC_STAGE_FORK, errno);
    if (leader_pid == 0)
        leader(start, limits, &text); // NOLINT(clang-analyzer-unix.Vfork)
    supervisor.leader = leader_pid;
    // Held here they would keep the pipes open for the engine and the writer of stdin.
    const int fds[] = {start->stdout_fd, start->stderr_fd, start->stdin_fd, start->channel_fds[0],
                       start->channel_fds[1]};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (start->head.flags & EXEC_START_CONTROL)
        wait_for_children_and_orders(&supervisor);
    wait_for_children(&supervisor);
}
