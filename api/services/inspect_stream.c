// agentfense.v1.InspectService: Tree and Diff, whose replies are streams.
//
// mux gathers a consistent answer and passes it entry by entry to a callback that must not wait for
// the client; so the entries are kept as messages with the call and sent as it reads. Their number
// is bounded by mux (MUX_ARENA_CAP). Read next: mux/inspect.h.
#include "api/services/inspect_service.h"

#include "api/services/common.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TRIM_BYTES (8u << 20)

// One message and the bytes it refers to, in one allocation.
struct item {
    struct item *next;
    union {
        ProtobufCMessage base;
        Agentfense__V1__TreeNode node;
        Agentfense__V1__DiffEntry change;
    };
    Google__Protobuf__Timestamp modified;
    char bytes[];
};

struct item_stream {
    struct item *first, **end;
    size_t bytes; // of all items that there were
};

static struct item_stream *stream_new(struct grpc_call *call)
{
    struct item_stream *stream = calloc(1, sizeof *stream);
    if (stream) {
        stream->end = &stream->first;
        grpc_call_set_data(call, stream);
        return stream;
    }
    grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
    return NULL;
}

static struct item *stream_add(struct item_stream *stream, size_t bytes)
{
    struct item *item = calloc(1, sizeof *item + bytes);
    if (item) {
        *stream->end = item;
        stream->end = &item->next;
        stream->bytes += sizeof *item + bytes;
    }
    return item;
}

// Copies a text behind what `used` bytes of the item hold already.
static ProtobufCBinaryData item_text(struct item *item, size_t *used, const char *text)
{
    size_t len = text ? strlen(text) : 0;
    char *place = item->bytes + *used;
    memcpy(place, text ? text : "", len);
    *used += len;
    return service_bytes(place, len);
}

static size_t text_len(const char *text)
{
    return text ? strlen(text) : 0;
}

void inspect_stream_writable(struct grpc_call *call)
{
    struct item_stream *stream = grpc_call_data(call);
    if (!stream)
        return;
    while (stream->first) {
        struct item *item = stream->first;
        stream->first = item->next;
        enum grpc_sent sent = grpc_call_send(call, &item->base);
        free(item);
        if (sent != GRPC_SENT)
            return;
    }
    grpc_call_finish(call, AF_OK, NULL);
}

void inspect_stream_free(struct grpc_call *call)
{
    struct item_stream *stream = grpc_call_data(call);
    bool was_large = stream->bytes > TRIM_BYTES;
    while (stream->first) {
        struct item *item = stream->first;
        stream->first = item->next;
        free(item);
    }
    free(stream);
    if (was_large)
        malloc_trim(0); // a rare large answer must not stay in the daemon's memory for ever
}

// ---- Tree

void inspect_fill_node(Agentfense__V1__TreeNode *node, mode_t mode, enum rules_level level,
                       uint64_t size, bool traversable_only)
{
    agentfense__v1__tree_node__init(node);
    node->kind = service_file_kind(mode);
    node->level = (Agentfense__V1__Level)level;
    node->size = size;
    node->mode = mode & 07777;
    node->traversable_only = traversable_only;
}

static int keep_node(void *arg, const struct mux_tree_node *from)
{
    size_t used = 0;
    struct item *item = stream_add(arg, text_len(from->path) + text_len(from->symlink_target));
    if (!item)
        return -ENOMEM;
    inspect_fill_node(&item->node, from->mode, from->level, from->size, from->traversable_only);
    item->node.path = item_text(item, &used, from->path);
    item->node.symlink_target = item_text(item, &used, from->symlink_target);
    return 0;
}

// Ends the call when gathering failed; rc is what mux returned.
static void gathered(struct grpc_call *call, int rc, struct af_error *err)
{
    if (rc == -ENOMEM)
        af_error_errno(err, rc, "cannot gather the reply");
    if (rc < 0)
        grpc_call_finish_error(call, err);
}

void inspect_tree_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__TreeRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct item_stream *stream = stream_new(call);
    if (!stream)
        return;
    int rc = service_check_id("sb", request->sandbox_id, &id, &err);
    if (rc == 0)
        rc = mux_inspect_tree(daemon_of(call)->mux, id.text, request->path.data, request->path.len,
                              request->depth, request->all, keep_node, stream, &err);
    gathered(call, rc, &err);
}

// ---- Diff

static int keep_change(void *arg, const struct mux_diff_entry *from)
{
    size_t used = 0;
    struct item *item = stream_add(arg, text_len(from->path) + text_len(from->old_path) +
                                            text_len(from->symlink_target));
    if (!item)
        return -ENOMEM;
    agentfense__v1__diff_entry__init(&item->change);
    item->change.change = (Agentfense__V1__DiffEntry__Change)from->change;
    item->change.path = item_text(item, &used, from->path);
    item->change.old_path = item_text(item, &used, from->old_path);
    item->change.symlink_target = item_text(item, &used, from->symlink_target);
    item->change.kind = service_file_kind(from->mode);
    item->change.size = from->size;
    item->change.mode = from->mode & 07777;
    item->change.ino = from->fid;
    service_set_timestamp(&item->modified, from->mtime_ns);
    item->change.modified_at = &item->modified;
    return 0;
}

void inspect_diff_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__DiffRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct item_stream *stream = stream_new(call);
    if (!stream)
        return;
    int rc = service_check_id("sb", request->sandbox_id, &id, &err);
    if (rc == 0)
        rc = mux_inspect_diff(daemon_of(call)->mux, id.text, keep_change, stream, &err);
    gathered(call, rc, &err);
}
