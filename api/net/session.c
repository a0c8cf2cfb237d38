// The HTTP/2 session of a connection: nghttp2's callbacks, and replies on their way into it.
//
// Everything here is the network thread's. Reply data is pulled: nghttp2 asks for a stream's bytes
// when its window and the socket have room, and a stream without any is deferred until its call
// has more.
// Failure: a callback that finds abuse cuts the connection (conn->cut).
// Read next: conn.c (the socket), call_in.c and call_out.c (the two directions of a call).
#include "api/net/net_priv.h"

#include "mux/base/clock.h"

#include <stdio.h>
#include <string.h>

#define CONN_WINDOW_BYTES (4 << 20)
#define NV_MAX            (GRPC_TRAILERS_MAX + 6)

struct nv_list {
    nghttp2_nv nv[NV_MAX];
    size_t count;
    char status[12];
};

static void nv_add(struct nv_list *list, const char *name, const char *value)
{
    list->nv[list->count++] = (nghttp2_nv){.name = (uint8_t *)name,
                                           .value = (uint8_t *)value,
                                           .namelen = strlen(name),
                                           .valuelen = strlen(value),
                                           .flags = NGHTTP2_NV_FLAG_NONE};
}

static void nv_add_head(struct nv_list *list)
{
    nv_add(list, ":status", "200");
    nv_add(list, "content-type", "application/grpc");
    nv_add(list, "grpc-accept-encoding", "identity");
}

static void nv_add_end(struct nv_list *list, const struct grpc_end *end)
{
    snprintf(list->status, sizeof list->status, "%d", (int)end->status);
    nv_add(list, "grpc-status", list->status);
    if (end->text)
        nv_add(list, "grpc-message", end->text);
    for (unsigned i = 0; i < end->trailer_count; i++)
        nv_add(list, end->trailers[i].key, end->trailers[i].value);
}

// ---- replies ----------------------------------------------------------------------------

// Moves up to `room` bytes of the call's replies to `out`.
static size_t take_bytes(struct grpc_call *call, uint8_t *out, size_t room)
{
    size_t taken = 0;
    while (taken < room && call->tx.head) {
        struct grpc_chunk *chunk = call->tx.head;
        size_t n = chunk->len - call->tx_offset;
        if (n > room - taken)
            n = room - taken;
        memcpy(out + taken, chunk->bytes + call->tx_offset, n);
        taken += n;
        call->tx_offset += n;
        if (call->tx_offset < chunk->len)
            break;
        call->tx_offset = 0;
        call->tx.head = chunk->next;
        if (!call->tx.head)
            call->tx.tail = NULL;
        call->tx.bytes -= chunk->len;
        call->conn->held_out -= chunk->len;
        call->conn->moved_bytes += chunk->len;
        atomic_fetch_sub(&call->server->buffered, chunk->len);
        pthread_mutex_lock(&call->lock);
        call->out_bytes -= chunk->len;
        if (call->want_writable && call->out_bytes < NET_LOW_BYTES && !call->over) {
            call->want_writable = false;
            call->ev_writable = true;
            grpc_call_schedule(call);
        }
        pthread_mutex_unlock(&call->lock);
        free(chunk);
    }
    return taken;
}

static ssize_t read_data(nghttp2_session *session, int32_t stream_id, uint8_t *out, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    (void)user_data;
    struct grpc_call *call = source->ptr;
    size_t taken = take_bytes(call, out, room);
    if (taken == 0 && !call->tx_end)
        return NGHTTP2_ERR_DEFERRED;
    if (call->tx_end && !call->tx.head) {
        struct nv_list list = {.count = 0};
        nv_add_end(&list, &call->end);
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        call->trailers_sent = true;
        if (nghttp2_submit_trailer(session, stream_id, list.nv, list.count) != 0)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    return (ssize_t)taken;
}

static void submit_head(struct grpc_call *call)
{
    struct nv_list list = {.count = 0};
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_data};
    bool trailers_only = call->tx_end && !call->tx.head;
    nv_add_head(&list);
    if (trailers_only)
        nv_add_end(&list, &call->end);
    call->headers_sent = true;
    call->trailers_sent = trailers_only;
    if (nghttp2_submit_response(call->conn->session, call->stream_id, list.nv, list.count,
                                trailers_only ? NULL : &provider) != 0)
        nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                  NGHTTP2_INTERNAL_ERROR);
}

// Takes over what workers have queued. A client that leaves too many replies unread gets an error
// in the place of this one.
static void take_output(struct grpc_call *call, size_t *ret_bytes, size_t *ret_frames)
{
    struct net_conn *conn = call->conn;
    struct grpc_chunks taken;
    pthread_mutex_lock(&call->lock);
    call->ready = false;
    taken = call->out;
    call->out = (struct grpc_chunks){0};
    if (conn->held_out + taken.bytes > conn->server->limits.conn_buffer_bytes && taken.head) {
        call->out_bytes -= taken.bytes;
        grpc_chunks_free(call->server, &taken);
        free(call->end.text);
        call->end.text = strdup("the replies of this connection are not read");
        call->over = true;
        call->end.status = AF_RESOURCE_EXHAUSTED;
        if (call->handled && call->method->on_cancel) {
            call->ev_cancel = true;
            grpc_call_schedule(call);
        }
    }
    bool over = call->over;
    *ret_bytes = call->processed_bytes;
    *ret_frames = call->processed_frames;
    call->processed_bytes = call->processed_frames = 0;
    pthread_mutex_unlock(&call->lock);
    if (taken.head) {
        if (call->tx.tail)
            call->tx.tail->next = taken.head;
        else
            call->tx.head = taken.head;
        call->tx.tail = taken.tail;
        call->tx.bytes += taken.bytes;
        conn->held_out += taken.bytes;
    }
    if (over) {
        call->tx_end = call->deaf = true;
        net_timers_clear(&call->server->timers, &call->timer);
        grpc_call_drop_input(call);
    }
}

void net_call_submit(struct grpc_call *call)
{
    struct net_conn *conn = call->conn;
    if (!conn || call->trailers_sent) {
        pthread_mutex_lock(&call->lock);
        call->ready = false;
        pthread_mutex_unlock(&call->lock);
        return;
    }
    size_t bytes, frames;
    take_output(call, &bytes, &frames);
    if (frames > 0) {
        size_t cost = bytes + frames * GRPC_FRAME_OVERHEAD;
        call->held_bytes -= cost;
        conn->held_in -= cost;
        if (!grpc_call_may_hold(call)) {
            call->queued_bytes -= cost;
            conn->queued_in -= cost;
        }
        call->progress_ns = call->server->now_ns; // its client may go on from now
        nghttp2_session_consume_stream(conn->session, call->stream_id,
                                       bytes + frames * GRPC_PREFIX_BYTES);
        net_conn_release_window(conn);
    }
    if (!call->headers_sent && (call->tx.head || call->tx_end))
        submit_head(call);
    else if (call->headers_sent)
        nghttp2_session_resume_data(conn->session, call->stream_id); // not deferred: harmless
    net_conn_touch(conn);
}

void net_call_http_error(struct grpc_call *call, const char *status)
{
    struct nv_list list = {.count = 0};
    nv_add(&list, ":status", status);
    call->headers_sent = call->trailers_sent = call->tx_end = call->deaf = true;
    pthread_mutex_lock(&call->lock);
    call->over = true;
    pthread_mutex_unlock(&call->lock);
    nghttp2_submit_response(call->conn->session, call->stream_id, list.nv, list.count, NULL);
}

// ---- callbacks --------------------------------------------------------------------------

static struct grpc_call *call_of(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

static bool is_request(const nghttp2_frame *frame)
{
    return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct net_conn *conn = user_data;
    if (!is_request(frame))
        return 0;
    struct grpc_call *call = grpc_call_new(conn, frame->hd.stream_id);
    if (!call)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user_data)
{
    (void)flags;
    struct net_conn *conn = user_data;
    struct grpc_call *call = call_of(session, frame->hd.stream_id);
    if (call && is_request(frame))
        net_request_header(&call->request, conn->server->limits.header_bytes_max, name, name_len,
                           value, value_len);
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *bytes, size_t len, void *user_data)
{
    (void)flags;
    struct net_conn *conn = user_data;
    struct grpc_call *call = call_of(session, stream_id);
    if (call) {
        grpc_call_receive(call, bytes, len);
    } else {
        conn->withheld += len;
        net_conn_release_window(conn);
    }
    return conn->cut ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static void on_data_frame(struct net_conn *conn, const nghttp2_frame *frame)
{
    bool empty = frame->hd.length <= frame->data.padlen + (frame->data.padlen > 0);
    if (empty && !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        !net_bucket_take(&conn->empties, 1000, 100, conn->server->now_ns))
        conn->cut = "empty DATA frames";
}

static void on_headers_frame(struct net_conn *conn, struct grpc_call *call,
                             const nghttp2_frame *frame)
{
    if (is_request(frame)) {
        grpc_call_begin(call);
    } else if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        nghttp2_submit_rst_stream(conn->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                  NGHTTP2_PROTOCOL_ERROR);
        call->deaf = true;
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct net_conn *conn = user_data;
    if (frame->hd.type == NGHTTP2_SETTINGS && (frame->hd.flags & NGHTTP2_FLAG_ACK))
        conn->settled = true;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK))
        conn->pinged = false;
    if (frame->hd.type == NGHTTP2_DATA)
        on_data_frame(conn, frame);
    struct grpc_call *call = call_of(session, frame->hd.stream_id);
    if (call && frame->hd.type == NGHTTP2_HEADERS)
        on_headers_frame(conn, call, frame);
    if (call && (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        grpc_call_half_close(call);
    return conn->cut ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    struct net_conn *conn = user_data;
    if (frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        // The reply is complete: a client that is still sending is told to stop.
        struct grpc_call *call = call_of(session, frame->hd.stream_id);
        if (call && !call->half_closed)
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id,
                                      NGHTTP2_NO_ERROR);
    }
    // Resets that the client's errors provoke cost work that nghttp2 does not count. (A client
    // that has not read our SETTINGS yet may well open too many streams.)
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
        frame->rst_stream.error_code != NGHTTP2_REFUSED_STREAM)
        net_conn_strike(conn, "provoked resets");
    // nghttp2 found an error of the connection by itself; it closes when this has gone out.
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        net_conn_count_cut(conn, nghttp2_http2_strerror(frame->goaway.error_code));
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *user_data)
{
    (void)error_code;
    (void)user_data;
    struct grpc_call *call = call_of(session, stream_id);
    if (!call)
        return 0;
    nghttp2_session_set_stream_user_data(session, stream_id, NULL);
    grpc_call_closed(call);
    return 0;
}

nghttp2_session_callbacks *net_session_callbacks_new(void)
{
    nghttp2_session_callbacks *callbacks;
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return NULL;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    return callbacks;
}

int net_session_new(struct net_conn *conn)
{
    struct net_server *server = conn->server;
    const struct net_limits *limits = &server->limits;
    idle_resets_init(&conn->idle_resets);
    if (nghttp2_session_server_new2(&conn->session, server->callbacks, conn,
                                    server->session_options) != 0)
        return -1;
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams_per_conn},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NET_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)limits->header_bytes_max},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    if (nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof settings[0]) != 0)
        return -1;
    return nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0,
                                                 CONN_WINDOW_BYTES) != 0
               ? -1
               : 0;
}
