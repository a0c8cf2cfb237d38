// MonitorService: Watch and Trace, the events of one view, or of one codebase, as streams.
//
// fs keeps the events of a view (fs/taps.h), codebase_tap.h those of a codebase; they wake the
// call; on_writable takes them, some at a time, and makes messages of them; for Trace it asks the
// rules for the reason. So neither a FUSE worker nor a slow client waits for the other. A stream
// holds a reference to its call while it is listed, and leaves the list on the call's own worker,
// where nobody uses the tap. Lock: watches.lock (rank 70), over grpc_call_* (80). Fails: an
// af_error. Read next: watch_service.h, fs/taps.h.
#include "api/services/watch_service.h"

#include "api/services/codebase_tap.h"
#include "api/services/monitor_service.h"
#include "api/services/watch_rules.h"
#include "fs/taps.h"
#include "mux/base/cleanup.h"
#include "mux/base/text.h"
#include "mux/sandbox.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#define EVENTS_PER_TURN 256 // then other calls have their turn

struct watch_stream {
    struct grpc_call *call; // a reference while listed
    struct watches *watches;
    struct af_id sandbox_id;
    struct fs_tap *tap;            // NULL: not open, or not any more
    struct codebase_tap *codebase; // in its place
    struct watch_rules *rules;     // of Trace, else NULL
    atomic_bool gone;              // the sandbox is
    bool listed;
    LIST_ENTRY(watch_stream) link;
};

struct watches {
    pthread_mutex_t lock;
    atomic_bool stopped;
    LIST_HEAD(, watch_stream) streams;
};

int watches_new(struct watches **ret, struct af_error *err)
{
    struct watches *watches = calloc(1, sizeof *watches);
    if (!watches)
        return af_error_errno(err, ENOMEM, "cannot prepare for watching");
    pthread_mutex_init(&watches->lock, NULL);
    LIST_INIT(&watches->streams);
    *ret = watches;
    return 0;
}

void watches_free(struct watches *watches)
{
    if (!watches)
        return;
    pthread_mutex_destroy(&watches->lock);
    free(watches);
}

void watches_stop(struct watches *watches)
{
    struct watch_stream *stream;
    if (!watches)
        return;
    atomic_store(&watches->stopped, true);
    pthread_mutex_lock(&watches->lock);
    LIST_FOREACH(stream, &watches->streams, link)
    grpc_call_wake(stream->call);
    pthread_mutex_unlock(&watches->lock);
}

void watches_forget(struct watches *watches, const char *sandbox_id)
{
    struct watch_stream *stream;
    pthread_mutex_lock(&watches->lock);
    LIST_FOREACH(stream, &watches->streams, link)
    {
        if (strcmp(stream->sandbox_id.text, sandbox_id) != 0)
            continue;
        atomic_store(&stream->gone, true);
        grpc_call_wake(stream->call);
    }
    pthread_mutex_unlock(&watches->lock);
}

// ---- one stream, on its call's worker

static void list_stream(struct watch_stream *stream)
{
    pthread_mutex_lock(&stream->watches->lock);
    grpc_call_ref(stream->call);
    stream->listed = true;
    LIST_INSERT_HEAD(&stream->watches->streams, stream, link);
    pthread_mutex_unlock(&stream->watches->lock);
}

// Nothing of the stream is used by others afterwards; the call's own reference is still there.
static void close_stream(struct watch_stream *stream)
{
    fs_tap_close(stream->tap);
    codebase_tap_close(stream->codebase);
    stream->tap = NULL;
    stream->codebase = NULL;
    pthread_mutex_lock(&stream->watches->lock);
    bool listed = stream->listed;
    if (listed)
        LIST_REMOVE(stream, link);
    stream->listed = false;
    pthread_mutex_unlock(&stream->watches->lock);
    if (listed)
        grpc_call_unref(stream->call);
}

static void stream_cancelled(struct grpc_call *call)
{
    struct watch_stream *stream = grpc_call_data(call);
    if (stream)
        close_stream(stream);
}

static void stream_free(struct grpc_call *call)
{
    struct watch_stream *stream = grpc_call_data(call);
    close_stream(stream);
    watch_rules_free(stream->rules);
    free(stream);
}

static void wake_call(void *call)
{
    grpc_call_wake(call);
}

// ---- messages

static Agentfense__V1__WatchEvent__Kind kind_of(const struct fs_event *event)
{
    switch (event->op) {
    case FS_OP_CREATE:
    case FS_OP_MKNOD:
    case FS_OP_MKDIR:
    case FS_OP_SYMLINK:
    case FS_OP_LINK:
        return AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_CREATED;
    case FS_OP_UNLINK:
    case FS_OP_RMDIR:
        return AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_DELETED;
    case FS_OP_RENAME:
        return AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_RENAMED;
    default:
        return AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_MODIFIED;
    }
}

static ProtobufCBinaryData path_bytes(const char *path)
{
    return service_bytes(path, path ? strlen(path) : 0);
}

static Agentfense__V1__FileKind file_kind(const struct fs_event *event)
{
    return event->mode ? service_file_kind(event->mode)
                       : AGENTFENSE__V1__FILE_KIND__FILE_KIND_UNSPECIFIED;
}

static enum grpc_sent send_mark(struct grpc_call *call, Agentfense__V1__WatchEvent__Kind kind,
                                uint64_t lost)
{
    Agentfense__V1__WatchEvent reply = AGENTFENSE__V1__WATCH_EVENT__INIT;
    Google__Protobuf__Timestamp at;
    service_set_timestamp(&at, af_wall_ns());
    reply.kind = kind;
    reply.at = &at;
    reply.lost = lost;
    return grpc_call_send(call, &reply.base);
}

static enum grpc_sent send_change(struct grpc_call *call, const struct fs_event *event)
{
    Agentfense__V1__WatchEvent reply = AGENTFENSE__V1__WATCH_EVENT__INIT;
    Google__Protobuf__Timestamp at;
    service_set_timestamp(&at, event->at_ns);
    reply.at = &at;
    reply.file_kind = file_kind(event);
    reply.pid = (uint32_t)event->pid;
    reply.path_is_cut = event->is_cut;
    reply.path = path_bytes(event->target ? event->target : event->path);
    if (event->target)
        reply.old_path = path_bytes(event->path);
    if (event->is_denied) {
        reply.kind = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_DENIED;
        reply.operation = grpc_text(fs_op_name(event->op));
        return grpc_call_send(call, &reply.base);
    }
    reply.kind = kind_of(event);
    enum grpc_sent sent = grpc_call_send(call, &reply.base);
    if (sent == GRPC_GONE || !event->swaps)
        return sent;
    reply.old_path = reply.path; // the other half of an exchange, whose kind is not known
    reply.path = path_bytes(event->path);
    reply.file_kind = AGENTFENSE__V1__FILE_KIND__FILE_KIND_UNSPECIFIED;
    return grpc_call_send(call, &reply.base);
}

static enum grpc_sent send_codebase_change(struct grpc_call *call,
                                           const struct codebase_event *event)
{
    static const Agentfense__V1__WatchEvent__Kind kinds[] = {
        [MUX_ADDED] = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_CREATED,
        [MUX_MODIFIED] = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_MODIFIED,
        [MUX_DELETED] = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_DELETED,
        [MUX_METADATA] = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_MODIFIED,
        [MUX_RENAMED] = AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_RENAMED,
    };
    Agentfense__V1__WatchEvent reply = AGENTFENSE__V1__WATCH_EVENT__INIT;
    Google__Protobuf__Timestamp at;
    service_set_timestamp(&at, event->at_ns);
    reply.at = &at;
    reply.kind = kinds[event->change];
    reply.file_kind = service_file_kind(event->mode);
    reply.path = path_bytes(event->path);
    reply.old_path = path_bytes(event->old_path);
    reply.sandbox_id = grpc_text(event->sandbox_id);
    return grpc_call_send(call, &reply.base);
}

static enum grpc_sent send_trace(struct watch_stream *stream, const struct fs_event *event,
                                 uint64_t lost)
{
    Agentfense__V1__TraceEvent reply = AGENTFENSE__V1__TRACE_EVENT__INIT;
    Google__Protobuf__Timestamp at;
    Google__Protobuf__Duration took;
    struct watch_verdict verdict;
    service_set_timestamp(&at, event->at_ns);
    service_set_duration(&took, event->took_ns);
    watch_rules_ask(stream->rules, event->path, &verdict);
    reply.at = &at;
    reply.operation = grpc_text(fs_op_name(event->op));
    reply.path = path_bytes(event->path);
    reply.new_path = path_bytes(event->target);
    reply.pid = (uint32_t)event->pid;
    reply.error = event->error;
    reply.hidden = event->hidden;
    reply.path_is_cut = event->is_cut;
    reply.file_kind = file_kind(event);
    reply.level = (Agentfense__V1__Level)verdict.level;
    reply.rule = verdict.rule;
    reply.pattern = service_bytes(verdict.pattern, verdict.pattern_len);
    reply.took = &took;
    reply.lost = lost;
    return grpc_call_send(stream->call, &reply.base);
}

static enum grpc_sent send_event(struct watch_stream *stream, const struct fs_event *event,
                                 uint64_t lost)
{
    if (stream->rules)
        return send_trace(stream, event, lost);
    if (lost > 0 &&
        send_mark(stream->call, AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_LOST, lost) == GRPC_GONE)
        return GRPC_GONE;
    return send_change(stream->call, event);
}

// False: the stream waits for its client, for its next turn, or has ended.
static bool send_events(struct watch_stream *stream)
{
    for (unsigned i = 0; i < EVENTS_PER_TURN; i++) {
        uint64_t lost;
        AF_CLEANUP_FREE struct fs_event *event = fs_tap_next(stream->tap, &lost);
        if (!event)
            return true;
        if (send_event(stream, event, lost) != GRPC_SENT)
            return false;
    }
    grpc_call_wake(stream->call);
    return false;
}

// The same for a codebase. *ret_gone: it was deleted, and everything is told.
static bool send_codebase_events(struct watch_stream *stream, bool *ret_gone)
{
    struct grpc_call *call = stream->call;
    for (unsigned i = 0; i < EVENTS_PER_TURN; i++) {
        uint64_t lost;
        AF_CLEANUP_FREE struct codebase_event *event =
            codebase_tap_next(stream->codebase, &lost, ret_gone);
        if (lost > 0 &&
            send_mark(call, AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_LOST, lost) == GRPC_GONE)
            return false;
        if (!event)
            return true;
        if (send_codebase_change(call, event) != GRPC_SENT)
            return false;
    }
    grpc_call_wake(call);
    return false;
}

static void stream_writable(struct grpc_call *call)
{
    struct watch_stream *stream = grpc_call_data(call);
    struct af_error err;
    if (!stream || (!stream->tap && !stream->codebase))
        return;
    bool gone = atomic_load(&stream->gone); // before the last events are taken
    if (atomic_load(&stream->watches->stopped)) {
        close_stream(stream);
        grpc_call_finish(call, AF_UNAVAILABLE, "the server is stopping");
        return;
    }
    if (stream->rules && !gone)
        watch_rules_refresh(stream->rules, daemon_of(call)->mux, stream->sandbox_id.text, &err);
    bool is_told = stream->codebase ? send_codebase_events(stream, &gone) : send_events(stream);
    if (is_told && gone) {
        close_stream(stream);
        grpc_call_finish(call, AF_OK, NULL);
    }
}

// ---- beginnings

static int exists(void *arg, const struct store_sandbox *sandbox)
{
    (void)arg;
    (void)sandbox;
    return 0;
}

static int check_path(ProtobufCBinaryData field, char ret[AF_PATH_MAX + 1], struct af_error *err)
{
    size_t len;
    if (field.len > AF_PATH_MAX || af_path_normalize(field.data, field.len, true, ret, &len) < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "path is none in a tree: give one relative to its root, without '..'");
    return 0;
}

static struct watch_stream *new_stream(struct grpc_call *call, struct af_error *err)
{
    struct watch_stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        af_error_errno(err, ENOMEM, "cannot watch");
        return NULL;
    }
    stream->call = call;
    stream->watches = daemon_of(call)->watches;
    grpc_call_set_data(call, stream);
    return stream;
}

static struct watch_stream *begin(struct grpc_call *call, ProtobufCBinaryData sandbox_id,
                                  ProtobufCBinaryData path, unsigned wants, struct af_error *err)
{
    struct daemon *daemon = daemon_of(call);
    char text[AF_PATH_MAX + 1];
    struct fs_tap_options options = {.wants = wants, .path = text, .wake = wake_call, .arg = call};
    struct watch_stream *stream = new_stream(call, err);
    if (!stream)
        return NULL;
    if (service_check_id("sb", sandbox_id, &stream->sandbox_id, err) < 0 ||
        check_path(path, text, err) < 0)
        return NULL;
    options.sandbox_id = stream->sandbox_id.text;
    list_stream(stream); // before the sandbox is looked for: its end is not missed
    if (mux_sandbox_get(daemon->mux, options.sandbox_id, exists, NULL, err) < 0 ||
        fs_tap_open(daemon->fs, &options, &stream->tap, err) < 0) {
        close_stream(stream);
        return NULL;
    }
    return stream;
}

static struct watch_stream *begin_codebase(struct grpc_call *call,
                                           const Agentfense__V1__WatchRequest *request,
                                           struct af_error *err)
{
    struct af_id codebase_id;
    char text[AF_PATH_MAX + 1];
    struct codebase_tap_options options = {
        .codebase_id = &codebase_id, .path = text, .wake = wake_call, .arg = call};
    if (request->sandbox_id.len > 0 || request->denied) { // would mean nothing
        af_error_set(err, AF_INVALID_ARGUMENT,
                     request->denied ? "nothing is denied in a codebase, whose rules are its "
                                       "sandboxes': leave denied out, or watch a sandbox"
                                     : "give sandbox_id or codebase_id, not both");
        return NULL;
    }
    struct watch_stream *stream = new_stream(call, err);
    if (!stream || service_check_id("cb", request->codebase_id, &codebase_id, err) < 0 ||
        check_path(request->path, text, err) < 0)
        return NULL;
    list_stream(stream);
    if (codebase_tap_open(daemon_of(call)->mux, &options, &stream->codebase, err) < 0) {
        close_stream(stream);
        return NULL;
    }
    return stream;
}

static void watch(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__WatchRequest *request = (const void *)message;
    unsigned wants = FS_TAP_CHANGES | (request->denied ? FS_TAP_DENIED : 0);
    struct af_error err;
    if (request->codebase_id.len == 0 && request->sandbox_id.len == 0) {
        grpc_call_finish(call, AF_INVALID_ARGUMENT,
                         "nothing to watch is named: give sandbox_id or codebase_id");
        return;
    }
    struct watch_stream *stream =
        request->codebase_id.len > 0 ? begin_codebase(call, request, &err)
                                     : begin(call, request->sandbox_id, request->path, wants, &err);
    if (!stream)
        grpc_call_finish_error(call, &err);
    else
        send_mark(call, AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_READY, 0);
}

static void trace(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__TraceRequest *request = (const void *)message;
    unsigned wants = request->denied ? FS_TAP_DENIED : FS_TAP_ALL;
    Agentfense__V1__TraceEvent ready = AGENTFENSE__V1__TRACE_EVENT__INIT;
    Google__Protobuf__Timestamp at;
    struct af_error err;
    struct watch_rules *rules = watch_rules_new();
    struct watch_stream *stream = NULL;
    if (rules)
        stream = begin(call, request->sandbox_id, request->path, wants, &err);
    else
        af_error_errno(&err, ENOMEM, "cannot trace");
    if (!stream) {
        watch_rules_free(rules);
        grpc_call_finish_error(call, &err);
        return;
    }
    stream->rules = rules;
    service_set_timestamp(&at, af_wall_ns());
    ready.ready = true;
    ready.rule = -1;
    ready.at = &at;
    grpc_call_send(call, &ready.base);
}

#define STREAM(name, type, handler)                                                                \
    {                                                                                              \
        .path = "/agentfense.v1.MonitorService/" name, .kind = GRPC_SERVER_STREAM,                 \
        .request = &agentfense__v1__##type##__descriptor, .on_message = handler,                   \
        .on_writable = stream_writable, .on_cancel = stream_cancelled, .on_free = stream_free      \
    }

const struct grpc_method watch_methods[] = {
    STREAM("Watch", watch_request, watch),
    STREAM("Trace", trace_request, trace),
};
const size_t watch_methods_count = AF_ARRAY_LEN(watch_methods);
