// Calls as actors: references, and the handling of their events on a worker.
//
// Owns: struct grpc_call. Lock: grpc_call.lock (rank 80), not held while a handler runs.
// The order of events: a cancel goes before everything; messages in the order of arrival; the
// half-close after the last of them; room to send after that.
// Failure: a message that cannot be decoded ends its call with INVALID_ARGUMENT.
// Read next: call_in.c (requests), call_out.c (replies), net_priv.h.
#include "api/net/message.h"
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_PER_TURN 16 // then the next call has its turn

_Thread_local bool net_on_network_thread;

struct grpc_call *grpc_call_new(struct net_conn *conn, int32_t stream_id)
{
    struct net_server *server = conn->server;
    struct grpc_call *call = calloc(1, sizeof *call);
    if (!call)
        return NULL;
    call->magic = GRPC_CALL_MAGIC;
    atomic_init(&call->refs, 1);
    call->server = server;
    call->conn = conn;
    call->peer = conn->peer;
    call->stream_id = stream_id;
    call->deadline_ns = INT64_MAX;
    grpc_decoder_init(&call->decoder, server->limits.message_bytes_max);
    pthread_mutex_init(&call->lock, NULL);
    call->next = conn->calls;
    if (conn->calls)
        conn->calls->prev = call;
    conn->calls = call;
    conn->call_count++;
    atomic_fetch_add(&server->calls_open, 1);
    atomic_fetch_add(&server->calls_started, 1);
    return call;
}

void grpc_chunks_free(struct net_server *server, struct grpc_chunks *chunks)
{
    while (chunks->head) {
        struct grpc_chunk *next = chunks->head->next;
        atomic_fetch_sub(&server->buffered, chunks->head->len);
        free(chunks->head);
        chunks->head = next;
    }
    *chunks = (struct grpc_chunks){0};
}

static void frames_free(struct net_server *server, struct grpc_frame *frame)
{
    while (frame) {
        struct grpc_frame *next = frame->next;
        atomic_fetch_sub(&server->buffered, grpc_frame_cost(frame));
        free(frame);
        frame = next;
    }
}

struct grpc_call *grpc_call_ref(struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
    return call;
}

void grpc_call_unref(struct grpc_call *call)
{
    if (!call)
        return;
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
        return;
    bool on_free = call->data && call->method && call->method->on_free;
    if (on_free && net_on_network_thread && !call->method->free_is_quick) {
        // It may do anything a handler does, so a worker has to drop the last reference.
        atomic_store(&call->refs, 2);
        call->ev_release = call->scheduled = true;
        net_pool_submit(&call->server->pool, &call->run);
        return;
    }
    if (on_free)
        call->method->on_free(call);
    struct net_server *server = call->server;
    frames_free(server, call->inbox);
    grpc_chunks_free(server, &call->out);
    grpc_chunks_free(server, &call->tx);
    for (unsigned i = 0; i < call->end.trailer_count; i++) {
        free(call->end.trailers[i].key);
        free(call->end.trailers[i].value);
    }
    free(call->end.text);
    pthread_mutex_destroy(&call->lock);
    call->magic = 0;
    free(call);
    atomic_fetch_sub(&server->calls_open, 1);
}

// ---- events -----------------------------------------------------------------------------

void grpc_call_schedule(struct grpc_call *call)
{
    if (call->scheduled)
        return;
    call->scheduled = true;
    grpc_call_ref(call);
    net_pool_submit(&call->server->pool, &call->run);
}

// Runs on_cancel if the handlers have seen the call. Not under the lock.
static void run_cancel(struct grpc_call *call)
{
    if (call->method->on_cancel)
        call->method->on_cancel(call);
}

static void handle_message(struct grpc_call *call, const struct grpc_frame *frame,
                           bool handled_before)
{
    const struct grpc_method *method = call->method;
    struct grpc_arena arena;
    struct af_error err;
    ProtobufCMessage *message;
    grpc_arena_init(&arena, call->server->limits.unpack_bytes_max);
    if (grpc_message_decode(method->request, frame->bytes, frame->len, &arena, &message, &err)) {
        enum grpc_sent sent = grpc_call_finish_error(call, &err);
        if (sent != GRPC_GONE && handled_before)
            run_cancel(call);
    } else {
        method->on_message(call, message);
    }
    grpc_arena_fini(&arena);
}

// Tells the network thread how much has been handled, so that it can open the client's window:
// not for every message, but always when the inbox of a stream has run empty, and when the one
// message of a call was large. Its reply, which would tell as well, may be hours away, and until
// it is told the message counts as one that waits for a worker (call_in.c).
// Under the lock; true: the network thread is to be woken after it.
static bool count_processed(struct grpc_call *call, size_t bytes, size_t frames)
{
    if (call->held) {
        call->kept_bytes += bytes;
        call->kept_frames += frames;
        return false;
    }
    call->processed_bytes += bytes;
    call->processed_frames += frames;
    bool one_message = call->method->kind == GRPC_UNARY || call->method->kind == GRPC_SERVER_STREAM;
    bool tell = one_message ? call->processed_bytes >= NET_TELL_BYTES
                            : !call->inbox || call->processed_bytes >= NET_HIGH_BYTES;
    tell = tell && !call->over;
    if (tell)
        grpc_call_make_ready(call);
    return tell;
}

enum event { EVENT_NONE, EVENT_CANCEL, EVENT_MESSAGE, EVENT_END, EVENT_WRITABLE, EVENT_RELEASE };

// Under the lock: what to do next. A message is taken out of the inbox.
static enum event next_event(struct grpc_call *call, struct grpc_frame **ret_frame)
{
    if (call->ev_cancel) {
        call->ev_cancel = false;
        return EVENT_CANCEL;
    }
    if (!call->over) {
        if (call->inbox && !call->held) {
            *ret_frame = call->inbox;
            call->inbox = call->inbox->next;
            if (!call->inbox)
                call->inbox_tail = NULL;
            return EVENT_MESSAGE;
        }
        if (call->ev_end && !call->held) {
            call->ev_end = false;
            return EVENT_END;
        }
        if (call->ev_writable) {
            call->ev_writable = false;
            return EVENT_WRITABLE;
        }
    }
    if (call->ev_release) {
        call->ev_release = false;
        return EVENT_RELEASE;
    }
    return EVENT_NONE;
}

static void run_message(struct grpc_call *call, struct grpc_frame *frame, bool handled_before)
{
    size_t bytes = frame->len;
    handle_message(call, frame, handled_before);
    atomic_fetch_sub(&call->server->buffered, grpc_frame_cost(frame));
    free(frame);
    pthread_mutex_lock(&call->lock);
    bool wake = count_processed(call, bytes, 1);
    if (call->method->kind == GRPC_SERVER_STREAM && call->method->on_writable)
        call->ev_writable = true;
    pthread_mutex_unlock(&call->lock);
    if (wake)
        net_loop_wake(call->server);
}

// Returns false when there was nothing to do; the call is then no longer scheduled.
static bool run_one(struct grpc_call *call)
{
    struct grpc_frame *frame = NULL;
    pthread_mutex_lock(&call->lock);
    enum event event = next_event(call, &frame);
    bool handled_before = call->handled;
    if (event == EVENT_NONE)
        call->scheduled = false;
    else if (event == EVENT_MESSAGE || event == EVENT_END)
        call->handled = true;
    pthread_mutex_unlock(&call->lock);
    switch (event) {
    case EVENT_NONE:
        return false;
    case EVENT_CANCEL:
        run_cancel(call);
        break;
    case EVENT_MESSAGE:
        run_message(call, frame, handled_before);
        break;
    case EVENT_END:
        if (call->method->on_end)
            call->method->on_end(call);
        break;
    case EVENT_WRITABLE:
        if (call->method->on_writable)
            call->method->on_writable(call);
        break;
    case EVENT_RELEASE:
        grpc_call_unref(call); // the pool's reference is still there
        break;
    }
    return true;
}

void grpc_call_run(struct net_pool_item *item)
{
    struct grpc_call *call = (struct grpc_call *)((char *)item - offsetof(struct grpc_call, run));
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    for (int i = 0; i < EVENTS_PER_TURN; i++) {
        if (!run_one(call)) {
            grpc_call_unref(call);
            return;
        }
    }
    net_pool_submit(&call->server->pool, &call->run);
}

// ---- hold, release, wake ----------------------------------------------------------------

void grpc_call_hold(struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    pthread_mutex_lock(&call->lock);
    call->held = true;
    pthread_mutex_unlock(&call->lock);
}

void grpc_call_release(struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    struct net_server *server = call->server;
    bool wake = false;
    pthread_mutex_lock(&call->lock);
    if (call->held) {
        size_t bytes = call->kept_bytes, frames = call->kept_frames;
        call->held = false;
        call->kept_bytes = call->kept_frames = 0;
        if (frames > 0)
            wake = count_processed(call, bytes, frames);
        if (!call->over && (call->inbox || call->ev_end))
            grpc_call_schedule(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (wake)
        net_loop_wake(server);
}

void grpc_call_wake(struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    pthread_mutex_lock(&call->lock);
    if (!call->over && call->method->on_writable) {
        call->ev_writable = true;
        grpc_call_schedule(call);
    }
    pthread_mutex_unlock(&call->lock);
}

// ---- ends from the network's side -------------------------------------------------------

// Under the lock: drops what was not handled, and has on_cancel run if handlers know the call.
// Returns the dropped messages.
static struct grpc_frame *cancel_locked(struct grpc_call *call)
{
    struct grpc_frame *dropped = call->inbox;
    call->inbox = call->inbox_tail = NULL;
    if (call->handled && call->method->on_cancel) {
        call->ev_cancel = true;
        grpc_call_schedule(call);
    }
    return dropped;
}

void grpc_call_abort(struct grpc_call *call, enum af_status status, const char *fmt, ...)
{
    struct af_error err;
    va_list ap;
    va_start(ap, fmt);
    af_error_vset(&err, status, fmt, ap);
    va_end(ap);
    struct grpc_frame *dropped = NULL;
    pthread_mutex_lock(&call->lock);
    if (!call->over) {
        grpc_chunks_free(call->server, &call->out);
        grpc_call_end_locked(call, status, err.text);
        dropped = cancel_locked(call);
    }
    pthread_mutex_unlock(&call->lock);
    frames_free(call->server, dropped);
    net_timers_clear(&call->server->timers, &call->timer);
    grpc_call_drop_input(call);
    call->deaf = true;
}

void grpc_call_closed(struct grpc_call *call)
{
    struct net_conn *conn = call->conn;
    struct net_server *server = call->server;
    net_timers_clear(&server->timers, &call->timer);
    grpc_call_drop_input(call);
    grpc_decoder_fini(&call->decoder);
    if (call->next)
        call->next->prev = call->prev;
    if (call->prev)
        call->prev->next = call->next;
    else
        conn->calls = call->next;
    conn->call_count--;
    conn->held_in -= call->held_bytes;
    conn->queued_in -= call->queued_bytes;
    conn->held_out -= call->tx.bytes;
    grpc_chunks_free(server, &call->tx);
    call->conn = NULL;

    struct grpc_frame *dropped = NULL;
    pthread_mutex_lock(&call->lock);
    grpc_chunks_free(server, &call->out); // nobody hears it, and memory may be short
    if (!call->over) {
        call->over = true;
        call->end.status = AF_CANCELLED;
        if (call->begun)
            atomic_fetch_add(&server->calls_cancelled, 1);
        dropped = cancel_locked(call);
    } else {
        dropped = call->inbox;
        call->inbox = call->inbox_tail = NULL;
    }
    enum af_status status = call->end.status;
    pthread_mutex_unlock(&call->lock);
    net_call_count_end(call, status);
    frames_free(server, dropped);
    grpc_call_unref(call);
}
