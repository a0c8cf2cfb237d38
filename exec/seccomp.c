// The system call filters: an allow-list, and refusals that look at arguments or say EPERM.
//
// Two filters, because a BPF rule cannot say "allowed unless the low 32 bits are X" in an
// allow-list (the kernel reads ioctl's request as 32 bits; comparing 64 would be a way around):
//   1. allow-list: everything that is not named here answers ENOSYS, so that what the kernel will
//      learn tomorrow is refused today and programs take their fallback. clone3 is not named: its
//      flags are in memory, where a filter cannot look; glibc then uses clone.
//   2. refusals: default allow; what privileged tools try answers EPERM, namespaces through clone,
//      TIOCSTI and TIOCLINUX (input forged into a terminal), sockets that reach outside the
//      network namespace (AF_VSOCK, AF_ALG, ...), and what has the kernel load modules.
// ptrace cannot be limited to one's own children by a filter: nobody has it.
// Owns: nothing. Locks: none. Fails: af_error. Read next: bwrap.c (how they are loaded).
#include "exec/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mux/base/cleanup.h"

#define SOCKET_TYPE 0xf // the part of socket's type that is no flag (the kernel's SOCK_TYPE_MASK)

// Names, not numbers: libseccomp knows which of them this architecture and kernel have.
// clang-format off
static const char *const allowed[] = {
    // files
    "access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup",
    "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr",
    "flock", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futimesat",
    "getcwd", "getdents", "getdents64", "getxattr", "getxattrat", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link",
    "linkat", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2",
    "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read",
    "readahead", "readlink", "readlinkat", "readv", "removexattr", "removexattrat", "rename",
    "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "setxattrat", "splice", "stat",
    "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee",
    "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vmsplice", "write",
    "writev",
    // waiting
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd", "eventfd2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4",
    "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // memory
    "brk", "cachestat", "get_mempolicy", "madvise", "map_shadow_stack", "mbind", "membarrier",
    "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap", "mseal",
    "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
    "remap_file_pages", "set_mempolicy", "set_mempolicy_home_node",
    // processes and threads
    "alarm", "arch_prctl", "capget", "capset", "clone", "execve", "execveat", "exit", "exit_group",
    "fork", "futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list",
    "get_thread_area", "getcpu", "getegid", "geteuid", "getgid", "getgroups", "getitimer",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid", "getrlimit",
    "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "kill", "pause",
    "personality", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64", "restart_syscall",
    "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "set_robust_list", "set_thread_area",
    "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer", "setpgid",
    "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid",
    "setuid", "sigaltstack", "tgkill", "tkill", "uretprobe", "vfork", "wait4", "waitid",
    // clocks
    "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "times",
    // sockets
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    "socket", "socketpair",
    // System V and POSIX IPC (in a namespace of the box's own)
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink",
    "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat",
    "shmctl", "shmdt", "shmget",
    // asynchronous I/O of the old kind, and programs that confine themselves
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
    // what is asked about the machine
    "getrandom", "sysinfo", "uname", "modify_ldt", "riscv_flush_icache", "riscv_hwprobe",
};
// clang-format on

// clang-format off
static const char *const refused[] = {
    "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime",
    "delete_module", "fanotify_init", "fanotify_mark", "finit_module", "fsconfig", "fsmount",
    "fsopen", "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie",
    "migrate_pages", "mount", "mount_setattr", "move_mount", "move_pages", "name_to_handle_at",
    "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
    "process_madvise", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace",
    "quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "setns",
    "settimeofday", "stime", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare",
    "userfaultfd", "vhangup",
};
// clang-format on

static int add_names(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);
        // Unknown to this libseccomp: the allow-list refuses it anyway.
        if (number == __NR_SCMP_ERROR)
            continue;
        int e = seccomp_rule_add(ctx, action, number, 0);
        // -EDOM: a pseudo call of another architecture.
        if (e < 0 && e != -EDOM)
            return e;
    }
    return 0;
}

static int fill_allowed(scmp_filter_ctx ctx)
{
    return add_names(ctx, SCMP_ACT_ALLOW, allowed, AF_ARRAY_LEN(allowed));
}

static int refuse_namespaces(scmp_filter_ctx ctx)
{
    // Not CLONE_NEWTIME: clone reads that bit as part of the exit signal.
    static const unsigned flags[] = {CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,   CLONE_NEWNET,
                                     CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP};
#if defined(__s390__) || defined(__CRIS__)
    const unsigned arg = 1;
#else
    const unsigned arg = 0;
#endif
    int e = 0;
    for (size_t i = 0; e == 0 && i < AF_ARRAY_LEN(flags); i++)
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
    return e;
}

// ---- sockets ----------------------------------------------------------------------------

// Making a socket of a family, type or protocol that the kernel does not know has it look for a
// module, a process of root's outside of the box's limits, and load it if there is one: all but the
// common ones are refused. All 64 bits are compared, so that what is in the upper half, at which
// the kernel does not look, can only refuse more.

static struct scmp_arg_cmp type_is(unsigned type)
{
    return SCMP_A1(SCMP_CMP_MASKED_EQ, SOCKET_TYPE, type);
}

static struct scmp_arg_cmp family_is(uint64_t family)
{
    return SCMP_A0(SCMP_CMP_EQ, family);
}

static int refuse_both(scmp_filter_ctx ctx, unsigned error, struct scmp_arg_cmp one,
                       struct scmp_arg_cmp other)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ERRNO(error), SCMP_SYS(socket), 2, one, other);
}

static int refuse_families(scmp_filter_ctx ctx)
{
    // socketpair makes a socket of the family before it fails.
    int e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socketpair), 1,
                             SCMP_A0(SCMP_CMP_NE, AF_UNIX));
    for (unsigned family = 0; e == 0 && family < AF_NETLINK; family++)
        if (family != AF_UNIX && family != AF_INET && family != AF_INET6)
            e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                 family_is(family));
    return e ? e
             : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                SCMP_A0(SCMP_CMP_GT, AF_NETLINK));
}

// The protocols first..last. A rule looks at an argument once, so it cannot tell a range, but it
// can tell a power of two of numbers that begin alike.
static int refuse_protocols(scmp_filter_ctx ctx, unsigned type, uint64_t first, uint64_t last)
{
    int e = 0;
    for (uint64_t size; e == 0 && first <= last; first += size) {
        for (size = 1; first % (2 * size) == 0 && first + 2 * size - 1 <= last; size *= 2)
            ;
        e = refuse_both(ctx, EPROTONOSUPPORT, type_is(type),
                        SCMP_A2(SCMP_CMP_MASKED_EQ, ~(size - 1), first));
    }
    return e;
}

// All but these, which are in order.
static int keep_protocols(scmp_filter_ctx ctx, unsigned type, const unsigned *kept, size_t count)
{
    int e = 0;
    for (size_t i = 0; e == 0 && i + 1 < count; i++)
        e = refuse_protocols(ctx, type, kept[i] + 1, kept[i + 1] - 1);
    return e ? e
             : refuse_both(ctx, EPROTONOSUPPORT, type_is(type),
                           SCMP_A2(SCMP_CMP_GT, kept[count - 1]));
}

static int refuse_types(scmp_filter_ctx ctx)
{
    int e = 0;
    for (unsigned type = 0; e == 0 && type <= SOCKET_TYPE; type++)
        if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_RAW && type != SOCK_SEQPACKET)
            e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ESOCKTNOSUPPORT), SCMP_SYS(socket), 1,
                                 type_is(type));
    // AF_INET's SOCK_PACKET is AF_PACKET's, and its SOCK_SEQPACKET is SCTP's.
    if (e == 0)
        e = refuse_both(ctx, ESOCKTNOSUPPORT, family_is(AF_INET), type_is(SOCK_SEQPACKET));
    return e ? e : refuse_both(ctx, ESOCKTNOSUPPORT, family_is(AF_INET6), type_is(SOCK_SEQPACKET));
}

static int refuse_datagrams(scmp_filter_ctx ctx, unsigned family, unsigned protocol)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), 3,
                            family_is(family), type_is(SOCK_DGRAM), SCMP_A2(SCMP_CMP_EQ, protocol));
}

// SOCK_RAW needs a capability, whatever the protocol.
static int refuse_sockets(scmp_filter_ctx ctx)
{
    static const unsigned streams[] = {0, IPPROTO_TCP, IPPROTO_MPTCP};
    static const unsigned datagrams[] = {0, IPPROTO_ICMP, IPPROTO_UDP, IPPROTO_ICMPV6};
    int e = refuse_families(ctx);
    if (e == 0)
        e = refuse_types(ctx);
    if (e == 0)
        e = keep_protocols(ctx, SOCK_STREAM, streams, AF_ARRAY_LEN(streams));
    if (e == 0)
        e = keep_protocols(ctx, SOCK_DGRAM, datagrams, AF_ARRAY_LEN(datagrams));
    if (e == 0)
        e = refuse_datagrams(ctx, AF_INET, IPPROTO_ICMPV6);
    if (e == 0)
        e = refuse_datagrams(ctx, AF_INET6, IPPROTO_ICMP);
    // Of netlink, routes alone (what addresses there are): generic netlink, socket diagnosis and
    // others load modules by the name that they are asked for.
    return e ? e
             : refuse_both(ctx, EPROTONOSUPPORT, family_is(AF_NETLINK),
                           SCMP_A2(SCMP_CMP_NE, NETLINK_ROUTE));
}

// How the init runs is not for its user to say: it ends commands whose time is up, and has to run
// for its own end. It is process 1 of its namespace.
static int refuse_slowing_the_init(scmp_filter_ctx ctx)
{
    static const int numbers[] = {SCMP_SYS(sched_setscheduler), SCMP_SYS(sched_setparam),
                                  SCMP_SYS(sched_setattr), SCMP_SYS(sched_setaffinity)};
    int e = 0;
    for (size_t i = 0; e == 0 && i < AF_ARRAY_LEN(numbers); i++)
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), numbers[i], 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, 1));
    if (e == 0) // all of a user's
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setpriority), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, PRIO_USER));
    return e ? e // it, or its process group
             : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setpriority), 1,
                                SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, 1));
}

static int fill_refused(scmp_filter_ctx ctx)
{
    // From TIOCSETD on they load modules: line disciplines, bridges and virtual LANs.
    static const unsigned requests[] = {TIOCSTI,     TIOCLINUX,   TIOCSETD,    SIOCGIFBR,
                                        SIOCSIFBR,   SIOCBRADDBR, SIOCBRDELBR, SIOCBRADDIF,
                                        SIOCBRDELIF, SIOCGIFVLAN, SIOCSIFVLAN};
    int e = add_names(ctx, SCMP_ACT_ERRNO(EPERM), refused, AF_ARRAY_LEN(refused));
    for (size_t i = 0; e == 0 && i < AF_ARRAY_LEN(requests); i++)
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, requests[i]));
    if (e == 0) // limits of another process: the init's, which has the same user
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 2,
                             SCMP_A0(SCMP_CMP_NE, 0), SCMP_A2(SCMP_CMP_NE, 0));
    if (e == 0)
        e = refuse_slowing_the_init(ctx);
    if (e == 0)
        e = refuse_namespaces(ctx);
    if (e == 0)
        e = refuse_sockets(ctx);
    return e;
}

static int compile(uint32_t default_action, int (*fill)(scmp_filter_ctx), int *ret_fd)
{
    AF_CLEANUP_FD int fd = memfd_create("agentfense-seccomp", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    scmp_filter_ctx ctx = seccomp_init(default_action);
    if (!ctx)
        return -ENOMEM;
    int e = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a binary tree of numbers
    if (e == 0)
        e = fill(ctx);
    if (e == 0)
        e = seccomp_export_bpf(ctx, fd);
    seccomp_release(ctx);
    if (e == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
        e = -errno;
    if (e == 0)
        *ret_fd = af_take_fd(&fd);
    return e;
}

int exec_seccomp_new(int ret_fds[2], struct af_error *err)
{
    AF_CLEANUP_FD int allow_fd = -1;
    int e = compile(SCMP_ACT_ERRNO(ENOSYS), fill_allowed, &allow_fd);
    // The filter that is loaded last decides between two refusals: it says EPERM.
    if (e == 0)
        e = compile(SCMP_ACT_ALLOW, fill_refused, &ret_fds[1]);
    if (e < 0)
        return af_error_errno(err, e, "cannot make the system call filter");
    ret_fds[0] = af_take_fd(&allow_fd);
    return 0;
}
