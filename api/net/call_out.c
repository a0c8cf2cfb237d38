// Replies of a call, from any thread: messages, trailers, the end.
//
// What is sent here waits in call->out until the network thread takes it (session.c). Lock:
// grpc_call.lock (rank 80), then server.ready_lock (rank 90).
// Failure: a reply too large, or too much unread by the client, ends the call with
// RESOURCE_EXHAUSTED; the sender hears GRPC_GONE.
// Read next: grpc.h, session.c.
#include "api/net/net_priv.h"
#include "api/net/wire.h"

#include "mux/base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT_BYTES_MAX (8u << 20) // a sender that ignores GRPC_SENT_FULL is stopped here

void grpc_call_make_ready(struct grpc_call *call)
{
    if (call->ready)
        return;
    struct net_server *server = call->server;
    pthread_mutex_lock(&server->ready_lock);
    if (!server->ready_closed) {
        call->ready = true;
        call->ready_next = NULL;
        grpc_call_ref(call);
        if (server->ready_tail)
            server->ready_tail->ready_next = call;
        else
            server->ready = call;
        server->ready_tail = call;
    }
    pthread_mutex_unlock(&server->ready_lock);
}

// The network thread runs at once, often instead of who wakes it: it must not find the lock held.
static void unlock(struct grpc_call *call, bool wake)
{
    struct net_server *server = call->server;
    pthread_mutex_unlock(&call->lock);
    if (wake)
        net_loop_wake(server);
}

void grpc_call_end_locked(struct grpc_call *call, enum af_status status, const char *text)
{
    call->over = true;
    call->end.status = status;
    if (text && *text) {
        char *encoded = malloc(3 * strlen(text) + 1);
        if (encoded) // without it the status alone must do
            grpc_percent_encode(text, encoded);
        call->end.text = encoded;
    }
    grpc_call_make_ready(call);
}

// Frames one message into a chunk; NULL when memory is short.
static struct grpc_chunk *chunk_new(const ProtobufCMessage *message, size_t len)
{
    struct grpc_chunk *chunk = malloc(sizeof *chunk + GRPC_PREFIX_BYTES + len);
    if (!chunk)
        return NULL;
    chunk->next = NULL;
    chunk->len = GRPC_PREFIX_BYTES + len;
    grpc_prefix_write(chunk->bytes, (uint32_t)len);
    protobuf_c_message_pack(message, chunk->bytes + GRPC_PREFIX_BYTES);
    return chunk;
}

// Under the lock: what forbids to queue `len` more bytes, or NULL.
static const char *send_refusal(struct grpc_call *call, size_t len)
{
    struct net_server *server = call->server;
    if (len > server->limits.message_bytes_max)
        return "the reply is larger than one message may be: ask for less at once";
    if (call->out_bytes + len > OUT_BYTES_MAX && call->out_bytes > 0)
        return "too much of the reply was queued";
    if (atomic_load(&server->buffered) + len > server->limits.total_buffer_bytes)
        return "the server holds too many replies that nobody reads: try again later";
    return NULL;
}

static enum grpc_sent send_locked(struct grpc_call *call, struct grpc_chunk *chunk)
{
    struct grpc_chunks *out = &call->out;
    if (out->tail)
        out->tail->next = chunk;
    else
        out->head = chunk;
    out->tail = chunk;
    out->bytes += chunk->len;
    call->out_bytes += chunk->len;
    atomic_fetch_add(&call->server->buffered, chunk->len);
    if (call->out_bytes < NET_HIGH_BYTES)
        return GRPC_SENT;
    call->want_writable = true;
    return GRPC_SENT_FULL;
}

static enum grpc_sent send_message(struct grpc_call *call, const ProtobufCMessage *message,
                                   bool finish)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    size_t len = protobuf_c_message_get_packed_size(message);
    bool too_large = len > call->server->limits.message_bytes_max;
    struct grpc_chunk *chunk = too_large ? NULL : chunk_new(message, len);
    enum grpc_sent sent = GRPC_GONE;
    pthread_mutex_lock(&call->lock);
    bool open = !call->over;
    if (open) {
        const char *refusal = send_refusal(call, len);
        if (!refusal && !chunk)
            refusal = "the server is out of memory";
        if (refusal) {
            grpc_call_end_locked(call, AF_RESOURCE_EXHAUSTED, refusal);
        } else {
            sent = send_locked(call, chunk);
            chunk = NULL;
            if (finish)
                grpc_call_end_locked(call, AF_OK, NULL);
            else
                grpc_call_make_ready(call);
        }
    }
    unlock(call, open);
    free(chunk);
    return sent;
}

enum grpc_sent grpc_call_send(struct grpc_call *call, const ProtobufCMessage *message)
{
    return send_message(call, message, false);
}

enum grpc_sent grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *message)
{
    return send_message(call, message, true);
}

static enum grpc_sent finish(struct grpc_call *call, enum af_status status, const char *text)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    enum grpc_sent sent = GRPC_GONE;
    pthread_mutex_lock(&call->lock);
    if (!call->over) {
        grpc_call_end_locked(call, status, text);
        sent = GRPC_SENT;
    }
    unlock(call, sent == GRPC_SENT);
    return sent;
}

enum grpc_sent grpc_call_finish(struct grpc_call *call, enum af_status status, const char *fmt, ...)
{
    struct af_error err = {.status = status};
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        af_error_vset(&err, status, fmt, ap);
        va_end(ap);
    }
    return finish(call, status, err.text);
}

enum grpc_sent grpc_call_finish_error(struct grpc_call *call, const struct af_error *err)
{
    // An OK here would tell the client of a success that was none.
    return finish(call, err->status == AF_OK ? AF_INTERNAL : err->status, err->text);
}

static bool trailer_is_valid(const char *key, const char *value)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_.";
    if (!*key || key[strspn(key, allowed)] || strncmp(key, "grpc-", 5) == 0)
        return false;
    for (const char *p = value; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            return false;
    return true;
}

void grpc_call_trailer(struct grpc_call *call, const char *key, const char *value)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    if (!trailer_is_valid(key, value)) {
        fprintf(stderr, "level=fatal msg=\"bad trailing metadata\" key=%s\n", key);
        abort();
    }
    pthread_mutex_lock(&call->lock);
    if (!call->over && call->end.trailer_count < GRPC_TRAILERS_MAX) {
        struct grpc_trailer trailer = {strdup(key), strdup(value)};
        if (trailer.key && trailer.value) {
            call->end.trailers[call->end.trailer_count++] = trailer;
        } else {
            free(trailer.key);
            free(trailer.value);
        }
    }
    pthread_mutex_unlock(&call->lock);
}

bool grpc_call_is_over(struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    pthread_mutex_lock(&call->lock);
    bool over = call->over;
    pthread_mutex_unlock(&call->lock);
    return over;
}
