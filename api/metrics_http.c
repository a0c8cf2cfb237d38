// A small HTTP/1.1 responder for Prometheus. See metrics_http.h for what it is.
//
// A connection reads until the empty line that ends a request's headers, then writes one answer,
// then waits for the client's end, so that the answer is not lost to a reset; all of it before
// its deadline. A client that sends too much is told so (431), one that is slow is closed.
// Owns: the sockets, the thread, and at most CONNS_MAX connections with a buffer each.
// Locks: none; the thread has everything to itself, an eventfd ends it.
#include "api/metrics_http.h"

#include "api/metrics.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNS_MAX     16
#define REQUEST_MAX   4096
#define DEADLINE_NS   (10 * AF_NS_PER_SEC)
#define BACKLOG       16
#define POLL_SLICE_MS 1000

enum conn_state { CONN_FREE, CONN_READING, CONN_WRITING, CONN_CLOSING };

struct conn {
    enum conn_state state;
    int fd;
    int64_t deadline_ns;
    size_t got; // of the request
    char request[REQUEST_MAX];
    char *answer;
    size_t answer_len, sent;
};

struct metrics_http {
    struct daemon *daemon;
    int listen_fd, stop_fd;
    char *unix_path; // or NULL
    dev_t dev;       // of the socket, so that nobody else's is removed
    ino_t ino;
    pthread_t thread;
    struct conn conns[CONNS_MAX];
};

// ---- answers

static void set_answer(struct conn *conn, const char *status, const char *extra, const char *body,
                       size_t len)
{
    FILE *file = open_memstream(&conn->answer, &conn->answer_len);
    if (file) {
        fprintf(file,
                "HTTP/1.1 %s\r\n"
                "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                "%sContent-Length: %zu\r\nConnection: close\r\n\r\n",
                status, extra, len);
        bool whole = fwrite(body, 1, len, file) == len;
        if (fclose(file) != 0 || !whole) { // for want of memory: nothing is answered
            free(conn->answer);
            conn->answer = NULL;
            conn->answer_len = 0;
        }
    }
    conn->sent = 0;
    conn->state = CONN_WRITING;
}

static void set_error(struct conn *conn, const char *status, const char *extra)
{
    set_answer(conn, status, extra, "this endpoint answers GET /metrics\n", 35);
}

static void set_metrics(struct metrics_http *http, struct conn *conn)
{
    AF_CLEANUP_FREE char *body = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&body, &len);
    int rc = file ? metrics_write_text(http->daemon, file) : -ENOMEM;
    if (file && fclose(file) != 0)
        rc = -ENOMEM;
    if (rc == 0)
        set_answer(conn, "200 OK", "", body, len);
    else
        set_error(conn, "503 Service Unavailable", "");
}

// The request is complete: its first line decides.
static void answer(struct metrics_http *http, struct conn *conn)
{
    char *end = memchr(conn->request, '\r', conn->got);
    char *rest = conn->request;
    if (!end || memchr(conn->request, '\0', (size_t)(end - conn->request))) {
        set_error(conn, "400 Bad Request", "");
        return;
    }
    *end = '\0';
    const char *method = strsep(&rest, " "), *version;
    char *target = strsep(&rest, " ");
    version = rest;
    if (target)
        target[strcspn(target, "?")] = '\0'; // a query asks for nothing that there is
    if (!target || !version || strncmp(version, "HTTP/1.", 7) != 0 || strlen(version) != 8)
        set_error(conn, "400 Bad Request", "");
    else if (strcmp(method, "GET") != 0)
        set_error(conn, "405 Method Not Allowed", "Allow: GET\r\n");
    else if (strcmp(target, "/metrics") != 0)
        set_error(conn, "404 Not Found", "");
    else
        set_metrics(http, conn);
}

// ---- connections

static void conn_close(struct conn *conn)
{
    close(conn->fd);
    free(conn->answer);
    conn->answer = NULL;
    conn->state = CONN_FREE;
}

// Where a new connection goes: in the place of the oldest that has not asked yet when none is free,
// so that who only connects keeps nobody from the figures. NULL: all have asked.
static struct conn *place_for_one(struct metrics_http *http)
{
    struct conn *place = NULL;
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct conn *conn = &http->conns[i];
        if (conn->state == CONN_FREE)
            return conn;
        if (conn->state == CONN_READING && (!place || conn->deadline_ns < place->deadline_ns))
            place = conn;
    }
    return place;
}

static void accept_one(struct metrics_http *http)
{
    struct conn *conn = place_for_one(http);
    int fd = conn ? accept4(http->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
    if (fd < 0)
        return;
    if (conn->state != CONN_FREE)
        conn_close(conn);
    *conn = (struct conn){
        .state = CONN_READING, .fd = fd, .deadline_ns = af_monotonic_ns() + DEADLINE_NS};
}

static void conn_read(struct metrics_http *http, struct conn *conn)
{
    ssize_t n = recv(conn->fd, conn->request + conn->got, REQUEST_MAX - conn->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_close(conn);
        return;
    }
    conn->got += (size_t)n;
    if (memmem(conn->request, conn->got, "\r\n\r\n", 4))
        answer(http, conn);
    else if (conn->got == REQUEST_MAX)
        set_error(conn, "431 Request Header Fields Too Large", "");
}

static void conn_write(struct conn *conn)
{
    while (conn->answer && conn->sent < conn->answer_len) {
        ssize_t n =
            send(conn->fd, conn->answer + conn->sent, conn->answer_len - conn->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            conn_close(conn);
            return;
        }
        conn->sent += (size_t)n;
    }
    shutdown(conn->fd, SHUT_WR);
    conn->state = CONN_CLOSING;
}

// What the client still sends is thrown away, until it has seen the end.
static void conn_drain(struct conn *conn)
{
    char waste[REQUEST_MAX];
    ssize_t n = recv(conn->fd, waste, sizeof waste, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_close(conn);
}

static void conn_step(struct metrics_http *http, struct conn *conn, bool ready)
{
    if (af_monotonic_ns() >= conn->deadline_ns) {
        conn_close(conn);
        return;
    }
    if (!ready)
        return;
    if (conn->state == CONN_READING)
        conn_read(http, conn);
    else if (conn->state == CONN_CLOSING)
        conn_drain(conn);
    if (conn->state == CONN_WRITING)
        conn_write(conn);
}

static void *serve(void *arg)
{
    struct metrics_http *http = arg;
    for (;;) {
        struct pollfd fds[CONNS_MAX + 2];
        bool idle = true;
        for (unsigned i = 0; i < CONNS_MAX; i++) {
            const struct conn *conn = &http->conns[i];
            fds[i] = (struct pollfd){
                .fd = conn->state == CONN_FREE ? -1 : conn->fd,
                .events = conn->state == CONN_WRITING ? POLLOUT : POLLIN,
            };
            idle = idle && conn->state == CONN_FREE;
        }
        fds[CONNS_MAX] =
            (struct pollfd){.fd = place_for_one(http) ? http->listen_fd : -1, .events = POLLIN};
        fds[CONNS_MAX + 1] = (struct pollfd){.fd = http->stop_fd, .events = POLLIN};
        poll(fds, CONNS_MAX + 2, idle ? -1 : POLL_SLICE_MS);
        if (fds[CONNS_MAX + 1].revents)
            return NULL;
        for (unsigned i = 0; i < CONNS_MAX; i++)
            if (http->conns[i].state != CONN_FREE)
                conn_step(http, &http->conns[i], fds[i].revents != 0);
        if (fds[CONNS_MAX].revents)
            accept_one(http);
    }
}

// ---- start and stop

static int listen_unix(struct metrics_http *http, const char *path, struct af_error *err)
{
    const struct af_config *config = &http->daemon->config;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    if (path[0] != '/' || strlen(path) >= sizeof address.sun_path)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "metrics: unix: needs an absolute path of at most %zu bytes",
                            sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (lstat(path, &st) == 0) {
        AF_CLEANUP_FD int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (!S_ISSOCK(st.st_mode) || probe < 0 ||
            connect(probe, (struct sockaddr *)&address, sizeof address) == 0 ||
            errno != ECONNREFUSED || unlink(path) < 0)
            return af_error_set(err, AF_FAILED_PRECONDITION,
                                "metrics: %s is in use: remove it or choose another path", path);
    }
    http->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (http->listen_fd < 0 ||
        bind(http->listen_fd, (struct sockaddr *)&address, sizeof address) < 0)
        return af_error_errno(err, errno, "metrics: cannot listen on %s", path);
    gid_t group = config->group ? config->group_id : (gid_t)-1;
    if (chown(path, (uid_t)-1, group) < 0 || chmod(path, 0660) < 0 || lstat(path, &st) < 0)
        return af_error_errno(err, errno, "metrics: cannot listen on %s", path);
    http->dev = st.st_dev;
    http->ino = st.st_ino;
    http->unix_path = strdup(path);
    return 0;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

// "127.0.0.1:9464" or "[::1]:9464".
static bool parse_address(const char *text, struct sockaddr_storage *ret)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    if (len == 0 || len >= sizeof host || colon[1] < '0' || colon[1] > '9')
        return false;
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end || port > 65535)
        return false;
    bool brackets = text[0] == '[' && len > 2 && text[len - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(len - (brackets ? 2 : 0)), text + brackets);
    memset(ret, 0, sizeof *ret);
    struct sockaddr_in *in = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
    ret->ss_family = brackets ? AF_INET6 : AF_INET;
    in->sin_port = htons((uint16_t)port); // both have it in the same place
    return inet_pton(ret->ss_family, host,
                     brackets ? (void *)&in6->sin6_addr : (void *)&in->sin_addr) == 1;
}

static int listen_tcp(struct metrics_http *http, const char *text, struct af_error *err)
{
    struct sockaddr_storage address;
    int one = 1;
    if (!parse_address(text, &address))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "metrics: %s is neither ADDR:PORT, as 127.0.0.1:9464, nor unix:PATH",
                            text);
    if (!is_loopback(&address) && !http->daemon->config.metrics_public)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "metrics: %s is no loopback address; set metrics_public to allow it",
                            text);
    http->listen_fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (http->listen_fd < 0 ||
        setsockopt(http->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(http->listen_fd, (struct sockaddr *)&address,
             address.ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                          : sizeof(struct sockaddr_in6)) < 0)
        return af_error_errno(err, errno, "metrics: cannot listen on %s", text);
    return 0;
}

static void http_free(struct metrics_http *http)
{
    struct stat st;
    if (http->unix_path && lstat(http->unix_path, &st) == 0 && st.st_dev == http->dev &&
        st.st_ino == http->ino)
        unlink(http->unix_path);
    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (http->conns[i].state != CONN_FREE)
            conn_close(&http->conns[i]);
    af_cleanup_fd(&http->listen_fd);
    af_cleanup_fd(&http->stop_fd);
    free(http->unix_path);
    free(http);
}

static void log_address(const struct metrics_http *http)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    unsigned port = 0;
    if (!http->unix_path && getsockname(http->listen_fd, (struct sockaddr *)&address, &len) == 0)
        port = ntohs(((struct sockaddr_in *)&address)->sin_port);
    af_log(AF_LOG_INFO, "metrics", "metrics are served", "at=%s port=%u",
           http->daemon->config.metrics, port);
}

int metrics_http_start(struct daemon *daemon, struct metrics_http **ret, struct af_error *err)
{
    struct metrics_http *http = calloc(1, sizeof *http);
    if (!http)
        return af_error_errno(err, ENOMEM, "metrics");
    const char *where = daemon->config.metrics;
    http->daemon = daemon;
    http->listen_fd = -1;
    http->stop_fd = eventfd(0, EFD_CLOEXEC);
    int rc = strncmp(where, "unix:", 5) == 0 ? listen_unix(http, where + 5, err)
                                             : listen_tcp(http, where, err);
    if (rc == 0 && (http->stop_fd < 0 || listen(http->listen_fd, BACKLOG) < 0))
        rc = af_error_errno(err, errno, "metrics: cannot listen on %s", where);
    int error = rc == 0 ? pthread_create(&http->thread, NULL, serve, http) : 0;
    if (error)
        rc = af_error_errno(err, error, "metrics: cannot start a thread");
    if (rc < 0) {
        http_free(http);
        return -1;
    }
    log_address(http);
    *ret = http;
    return 0;
}

void metrics_http_stop(struct metrics_http *http)
{
    if (!http)
        return;
    eventfd_write(http->stop_fd, 1);
    pthread_join(http->thread, NULL);
    http_free(http);
}
