// Connections: accepting, reading, writing, timeouts, closing. The network thread's.
//
// Owns: struct net_conn with its socket and HTTP/2 session. No locks.
// Failure: a connection in trouble is cut: GOAWAY as far as the socket takes it, then closed; its
// calls are cancelled. One line in the log a second at most.
// Read next: session.c, loop.c.
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define READ_BYTES         (64u << 10)
#define READS_PER_TURN     4 // then the other connections have their turn
#define KEEP_OUT_CAP_BYTES (16u << 10)
#define LINGER_NS          AF_NS_PER_SEC
#define RESETS_CAPACITY    200
#define RESETS_PER_SECOND  10

bool net_bucket_take(struct net_bucket *bucket, double capacity, double per_second, int64_t now_ns)
{
    if (bucket->at_ns == 0)
        bucket->level = capacity;
    else
        bucket->level += per_second * (double)(now_ns - bucket->at_ns) / (double)AF_NS_PER_SEC;
    bucket->at_ns = now_ns;
    if (bucket->level > capacity)
        bucket->level = capacity;
    if (bucket->level < 1)
        return false;
    bucket->level -= 1;
    return true;
}

void net_conn_strike(struct net_conn *conn, const char *why)
{
    if (!net_bucket_take(&conn->resets, RESETS_CAPACITY, RESETS_PER_SECOND, conn->server->now_ns))
        conn->cut = why;
}

void net_conn_touch(struct net_conn *conn)
{
    if (conn->touched)
        return;
    conn->touched = true;
    conn->touched_next = conn->server->touched;
    conn->server->touched = conn;
}

static unsigned count_of_uid(const struct net_server *server, uid_t uid)
{
    unsigned count = 0;
    for (const struct net_conn *conn = server->conns; conn; conn = conn->next)
        count += conn->peer.uid == uid;
    return count;
}

static void link_conn(struct net_server *server, struct net_conn *conn)
{
    conn->next = server->conns;
    if (server->conns)
        server->conns->prev = conn;
    server->conns = conn;
    server->conn_count++;
    atomic_store(&server->conns_open, server->conn_count);
}

static void set_tcp_options(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

void net_conn_new(struct net_server *server, int fd, const struct net_listener *from)
{
    AF_CLEANUP_FD int owned = fd;
    struct net_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return;
    atomic_fetch_add(&server->conns_accepted, 1);
    conn->magic = NET_CONN_MAGIC;
    conn->server = server;
    net_peer_check(conn, fd, from);
    if (!conn->permitted)
        net_pressure_make_room(
            server, conn, count_of_uid(server, conn->peer.uid) >= server->limits.conns_per_uid);
    if (server->conn_count >= server->limits.conns_max ||
        count_of_uid(server, conn->peer.uid) >= server->limits.conns_per_uid ||
        (from->tls && !(conn->tls = net_tls_new(server->tls, fd))) || net_session_new(conn) != 0) {
        atomic_fetch_add(&server->conns_refused, 1);
        if (conn->session)
            nghttp2_session_del(conn->session);
        net_tls_free(conn->tls);
        free(conn);
        return;
    }
    if (!from->local)
        set_tcp_options(fd);
    conn->fd = af_take_fd(&owned);
    conn->events = EPOLLIN;
    conn->accepted_ns = conn->busy_ns = conn->written_ns = conn->heard_ns = server->now_ns;
    link_conn(server, conn);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        net_conn_close(conn);
        return;
    }
    net_conn_touch(conn);
}

static void untouch(struct net_conn *conn)
{
    struct net_conn **at = &conn->server->touched;
    while (*at && *at != conn)
        at = &(*at)->touched_next;
    if (*at)
        *at = conn->touched_next;
    conn->touched = false;
}

void net_conn_close(struct net_conn *conn)
{
    struct net_server *server = conn->server;
    if (conn->touched)
        untouch(conn);
    while (conn->calls) {
        struct grpc_call *call = conn->calls;
        nghttp2_session_set_stream_user_data(conn->session, call->stream_id, NULL);
        grpc_call_closed(call);
    }
    nghttp2_session_del(conn->session);
    net_tls_free(conn->tls);
    // Explicitly: a child process between fork and exec holds the descriptor too, and as long as it
    // does, close() alone would leave the connection in the epoll set.
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    close(conn->fd);
    af_bytes_fini(&conn->out);
    if (conn->next)
        conn->next->prev = conn->prev;
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        server->conns = conn->next;
    server->conn_count--;
    atomic_store(&server->conns_open, server->conn_count);
    conn->magic = 0;
    free(conn);
}

void net_conn_count_cut(struct net_conn *conn, const char *why)
{
    struct net_server *server = conn->server;
    if (conn->counted)
        return;
    conn->counted = true;
    atomic_fetch_add(&server->conns_cut, 1);
    if (server->now_ns - server->cut_logged_ns < AF_NS_PER_SEC)
        return;
    server->cut_logged_ns = server->now_ns;
    af_log(AF_LOG_WARN, "net", "connection cut", "why=\"%s\" uid=%d pid=%d", why,
           (int)conn->peer.uid, (int)conn->peer.pid);
}

static ssize_t send_out(struct net_conn *conn)
{
    const uint8_t *bytes = conn->out.bytes + conn->out.off;
    size_t len = af_bytes_size(&conn->out);
    return conn->tls ? net_tls_send(conn->tls, bytes, len)
                     : send(conn->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Closes for a reason of ours, telling the client as far as its socket takes it now.
static void cut(struct net_conn *conn, uint32_t error_code, const char *why)
{
    net_conn_count_cut(conn, why);
    nghttp2_session_terminate_session(conn->session, error_code);
    const uint8_t *bytes;
    ssize_t len;
    while (af_bytes_size(&conn->out) < NET_OUT_BYTES &&
           (len = nghttp2_session_mem_send(conn->session, &bytes)) > 0)
        if (!af_bytes_put(&conn->out, bytes, (size_t)len))
            break;
    if (af_bytes_size(&conn->out) > 0) {
        ssize_t ignored = send_out(conn);
        (void)ignored; // it goes either way
    }
    net_conn_close(conn);
}

void net_conn_cut(struct net_conn *conn, const char *why)
{
    cut(conn, NGHTTP2_ENHANCE_YOUR_CALM, why);
}

// Everything has been said. Closing now could lose the last of it: the kernel drops what a unix
// socket has sent when its end is closed with bytes unread (the client's acknowledgements).
static void linger(struct net_conn *conn)
{
    if (shutdown(conn->fd, SHUT_WR) < 0) {
        net_conn_close(conn);
        return;
    }
    conn->lingering = true;
    conn->busy_ns = conn->server->now_ns;
}

// Whatever comes is thrown away until the client hangs up.
static void linger_readable(struct net_conn *conn)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = recv(conn->fd, conn->server->read_buffer, READ_BYTES, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            net_conn_close(conn);
            return;
        }
    }
}

void net_conn_readable(struct net_conn *conn)
{
    struct net_server *server = conn->server;
    if (conn->lingering) {
        linger_readable(conn);
        return;
    }
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = conn->tls ? net_tls_recv(conn->tls, server->read_buffer, READ_BYTES)
                              : recv(conn->fd, server->read_buffer, READ_BYTES, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0) {
            net_conn_close(conn);
            return;
        }
        conn->heard_ns = server->now_ns;
        ssize_t taken =
            idle_resets_recv(&conn->idle_resets, conn->session, server->read_buffer, (size_t)n);
        if (conn->cut) {
            cut(conn, NGHTTP2_ENHANCE_YOUR_CALM, conn->cut);
            return;
        }
        if (taken < 0) {
            cut(conn,
                taken == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR,
                nghttp2_strerror((int)taken));
            return;
        }
        // A TLS record is smaller than the buffer and always taken whole, so that nothing waits
        // inside the library while epoll sees an empty socket.
        if (n < (ssize_t)READ_BYTES && !conn->tls)
            break;
    }
    net_conn_touch(conn);
}

// Fills the output buffer from the session. False when the session failed.
static bool fill(struct net_conn *conn)
{
    while (af_bytes_size(&conn->out) < NET_OUT_BYTES) {
        const uint8_t *bytes;
        ssize_t len = nghttp2_session_mem_send(conn->session, &bytes);
        if (len < 0 || conn->cut)
            return false;
        if (len == 0)
            break;
        if (!af_bytes_put(&conn->out, bytes, (size_t)len))
            return false;
    }
    return true;
}

static void watch(struct net_conn *conn)
{
    bool wants_room = af_bytes_size(&conn->out) > 0;
    if (conn->tls)
        wants_room =
            net_tls_wants_write(conn->tls) || (wants_room && !net_tls_send_wants_read(conn->tls));
    uint32_t events = EPOLLIN | (wants_room ? EPOLLOUT : 0);
    if (events == conn->events)
        return;
    conn->events = events;
    struct epoll_event event = {.events = events, .data.ptr = conn};
    epoll_ctl(conn->server->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event);
}

void net_conn_flush(struct net_conn *conn)
{
    for (;;) {
        if (!fill(conn)) {
            cut(conn, conn->cut ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_INTERNAL_ERROR,
                conn->cut ? conn->cut : "session failed");
            return;
        }
        if (af_bytes_size(&conn->out) == 0)
            break;
        ssize_t n = send_out(conn);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0) {
            net_conn_close(conn);
            return;
        }
        conn->out.off += (size_t)n;
        conn->written_ns = conn->server->now_ns;
    }
    bool pending = af_bytes_size(&conn->out) > 0;
    if (!pending && conn->out.cap > KEEP_OUT_CAP_BYTES)
        af_bytes_fini(&conn->out);
    watch(conn);
    // It has said GOAWAY and its calls are over.
    if (!pending && !conn->lingering && !nghttp2_session_want_read(conn->session) &&
        !nghttp2_session_want_write(conn->session))
        linger(conn);
}

void net_conn_goaway(struct net_conn *conn)
{
    if (conn->ending)
        return;
    conn->ending = true;
    nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(conn->session), NGHTTP2_NO_ERROR,
                          NULL, 0);
    net_conn_touch(conn);
}

// A call that waits for the rest of a message for too long, its client's window being open.
static const struct grpc_call *stalled_call(const struct net_conn *conn, int64_t limit_ns,
                                            int64_t now_ns)
{
    for (const struct grpc_call *call = conn->calls; call; call = call->next)
        if (!call->deaf && call->begun && grpc_decoder_is_inside(&call->decoder) &&
            call->held_bytes == grpc_decoder_held(&call->decoder) &&
            now_ns - call->progress_ns > limit_ns)
            return call;
    return NULL;
}

// Over TCP a peer can vanish without a word; its commands are to end then.
static bool is_half_open(struct net_conn *conn, int64_t now_ns)
{
    int64_t silent_ns = now_ns - conn->heard_ns;
    if (conn->peer.local || conn->call_count == 0 || silent_ns < AF_PING_AFTER_NS)
        return false;
    if (conn->pinged)
        return silent_ns > AF_PING_AFTER_NS + AF_PING_WAIT_NS;
    conn->pinged = true;
    nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, NULL);
    net_conn_touch(conn);
    return false;
}

void net_conn_sweep(struct net_conn *conn, int64_t now_ns)
{
    const struct net_limits *limits = &conn->server->limits;
    if (conn->lingering) {
        if (now_ns - conn->busy_ns > LINGER_NS)
            net_conn_close(conn);
        return;
    }
    net_pressure_sweep(conn);
    bool pending = af_bytes_size(&conn->out) > 0;
    if (conn->call_count > 0)
        conn->busy_ns = now_ns;
    // Who may not call has nothing to be idle for.
    int64_t idle_ns =
        conn->permitted || conn->known ? limits->idle_timeout_ns : limits->handshake_timeout_ns;
    const char *why = NULL;
    if (!conn->settled && now_ns - conn->accepted_ns > limits->handshake_timeout_ns)
        why = "no HTTP/2 handshake";
    else if (pending && now_ns - conn->written_ns > limits->stall_timeout_ns)
        why = "replies are not read";
    else if (stalled_call(conn, limits->stall_timeout_ns, now_ns))
        why = "half a message and no more";
    else if (is_half_open(conn, now_ns))
        why = "the peer does not answer";
    if (why)
        cut(conn, NGHTTP2_ENHANCE_YOUR_CALM, why);
    else if (now_ns - conn->busy_ns > idle_ns)
        net_conn_goaway(conn);
}
