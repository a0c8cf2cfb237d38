// Listening sockets: the unix socket with its mode and group, and TCP when asked.
//
// Owns: server->listeners. Runs before the threads start, and closes on the network thread.
// Failure: an af_error that names the path or address. Read next: server.h.
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024

static int add_listener(struct net_server *server, int fd, const char *path, bool tls,
                        struct af_error *err)
{
    AF_CLEANUP_FD int owned = fd;
    if (server->listener_count == NET_LISTENERS_MAX)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "at most %d addresses to listen on",
                            NET_LISTENERS_MAX);
    struct net_listener *listener = &server->listeners[server->listener_count];
    *listener = (struct net_listener){.fd = fd, .local = path != NULL, .tls = tls};
    struct stat st;
    if (path) {
        listener->path = strdup(path);
        if (!listener->path || stat(path, &st) != 0) {
            free(listener->path);
            return af_error_errno(err, errno, "cannot listen on %s", path);
        }
        listener->dev = st.st_dev;
        listener->ino = st.st_ino;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(listener->path);
        return af_error_errno(err, errno, "cannot watch the listening socket");
    }
    af_take_fd(&owned);
    server->listener_count++;
    return 0;
}

// Removes a socket that nobody listens on; anything else in the place is an error.
static int clear_place(const struct sockaddr_un *address, struct af_error *err)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0) {
        if (errno == ENOENT)
            return 0;
        return af_error_errno(err, errno, "cannot look at %s", address->sun_path);
    }
    if (!S_ISSOCK(st.st_mode))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s exists and is not a socket: remove it or choose another path",
                            address->sun_path);
    AF_CLEANUP_FD int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return af_error_errno(err, errno, "cannot make a socket");
    int rc = connect(probe, (const struct sockaddr *)address, sizeof *address);
    if (rc == 0 || errno != ECONNREFUSED)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "another process answers on %s: stop it or choose another path",
                            address->sun_path);
    if (unlink(address->sun_path) != 0)
        return af_error_errno(err, errno, "cannot replace the stale socket %s", address->sun_path);
    return 0;
}

int net_server_listen_unix(struct net_server *server, const char *path, struct af_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the socket path %s is longer than %zu bytes",
                            path, sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (clear_place(&address, err))
        return -1;
    AF_CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return af_error_errno(err, errno, "cannot make a socket");
    // Nobody can connect before listen(), so that mode and group are right in time.
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        return af_error_errno(err, errno, "cannot create the socket %s", path);
    gid_t group = server->options.check_group ? server->options.group : (gid_t)-1;
    if (chown(path, (uid_t)-1, group) != 0 || chmod(path, 0660) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        unlink(path);
        return af_error_errno(err, error, "cannot listen on %s", path);
    }
    return add_listener(server, af_take_fd(&fd), path, false, err);
}

// ---- TCP --------------------------------------------------------------------------------

struct tcp_address {
    struct sockaddr_storage storage;
    socklen_t len;
    bool loopback;
};

static int parse_port(const char *text, uint16_t *ret_port)
{
    char *end;
    if (*text < '0' || *text > '9')
        return -1;
    unsigned long port = strtoul(text, &end, 10);
    if (*end || port > 65535)
        return -1;
    *ret_port = (uint16_t)port;
    return 0;
}

static int parse_host(const char *host, uint16_t port, struct tcp_address *ret)
{
    memset(ret, 0, sizeof *ret);
    struct sockaddr_in *in = (struct sockaddr_in *)&ret->storage;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ret->storage;
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        ret->len = sizeof *in;
        ret->loopback = ntohl(in->sin_addr.s_addr) >> 24 == 127;
        return 0;
    }
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        ret->len = sizeof *in6;
        ret->loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
        return 0;
    }
    return -1;
}

static int listen_one(struct net_server *server, struct tcp_address *address, bool tls,
                      const char *text, unsigned *ret_port, struct af_error *err)
{
    struct sockaddr *sa = (struct sockaddr *)&address->storage;
    AF_CLEANUP_FD int fd =
        socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    int one = 1;
    if (fd < 0)
        return af_error_errno(err, errno, "cannot make a socket for %s", text);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (sa->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, sa, address->len) != 0 || listen(fd, BACKLOG) != 0)
        return af_error_errno(err, errno, "cannot listen on %s", text);
    if (getsockname(fd, sa, &address->len) != 0)
        return af_error_errno(err, errno, "cannot listen on %s", text);
    *ret_port = ntohs(sa->sa_family == AF_INET ? ((struct sockaddr_in *)sa)->sin_port
                                               : ((struct sockaddr_in6 *)sa)->sin6_port);
    return add_listener(server, af_take_fd(&fd), NULL, tls, err);
}

// Both loopback families on one port. A machine without IPv6 has the first alone.
static int listen_localhost(struct net_server *server, uint16_t port, bool tls, const char *text,
                            unsigned *ret_port, struct af_error *err)
{
    struct tcp_address address;
    parse_host("127.0.0.1", port, &address);
    if (listen_one(server, &address, tls, text, ret_port, err))
        return -1;
    unsigned same = 0;
    AF_CLEANUP_FD int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return 0;
    parse_host("::1", (uint16_t)*ret_port, &address);
    if (bind(probe,
             (struct sockaddr *)&(struct sockaddr_in6){.sin6_family = AF_INET6,
                                                       .sin6_addr = in6addr_loopback},
             sizeof(struct sockaddr_in6)) != 0)
        return 0;
    return listen_one(server, &address, tls, text, &same, err);
}

static int listen_tcp(struct net_server *server, const char *text, bool tls, unsigned *ret_port,
                      struct af_error *err)
{
    char host[64];
    uint16_t port = 0;
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    if (!colon || len == 0 || len >= sizeof host || parse_port(colon + 1, &port))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "%s is not ADDR:PORT, for example 127.0.0.1:9000", text);
    memcpy(host, text, len);
    host[len] = '\0';
    if (host[0] == '[' && host[len - 1] == ']') {
        memmove(host, host + 1, len - 2);
        host[len - 2] = '\0';
    }
    unsigned bound = 0;
    struct tcp_address address;
    if (strcmp(host, "localhost") == 0) {
        if (listen_localhost(server, port, tls, text, &bound, err))
            return -1;
    } else {
        if (parse_host(host, port, &address))
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "%s is not a numeric address (or localhost)", host);
        if (!address.loopback && !tls)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "%s is not a loopback address: other machines are served over TLS "
                                "alone (listen_tls)",
                                host);
        if (listen_one(server, &address, tls, text, &bound, err))
            return -1;
    }
    if (ret_port)
        *ret_port = bound;
    return 0;
}

int net_server_listen_tcp(struct net_server *server, const char *address, unsigned *ret_port,
                          struct af_error *err)
{
    return listen_tcp(server, address, false, ret_port, err);
}

int net_server_listen_tls(struct net_server *server, const char *address, unsigned *ret_port,
                          struct af_error *err)
{
    if (!server->tls || !server->tokens)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "listening on %s needs tls_cert, tls_key and token_file", address);
    return listen_tcp(server, address, true, ret_port, err);
}

void net_listeners_close(struct net_server *server)
{
    for (unsigned i = 0; i < server->listener_count; i++) {
        struct net_listener *listener = &server->listeners[i];
        struct stat st;
        if (listener->path && stat(listener->path, &st) == 0 && st.st_dev == listener->dev &&
            st.st_ino == listener->ino)
            unlink(listener->path);
        epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, listener->fd, NULL); // see net_conn_close
        close(listener->fd);
        free(listener->path);
    }
    server->listener_count = 0;
}
