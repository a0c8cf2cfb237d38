// The gRPC server: sockets, HTTP/2 connections, workers. What api/main.c includes.
//
// One network thread owns every connection and runs epoll and nghttp2; it calls no handler and
// never waits for one. A bounded pool of workers runs the handlers of struct grpc_method. They meet
// in two queues: calls that have events (network -> worker) and calls that have output or an
// end (worker -> network, with one eventfd wake-up per sleep of the network thread).
//
// Who may call: root, the daemon's own uid, and the members of options.group, judged by the
// kernel's word on the peer (SO_PEERCRED, SO_PEERGROUPS; over loopback TCP the owner of the peer's
// socket, from sock_diag); over TLS also who shows a token. Everyone else gets PERMISSION_DENIED
// for every call.
//
// Use: new, add_methods, listen_*, start, ... stop, free. All from one thread.
// Failure: -1 and an af_error that says what to do. After start the server handles its own
// troubles: a bad client loses its connection, running out of fds pauses accepting.
// Read next: api/net/grpc.h; inside, api/net/net_priv.h.
#ifndef AF_API_NET_SERVER_H
#define AF_API_NET_SERVER_H

#include "api/net/grpc.h"
#include "mux/base/metrics.h"

struct net_server;

// Limits on what clients can make the server hold or do. Zero means the default.
struct net_limits {
    size_t message_bytes_max;     // one message, either way on the wire (AF_MESSAGE_MAX)
    size_t unpack_bytes_max;      // one message decoded (AF_UNPACK_BUDGET)
    size_t header_bytes_max;      // request headers of one call (AF_HEADER_LIST_MAX)
    unsigned streams_per_conn;    // calls open at once on a connection (AF_STREAMS_PER_CONN)
    unsigned conns_max;           // connections in all
    unsigned conns_per_uid;       // connections of one uid
    unsigned conns_unproven;      // of those who may not call (yet); the oldest makes room for more
    size_t conn_buffer_bytes;     // requests, and again replies, held for one connection
    size_t total_buffer_bytes;    // both, for all connections
    int64_t handshake_timeout_ns; // from accept to the client's SETTINGS
    int64_t idle_timeout_ns;      // without any call open: GOAWAY and close
    int64_t stall_timeout_ns;     // output pending, or half a message received, and no progress
};

struct net_server_options {
    void *context;    // grpc_call_context of every call
    unsigned workers; // 0: one per CPU, at least 4, at most 32
    bool check_group; // members of `group` may call
    gid_t group;
    uid_t refused_uid; // these may never call, whatever their groups: the sandboxes' uids
    uint32_t refused_uid_count;
    const char *tls_cert, *tls_key; // PEM files for listen_tls, or NULL; read by new, not kept
    const char *token_file;         // of those who call over TLS from beyond this machine, or NULL
    struct net_limits limits;
};

// Creates a server without threads. *ret_server on success only.
int net_server_new(const struct net_server_options *options, struct net_server **ret_server,
                   struct af_error *err);

// Adds rows to the method table; `methods` must live as long as the server. ALREADY_EXISTS when
// a path is there twice. Before start.
int net_server_add_methods(struct net_server *server, const struct grpc_method *methods,
                           size_t count, struct af_error *err);

// Whether a method of this path has been added. Any thread, once the server has started.
bool net_server_has_method(const struct net_server *server, const char *path);

// Listens on a unix socket: mode 0660, group options.group when check_group. A socket that nobody
// answers on is replaced; anything else in its place is FAILED_PRECONDITION. The path is
// unlinked by net_server_stop when it is still the same socket.
int net_server_listen_unix(struct net_server *server, const char *path, struct af_error *err);

// Listens on "ADDR:PORT", "[ADDR]:PORT" or "localhost:PORT" (both loopback families), numeric
// otherwise; in clear, so other than loopback addresses are INVALID_ARGUMENT. Port 0 picks one:
// *ret_port (may be NULL).
int net_server_listen_tcp(struct net_server *server, const char *address, unsigned *ret_port,
                          struct af_error *err);

// The same over TLS, on any address. Peers on this machine are judged by their uid, or by a token;
// from beyond it by a token alone. FAILED_PRECONDITION without a certificate, key and tokens.
int net_server_listen_tls(struct net_server *server, const char *address, unsigned *ret_port,
                          struct af_error *err);

// Starts the threads. SIGPIPE is never raised by the server's own writes.
int net_server_start(struct net_server *server, struct af_error *err);

// Reads certificate, key and tokens again: they hold from the next handshake and the next call on.
// When one of them cannot be used all stay as they are, and *err says why. Nothing without TLS.
// While the server runs.
int net_server_reload(struct net_server *server, const char *tls_cert, const char *tls_key,
                      const char *token_file, struct af_error *err);

// Closes the listeners, tells clients with GOAWAY to call elsewhere, and waits until no call is in
// flight, for at most grace_ns; what is in flight goes on undisturbed. Blocks; net_server_stop is
// to follow. Not from a handler. Harmless when the server does not run.
void net_server_drain(struct net_server *server, int64_t grace_ns);

// Stops: closes the listeners, tells clients with GOAWAY, lets calls in flight finish for at most
// grace_ns, cancels the rest and waits until their on_cancel have run. Blocks. Calls that handlers
// still hold stay valid (and over) until they unref them. Not from a handler. Twice is harmless.
void net_server_stop(struct net_server *server, int64_t grace_ns);

// Stops with no grace if that has not been done. Every call must have been unref'ed. NULL is
// allowed.
void net_server_free(struct net_server *server);

// ---- counters ---------------------------------------------------------------------------

struct net_stats {
    uint64_t conns_open;
    uint64_t conns_accepted;
    uint64_t conns_refused; // over a cap
    uint64_t conns_cut;     // closed for abuse, a protocol error or a timeout
    uint64_t calls_open;
    uint64_t calls_started;
    uint64_t calls_cancelled; // by reset, close or deadline
    uint64_t calls_denied;    // the peer may not call
    uint64_t buffered_bytes;  // requests and replies held now
};

// A snapshot; any thread.
void net_server_stats(struct net_server *server, struct net_stats *ret);

// One method's calls that have ended. False when `index` is beyond the last entry, which stands for
// all calls of methods that do not exist. Any thread; false before the start.
struct net_method_stats {
    const char *path; // "/package.Service/Method"; "unknown" for the last one
    uint64_t by_status[AF_UNAUTHENTICATED + 1];
    struct af_histogram_values latency;
};
bool net_server_method_stats(struct net_server *server, size_t index, struct net_method_stats *ret);

#endif
