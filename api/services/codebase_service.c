// sandbox.v1.CodebaseService, but for its two streams (codebase_stream.c).
//
// Handlers run on workers and hold nothing between calls. Every check that a client can fail comes
// before the first change. Read next: mux/codebase.h.
#include "api/services/codebase_service.h"

#include "api/services/common.h"
#include "mux/base/cleanup.h"
#include "mux/codebase.h"
#include "mux/store/store.h"

#include <errno.h>
#include <string.h>

// A Codebase message with what it refers to.
struct codebase_reply {
    Sandbox__V1__Codebase message;
    Google__Protobuf__Timestamp created, updated;
    struct store_codebase record;
};

static void fill_codebase(struct codebase_reply *reply)
{
    struct store_codebase *record = &reply->record;
    sandbox__v1__codebase__init(&reply->message);
    service_set_timestamp(&reply->created, record->created_ns);
    service_set_timestamp(&reply->updated, record->updated_ns);
    reply->message.id = grpc_text(record->id.text);
    reply->message.name = grpc_text(record->name);
    reply->message.owner_id = grpc_text(record->owner);
    reply->message.size = (int64_t)record->size_bytes;
    reply->message.file_count = record->files > INT32_MAX ? INT32_MAX : (int32_t)record->files;
    reply->message.created_at = &reply->created;
    reply->message.updated_at = &reply->updated;
}

static void create_codebase(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__CreateCodebaseRequest *request = (const void *)message;
    struct af_error err;
    struct codebase_reply reply;
    if (service_check_text("name", request->name, AF_NAME_TEXT_MAX, true, &err) < 0 ||
        service_check_text("owner_id", request->owner_id, AF_NAME_TEXT_MAX, false, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    AF_CLEANUP_FREE char *name = grpc_text_dup(request->name);
    AF_CLEANUP_FREE char *owner = grpc_text_dup(request->owner_id);
    if (mux_codebase_create(daemon_of(call)->mux, name, owner, &reply.record, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    fill_codebase(&reply);
    grpc_call_reply(call, &reply.message.base);
}

static void get_codebase(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__GetCodebaseRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct codebase_reply reply;
    if (service_check_id("cb", request->codebase_id, &id, &err) < 0 ||
        mux_codebase_get(daemon_of(call)->mux, id.text, &reply.record, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    fill_codebase(&reply);
    grpc_call_reply(call, &reply.message.base);
}

static void delete_codebase(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__DeleteCodebaseRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    if (service_check_id("cb", request->codebase_id, &id, &err) < 0 ||
        mux_codebase_delete(daemon_of(call)->mux, id.text, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    Sandbox__V1__Empty reply = SANDBOX__V1__EMPTY__INIT;
    grpc_call_reply(call, &reply.base);
}

// ---- lists

static int collect_codebase(void *arg, const struct store_codebase *record)
{
    struct codebase_reply *item = malloc(sizeof *item);
    if (item) {
        item->record = *record;
        fill_codebase(item);
    }
    return service_list_add(arg, item, free);
}

static void send_codebase_list(struct grpc_call *call, const struct service_list *list)
{
    struct af_error err;
    Sandbox__V1__ListCodebasesResponse reply = SANDBOX__V1__LIST_CODEBASES_RESPONSE__INIT;
    AF_CLEANUP_FREE Sandbox__V1__Codebase **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = &((struct codebase_reply *)list->items[i])->message;
    reply.codebases = pointers;
    reply.n_codebases = list->count;
    if (list->more)
        reply.next_page_token = pointers[list->count - 1]->id;
    if (service_check_reply(&reply.base, "ask for pages with page_size", &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply.base);
}

static void list_codebases(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ListCodebasesRequest *request = (const void *)message;
    struct af_error err;
    struct af_id after;
    if (service_check_page("cb", request->page_size, request->page_token, &after, &err) < 0 ||
        service_check_text("owner_id", request->owner_id, AF_NAME_TEXT_MAX, false, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    AF_CLEANUP_FREE char *owner = grpc_text_dup(request->owner_id);
    struct service_list list = {.page_size = (size_t)request->page_size};
    int rc = mux_codebase_list(daemon_of(call)->mux, *owner ? owner : NULL,
                               *after.text ? after.text : NULL, collect_codebase, &list, &err);
    if (rc == -ENOMEM)
        af_error_errno(&err, rc, "cannot list codebases");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_codebase_list(call, &list);
    service_list_fini(&list, free);
}

// ---- files of a codebase

// A FileInfo message with what it refers to.
struct file_item {
    Sandbox__V1__FileInfo message;
    Google__Protobuf__Timestamp modified;
    char path[];
};

#define LIST_FEWER                                                                                 \
    "list a folder at a time (recursive = false), or call agentfense.v1.FileService/List, which "  \
    "streams any number"

struct file_list {
    struct service_list items;
    size_t bytes; // a lower bound of the reply's size
};

static int collect_file(void *arg, const struct mux_file_info *info)
{
    struct file_list *list = arg;
    size_t path_len = strlen(info->path);
    list->bytes += path_len;
    if (list->bytes > AF_MESSAGE_MAX)
        return -E2BIG;
    struct file_item *item = malloc(sizeof *item + path_len + 1);
    if (!item)
        return -ENOMEM;
    memcpy(item->path, info->path, path_len + 1);
    const char *slash = strrchr(item->path, '/');
    sandbox__v1__file_info__init(&item->message);
    item->message.path = grpc_text(item->path);
    item->message.name = grpc_text(slash ? slash + 1 : item->path);
    item->message.is_dir = info->is_dir;
    item->message.size = (int64_t)info->size;
    service_set_timestamp(&item->modified, info->mtime_ns);
    item->message.modified_at = &item->modified;
    return service_list_add(&list->items, item, free);
}

static void send_file_list(struct grpc_call *call, const struct service_list *list)
{
    struct af_error err;
    Sandbox__V1__ListFilesResponse reply = SANDBOX__V1__LIST_FILES_RESPONSE__INIT;
    AF_CLEANUP_FREE Sandbox__V1__FileInfo **pointers = calloc(list->count + 1, sizeof *pointers);
    if (!pointers) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    for (size_t i = 0; i < list->count; i++)
        pointers[i] = &((struct file_item *)list->items[i])->message;
    reply.files = pointers;
    reply.n_files = list->count;
    if (service_check_reply(&reply.base, LIST_FEWER, &err) < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply.base);
}

static void list_files(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__ListFilesRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct file_list list = {0};
    if (service_check_id("cb", request->codebase_id, &id, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    int rc =
        mux_codebase_list_files(daemon_of(call)->mux, id.text, request->path.data,
                                request->path.len, request->recursive, collect_file, &list, &err);
    if (rc == -E2BIG)
        af_error_set(&err, AF_RESOURCE_EXHAUSTED, "too many files for one reply: " LIST_FEWER);
    else if (rc == -ENOMEM)
        af_error_errno(&err, rc, "cannot list files");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_file_list(call, &list.items);
    service_list_fini(&list.items, free);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("sandbox.v1.CodebaseService", name, sandbox__v1__##type, handler)

const struct grpc_method codebase_methods[] = {
    METHOD("CreateCodebase", create_codebase_request, create_codebase),
    METHOD("GetCodebase", get_codebase_request, get_codebase),
    METHOD("ListCodebases", list_codebases_request, list_codebases),
    METHOD("DeleteCodebase", delete_codebase_request, delete_codebase),
    METHOD("ListFiles", list_files_request, list_files),
    {
        .path = "/sandbox.v1.CodebaseService/UploadFiles",
        .kind = GRPC_CLIENT_STREAM,
        .request = &sandbox__v1__upload_chunk__descriptor,
        .on_message = codebase_upload_message,
        .on_end = codebase_upload_end,
        .on_free = codebase_upload_free,
    },
    {
        .path = "/sandbox.v1.CodebaseService/DownloadFile",
        .kind = GRPC_SERVER_STREAM,
        .request = &sandbox__v1__download_file_request__descriptor,
        .on_message = codebase_download_message,
        .on_writable = codebase_download_writable,
        .on_free = codebase_download_free,
    },
};
const size_t codebase_methods_count = AF_ARRAY_LEN(codebase_methods);
