// The client's public side: connections, unary calls, streams.
//
// Owns: struct af_client and its calls. One thread, no locks. Failure: see client.h.
// Read next: session.c.
#include "api/client/client_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_DEFAULT_NS (10 * AF_NS_PER_SEC)

ProtobufCBinaryData af_client_text(const char *text)
{
    if (!text)
        return (ProtobufCBinaryData){0};
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

// ---- connections ------------------------------------------------------------------------

static int adopt(int fd, int64_t deadline_ns, struct af_client **ret_client, struct af_error *err)
{
    struct af_client *client = calloc(1, sizeof *client);
    if (!client) {
        close(fd);
        return af_error_errno(err, ENOMEM, "cannot make a client");
    }
    client->magic = AF_CLIENT_MAGIC;
    client->fd = fd;
    client->heard_ns = af_monotonic_ns();
    client->quiet_ns = CLIENT_QUIET_NS;
    client->answer_ns = CLIENT_ANSWER_NS;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || client_session_new(client)) {
        af_client_free(client);
        return af_error_set(err, AF_INTERNAL, "cannot begin an HTTP/2 session");
    }
    client_session_flush(client);
    while (!client->settled) {
        if (client_session_step(client, deadline_ns, err)) {
            af_client_free(client);
            return -1;
        }
    }
    *ret_client = client;
    return 0;
}

int af_client_adopt(int fd, int64_t timeout_ns, struct af_client **ret_client, struct af_error *err)
{
    int64_t limit_ns = timeout_ns > 0 ? timeout_ns : CONNECT_DEFAULT_NS;
    return adopt(fd, af_monotonic_ns() + limit_ns, ret_client, err);
}

int af_client_connect(const char *endpoint, int64_t timeout_ns, struct af_client **ret_client,
                      struct af_error *err)
{
    int64_t limit_ns = timeout_ns > 0 ? timeout_ns : CONNECT_DEFAULT_NS;
    int64_t deadline_ns = af_monotonic_ns() + limit_ns;
    int fd = client_dial(endpoint, deadline_ns, err);
    return fd < 0 ? -1 : adopt(fd, deadline_ns, ret_client, err);
}

void af_client_free(struct af_client *client)
{
    if (!client)
        return;
    AF_CHECK_MAGIC(client, AF_CLIENT_MAGIC);
    if (client->session)
        nghttp2_session_del(client->session);
    close(client->fd);
    af_bytes_fini(&client->out);
    client->magic = 0;
    free(client);
}

// ---- calls ------------------------------------------------------------------------------

// What the end of a call says: 0 for OK, else -1.
int client_call_end_of(const struct af_client_call *call, struct af_error *err)
{
    if (call->has_status && call->status == AF_OK)
        return 0;
    if (call->has_status) {
        bool known = call->status <= AF_UNAUTHENTICATED;
        return af_error_set(err, known ? (enum af_status)call->status : AF_UNKNOWN, "%s",
                            call->text);
    }
    if (call->http_status != 0 && call->http_status != 200)
        return af_error_set(err, AF_UNKNOWN, "the server answered with HTTP status %d",
                            call->http_status);
    if (call->reset_code == NGHTTP2_REFUSED_STREAM)
        return af_error_set(err, AF_UNAVAILABLE, "the server did not take the call: try again");
    return af_error_set(err, call->reset_code == NGHTTP2_CANCEL ? AF_CANCELLED : AF_INTERNAL,
                        "the server reset the call (HTTP/2 code %u)", call->reset_code);
}

static void cancel(struct af_client_call *call)
{
    if (call->closed || call->client->dead)
        return;
    nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE, call->stream_id,
                              NGHTTP2_CANCEL);
    client_session_flush(call->client);
}

// One step for a call; its deadline passing cancels it.
static int step(struct af_client_call *call, struct af_error *err)
{
    if (client_session_step(call->client, call->deadline_ns, err) == 0)
        return 0;
    if (call->client->dead && call->has_status)
        return 0; // the connection ended after the call did
    if (!call->client->dead) {
        cancel(call);
        call->closed = call->has_status = true;
        call->status = AF_DEADLINE_EXCEEDED;
        snprintf(call->text, sizeof call->text, "%s", err->text);
    }
    return -1;
}

int af_client_call_start(struct af_client *client, const char *path,
                         const ProtobufCMessageDescriptor *reply, int64_t timeout_ns,
                         struct af_client_call **ret_call, struct af_error *err)
{
    AF_CHECK_MAGIC(client, AF_CLIENT_MAGIC);
    if (client->dead) {
        *err = client->why;
        return -1;
    }
    struct af_client_call *call = calloc(1, sizeof *call);
    if (!call)
        return af_error_errno(err, ENOMEM, "cannot make a call");
    call->magic = AF_CLIENT_CALL_MAGIC;
    call->client = client;
    call->reply = reply;
    call->deadline_ns = timeout_ns > 0 ? af_monotonic_ns() + timeout_ns : INT64_MAX;
    if (client_session_request(call, path, timeout_ns)) {
        free(call);
        return af_error_set(err, AF_UNAVAILABLE, "the connection takes no more calls");
    }
    call->next = client->calls;
    if (client->calls)
        client->calls->prev = call;
    client->calls = call;
    *ret_call = call;
    return 0;
}

int client_call_put(struct af_client_call *call, const ProtobufCMessage *message, bool last,
                    struct af_error *err)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    if (call->end_sent)
        return af_error_set(err, AF_FAILED_PRECONDITION, "the call is half-closed already");
    if (len > UINT32_MAX - CLIENT_PREFIX_BYTES)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the message is too large");
    size_t total = CLIENT_PREFIX_BYTES + len;
    AF_CLEANUP_FREE uint8_t *framed = malloc(total);
    if (!framed)
        return af_error_errno(err, ENOMEM, "cannot send a message");
    framed[0] = 0;
    for (int i = 0; i < 4; i++)
        framed[1 + i] = (uint8_t)(len >> (24 - 8 * i));
    protobuf_c_message_pack(message, framed + CLIENT_PREFIX_BYTES);
    af_bytes_fini(&call->out);
    call->out = (struct af_bytes){AF_TAKE_PTR(framed), 0, total, total};
    call->end_sent = last;
    if (!call->client->dead && !call->closed)
        nghttp2_session_resume_data(call->client->session, call->stream_id);
    client_session_flush(call->client);
    return 0;
}

// `last`: the half-close follows in the same frame.
static int send_message(struct af_client_call *call, const ProtobufCMessage *message, bool last,
                        struct af_error *err)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    if (client_call_put(call, message, last, err))
        return -1;
    while (call->out.off < call->out.len) {
        if (call->closed || call->has_status) {
            call->out.off = call->out.len;
            return client_call_end_of(call, err)
                       ? -1
                       : af_error_set(err, AF_FAILED_PRECONDITION, "the server has ended the call");
        }
        if (step(call, err))
            return -1;
    }
    return 0;
}

int af_client_call_send(struct af_client_call *call, const ProtobufCMessage *message,
                        struct af_error *err)
{
    return send_message(call, message, false, err);
}

int af_client_call_end(struct af_client_call *call, struct af_error *err)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    (void)err; // that the server has ended the call is for recv to say
    if (call->end_sent)
        return 0;
    call->end_sent = true;
    if (!call->client->dead && !call->closed)
        nghttp2_session_resume_data(call->client->session, call->stream_id);
    client_session_flush(call->client);
    return 0;
}

// Takes one whole message out of call->in: 1, 0 when there is none yet, -1.
int client_call_take_reply(struct af_client_call *call, ProtobufCMessage **ret_reply,
                           struct af_error *err)
{
    size_t have = call->in.len - call->in.off;
    if (have < CLIENT_PREFIX_BYTES)
        return 0;
    const uint8_t *p = call->in.bytes + call->in.off;
    size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (p[0] != 0)
        return af_error_set(err, AF_INTERNAL, "the server sent a compressed message");
    if (len > AF_MESSAGE_MAX)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "the reply has %zu bytes, at most %u", len,
                            AF_MESSAGE_MAX);
    if (have < CLIENT_PREFIX_BYTES + len)
        return 0;
    ProtobufCMessage *reply =
        protobuf_c_message_unpack(call->reply, NULL, len, p + CLIENT_PREFIX_BYTES);
    call->in.off += CLIENT_PREFIX_BYTES + len;
    if (!call->client->dead && !call->closed)
        nghttp2_session_consume_stream(call->client->session, call->stream_id,
                                       CLIENT_PREFIX_BYTES + len);
    if (!reply)
        return af_error_set(err, AF_INTERNAL, "the server's reply is not a %s", call->reply->name);
    *ret_reply = reply;
    return 1;
}

int af_client_call_recv(struct af_client_call *call, ProtobufCMessage **ret_reply,
                        struct af_error *err)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    if (af_client_call_end(call, err))
        return -1;
    for (;;) {
        int rc = client_call_take_reply(call, ret_reply, err);
        if (rc != 0)
            return rc;
        if (call->closed || (call->client->dead && call->has_status))
            return client_call_end_of(call, err);
        client_session_flush(call->client); // windows that the reply has opened
        if (step(call, err))
            return -1;
    }
}

const char *af_client_call_trailer(const struct af_client_call *call, const char *key)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    for (unsigned i = 0; i < call->trailer_count; i++)
        if (strcmp(call->trailers[i].key, key) == 0)
            return call->trailers[i].value;
    return NULL;
}

void af_client_call_free(struct af_client_call *call)
{
    if (!call)
        return;
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    if (!call->closed && !call->client->dead) {
        // Its data source is this call: nothing of it may be asked for any more.
        nghttp2_session_set_stream_user_data(call->client->session, call->stream_id, NULL);
        call->out.off = call->out.len;
        cancel(call);
    }
    if (call->next)
        call->next->prev = call->prev;
    if (call->prev)
        call->prev->next = call->next;
    else
        call->client->calls = call->next;
    for (unsigned i = 0; i < call->trailer_count; i++) {
        free(call->trailers[i].key);
        free(call->trailers[i].value);
    }
    af_bytes_fini(&call->in);
    af_bytes_fini(&call->out);
    call->magic = 0;
    free(call);
}

int af_client_unary(struct af_client *client, const char *path, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *reply, int64_t timeout_ns,
                    ProtobufCMessage **ret_reply, struct af_error *err)
{
    struct af_client_call *call = NULL;
    ProtobufCMessage *first = NULL, *second = NULL;
    if (af_client_call_start(client, path, reply, timeout_ns, &call, err))
        return -1;
    int rc = send_message(call, request, true, err);
    if (rc == 0)
        rc = af_client_call_recv(call, &first, err);
    if (rc == 0)
        rc = af_error_set(err, AF_INTERNAL, "the server sent no reply");
    if (rc == 1) {
        rc = af_client_call_recv(call, &second, err);
        if (rc == 1)
            rc = af_error_set(err, AF_INTERNAL, "the server sent more than one reply");
    }
    af_client_call_free(call);
    if (second)
        protobuf_c_message_free_unpacked(second, NULL);
    if (rc != 0) {
        if (first)
            protobuf_c_message_free_unpacked(first, NULL);
        return -1;
    }
    *ret_reply = first;
    return 0;
}
