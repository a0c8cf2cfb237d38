// MonitorService: ListLayers, ListBlobs, DiskUsage, CollectGarbage, DropCaches.
//
// Lists of layers and sandboxes are gathered in one transaction and kept with the call; blobs,
// which may be millions, are read page by page as the client reads, each page one consistent state.
// Collecting waits for the disk, so it is a job. Fails: an af_error. Read next: mux/usage.h.
#include "api/services/monitor_service.h"

#include "mux/base/cleanup.h"
#include "mux/store/store.h"
#include "mux/usage.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

#define BLOBS_PER_PAGE 256

struct row {
    union {
        ProtobufCMessage base;
        Agentfense__V1__LayerInfo layer;
        Agentfense__V1__DiskUsageInfo usage;
        Agentfense__V1__BlobInfo blob;
    };
    struct af_id id;
};

struct rows {
    struct row *items;
    size_t count, capacity, sent;
    bool paged, at_end; // blobs
    uint64_t after;
};

static struct row *rows_add(struct rows *rows)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 64;
        struct row *bigger = realloc(rows->items, capacity * sizeof *bigger);
        if (!bigger)
            return NULL;
        rows->items = bigger;
        rows->capacity = capacity;
    }
    return &rows->items[rows->count++];
}

static struct rows *rows_new(struct grpc_call *call)
{
    struct rows *rows = calloc(1, sizeof *rows);
    if (rows)
        grpc_call_set_data(call, rows);
    else
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
    return rows;
}

void monitor_rows_free(struct grpc_call *call)
{
    struct rows *rows = grpc_call_data(call);
    free(rows->items);
    free(rows);
}

// An optional id: *ret is NULL when it is not given.
static int optional_id(const char *prefix, ProtobufCBinaryData field, struct af_id *id,
                       const char **ret, struct af_error *err)
{
    *ret = field.len > 0 ? id->text : NULL;
    return field.len > 0 ? service_check_id(prefix, field, id, err) : 0;
}

// ---- layers

static int keep_layer(void *arg, const struct mux_layer_info *info)
{
    struct row *row = rows_add(arg);
    if (!row)
        return -ENOMEM;
    agentfense__v1__layer_info__init(&row->layer);
    row->layer.id = info->layer.id;
    row->layer.frozen = info->layer.frozen;
    row->layer.refs = info->layer.refs;
    row->layer.bytes = info->layer.bytes;
    row->layer.inodes = info->layer.inodes;
    row->layer.depth = info->depth;
    row->layer.role = grpc_text(info->role);
    return 0;
}

void monitor_list_layers(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ListLayersRequest *request = (const void *)message;
    struct rows *rows = rows_new(call);
    struct af_error err;
    struct af_id codebase, sandbox;
    const char *codebase_id, *sandbox_id;
    if (rows && (optional_id("cb", request->codebase_id, &codebase, &codebase_id, &err) < 0 ||
                 optional_id("sb", request->sandbox_id, &sandbox, &sandbox_id, &err) < 0 ||
                 mux_list_layers(daemon_of(call)->mux, codebase_id, sandbox_id, keep_layer, rows,
                                 &err) < 0))
        grpc_call_finish_error(call, &err);
}

// ---- space

static int keep_usage(void *arg, const struct mux_usage *usage)
{
    struct row *row = rows_add(arg);
    if (!row)
        return -ENOMEM;
    agentfense__v1__disk_usage_info__init(&row->usage);
    row->id = usage->sandbox_id;
    row->usage.private_bytes = usage->private_bytes;
    row->usage.shared_bytes = usage->shared_bytes;
    row->usage.inodes = usage->inodes;
    row->usage.quota_bytes = usage->quota_bytes;
    return 0;
}

void monitor_disk_usage(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__DiskUsageRequest *request = (const void *)message;
    struct rows *rows = rows_new(call);
    struct af_error err;
    struct af_id id;
    const char *sandbox_id;
    if (rows && (optional_id("sb", request->sandbox_id, &id, &sandbox_id, &err) < 0 ||
                 mux_list_usage(daemon_of(call)->mux, sandbox_id, keep_usage, rows, &err) < 0))
        grpc_call_finish_error(call, &err);
}

// ---- blobs

static int keep_blob(void *arg, const struct store_blob_info *blob)
{
    struct rows *rows = arg;
    if (rows->count == BLOBS_PER_PAGE)
        return 1;
    struct row *row = rows_add(rows);
    if (!row)
        return -ENOMEM;
    agentfense__v1__blob_info__init(&row->blob);
    row->blob.id = rows->after = blob->id;
    row->blob.bytes = blob->bytes;
    row->blob.disk_bytes = blob->disk_bytes;
    row->blob.refs = blob->refs;
    return 0;
}

void monitor_list_blobs(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    struct rows *rows = rows_new(call);
    if (rows)
        rows->paged = true;
}

// The next page of blobs. False: there is none, or the call has ended.
static bool next_page(struct grpc_call *call, struct rows *rows)
{
    struct af_error err;
    if (!rows->paged || rows->at_end)
        return false;
    rows->count = rows->sent = 0;
    int rc = mux_list_blobs(daemon_of(call)->mux, rows->after, keep_blob, rows, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    rows->at_end = rc <= 0;
    return rc >= 0 && rows->count > 0;
}

void monitor_rows_writable(struct grpc_call *call)
{
    struct rows *rows = grpc_call_data(call);
    if (!rows)
        return;
    do {
        while (rows->sent < rows->count) {
            struct row *row = &rows->items[rows->sent++];
            if (row->base.descriptor == &agentfense__v1__disk_usage_info__descriptor)
                row->usage.sandbox_id = grpc_text(row->id.text);
            if (grpc_call_send(call, &row->base) != GRPC_SENT)
                return;
        }
    } while (next_page(call, rows));
    grpc_call_finish(call, AF_OK, NULL);
}

// ---- garbage

struct collection {
    struct job job;
    struct grpc_call *call;
};

static void run_collection(struct job *job, const atomic_bool *stop)
{
    struct collection *collection = (struct collection *)job;
    struct grpc_call *call = collection->call;
    struct store *store = mux_store(daemon_of(call)->mux);
    struct store_stats before, after;
    Agentfense__V1__CollectGarbageResponse reply = AGENTFENSE__V1__COLLECT_GARBAGE_RESPONSE__INIT;
    struct af_error err;
    int rc = atomic_load(stop) ? -ECANCELED : store_get_stats(store, &before);
    if (rc == 0)
        rc = store_gc_drain(store, &reply.records);
    if (rc == 0)
        rc = store_get_stats(store, &after);
    if (rc == 0) {
        reply.bytes =
            before.blob_bytes > after.blob_bytes ? before.blob_bytes - after.blob_bytes : 0;
        grpc_call_reply(call, &reply.base);
    } else {
        af_error_errno(&err, rc, "cannot collect garbage");
        grpc_call_finish_error(call, &err);
    }
    grpc_call_unref(call);
    free(collection);
}

void monitor_collect_garbage(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    struct collection *collection = calloc(1, sizeof *collection);
    if (!collection) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for a job");
        return;
    }
    collection->job.run = run_collection;
    collection->call = grpc_call_ref(call);
    jobs_submit(daemon_of(call)->jobs, &collection->job);
}

// ---- caches

void monitor_drop_caches(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__DropCachesRequest *request = (const void *)message;
    Agentfense__V1__DropCachesResponse reply = AGENTFENSE__V1__DROP_CACHES_RESPONSE__INIT;
    struct af_error err;
    struct af_id id;
    const char *sandbox_id;
    if (optional_id("sb", request->sandbox_id, &id, &sandbox_id, &err) < 0 ||
        mux_drop_caches(daemon_of(call)->mux, sandbox_id, &reply.nodes, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    malloc_trim(0);
    grpc_call_reply(call, &reply.base);
}
