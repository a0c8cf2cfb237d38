// The uid at the other end of a loopback TCP connection, asked from the kernel by netlink.
//
// The peer's own socket is looked up by the four-tuple of the connection, turned around. Only an
// established socket with an inode counts: one that its owner has closed already is reported as
// uid 0.
// Owns: a netlink socket for the time of one question. Failure: -errno.
// Read next: peer.c; the kernel's side is sock_diag(7).
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

struct question {
    struct nlmsghdr header;
    struct inet_diag_req_v2 request;
};

static bool is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    return address->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static void fill_end(const struct sockaddr_storage *address, __be32 out[4], __be16 *port)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        memcpy(out, &in->sin_addr, sizeof in->sin_addr);
        *port = in->sin_port;
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        memcpy(out, &in6->sin6_addr, sizeof in6->sin6_addr);
        *port = in6->sin6_port;
    }
}

static int read_answer(int netlink, uid_t *ret_uid)
{
    _Alignas(struct nlmsghdr) char buffer[4096];
    ssize_t len = recv(netlink, buffer, sizeof buffer, 0);
    if (len < 0)
        return -errno;
    const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
    if (!NLMSG_OK(header, (size_t)len))
        return -EPROTO;
    if (header->nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *error = NLMSG_DATA(header);
        return error->error < 0 ? error->error : -EPROTO;
    }
    if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        header->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
        return -EPROTO;
    const struct inet_diag_msg *message = NLMSG_DATA(header);
    if (message->idiag_state != TCP_ESTABLISHED || message->idiag_inode == 0)
        return -ENOTCONN;
    *ret_uid = message->idiag_uid;
    return 0;
}

int net_sock_diag_uid(int fd, uid_t *ret_uid)
{
    struct sockaddr_storage peer = {0}, own = {0};
    socklen_t peer_len = sizeof peer, own_len = sizeof own;
    if (getpeername(fd, (struct sockaddr *)&peer, &peer_len) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &own_len) != 0)
        return -errno;
    if (!is_loopback(&peer) || !is_loopback(&own))
        return -EADDRNOTAVAIL;
    AF_CLEANUP_FD int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink < 0)
        return -errno;
    struct timeval second = {.tv_sec = 1};
    setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    struct question question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST},
        .request = {.sdiag_family = (uint8_t)peer.ss_family,
                    .sdiag_protocol = IPPROTO_TCP,
                    .idiag_states = ~0u,
                    .id = {.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}},
    };
    fill_end(&peer, question.request.id.idiag_src, &question.request.id.idiag_sport);
    fill_end(&own, question.request.id.idiag_dst, &question.request.id.idiag_dport);
    if (send(netlink, &question, sizeof question, 0) != (ssize_t)sizeof question)
        return -errno;
    return read_answer(netlink, ret_uid);
}
