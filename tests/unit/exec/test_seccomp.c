// What the filters say to sockets, asked of the filters themselves: the kernel answers many of the
// same errors, but after it has looked for a module, as root and outside of the box's limits.
//
// The programs are classic BPF, and are run here by an interpreter of what libseccomp makes.
#include <errno.h>
#include <linux/audit.h>
#include <linux/bpf_common.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "exec/seccomp.h"

#define PROGRAM_MAX 4096

struct program {
    struct sock_filter code[PROGRAM_MAX];
    size_t len;
};

static struct program programs[2];

static bool jumps(const struct sock_filter *at, uint32_t value)
{
    switch (BPF_OP(at->code)) {
    case BPF_JEQ:
        return value == at->k;
    case BPF_JGT:
        return value > at->k;
    case BPF_JGE:
        return value >= at->k;
    case BPF_JSET:
        return value & at->k;
    default:
        fail_msg("a jump of an unknown kind: %#x", at->code);
        return false;
    }
}

static uint32_t run(const struct program *program, const struct seccomp_data *data)
{
    uint32_t value = 0;
    for (size_t pc = 0; pc < program->len; pc++) {
        const struct sock_filter *at = &program->code[pc];
        if (at->code == (BPF_LD | BPF_W | BPF_ABS))
            memcpy(&value, (const char *)data + at->k, sizeof(value));
        else if (at->code == (BPF_ALU | BPF_AND | BPF_K))
            value &= at->k;
        else if (at->code == (BPF_RET | BPF_K))
            return at->k;
        else if (at->code == (BPF_JMP | BPF_JA))
            pc += at->k;
        else if (BPF_CLASS(at->code) == BPF_JMP)
            pc += jumps(at, value) ? at->jt : at->jf;
        else
            fail_msg("an unknown instruction: %#x", at->code);
    }
    fail_msg("no verdict");
    return 0;
}

// What both say to a call: 0, or the error of the one that refuses.
static int verdict(int number, uint64_t a, uint64_t b, uint64_t c)
{
    const struct seccomp_data data = {
        .nr = number,
#if defined(__x86_64__)
        .arch = AUDIT_ARCH_X86_64,
#elif defined(__aarch64__)
        .arch = AUDIT_ARCH_AARCH64,
#endif
        .args = {a, b, c}
    };
    int error = 0;
    for (size_t i = 0; i < 2; i++) {
        uint32_t action = run(&programs[i], &data);
        if (action == SECCOMP_RET_ALLOW)
            continue;
        assert_int_equal(action & SECCOMP_RET_ACTION_FULL, SECCOMP_RET_ERRNO);
        error = (int)(action & SECCOMP_RET_DATA);
    }
    return error;
}

static int load(void **state)
{
    (void)state;
    struct af_error err;
    int fds[2];
    if (exec_seccomp_new(fds, &err) < 0)
        return -1;
    for (size_t i = 0; i < 2; i++) {
        ssize_t n = pread(fds[i], programs[i].code, sizeof(programs[i].code), 0);
        close(fds[i]);
        if (n <= 0 || n == (ssize_t)sizeof(programs[i].code))
            return -1;
        programs[i].len = (size_t)n / sizeof(struct sock_filter);
    }
    return 0;
}

// Sockets that the kernel has without looking for a module, or refuses for want of a capability.
static bool is_usual(int family, int type, int protocol)
{
    bool inet = family == AF_INET || family == AF_INET6;
    switch (type) {
    case SOCK_STREAM:
        return (inet && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)) || protocol == 0;
    case SOCK_DGRAM:
        return (inet && protocol == IPPROTO_UDP) ||
               (family == AF_INET && protocol == IPPROTO_ICMP) ||
               (family == AF_INET6 && protocol == IPPROTO_ICMPV6) || protocol == 0;
    case SOCK_RAW:
        return family != AF_NETLINK || protocol == NETLINK_ROUTE;
    case SOCK_SEQPACKET:
        return family == AF_UNIX || (family == AF_NETLINK && protocol == NETLINK_ROUTE);
    default:
        return false;
    }
}

static void expect(int family, int type, int protocol)
{
    int error = verdict(SYS_socket, (uint64_t)family, (uint64_t)type, (uint64_t)(int64_t)protocol);
    bool refused = error == EAFNOSUPPORT || error == ESOCKTNOSUPPORT || error == EPROTONOSUPPORT;
    bool usual = is_usual(family, type & 0xf, protocol);
    bool wrong = usual ? error != 0 : !refused;
    // AF_UNIX answers to protocols itself.
    if (wrong && !(family == AF_UNIX && protocol != 0))
        fail_msg("family %d, type %d, protocol %d: %d", family, type, protocol, error);
}

static void no_socket_has_the_kernel_look_for_a_module(void **state)
{
    (void)state;
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    static const int flags[] = {0, SOCK_CLOEXEC | SOCK_NONBLOCK};
    static const int far[] = {4095, 65536 + IPPROTO_TCP, INT32_MAX, -1};
    for (size_t f = 0; f < sizeof(families) / sizeof(families[0]); f++)
        for (int type = 0; type < 16; type++)
            for (size_t flag = 0; flag < 2; flag++) {
                for (int protocol = 0; protocol < 600; protocol++)
                    expect(families[f], type | flags[flag], protocol);
                for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
                    expect(families[f], type | flags[flag], far[i]);
            }
}

static void families_are_unix_ip_and_netlink(void **state)
{
    (void)state;
    for (uint64_t family = 0; family < 64; family++) {
        bool usual =
            family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK;
        assert_int_equal(verdict(SYS_socket, family, SOCK_DGRAM, 0), usual ? 0 : EAFNOSUPPORT);
        assert_int_equal(verdict(SYS_socketpair, family, SOCK_DGRAM, 0),
                         family == AF_UNIX ? 0 : EAFNOSUPPORT);
    }
}

// The kernel looks at the lower halves alone.
static void upper_halves_of_arguments_open_nothing(void **state)
{
    (void)state;
    const uint64_t high = 7ULL << 32;
    assert_int_not_equal(verdict(SYS_socket, high | AF_VSOCK, SOCK_STREAM, 0), 0);
    assert_int_not_equal(verdict(SYS_socket, AF_INET, high | SOCK_PACKET, 0), 0);
    assert_int_not_equal(verdict(SYS_socket, AF_INET, high | SOCK_STREAM, IPPROTO_SCTP), 0);
    assert_int_not_equal(verdict(SYS_socket, AF_INET, SOCK_STREAM, high | IPPROTO_SCTP), 0);
    assert_int_not_equal(verdict(SYS_socket, high | AF_NETLINK, SOCK_RAW, NETLINK_GENERIC), 0);
    assert_int_not_equal(verdict(SYS_socket, AF_NETLINK, SOCK_RAW, high | NETLINK_GENERIC), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_socket_has_the_kernel_look_for_a_module),
        cmocka_unit_test(families_are_unix_ip_and_netlink),
        cmocka_unit_test(upper_halves_of_arguments_open_nothing),
    };
    return cmocka_run_group_tests(tests, load, NULL);
}
