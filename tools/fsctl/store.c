// agentfense-fsctl layers, blobs, du, gc, drop-caches: the store's own business. See fsctl.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/words.h"

#include <inttypes.h>
#include <string.h>

#define SERVICE "/agentfense.v1.MonitorService/"

// A stream printed as it comes: as an array of objects, or as a table at the end.
struct listing {
    struct fsctl *ctl;
    struct json json;
    struct table table;
};

static void listing_begin(struct listing *list, struct fsctl *ctl, unsigned columns,
                          const char *const *titles)
{
    list->ctl = ctl;
    json_init(&list->json, ctl->out);
    if (ctl->json)
        json_begin_array(&list->json, NULL);
    else
        table_init(&list->table, columns, titles);
}

static void listing_end(struct listing *list, bool complete)
{
    if (list->ctl->json) {
        json_end(&list->json);
        json_finish(&list->json);
    } else if (complete) {
        table_print(&list->table, list->ctl->out, fsctl_bold(list->ctl), fsctl_plain(list->ctl));
    } else {
        table_fini(&list->table);
    }
}

static void add_size(struct table *table, uint64_t bytes)
{
    char text[TOOL_SIZE_MAX];
    tool_size_text(bytes, text);
    table_add(table, text);
}

static ProtobufCBinaryData text_of(const struct af_id *id)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id->text, .len = strlen(id->text)};
}

// ---- layers

static int print_layer(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    (void)err;
    const Agentfense__V1__LayerInfo *layer = (const void *)reply;
    struct listing *list = arg;
    if (list->ctl->json) {
        json_begin_object(&list->json, NULL);
        json_uint(&list->json, "id", layer->id);
        json_bool(&list->json, "frozen", layer->frozen);
        json_uint(&list->json, "refs", layer->refs);
        json_uint(&list->json, "bytes", layer->bytes);
        json_uint(&list->json, "inodes", layer->inodes);
        json_uint(&list->json, "depth", layer->depth);
        json_bytes(&list->json, "role", layer->role.data, layer->role.len);
        json_end(&list->json);
        return 0;
    }
    AF_CLEANUP_FREE char *role = tool_escaped(layer->role.data, layer->role.len);
    table_addf(&list->table, "%" PRIu32, layer->depth);
    table_addf(&list->table, "%" PRIu64, layer->id);
    table_add(&list->table, role);
    table_add(&list->table, layer->frozen ? "frozen" : "open");
    table_addf(&list->table, "%" PRIu32, layer->refs);
    add_size(&list->table, layer->bytes);
    table_addf(&list->table, "%" PRIu64, layer->inodes);
    return 0;
}

int fsctl_layers(struct fsctl *ctl, struct af_error *err)
{
    static const char *const titles[] = {">DEPTH", ">LAYER", "ROLE",   "STATE",
                                         ">REFS",  ">SIZE",  ">INODES"};
    Agentfense__V1__ListLayersRequest request = AGENTFENSE__V1__LIST_LAYERS_REQUEST__INIT;
    struct af_id id;
    const char *name = ctl->argc > 0 ? ctl->argv[0] : NULL;
    if (name && strncmp(name, "cb_", 3) == 0)
        request.codebase_id =
            (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)name, .len = strlen(name)};
    else if (name && rpc_find_view(ctl->client, name, &id, err) < 0)
        return -1;
    else if (name)
        request.sandbox_id = text_of(&id);
    struct listing list;
    listing_begin(&list, ctl, AF_ARRAY_LEN(titles), titles);
    int rc = rpc_stream(ctl->client, SERVICE "ListLayers", &request.base,
                        &agentfense__v1__layer_info__descriptor, print_layer, &list, err);
    listing_end(&list, rc == 0);
    return rc;
}

// ---- blobs

static int print_blob(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    (void)err;
    const Agentfense__V1__BlobInfo *blob = (const void *)reply;
    struct listing *list = arg;
    if (list->ctl->json) {
        json_begin_object(&list->json, NULL);
        json_uint(&list->json, "id", blob->id);
        json_uint(&list->json, "bytes", blob->bytes);
        json_uint(&list->json, "disk_bytes", blob->disk_bytes);
        json_uint(&list->json, "refs", blob->refs);
        json_end(&list->json);
        return 0;
    }
    table_addf(&list->table, "%" PRIu64, blob->id);
    add_size(&list->table, blob->bytes);
    add_size(&list->table, blob->disk_bytes);
    table_addf(&list->table, "%" PRIu32, blob->refs);
    return 0;
}

int fsctl_blobs(struct fsctl *ctl, struct af_error *err)
{
    static const char *const titles[] = {">BLOB", ">SIZE", ">ON DISK", ">REFS"};
    Agentfense__V1__ListBlobsRequest request = AGENTFENSE__V1__LIST_BLOBS_REQUEST__INIT;
    struct listing list;
    listing_begin(&list, ctl, AF_ARRAY_LEN(titles), titles);
    int rc = rpc_stream(ctl->client, SERVICE "ListBlobs", &request.base,
                        &agentfense__v1__blob_info__descriptor, print_blob, &list, err);
    listing_end(&list, rc == 0);
    return rc;
}

// ---- du

static int print_usage(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    (void)err;
    const Agentfense__V1__DiskUsageInfo *usage = (const void *)reply;
    struct listing *list = arg;
    if (list->ctl->json) {
        json_begin_object(&list->json, NULL);
        json_bytes(&list->json, "sandbox_id", usage->sandbox_id.data, usage->sandbox_id.len);
        json_uint(&list->json, "private_bytes", usage->private_bytes);
        json_uint(&list->json, "shared_bytes", usage->shared_bytes);
        json_uint(&list->json, "inodes", usage->inodes);
        json_uint(&list->json, "quota_bytes", usage->quota_bytes);
        json_end(&list->json);
        return 0;
    }
    AF_CLEANUP_FREE char *id = tool_escaped(usage->sandbox_id.data, usage->sandbox_id.len);
    table_add(&list->table, id);
    add_size(&list->table, usage->private_bytes);
    add_size(&list->table, usage->shared_bytes);
    table_addf(&list->table, "%" PRIu64, usage->inodes);
    if (usage->quota_bytes)
        add_size(&list->table, usage->quota_bytes);
    else
        table_add(&list->table, "-");
    return 0;
}

int fsctl_du(struct fsctl *ctl, struct af_error *err)
{
    static const char *const titles[] = {"SANDBOX", ">PRIVATE", ">SHARED", ">INODES", ">QUOTA"};
    Agentfense__V1__DiskUsageRequest request = AGENTFENSE__V1__DISK_USAGE_REQUEST__INIT;
    struct af_id id;
    if (ctl->argc > 0) {
        if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
            return -1;
        request.sandbox_id = text_of(&id);
    }
    struct listing list;
    listing_begin(&list, ctl, AF_ARRAY_LEN(titles), titles);
    int rc = rpc_stream(ctl->client, SERVICE "DiskUsage", &request.base,
                        &agentfense__v1__disk_usage_info__descriptor, print_usage, &list, err);
    listing_end(&list, rc == 0);
    return rc;
}

// ---- gc, drop-caches

int fsctl_gc(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__CollectGarbageRequest request = AGENTFENSE__V1__COLLECT_GARBAGE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__CollectGarbageResponse *reply = NULL;
    if (rpc_unary(ctl->client, SERVICE "CollectGarbage", &request.base,
                  &agentfense__v1__collect_garbage_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->json) {
        struct json json;
        json_init(&json, ctl->out);
        json_begin_object(&json, NULL);
        json_uint(&json, "records", reply->records);
        json_uint(&json, "bytes", reply->bytes);
        json_end(&json);
        json_finish(&json);
        return 0;
    }
    char size[TOOL_SIZE_MAX];
    tool_size_text(reply->bytes, size);
    fprintf(ctl->out, "%" PRIu64 " records and %s removed\n", reply->records, size);
    return 0;
}

int fsctl_drop_caches(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__DropCachesRequest request = AGENTFENSE__V1__DROP_CACHES_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__DropCachesResponse *reply = NULL;
    struct af_id id;
    if (ctl->argc > 0) {
        if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
            return -1;
        request.sandbox_id = text_of(&id);
    }
    if (rpc_unary(ctl->client, SERVICE "DropCaches", &request.base,
                  &agentfense__v1__drop_caches_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->json) {
        struct json json;
        json_init(&json, ctl->out);
        json_begin_object(&json, NULL);
        json_uint(&json, "nodes", reply->nodes);
        json_end(&json);
        json_finish(&json);
        return 0;
    }
    fprintf(ctl->out, "%" PRIu64 " cached inodes dropped\n", reply->nodes);
    return 0;
}
