// Endpoints and connecting to them. Owns nothing that outlives a call.
// Failure: INVALID_ARGUMENT for an endpoint that is none, UNAVAILABLE when nobody answers.
// Read next: client.h.
#include "api/client/client_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

// Connects a new non-blocking socket; -errno on failure.
static int connect_by(const struct sockaddr *address, socklen_t len, int64_t deadline_ns)
{
    AF_CLEANUP_FD int fd =
        socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, address, len) == 0)
        return af_take_fd(&fd);
    // A unix socket whose backlog is full says EAGAIN; there is nothing to wait on then.
    if (errno != EINPROGRESS)
        return -errno;
    int64_t left_ms = (deadline_ns - af_monotonic_ns()) / 1000000;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int n = poll(&wait, 1, left_ms < 0 ? 0 : left_ms > 60000 ? 60000 : (int)left_ms);
    if (n <= 0)
        return n == 0 ? -ETIMEDOUT : -errno;
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        return -errno;
    return error ? -error : af_take_fd(&fd);
}

static int refused(struct af_error *err, const char *endpoint, int error)
{
    return af_error_set(err, AF_UNAVAILABLE, "cannot reach agentfensed at %s: %s", endpoint,
                        strerror(-error));
}

static int dial_unix(const char *endpoint, const char *path, int64_t deadline_ns,
                     struct af_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (*path == '\0' || strlen(path) >= sizeof address.sun_path)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the socket path of %s is empty or longer than %zu bytes", endpoint,
                            sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = connect_by((const struct sockaddr *)&address, sizeof address, deadline_ns);
    return fd < 0 ? refused(err, endpoint, fd) : fd;
}

static int dial_tcp(const char *endpoint, int64_t deadline_ns, struct af_error *err)
{
    char host[256];
    const char *colon = strrchr(endpoint, ':');
    size_t len = colon ? (size_t)(colon - endpoint) : 0;
    if (!colon || len == 0 || len >= sizeof host || colon[1] == '\0')
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "%s is not an endpoint: unix:/path, a path, or HOST:PORT", endpoint);
    memcpy(host, endpoint, len);
    host[len] = '\0';
    if (host[0] == '[' && host[len - 1] == ']') {
        memmove(host, host + 1, len - 2);
        host[len - 2] = '\0';
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    if (strcmp(host, "localhost") != 0)
        hints.ai_flags = AI_NUMERICHOST;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s is not an endpoint: %s", endpoint,
                            gai_strerror(rc));
    int fd = -ECONNREFUSED;
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next)
        fd = connect_by(at->ai_addr, at->ai_addrlen, deadline_ns);
    freeaddrinfo(found);
    if (fd < 0)
        return refused(err, endpoint, fd);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int client_dial(const char *endpoint, int64_t deadline_ns, struct af_error *err)
{
    if (strncmp(endpoint, "unix://", 7) == 0)
        return dial_unix(endpoint, endpoint + 7, deadline_ns, err);
    if (strncmp(endpoint, "unix:", 5) == 0)
        return dial_unix(endpoint, endpoint + 5, deadline_ns, err);
    if (endpoint[0] == '/' || endpoint[0] == '.')
        return dial_unix(endpoint, endpoint, deadline_ns, err);
    return dial_tcp(endpoint, deadline_ns, err);
}
