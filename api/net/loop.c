// The network thread: epoll over listeners, connections and one eventfd.
//
// A turn: what epoll reported; deadlines; what workers have made ready; once a second the timeouts
// of connections; then every touched connection is flushed once, so that a turn's replies to one
// client leave in one write.
// Owns: the running of everything marked as the network thread's in net_priv.h. Lock: ready_lock
// (rank 90), to take the ready queue.
// Failure: running out of fds pauses accepting until the next sweep.
// Read next: conn.c.
#include "api/net/net_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_MAX       64
#define ACCEPTS_PER_TURN 64
#define SWEEP_NS         AF_NS_PER_SEC

void net_loop_wake(struct net_server *server)
{
    // Who finds the thread asleep wakes it; who comes later need not.
    if (!atomic_exchange(&server->sleeping, false))
        return;
    uint64_t one = 1;
    ssize_t ignored = write(server->event_fd, &one, sizeof one);
    (void)ignored; // a full counter wakes it as well
}

static void drain_event_fd(struct net_server *server)
{
    uint64_t count;
    ssize_t ignored = read(server->event_fd, &count, sizeof count);
    (void)ignored;
}

static void set_accepting(struct net_server *server, bool accepting)
{
    server->accept_paused = !accepting;
    for (unsigned i = 0; i < server->listener_count; i++) {
        struct epoll_event event = {.events = accepting ? EPOLLIN : 0,
                                    .data.ptr = &server->listeners[i]};
        epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, server->listeners[i].fd, &event);
    }
}

static void accept_some(struct net_server *server, const struct net_listener *listener)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            net_conn_new(server, fd, listener);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            af_log(AF_LOG_ERROR, "net", "cannot accept connections for now", "errno=%d", errno);
            set_accepting(server, false);
        }
        return;
    }
}

static void run_timers(struct net_server *server)
{
    struct net_timer *timer;
    while ((timer = net_timers_first(&server->timers)) && timer->at_ns <= server->now_ns) {
        struct grpc_call *call =
            (struct grpc_call *)((char *)timer - offsetof(struct grpc_call, timer));
        atomic_fetch_add(&server->calls_cancelled, 1);
        grpc_call_abort(call, AF_DEADLINE_EXCEEDED, "the call's deadline has passed");
    }
}

static bool ready_is_empty(struct net_server *server)
{
    pthread_mutex_lock(&server->ready_lock);
    bool empty = !server->ready;
    pthread_mutex_unlock(&server->ready_lock);
    return empty;
}

static void run_ready(struct net_server *server)
{
    pthread_mutex_lock(&server->ready_lock);
    struct grpc_call *call = server->ready;
    server->ready = server->ready_tail = NULL;
    pthread_mutex_unlock(&server->ready_lock);
    while (call) {
        // Once submitted, it may be queued again and its link be written.
        struct grpc_call *next = call->ready_next;
        net_call_submit(call);
        grpc_call_unref(call);
        call = next;
    }
}

static void flush_touched(struct net_server *server)
{
    while (server->touched) {
        struct net_conn *conn = server->touched;
        server->touched = conn->touched_next;
        conn->touched = false;
        net_conn_flush(conn);
    }
}

static void sweep(struct net_server *server)
{
    if (server->now_ns - server->swept_ns < SWEEP_NS)
        return;
    server->swept_ns = server->now_ns;
    if (server->accept_paused)
        set_accepting(server, true);
    struct net_conn *next;
    for (struct net_conn *conn = server->conns; conn; conn = next) {
        next = conn->next;
        net_conn_sweep(conn, server->now_ns);
    }
    net_pressure_trim(server);
}

static void begin_drain(struct net_server *server)
{
    server->draining = true;
    net_listeners_close(server);
    for (struct net_conn *conn = server->conns; conn; conn = conn->next)
        net_conn_goaway(conn);
}

// A connection keeps what it began with; its calls show their tokens one by one.
static void take_secrets(struct net_server *server)
{
    struct net_secrets *next = atomic_exchange(&server->next_secrets, NULL);
    if (!next)
        return;
    struct net_secrets before = {.tls = server->tls, .tokens = server->tokens};
    server->tls = next->tls;
    server->tokens = next->tokens;
    *next = before;
    net_secrets_free(next);
}

// What other threads have asked for: new secrets; an end in two steps (server.h).
static void take_orders(struct net_server *server)
{
    take_secrets(server);
    bool stop = atomic_load(&server->stop);
    if ((stop || atomic_load(&server->drain)) && !server->draining)
        begin_drain(server);
    if (stop && !server->stopping) {
        server->stopping = true;
        server->stop_end_ns = server->now_ns + atomic_load(&server->stop_grace_ns);
    }
}

static bool has_orders(const struct net_server *server)
{
    return (atomic_load(&server->stop) && !server->stopping) ||
           (atomic_load(&server->drain) && !server->draining) ||
           atomic_load(&server->next_secrets) != NULL;
}

// Tells net_server_drain once no call is in flight.
static void tell_drained(struct net_server *server)
{
    if (!server->draining || server->drained)
        return;
    for (const struct net_conn *conn = server->conns; conn; conn = conn->next)
        if (conn->call_count > 0)
            return;
    server->drained = true;
    uint64_t one = 1;
    ssize_t ignored = write(server->drained_fd, &one, sizeof one);
    (void)ignored; // nobody else writes there
}

// Milliseconds until there is something to do by the clock; -1 for never.
static int sleep_ms(const struct net_server *server)
{
    int64_t until_ns = INT64_MAX;
    const struct net_timer *timer = net_timers_first(&server->timers);
    if (timer)
        until_ns = timer->at_ns;
    if ((server->conns || server->accept_paused) && server->swept_ns + SWEEP_NS < until_ns)
        until_ns = server->swept_ns + SWEEP_NS;
    if (server->stopping && server->stop_end_ns < until_ns)
        until_ns = server->stop_end_ns;
    if (until_ns == INT64_MAX)
        return -1;
    int64_t left_ns = until_ns - af_monotonic_ns();
    if (left_ns <= 0)
        return 0;
    int64_t ms = (left_ns + 999999) / 1000000;
    return ms > 60000 ? 60000 : (int)ms;
}

static int wait_events(struct net_server *server, struct epoll_event events[EVENTS_MAX])
{
    int timeout_ms = sleep_ms(server);
    atomic_store(&server->sleeping, true);
    // A worker that queued something before this store may have seen the thread awake.
    if (!ready_is_empty(server) || has_orders(server))
        timeout_ms = 0;
    int count = epoll_wait(server->epoll_fd, events, EVENTS_MAX, timeout_ms);
    atomic_store(&server->sleeping, false);
    server->now_ns = af_monotonic_ns();
    return count;
}

static bool is_listener(const struct net_server *server, const struct epoll_event *event)
{
    const char *ptr = event->data.ptr, *first = (const char *)server->listeners;
    return ptr >= first && ptr < first + sizeof server->listeners;
}

static void handle_event(struct net_server *server, const struct epoll_event *event)
{
    if (event->data.ptr == &server->event_fd) {
        drain_event_fd(server);
        return;
    }
    struct net_conn *conn = event->data.ptr;
    // TLS may need room for what it says before it can hear more.
    if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) ||
        (conn->tls && net_tls_wants_write(conn->tls)))
        net_conn_readable(conn);
    else
        net_conn_touch(conn);
}

void *net_loop(void *arg)
{
    struct net_server *server = arg;
    struct epoll_event events[EVENTS_MAX];
    net_on_network_thread = true;
    server->now_ns = server->swept_ns = af_monotonic_ns();
    while (!server->stopping || (server->conns && server->now_ns < server->stop_end_ns)) {
        int count = wait_events(server, events);
        for (int i = 0; i < count; i++)
            if (!is_listener(server, &events[i]))
                handle_event(server, &events[i]);
        // A new connection may cost an old one its place, which must have no event ahead.
        for (int i = 0; i < count && !server->draining; i++)
            if (is_listener(server, &events[i]))
                accept_some(server, events[i].data.ptr);
        run_timers(server);
        run_ready(server);
        sweep(server);
        net_pressure_relieve(server);
        take_orders(server);
        flush_touched(server);
        tell_drained(server);
    }
    while (server->conns)
        net_conn_close(server->conns);
    pthread_mutex_lock(&server->ready_lock);
    server->ready_closed = true;
    pthread_mutex_unlock(&server->ready_lock);
    run_ready(server);
    return NULL;
}
