// The server object: made, filled, started, stopped, freed. Owns everything in struct net_server.
//
// Locks: none of its own. Failure: an af_error, nothing left behind.
// Read next: server.h, loop.c.
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/base/log.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WORKERS_MIN 4
#define WORKERS_MAX 32

#define RESETS_BURST      10000
#define RESETS_PER_SECOND 1000

static void fill_limits(struct net_limits *limits, const struct net_limits *asked)
{
#define OR(field, value) limits->field = asked->field ? asked->field : (value)
    OR(message_bytes_max, AF_MESSAGE_MAX);
    OR(unpack_bytes_max, AF_UNPACK_BUDGET);
    OR(header_bytes_max, AF_HEADER_LIST_MAX);
    OR(streams_per_conn, AF_STREAMS_PER_CONN);
    OR(conns_max, AF_CONNS_MAX);
    OR(conns_per_uid, AF_CONNS_PER_UID);
    OR(conns_unproven, limits->conns_max / 8 + 1);
    OR(conn_buffer_bytes, AF_CONN_BUFFER_MAX);
    OR(total_buffer_bytes, AF_TOTAL_BUFFER_MAX);
    OR(handshake_timeout_ns, AF_HANDSHAKE_NS);
    OR(idle_timeout_ns, AF_IDLE_NS);
    OR(stall_timeout_ns, AF_STALL_NS);
#undef OR
}

static void name_group(struct net_server *server)
{
    char buffer[4096];
    struct group entry, *found = NULL;
    if (!server->options.check_group)
        return;
    if (getgrgid_r(server->options.group, &entry, buffer, sizeof buffer, &found) == 0 && found)
        snprintf(server->group_name, sizeof server->group_name, "%s", found->gr_name);
    else
        snprintf(server->group_name, sizeof server->group_name, "%u",
                 (unsigned)server->options.group);
}

static int make_parts(struct net_server *server)
{
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->drained_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->read_buffer = malloc(64u << 10);
    server->callbacks = net_session_callbacks_new();
    if (server->epoll_fd < 0 || server->event_fd < 0 || server->drained_fd < 0 ||
        !server->read_buffer || !server->callbacks ||
        nghttp2_option_new(&server->session_options) != 0)
        return -1;
    nghttp2_option *options = server->session_options;
    // An :authority that is a socket path is refused otherwise; request.c checks instead.
    nghttp2_option_set_no_http_messaging(options, 1);
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_max_settings(options, 32);
    // A client may well cancel hundreds of calls a second for a while; nghttp2's own limit (1,000,
    // then 33 a second) is made for the open internet.
    nghttp2_option_set_stream_reset_rate_limit(options, RESETS_BURST, RESETS_PER_SECOND);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &server->event_fd};
    return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->event_fd, &event);
}

int net_server_new(const struct net_server_options *options, struct net_server **ret_server,
                   struct af_error *err)
{
    struct net_server *server = calloc(1, sizeof *server);
    if (!server)
        return af_error_errno(err, ENOMEM, "cannot make the gRPC server");
    server->magic = NET_SERVER_MAGIC;
    server->options = *options;
    server->epoll_fd = server->event_fd = server->drained_fd = -1;
    fill_limits(&server->limits, &options->limits);
    name_group(server);
    net_pool_init(&server->pool, net_pressure_run);
    pthread_mutex_init(&server->ready_lock, NULL);
    if (make_parts(server) != 0) {
        int error = errno;
        net_server_free(server);
        return af_error_errno(err, error, "cannot make the gRPC server");
    }
    if ((options->tls_cert &&
         net_tls_context_new(options->tls_cert, options->tls_key, &server->tls, err) < 0) ||
        (options->token_file && net_tokens_load(options->token_file, &server->tokens, err) < 0)) {
        net_server_free(server);
        return -1;
    }
    *ret_server = server;
    return 0;
}

void net_secrets_free(struct net_secrets *secrets)
{
    if (!secrets)
        return;
    net_tls_context_free(secrets->tls);
    net_tokens_free(secrets->tokens);
    free(secrets);
}

int net_server_reload(struct net_server *server, const char *tls_cert, const char *tls_key,
                      const char *token_file, struct af_error *err)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    if (!tls_cert)
        return 0;
    struct net_secrets *next = calloc(1, sizeof *next);
    if (!next)
        return af_error_errno(err, ENOMEM, "cannot read the certificate again");
    if (net_tls_context_new(tls_cert, tls_key, &next->tls, err) < 0 ||
        (token_file && net_tokens_load(token_file, &next->tokens, err) < 0)) {
        net_secrets_free(next);
        return -1;
    }
    net_secrets_free(atomic_exchange(&server->next_secrets, next)); // one that nobody has taken
    net_loop_wake(server);
    return 0;
}

static int compare_methods(const void *a, const void *b)
{
    return strcmp((*(const struct grpc_method *const *)a)->path,
                  (*(const struct grpc_method *const *)b)->path);
}

static int compare_path(const void *path, const void *method)
{
    return strcmp(path, (*(const struct grpc_method *const *)method)->path);
}

const struct grpc_method *net_server_method(const struct net_server *server, const char *path,
                                            size_t *ret_index)
{
    const struct grpc_method *const *found = NULL;
    if (server->method_count > 0)
        found = bsearch(path, server->methods, server->method_count, sizeof(struct grpc_method *),
                        compare_path);
    if (found && ret_index)
        *ret_index = (size_t)(found - server->methods);
    return found ? *found : NULL;
}

bool net_server_has_method(const struct net_server *server, const char *path)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    return net_server_method(server, path, NULL) != NULL;
}

int net_server_add_methods(struct net_server *server, const struct grpc_method *methods,
                           size_t count, struct af_error *err)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    size_t total = server->method_count + count;
    const struct grpc_method **grown =
        realloc(server->methods, (total + 1) * sizeof(struct grpc_method *));
    if (!grown)
        return af_error_errno(err, ENOMEM, "cannot register methods");
    server->methods = grown;
    for (size_t i = 0; i < count; i++)
        grown[server->method_count++] = &methods[i];
    qsort(grown, total, sizeof(struct grpc_method *), compare_methods);
    for (size_t i = 1; i < total; i++)
        if (strcmp(grown[i - 1]->path, grown[i]->path) == 0)
            return af_error_set(err, AF_ALREADY_EXISTS, "the method %s is registered twice",
                                grown[i]->path);
    return 0;
}

static unsigned worker_count(const struct net_server *server)
{
    if (server->options.workers > 0)
        return server->options.workers;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < WORKERS_MIN ? WORKERS_MIN : cpus > WORKERS_MAX ? WORKERS_MAX : (unsigned)cpus;
}

int net_server_start(struct net_server *server, struct af_error *err)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    server->counts = calloc(server->method_count + 1, sizeof *server->counts);
    if (!server->counts)
        return af_error_errno(err, ENOMEM, "cannot count calls");
    int error = -net_pool_start(&server->pool, worker_count(server));
    if (error)
        return af_error_errno(err, error, "cannot start worker threads");
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&server->thread, NULL, net_loop, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        net_pool_stop(&server->pool);
        return af_error_errno(err, error, "cannot start the network thread");
    }
    server->phase = NET_RUNNING;
    return 0;
}

void net_server_drain(struct net_server *server, int64_t grace_ns)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    if (server->phase != NET_RUNNING || grace_ns <= 0)
        return;
    atomic_store(&server->drain, true);
    net_loop_wake(server);
    struct pollfd drained = {.fd = server->drained_fd, .events = POLLIN};
    int64_t end_ns = af_monotonic_ns() + grace_ns, left_ns = grace_ns;
    // Second by second: the grace may be more milliseconds than poll counts.
    while (left_ns > 0) {
        int64_t step_ns = left_ns < AF_NS_PER_SEC ? left_ns : AF_NS_PER_SEC;
        if (poll(&drained, 1, (int)((step_ns + 999999) / 1000000)) > 0)
            return;
        left_ns = end_ns - af_monotonic_ns();
    }
}

void net_server_stop(struct net_server *server, int64_t grace_ns)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    if (server->phase != NET_RUNNING)
        return;
    atomic_store(&server->stop_grace_ns, grace_ns > 0 ? grace_ns : 0);
    atomic_store(&server->stop, true);
    net_loop_wake(server);
    pthread_join(server->thread, NULL);
    net_pool_stop(&server->pool);
    server->phase = NET_STOPPED;
}

void net_server_free(struct net_server *server)
{
    if (!server)
        return;
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    net_server_stop(server, 0);
    if (atomic_load(&server->calls_open) > 0) {
        // Freeing would pull the ground from under whoever holds them.
        af_log(AF_LOG_ERROR, "net", "calls are still referenced at the end", "calls=%llu",
               (unsigned long long)atomic_load(&server->calls_open));
        return;
    }
    net_listeners_close(server);
    net_pool_fini(&server->pool);
    pthread_mutex_destroy(&server->ready_lock);
    net_timers_fini(&server->timers);
    net_tls_context_free(server->tls);
    net_tokens_free(server->tokens);
    net_secrets_free(atomic_exchange(&server->next_secrets, NULL));
    if (server->callbacks)
        nghttp2_session_callbacks_del(server->callbacks);
    if (server->session_options)
        nghttp2_option_del(server->session_options);
    if (server->epoll_fd >= 0)
        close(server->epoll_fd);
    if (server->event_fd >= 0)
        close(server->event_fd);
    if (server->drained_fd >= 0)
        close(server->drained_fd);
    free(server->read_buffer);
    free(server->counts);
    free(server->methods);
    server->magic = 0;
    free(server);
}

void net_server_stats(struct net_server *server, struct net_stats *ret)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    *ret = (struct net_stats){
        .conns_open = atomic_load(&server->conns_open),
        .conns_accepted = atomic_load(&server->conns_accepted),
        .conns_refused = atomic_load(&server->conns_refused),
        .conns_cut = atomic_load(&server->conns_cut),
        .calls_open = atomic_load(&server->calls_open),
        .calls_started = atomic_load(&server->calls_started),
        .calls_cancelled = atomic_load(&server->calls_cancelled),
        .calls_denied = atomic_load(&server->calls_denied),
        .buffered_bytes = atomic_load(&server->buffered),
    };
}
