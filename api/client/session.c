// The client's HTTP/2 side: requests out, replies and statuses in, one step at a time.
//
// Owns: the nghttp2 session of struct af_client. Failure: the connection is dead from then on
// (client->why). Read next: client.c.
#include "api/client/client_priv.h"

#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// Twice: the peer hears of what was given back in halves of a window.
#define STREAM_WINDOW_BYTES (2 * AF_MESSAGE_MAX + (64u << 10))
#define CONN_WINDOW_BYTES   (16 << 20)
#define OUT_AHEAD_BYTES     (64u << 10)

// ---- callbacks --------------------------------------------------------------------------

static bool is(const uint8_t *bytes, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

static int small_number(const uint8_t *bytes, size_t len)
{
    int value = 0;
    if (len == 0 || len > 6)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] < '0' || bytes[i] > '9')
            return -1;
        value = value * 10 + (bytes[i] - '0');
    }
    return value;
}

static void keep_text(struct af_client_call *call, const uint8_t *value, size_t len)
{
    char *decoded = malloc(len + 1);
    if (!decoded)
        return;
    client_percent_decode(value, len, decoded);
    snprintf(call->text, sizeof call->text, "%s", decoded);
    free(decoded);
}

static void keep_trailer(struct af_client_call *call, const uint8_t *name, size_t name_len,
                         const uint8_t *value, size_t value_len)
{
    if (call->trailer_count == CLIENT_TRAILERS_MAX)
        return;
    struct client_trailer trailer = {strndup((const char *)name, name_len),
                                     strndup((const char *)value, value_len)};
    if (trailer.key && trailer.value) {
        call->trailers[call->trailer_count++] = trailer;
        return;
    }
    free(trailer.key);
    free(trailer.value);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user_data)
{
    (void)flags;
    (void)user_data;
    struct af_client_call *call =
        nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!call)
        return 0;
    if (is(name, name_len, ":status")) {
        call->http_status = small_number(value, value_len);
    } else if (is(name, name_len, "content-type")) {
        call->grpc = value_len >= 16 && memcmp(value, "application/grpc", 16) == 0;
    } else if (is(name, name_len, "grpc-status")) {
        call->status = small_number(value, value_len);
        call->has_status = call->status >= 0;
    } else if (is(name, name_len, "grpc-message")) {
        keep_text(call, value, value_len);
    } else {
        keep_trailer(call, name, name_len, value, value_len);
    }
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *bytes, size_t len, void *user_data)
{
    (void)flags;
    (void)user_data;
    // The connection's window never closes; what one call may pile up is its stream's window.
    nghttp2_session_consume_connection(session, len);
    struct af_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    if (call && !af_bytes_put(&call->in, bytes, len))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *user_data)
{
    (void)user_data;
    struct af_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    if (call) {
        call->closed = true;
        call->reset_code = error_code;
    }
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    (void)session;
    struct af_client *client = user_data;
    if (frame->hd.type == NGHTTP2_SETTINGS)
        client->settled = true;
    return 0;
}

static ssize_t read_data(nghttp2_session *session, int32_t stream_id, uint8_t *out, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user_data)
{
    (void)session;
    (void)stream_id;
    (void)user_data;
    struct af_client_call *call = source->ptr;
    size_t n = call->out.len - call->out.off;
    if (n > room)
        n = room;
    if (n > 0)
        memcpy(out, call->out.bytes + call->out.off, n);
    call->out.off += n;
    bool drained = call->out.off == call->out.len;
    if (drained && call->end_sent)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (n == 0)
        return NGHTTP2_ERR_DEFERRED;
    return (ssize_t)n;
}

// ---- the session ------------------------------------------------------------------------

int client_session_new(struct af_client *client)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return -1;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    int rc = nghttp2_option_new(&options);
    if (rc == 0) {
        nghttp2_option_set_no_auto_window_update(options, 1);
        rc = nghttp2_session_client_new2(&client->session, callbacks, client, options);
    }
    nghttp2_option_del(options);
    nghttp2_session_callbacks_del(callbacks);
    if (rc != 0)
        return -1;
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES},
    };
    if (nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, settings, 2) != 0)
        return -1;
    return nghttp2_session_set_local_window_size(client->session, NGHTTP2_FLAG_NONE, 0,
                                                 CONN_WINDOW_BYTES);
}

static nghttp2_nv pair(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)name,
                        .value = (uint8_t *)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value)};
}

int client_session_request(struct af_client_call *call, const char *path, int64_t timeout_ns)
{
    char timeout[16];
    nghttp2_nv headers[8] = {
        pair(":method", "POST"),
        pair(":scheme", "http"),
        pair(":path", path),
        pair(":authority", "localhost"),
        pair("te", "trailers"),
        pair("content-type", "application/grpc"),
        pair("user-agent", "agentfense-c"),
    };
    size_t count = 7;
    if (timeout_ns > 0) {
        client_timeout_format(timeout_ns, timeout);
        headers[count++] = pair("grpc-timeout", timeout);
    }
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_data};
    int32_t id =
        nghttp2_submit_request(call->client->session, NULL, headers, count, &provider, call);
    call->stream_id = id;
    return id < 0 ? -1 : 0;
}

static int died(struct af_client *client, struct af_error *err, enum af_status status,
                const char *why)
{
    client->dead = true;
    af_error_set(&client->why, status, "%s", why);
    *err = client->why;
    return -1;
}

// Writes without waiting. -1 when the connection is gone.
static int write_some(struct af_client *client, struct af_error *err)
{
    for (;;) {
        const uint8_t *bytes;
        while (client->out.len - client->out.off < OUT_AHEAD_BYTES) {
            ssize_t n = nghttp2_session_mem_send(client->session, &bytes);
            if (n < 0 || (n > 0 && !af_bytes_put(&client->out, bytes, (size_t)n)))
                return died(client, err, AF_INTERNAL, "the HTTP/2 session failed");
            if (n == 0)
                break;
        }
        size_t len = client->out.len - client->out.off;
        if (len == 0)
            return 0;
        ssize_t n = send(client->fd, client->out.bytes + client->out.off, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0) // the reason, if the daemon gave one, is still to be read
            client->out.off = client->out.len = 0;
        else
            client->out.off += (size_t)n;
    }
}

void client_session_flush(struct af_client *client)
{
    struct af_error ignored; // remembered in client->why
    if (!client->dead)
        write_some(client, &ignored);
}

static int read_some(struct af_client *client, struct af_error *err)
{
    uint8_t buffer[32u << 10];
    ssize_t n = recv(client->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < 0)
        return died(client, err, AF_UNAVAILABLE, "the connection to agentfensed broke");
    if (n == 0)
        return died(client, err, AF_UNAVAILABLE, "agentfensed closed the connection");
    client->heard_ns = af_monotonic_ns();
    client->asked_ns = 0;
    if (nghttp2_session_mem_recv(client->session, buffer, (size_t)n) < 0)
        return died(client, err, AF_INTERNAL, "the server does not speak HTTP/2 as it should");
    return 0;
}

int client_session_step(struct af_client *client, int64_t deadline_ns, struct af_error *err)
{
    if (client->dead) {
        *err = client->why;
        return -1;
    }
    int timeout_ms = -1;
    if (deadline_ns != INT64_MAX) {
        int64_t left_ns = deadline_ns - af_monotonic_ns();
        if (left_ns <= 0)
            return af_error_set(err, AF_DEADLINE_EXCEEDED, "agentfensed did not answer in time");
        int64_t left_ms = (left_ns + 999999) / 1000000;
        timeout_ms = left_ms > 60000 ? 60000 : (int)left_ms;
    }
    struct pollfd wait;
    return client_session_poll(client, &wait, 0, timeout_ms, err);
}

// ---- whether the server is still there

static int64_t patience_ends_ns(const struct af_client *client)
{
    return client->asked_ns ? client->asked_ns + client->answer_ns
                            : client->heard_ns + client->quiet_ns;
}

// No longer than until something is to be done about a silent server.
static int bound_wait(const struct af_client *client, int timeout_ms)
{
    int64_t left_ms = (patience_ends_ns(client) - af_monotonic_ns() + 999999) / 1000000;
    int bound_ms = left_ms < 0 ? 0 : left_ms > 60000 ? 60000 : (int)left_ms;
    return timeout_ms < 0 || bound_ms < timeout_ms ? bound_ms : timeout_ms;
}

// Only when nothing of the server's waits to be read: this process may have slept.
static int ask_when_silent(struct af_client *client, struct af_error *err)
{
    int64_t now_ns = af_monotonic_ns();
    if (now_ns < patience_ends_ns(client))
        return 0;
    if (client->asked_ns)
        return died(
            client, err, AF_UNAVAILABLE,
            "agentfensed does not answer any more, though it has not closed the connection");
    if (nghttp2_submit_ping(client->session, NGHTTP2_FLAG_NONE, NULL) != 0)
        return died(client, err, AF_INTERNAL, "the HTTP/2 session failed");
    client->asked_ns = now_ns;
    return 0;
}

int client_session_poll(struct af_client *client, struct pollfd *polled, size_t count,
                        int timeout_ms, struct af_error *err)
{
    struct pollfd *own = &polled[count];
    bool pending = client->out.off < client->out.len;
    *own = (struct pollfd){.fd = client->fd, .events = POLLIN | (pending ? POLLOUT : 0)};
    int ready = poll(polled, count + 1, bound_wait(client, timeout_ms));
    if (ready < 0) {
        for (size_t i = 0; i <= count; i++)
            polled[i].revents = 0;
        if (errno != EINTR)
            return died(client, err, AF_UNAVAILABLE, "cannot wait for the connection");
    }
    bool readable = own->revents & (POLLIN | POLLHUP | POLLERR);
    if (readable && read_some(client, err))
        return -1;
    if (ready >= 0 && !readable && ask_when_silent(client, err))
        return -1;
    return write_some(client, err);
}
