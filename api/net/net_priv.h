// What the files of api/net share: the server, its connections, its calls.
//
// Threads. The network thread owns every struct net_conn and the part of struct grpc_call marked
// so. Workers and other threads touch a call through its lock. They meet in two queues:
//   net_pool      calls with events, to the workers
//   server.ready  calls with output or an end, to the network thread
// Locks: grpc_call.lock (rank 80), then net_pool.lock or net_server.ready_lock (rank 90). Nothing
// that could block is called under any of them.
// References to a call: one by its open stream, one while it is in a pool or ready queue each, and
// the handlers' own.
// Read next: loop.c (the network thread), conn.c, session.c, call.c.
#ifndef AF_API_NET_NET_PRIV_H
#define AF_API_NET_NET_PRIV_H

#include "api/net/idle_resets.h"
#include "api/net/frame.h"
#include "api/net/grpc.h"
#include "api/net/pool.h"
#include "api/net/request.h"
#include "api/net/server.h"
#include "api/net/timers.h"
#include "api/net/tls.h"
#include "api/net/token.h"
#include "mux/base/bytes.h"

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdatomic.h>

#define NET_SERVER_MAGIC  0x4e535256u
#define NET_CONN_MAGIC    0x4e434f4eu
#define GRPC_CALL_MAGIC   0x47434c4cu
#define NET_LISTENERS_MAX 4
#define GRPC_TRAILERS_MAX 8
#define NET_HIGH_BYTES    (256u << 10) // of replies queued on a call: GRPC_SENT_FULL from here
#define NET_LOW_BYTES     (128u << 10) // on_writable below this
#define NET_WINDOW_BYTES  (256u << 10) // of requests on their way to a call, to begin with
#define NET_TELL_BYTES    (8u << 10)   // of a handled request that are given back before its reply
#define NET_OUT_BYTES     (64u << 10)  // of frames made ahead of the socket, per connection
#define NET_DENIED_TEXT   256

// ---- abuse budgets ----------------------------------------------------------------------

// A bucket of strikes that refills with time. An honest client comes nowhere near.
struct net_bucket {
    double level;
    int64_t at_ns;
};

// Takes one; false when the bucket is empty.
bool net_bucket_take(struct net_bucket *bucket, double capacity, double per_second, int64_t now_ns);

// ---- calls ------------------------------------------------------------------------------

// A framed reply message.
struct grpc_chunk {
    struct grpc_chunk *next;
    size_t len;
    uint8_t bytes[];
};

struct grpc_chunks {
    struct grpc_chunk *head, *tail;
    size_t bytes;
};

struct grpc_trailer {
    char *key, *value;
};

// What a received message costs, so that a flood of empty ones is counted, too.
#define GRPC_FRAME_OVERHEAD 64

static inline size_t grpc_frame_cost(const struct grpc_frame *frame)
{
    return frame->len + GRPC_FRAME_OVERHEAD;
}

// How a call ends. Written once, by who ends it.
struct grpc_end {
    enum af_status status;
    char *text; // percent-encoded, or NULL
    struct grpc_trailer trailers[GRPC_TRAILERS_MAX];
    unsigned trailer_count;
};

struct grpc_call {
    uint32_t magic;
    atomic_int refs;

    // Set before the call is shared, then constant.
    struct net_server *server;
    const struct grpc_method *method; // NULL: an unknown one
    struct net_method_count *count;   // where it is counted, or NULL
    int64_t counted_ns;               // since when
    struct grpc_peer peer;
    int64_t deadline_ns;
    void *data; // the handler's

    // The network thread's.
    struct net_conn *conn; // NULL once the stream is closed
    struct grpc_call *prev, *next;
    int32_t stream_id;
    struct net_request request;
    struct grpc_decoder decoder;
    size_t window_bytes;     // of the stream, when larger than NET_WINDOW_BYTES
    struct grpc_frame *only; // the one message of a unary call, until the half-close
    unsigned messages;       // received
    size_t held_bytes;       // of requests, counted in conn->held_in
    size_t queued_bytes;     // of those, in the inbox; counted in conn->queued_in
    int64_t progress_ns;     // when a part of an unfinished message came last
    struct net_timer timer;  // the deadline
    struct grpc_chunks tx;   // taken from `out`, on its way into nghttp2
    size_t tx_offset;        // into tx.head
    bool tx_end;             // `end` is final and follows tx
    bool headers_sent;
    bool trailers_sent;
    bool half_closed; // the client sends no more
    bool deaf;        // what it still sends is thrown away
    bool begun;       // its headers are complete

    pthread_mutex_t lock; // rank 80; guards the rest
    struct grpc_frame *inbox, *inbox_tail;
    bool ev_end, ev_writable, ev_cancel, ev_release;
    bool scheduled;                 // in the pool's queue or running
    bool handled;                   // a handler has been called
    bool over;                      // finished or cancelled: `end` is final
    bool want_writable;             // a send returned GRPC_SENT_FULL
    bool ready;                     // in server->ready
    size_t out_bytes;               // sent by handlers, not yet taken by nghttp2
    size_t processed_bytes;         // of messages handled and not yet told to the network thread
    size_t processed_frames;        // and how many these were
    bool held;                      // grpc_call_hold
    size_t kept_bytes, kept_frames; // handled while held: told after the release
    struct grpc_chunks out;
    struct grpc_end end;

    struct grpc_call *ready_next; // server->ready_lock
    struct net_pool_item run;     // the pool's lock
};

// call.c: life and events.
struct grpc_call *grpc_call_new(struct net_conn *conn, int32_t stream_id);
// Runs on a worker: handles what the call's queue holds.
void grpc_call_run(struct net_pool_item *item);
// Under call->lock: gives the call to the workers unless it is there already.
void grpc_call_schedule(struct grpc_call *call);
// Network thread: ends the call from the server's side, on_cancel included.
void grpc_call_abort(struct grpc_call *call, enum af_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Network thread: the stream is gone. Cancels the call unless it is over, and gives back the
// stream's reference.
void grpc_call_closed(struct grpc_call *call);
void grpc_chunks_free(struct net_server *server, struct grpc_chunks *chunks);

// call_out.c: replies. Under call->lock: sets the end, for the network thread to be woken after it.
void grpc_call_end_locked(struct grpc_call *call, enum af_status status, const char *text);
// Under call->lock: puts the call into server->ready. Wake the network thread after it.
void grpc_call_make_ready(struct grpc_call *call);

// Whether a handler may let the client's messages wait as long as it likes.
static inline bool grpc_call_may_hold(const struct grpc_call *call)
{
    return call->method->kind == GRPC_BIDI_STREAM;
}

// call_in.c: requests, on the network thread.
void grpc_call_begin(struct grpc_call *call);
void grpc_call_receive(struct grpc_call *call, const uint8_t *bytes, size_t len);
void grpc_call_half_close(struct grpc_call *call);
void grpc_call_drop_input(struct grpc_call *call);

// ---- connections ------------------------------------------------------------------------

struct net_listener;

struct net_conn {
    uint32_t magic;
    int fd;
    uint32_t events; // what epoll watches
    struct net_server *server;
    struct net_conn *prev, *next;
    nghttp2_session *session;
    struct idle_resets idle_resets;
    struct grpc_peer peer;
    struct net_tls *tls; // or NULL: in clear
    bool permitted;
    bool token_admits;            // who shows a token is let in although not permitted
    bool known;                   // somebody showed one
    char denied[NET_DENIED_TEXT]; // why not
    struct af_bytes out;          // frames on their way to the socket
    struct grpc_call *calls;
    unsigned call_count;
    bool settled;    // the client's SETTINGS came
    bool lingering;  // all is said: waiting for the client to hang up
    bool ending;     // GOAWAY is sent or queued
    bool touched;    // in loop's list of connections to flush
    bool counted;    // in conns_cut
    const char *cut; // why it is to be closed at once, or NULL
    struct net_conn *touched_next;
    size_t held_in;        // bytes of requests held for its calls
    size_t queued_in;      // of those, whole messages waiting for workers
    size_t withheld;       // bytes received and not yet given back to its window
    size_t held_out;       // bytes of replies that its calls have in tx
    size_t moved_bytes;    // of either, since the last sweep
    unsigned still_sweeps; // that found next to nothing moved
    int64_t accepted_ns, busy_ns /* last time a call was open */, written_ns, heard_ns;
    bool pinged;
    struct net_bucket resets, empties;
};

// conn.c
void net_conn_new(struct net_server *server, int fd, const struct net_listener *from); // owns fd
void net_conn_readable(struct net_conn *conn);
void net_conn_flush(struct net_conn *conn); // may free the connection
void net_conn_close(struct net_conn *conn); // frees it
void net_conn_goaway(struct net_conn *conn);
void net_conn_sweep(struct net_conn *conn, int64_t now_ns);      // timeouts; may free it
void net_conn_touch(struct net_conn *conn);                      // flush it at the end of this turn
void net_conn_strike(struct net_conn *conn, const char *why);    // cut it unless the bucket allows
void net_conn_count_cut(struct net_conn *conn, const char *why); // and log it, once
// Closes it for a reason of ours, and frees it. Not while its events of this turn may be ahead.
void net_conn_cut(struct net_conn *conn, const char *why);
void net_conn_release_window(struct net_conn *conn);

// pressure.c: what goes when there is no room. Before a connection of who may not call is linked
// (uid_is_full: another of its uid has to go for it); for each connection, after all, and once in a
// sweep; when a turn's work is done.
void net_pressure_make_room(struct net_server *server, const struct net_conn *newcomer,
                            bool uid_is_full);
void net_pressure_sweep(struct net_conn *conn);
void net_pressure_trim(struct net_server *server);
// On a worker: what is queued there, a call or the trim.
void net_pressure_run(struct net_pool_item *item);
void net_pressure_relieve(struct net_server *server);

// session.c
int net_session_new(struct net_conn *conn);
nghttp2_session_callbacks *net_session_callbacks_new(void);
// Network thread: gives nghttp2 what the call has to send.
void net_call_submit(struct grpc_call *call);
void net_call_http_error(struct grpc_call *call, const char *status);

// ---- the server -------------------------------------------------------------------------

struct net_listener {
    int fd;
    bool local, tls;
    char *path; // of a unix socket, else NULL
    uint64_t dev, ino;
};

struct net_secrets {
    struct net_tls_context *tls;
    struct net_tokens *tokens;
};

enum net_phase { NET_NEW, NET_RUNNING, NET_STOPPED };

struct net_method_count {
    _Atomic uint64_t by_status[AF_UNAUTHENTICATED + 1];
    struct af_histogram latency;
};

struct net_server {
    uint32_t magic;
    struct net_server_options options;
    struct net_limits limits;           // complete
    const struct grpc_method **methods; // sorted by path
    size_t method_count;
    struct net_method_count *counts; // one per method and one for unknown ones, from the start on
    struct net_listener listeners[NET_LISTENERS_MAX];
    unsigned listener_count;
    enum net_phase phase;
    pthread_t thread;
    struct net_pool pool;
    int epoll_fd, event_fd;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *session_options;
    char group_name[64];
    struct net_tls_context *tls; // NULL: no TLS. The network thread's, as the tokens, once it runs
    struct net_tokens *tokens;   // NULL: none
    _Atomic(struct net_secrets *) next_secrets; // to take the place of both, or NULL

    // The network thread's.
    struct net_conn *conns, *touched;
    unsigned conn_count;
    struct net_timers timers;
    int64_t now_ns, swept_ns, cut_logged_ns, stop_end_ns;
    bool draining, drained, stopping, accept_paused;
    size_t held_peak; // of `buffered`, since memory was given back
    uint8_t *read_buffer;

    atomic_bool sleeping;    // the network thread is, or is about to be, in epoll_wait
    atomic_bool drain, stop; // asked for
    int drained_fd;          // readable once no call is in flight any more
    _Atomic int64_t stop_grace_ns;

    pthread_mutex_t ready_lock; // rank 90
    struct grpc_call *ready, *ready_tail;
    bool ready_closed; // the network thread is gone: drop what would be queued

    atomic_size_t buffered; // bytes of requests and replies held
    atomic_uint_fast64_t conns_open, conns_accepted, conns_refused, conns_cut;
    atomic_uint_fast64_t calls_open, calls_started, calls_cancelled, calls_denied;
};

// True on the network thread of any server.
extern _Thread_local bool net_on_network_thread;

// loop.c
void *net_loop(void *server);
void net_loop_wake(struct net_server *server);

// listen.c
void net_listeners_close(struct net_server *server);

// server.c
void net_secrets_free(struct net_secrets *secrets); // NULL is allowed
// *ret_index (may be NULL): which of the server's methods it is.
const struct grpc_method *net_server_method(const struct net_server *server, const char *path,
                                            size_t *ret_index);

// call_count.c: calls by method and status. Begins with the headers; ends once, with the stream.
void net_call_count_begin(struct grpc_call *call, size_t method);
void net_call_count_end(struct grpc_call *call, enum af_status status);

// peer.c: who is at the other end of an accepted socket, and may they call? Fills the connection's
// peer, permitted, token_admits and denied.
void net_peer_check(struct net_conn *conn, int fd, const struct net_listener *from);
// sock_diag.c: the uid that owns the other end of a loopback TCP connection. 0 or -errno.
int net_sock_diag_uid(int fd, uid_t *ret_uid);

#endif
