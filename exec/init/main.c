// agentfense-init: process 1 of a sandbox. Static, small, the same for every runtime.
//
//   agentfense-init SOCKET LOCK PROCESSES FILES
// SOCKET  descriptor of the engine's socket (protocol.h). When it closes, the init exits and the
//         kernel ends every process of the pid namespace: no daemon, no sandbox.
// LOCK    descriptor of the run directory's lock, held for as long as this process lives
//         (exec/recover.c finds left-over sandboxes by it).
// In a container SOCKET is a path, and LOCK comes over it (join.c).
// PROCESSES, FILES  RLIMIT_NPROC and RLIMIT_NOFILE of commands.
//
// It forks one supervisor per command (command.c) and reaps. Commands share its uid, therefore:
// it is not dumpable (no /proc/1/mem, /proc/1/fd or ptrace), handles no signal (the kernel drops
// those sent to process 1 from inside), keeps every descriptor close-on-exec, and takes orders
// from its socket only. A child that is no supervisor is an orphan of a killed supervisor and is
// killed: so a command's tree ends exactly, whatever sessions or double forks it used.
// Owns: the slot table. Locks: none, one thread. Fails: by exiting, which ends the sandbox.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exec/init/init.h"
#include "exec/raw.h"
#include "exec/slice.h"

#define CHILDREN_FILE "/proc/self/task/1/children"
#define PATIENCE_NS   100000000LL // how long orphans may outrun being killed one by one

struct slot {
    uint64_t id;
    struct init_command *command;
    pid_t pid;    // 0: the slot is free
    bool ending;  // the supervisor is being killed
    bool orphans; // it died without cleaning up
};

static struct slot slots[EXEC_PROTO_SLOTS_MAX];
static unsigned slot_top; // every used slot is below
static struct init_limits limits;
static union {
    struct exec_msg_head head;
    struct exec_msg_start start;
    char bytes[sizeof(struct exec_msg_start) + EXEC_PROTO_TEXT_MAX];
} message;

_Noreturn void init_die(const char *what)
{
    dprintf(2, "agentfense-init: %s: %s\n", what, strerror(errno));
    _exit(70);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void tell(const void *bytes, size_t size)
{
    ssize_t n;
    do {
        n = send(INIT_SOCKET_FD, bytes, size, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        _exit(0); // the engine is gone
}

static void slot_free(struct slot *slot)
{
    init_command_free(slot->command);
    *slot = (struct slot){0};
    while (slot_top > 0 && slots[slot_top - 1].id == 0)
        slot_top--;
}

static void tell_ended(struct slot *slot)
{
    const struct exec_msg_head head = {.kind = EXEC_MSG_ENDED, .id = slot->id};
    slot_free(slot);
    tell(&head, sizeof(head));
}

// ---- set-up -----------------------------------------------------------------------------

static unsigned long number(const char *text)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || value > 0x7fffffff) {
        errno = EINVAL;
        init_die(text);
    }
    return value;
}

// Moves the two descriptors to their places and closes all others but 0 to 2.
static void descriptors_set(int socket_fd, int lock_fd)
{
    int s = fcntl(socket_fd, F_DUPFD_CLOEXEC, 16), l = fcntl(lock_fd, F_DUPFD_CLOEXEC, 16);
    if (s < 0 || l < 0 || dup3(s, INIT_SOCKET_FD, O_CLOEXEC) < 0 ||
        dup3(l, INIT_LOCK_FD, O_CLOEXEC) < 0)
        init_die("descriptors");
    if (syscall(SYS_close_range, INIT_LOCK_FD + 1, ~0u, 0) < 0)
        init_die("close_range");
}

// Recovery waits for processes of this name (exec/recover.c).
static void name_set(void)
{
    char name[EXEC_INIT_NAME_SIZE];
    struct stat lock;
    if (fstat(INIT_LOCK_FD, &lock) < 0)
        init_die("lock");
    snprintf(name, sizeof(name), EXEC_INIT_NAME_FORMAT, (unsigned)lock.st_ino);
    prctl(PR_SET_NAME, name);
}

// Undoes what a daemon may have set for itself: handlers, mask, umask, limits, nice value.
static void process_reset(void)
{
    // Not signal(): it refuses the two that libc uses itself, which may be ignored as well.
    static const struct kernel_sigaction {
        unsigned long handler, flags, restorer, mask;
    } by_default;
    for (int sig = 1; sig < NSIG; sig++) // refused for SIGKILL and SIGSTOP
        syscall(SYS_rt_sigaction, sig, &by_default, NULL, sizeof(by_default.mask));
    umask(022);
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    setpriority(PRIO_PROCESS, 0, 0); // fails harmlessly where it would have to raise
    exec_slice_set(EXEC_SLICE_SHORT_NS);
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        init_die("PR_SET_DUMPABLE");
    if (chdir("/") < 0)
        init_die("chdir /");
}

static int signals_open(void)
{
    sigset_t all, child;
    sigfillset(&all);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        init_die("signalfd");
    return fd;
}

static void say_hello(void)
{
    struct exec_msg_hello hello = {.head.kind = EXEC_MSG_HELLO, .version = EXEC_PROTO_VERSION};
    hello.shell = access("/bin/bash", X_OK) == 0 ? EXEC_SHELL_BASH
                  : access("/bin/sh", X_OK) == 0 ? EXEC_SHELL_SH
                                                 : EXEC_SHELL_NONE;
    tell(&hello, sizeof(hello));
}

// ---- children ---------------------------------------------------------------------------

static struct slot *slot_of_pid(pid_t pid)
{
    for (unsigned i = 0; i < slot_top; i++)
        if (slots[i].id && slots[i].pid == pid && !slots[i].orphans)
            return &slots[i];
    return NULL;
}

// Kills every child that is no supervisor; stops at a time, for a tree that forks all the time
// makes the list longer than it can be read. Returns how many there were, -1 when it cannot be
// read.
static int orphans_kill(int64_t until_ns)
{
    FILE *file = fopen(CHILDREN_FILE, "re");
    if (!file)
        return -1;
    int found = 0;
    long pid;
    while (now_ns() < until_ns && fscanf(file, "%ld", &pid) == 1) {
        if (slot_of_pid((pid_t)pid))
            continue;
        kill((pid_t)pid, SIGKILL);
        found++;
    }
    fclose(file);
    return found;
}

// Reaps what has ended, INIT_REAP_MAX at most. Returns how many.
static unsigned reap(bool *orphans)
{
    unsigned ended = 0;
    int status;
    pid_t pid;
    while (ended < INIT_REAP_MAX && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
        ended++;
        struct slot *slot = slot_of_pid(pid);
        if (slot && WIFEXITED(status))
            slot_free(slot); // it exits only when it has no children, and has said so
        else if (slot)
            *orphans = slot->orphans = true;
    }
    return ended;
}

// Whether it is one of a command that goes on.
static bool is_supervisor(pid_t pid)
{
    const struct slot *slot = slot_of_pid(pid);
    return slot && !slot->ending;
}

static bool take_order(void);

static void children_changed(void)
{
    static bool orphans;     // some slot waits for the end of its orphans,
    static int64_t until_ns; // who are killed one by one until then
    unsigned ended = reap(&orphans);
    while (orphans || ended == INIT_REAP_MAX) {
        int found = 0;
        if (orphans) {
            int64_t at_ns = now_ns();
            if (until_ns && at_ns >= until_ns) {
                while (take_order()) // others that are to end do so at the same time
                    ;
                init_kill_still(is_supervisor);
            }
            if (at_ns >= until_ns)
                until_ns = now_ns() + PATIENCE_NS;
            found = orphans_kill(until_ns);
        }
        // A child that ends while the list is read may hide another: look again then.
        ended = reap(&orphans);
        if (ended > 0 || !orphans)
            continue;
        if (found != 0)
            return; // SIGCHLD comes for them
        orphans = false;
        until_ns = 0;
        for (unsigned i = 0; i < slot_top; i++)
            if (slots[i].orphans)
                tell_ended(&slots[i]);
    }
}

// ---- orders -----------------------------------------------------------------------------

static struct slot *slot_new(uint64_t id)
{
    for (unsigned i = 0; i < EXEC_PROTO_SLOTS_MAX; i++)
        if (slots[i].id == 0) {
            slots[i].id = id;
            if (i >= slot_top)
                slot_top = i + 1;
            return &slots[i];
        }
    return NULL;
}

// A supervisor and a leader take turns, each for a few steps: on another CPU, which may be asleep,
// they would begin later than on this one, which the init leaves to them. The program may go
// wherever it likes; so may the init afterwards. Only where that is every CPU of the machine: one
// that was bound to some of them, by an administrator or a group, would stay bound when they change
// their mind, for the kernel remembers what it was asked for.
static void stay_here(struct init_command *command)
{
    cpu_set_t here, now;
    int cpu = sched_getcpu();
    command->on_one_cpu = false;
    if (command->head.cpus < 2 || cpu < 0 || cpu >= CPU_SETSIZE ||
        sched_getaffinity(0, sizeof(now), &now) < 0 || CPU_COUNT(&now) != (int)command->head.cpus)
        return;
    memset(&command->cpus, 0xff, sizeof(command->cpus));
    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    command->on_one_cpu = sched_setaffinity(0, sizeof(here), &here) == 0;
}

static void command_start(struct init_command *command)
{
    struct slot *slot = slot_new(command->head.head.id);
    if (!slot) {
        init_report(command->status_fd, EXEC_STATUS_FAILED, EAGAIN, EXEC_STAGE_SLOTS);
        init_command_free(command);
        return;
    }
    slot->command = command;
    stay_here(command);
    long pid =
        raw_clone(CLONE_VM | SIGCHLD, command->supervisor_stack_end, NULL, init_supervise, command);
    if (command->on_one_cpu)
        sched_setaffinity(0, sizeof(command->cpus), &command->cpus);
    if (pid < 0) {
        init_report(command->status_fd, EXEC_STATUS_FAILED, (int)-pid, EXEC_STAGE_FORK);
        slot_free(slot);
        return;
    }
    slot->pid = (pid_t)pid;
}

static void command_end(uint64_t id)
{
    for (unsigned i = 0; i < slot_top; i++)
        if (slots[i].id == id && slots[i].pid > 0 && !slots[i].orphans) {
            slots[i].ending = true;
            kill(slots[i].pid, SIGKILL);
        }
}

// 0 or an errno value.
static int take_text(struct init_command *command)
{
    size_t wanted = command->head.text_bytes;
    if (command->text_fd < 0) {
        memcpy(command->text, message.bytes + sizeof(message.start), wanted);
        return 0;
    }
    ssize_t n = pread(command->text_fd, command->text, wanted, 0);
    return n == (ssize_t)wanted ? 0 : n < 0 ? errno : EBADMSG;
}

static void on_start(size_t size, const int *fds, int count)
{
    const struct exec_msg_start *head = &message.start;
    uint32_t flags = head->flags;
    int wanted = EXEC_START_FDS_MIN + !!(flags & EXEC_START_HAS_STDIN) +
                 !!(flags & EXEC_START_TEXT_FD) + (flags & EXEC_START_CHANNEL ? 2 : 0);
    size_t text = flags & EXEC_START_TEXT_FD ? 0 : head->text_bytes;
    if (size != sizeof(*head) + text || count != wanted || head->head.id == 0) {
        errno = EBADMSG;
        init_die("START");
    }
    struct init_command *command = init_command_new(head);
    if (!command) {
        init_report(fds[0], EXEC_STATUS_FAILED, errno, EXEC_STAGE_SETUP);
        return;
    }
    command->limits = &limits;
    command->status_fd = fds[0];
    command->stdout_fd = fds[1];
    command->stderr_fd = fds[2];
    int next = EXEC_START_FDS_MIN;
    command->stdin_fd = flags & EXEC_START_HAS_STDIN ? fds[next++] : -1;
    command->text_fd = flags & EXEC_START_TEXT_FD ? fds[next++] : -1;
    for (int i = 0; i < 2; i++)
        command->channel_fds[i] = flags & EXEC_START_CHANNEL ? fds[next++] : -1;
    int e = take_text(command);
    if (e) {
        init_report(command->status_fd, EXEC_STATUS_FAILED, e, EXEC_STAGE_SETUP);
        init_command_free(command);
        return;
    }
    command_start(command);
}

// Takes one message from the engine. Returns false when there is none.
static bool take_order(void)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * EXEC_START_FDS_MAX)];
    } control;
    struct iovec iov = {message.bytes, sizeof(message.bytes)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(INIT_SOCKET_FD, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        _exit(0); // the engine is gone, or wants the box to end
    int fds[EXEC_START_FDS_MAX], count = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), (size_t)count * sizeof(int));
    }
    if (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC) || (size_t)n < sizeof(message.head)) {
        errno = EBADMSG;
        init_die("message");
    }
    if (message.head.kind == EXEC_MSG_START && (size_t)n >= sizeof(message.start))
        on_start((size_t)n, fds, count);
    else if (message.head.kind == EXEC_MSG_END)
        command_end(message.head.id);
    for (int i = 0; i < count; i++)
        close(fds[i]);
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        dprintf(2, "agentfense-init: started by agentfensed, not by hand\n");
        return 64;
    }
    limits.processes_max = number(argv[3]);
    limits.open_files_max = number(argv[4]);
    int socket_fd, lock_fd;
    if (argv[1][0] == '/') {
        init_join(argv[1], &socket_fd, &lock_fd);
    } else {
        socket_fd = (int)number(argv[1]);
        lock_fd = (int)number(argv[2]);
    }
    descriptors_set(socket_fd, lock_fd);
    name_set();
    process_reset();
    int signal_fd = signals_open();
    if (orphans_kill(INT64_MAX) < 0)
        init_die(CHILDREN_FILE);
    say_hello();
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0)
        init_die("/dev/null");
    close(null_fd);
    struct pollfd polled[] = {{.fd = INIT_SOCKET_FD, .events = POLLIN},
                              {.fd = signal_fd, .events = POLLIN}};
    for (;;) {
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            init_die("poll");
        struct signalfd_siginfo info;
        if (polled[1].revents) {
            while (read(signal_fd, &info, sizeof(info)) > 0)
                ;
            children_changed();
        }
        while (polled[0].revents && take_order())
            ;
    }
}
