// Requests of a call: from DATA to messages in its inbox. Everything here is the network thread's.
//
// Flow control. The stream's window is small, and is opened for a large message when that
// announces itself, so that it always holds one whole message and half as much again (nghttp2 tells
// the client of what was given back in halves of a window). A message's bytes are given back when
// it has been handled; a handler that holds its call thus holds the client. The connection's window
// is given back at once, except while many whole messages wait for workers (QUEUED_HIGH_BYTES):
// those will be handled, so waiting for them cannot hang, where waiting for the rest of a half
// message, or for a handler that holds, could. What half messages may take is bounded by
// limits.conn_buffer_bytes and total_buffer_bytes.
// Failure: ends the call with a status; net_conn cuts connections that do it too often.
// Read next: call.c, session.c.
#include "api/net/net_priv.h"

#include "mux/base/clock.h"

#include <stdlib.h>

#define QUEUED_HIGH_BYTES (4u << 20)

static bool takes_one_message(const struct grpc_method *method)
{
    return method->kind == GRPC_UNARY || method->kind == GRPC_SERVER_STREAM;
}

// Whether a caller whom the kernel does not vouch for has a token. Guesses use up the connection.
static bool shows_token(struct grpc_call *call)
{
    struct net_conn *conn = call->conn;
    if (!conn->token_admits || !call->request.has_token)
        return false;
    if (net_tokens_have(conn->server->tokens, call->request.token_digest)) {
        conn->known = true;
        return true;
    }
    conn->known = false; // what it showed once is no token any more
    net_conn_strike(conn, "wrong tokens");
    return false;
}

// Its headers are complete: who calls what?
void grpc_call_begin(struct grpc_call *call)
{
    struct net_conn *conn = call->conn;
    struct net_server *server = call->server;
    call->begun = true;
    enum net_verdict verdict = net_request_verdict(&call->request);
    switch (verdict) {
    case NET_REQUEST_MALFORMED:
        nghttp2_submit_rst_stream(conn->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                  NGHTTP2_PROTOCOL_ERROR);
        call->deaf = true;
        return;
    case NET_REQUEST_TOO_LARGE:
        grpc_call_abort(call, AF_RESOURCE_EXHAUSTED,
                        "the request's headers are larger than %zu bytes",
                        server->limits.header_bytes_max);
        net_conn_strike(conn, "too large headers");
        return;
    case NET_REQUEST_NOT_POST:
        net_call_http_error(call, "405");
        return;
    case NET_REQUEST_NOT_GRPC:
        net_call_http_error(call, "415");
        return;
    case NET_REQUEST_BAD_TIMEOUT:
        grpc_call_abort(call, AF_INVALID_ARGUMENT, "the grpc-timeout header is malformed");
        return;
    case NET_REQUEST_OK:
        break;
    }
    if (!conn->permitted && !shows_token(call)) {
        atomic_fetch_add(&server->calls_denied, 1);
        grpc_call_abort(call, AF_PERMISSION_DENIED, "%s", conn->denied);
        return;
    }
    bool known = call->request.path_len < sizeof call->request.path;
    size_t index = server->method_count; // unknown
    call->method = known ? net_server_method(server, call->request.path, &index) : NULL;
    net_call_count_begin(call, index);
    if (!call->method) {
        grpc_call_abort(call, AF_UNIMPLEMENTED, "this server has no method %.100s",
                        known ? call->request.path : "of so long a name");
        return;
    }
    if (call->request.timeout_ns <= 0)
        return;
    call->deadline_ns = af_monotonic_ns() + call->request.timeout_ns;
    if (!net_timers_set(&server->timers, &call->timer, call->deadline_ns))
        grpc_call_abort(call, AF_RESOURCE_EXHAUSTED, "the server is out of memory");
}

// Adds to what the connection and the server hold for this call; false when that is too much.
static bool hold(struct grpc_call *call, size_t bytes)
{
    struct net_server *server = call->server;
    struct net_conn *conn = call->conn;
    atomic_fetch_add(&server->buffered, bytes);
    call->held_bytes += bytes;
    conn->held_in += bytes;
    return conn->held_in <= server->limits.conn_buffer_bytes &&
           atomic_load(&server->buffered) <= server->limits.total_buffer_bytes;
}

// Hands a message (or NULL) and the half-close (or not) to the workers.
static void enqueue(struct grpc_call *call, struct grpc_frame *frame, bool end)
{
    pthread_mutex_lock(&call->lock);
    bool over = call->over;
    if (!over) {
        if (frame) {
            if (call->inbox_tail)
                call->inbox_tail->next = frame;
            else
                call->inbox = frame;
            call->inbox_tail = frame;
            // Waiting for a handler that holds its client could hang the connection's other calls.
            if (!grpc_call_may_hold(call)) {
                call->queued_bytes += grpc_frame_cost(frame);
                call->conn->queued_in += grpc_frame_cost(frame);
            }
        }
        call->ev_end |= end;
        grpc_call_schedule(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (over && frame) {
        atomic_fetch_sub(&call->server->buffered, grpc_frame_cost(frame));
        free(frame);
    }
}

static void take_message(struct grpc_call *call, struct grpc_frame *frame)
{
    call->messages++;
    if (!takes_one_message(call->method)) {
        enqueue(call, frame, false);
        return;
    }
    if (!call->only) {
        call->only = frame;
        return;
    }
    atomic_fetch_sub(&call->server->buffered, grpc_frame_cost(frame));
    free(frame);
    grpc_call_abort(call, AF_INVALID_ARGUMENT, "the method takes exactly one request message");
}

static void refuse(struct grpc_call *call, enum grpc_decoded why)
{
    switch (why) {
    case GRPC_DECODE_TOO_LARGE:
        grpc_call_abort(call, AF_INVALID_ARGUMENT,
                        "the message has %zu bytes, at most %zu are allowed: send less at once",
                        call->decoder.want, call->server->limits.message_bytes_max);
        break;
    case GRPC_DECODE_COMPRESSED:
        if (call->request.compressed)
            grpc_call_abort(call, AF_UNIMPLEMENTED,
                            "compressed messages are not supported: use grpc-encoding identity");
        else
            grpc_call_abort(call, AF_INVALID_ARGUMENT,
                            "a message is marked as compressed, but there is no grpc-encoding");
        break;
    case GRPC_DECODE_BAD_FLAG:
        grpc_call_abort(call, AF_INVALID_ARGUMENT, "a message has an unknown flag byte");
        break;
    default:
        grpc_call_abort(call, AF_RESOURCE_EXHAUSTED, "the server is out of memory");
        break;
    }
}

// Makes the stream's window large enough for the message whose prefix has just come.
static void open_window(struct grpc_call *call)
{
    size_t wanted = 2 * (call->decoder.want + GRPC_PREFIX_BYTES) + NET_WINDOW_BYTES / 2;
    if (wanted > INT32_MAX)
        wanted = INT32_MAX;
    if (wanted <= NET_WINDOW_BYTES || wanted <= call->window_bytes)
        return;
    if (nghttp2_session_set_local_window_size(call->conn->session, NGHTTP2_FLAG_NONE,
                                              call->stream_id, (int32_t)wanted) == 0)
        call->window_bytes = wanted;
}

void grpc_call_receive(struct grpc_call *call, const uint8_t *bytes, size_t len)
{
    struct net_conn *conn = call->conn;
    conn->withheld += len;
    conn->moved_bytes += len;
    if (call->deaf) {
        nghttp2_session_consume_stream(conn->session, call->stream_id, len);
        net_conn_release_window(conn);
        return;
    }
    while (len > 0) {
        size_t before = grpc_decoder_held(&call->decoder);
        struct grpc_frame *frame = NULL;
        enum grpc_decoded decoded = grpc_decode(&call->decoder, &bytes, &len, &frame);
        size_t after = frame ? frame->len : grpc_decoder_held(&call->decoder);
        call->progress_ns = call->server->now_ns;
        bool fits = hold(call, after - before + (frame ? GRPC_FRAME_OVERHEAD : 0));
        if (decoded != GRPC_DECODE_MORE && decoded != GRPC_DECODE_MESSAGE) {
            refuse(call, decoded);
            break;
        }
        if (frame)
            take_message(call, frame);
        else if (grpc_decoder_is_inside(&call->decoder))
            open_window(call);
        if (!fits)
            grpc_call_abort(call, AF_RESOURCE_EXHAUSTED,
                            "too many unfinished requests: send fewer large messages at once");
        if (call->deaf)
            break;
    }
    net_conn_release_window(conn);
}

// Frees what was received and not handed to the workers.
void grpc_call_drop_input(struct grpc_call *call)
{
    size_t dropped = grpc_decoder_held(&call->decoder);
    if (call->only)
        dropped += grpc_frame_cost(call->only);
    grpc_decoder_fini(&call->decoder);
    grpc_decoder_init(&call->decoder, call->server->limits.message_bytes_max);
    free(call->only);
    call->only = NULL;
    atomic_fetch_sub(&call->server->buffered, dropped);
    call->held_bytes -= dropped;
    call->conn->held_in -= dropped;
}

void grpc_call_half_close(struct grpc_call *call)
{
    if (call->half_closed)
        return;
    call->half_closed = true;
    if (call->deaf)
        return;
    call->deaf = true;
    if (grpc_decoder_is_inside(&call->decoder)) {
        grpc_call_abort(call, AF_INVALID_ARGUMENT, "the request ends in the middle of a message");
        return;
    }
    if (!takes_one_message(call->method)) {
        enqueue(call, NULL, true);
        return;
    }
    if (!call->only) {
        grpc_call_abort(call, AF_INVALID_ARGUMENT, "the request has no message");
        return;
    }
    struct grpc_frame *only = call->only;
    call->only = NULL;
    enqueue(call, only, false);
}

void net_conn_release_window(struct net_conn *conn)
{
    if (conn->withheld == 0 || conn->queued_in > QUEUED_HIGH_BYTES)
        return;
    nghttp2_session_consume_connection(conn->session, conn->withheld);
    conn->withheld = 0;
    net_conn_touch(conn);
}
