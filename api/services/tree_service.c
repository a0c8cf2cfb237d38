// agentfense.v1.TreeService: a whole tree into a codebase, one file out of a view.
//
// An import call owns a mux_import from its first message to its end: the codebase changes when the
// stream ended well, or not at all. Read next: mux/codebase.h, mux/inspect.h.
#include "api/services/codebase_service.h"
#include "api/services/common.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

// ---- Import

struct import {
    struct mux_import *mux; // NULL after commit
};

static int import_begin(struct grpc_call *call, ProtobufCBinaryData codebase_id,
                        struct af_error *err)
{
    struct af_id id;
    if (grpc_call_data(call))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the codebase's id came twice");
    struct import *import = calloc(1, sizeof *import);
    if (!import)
        return af_error_errno(err, ENOMEM, "cannot take the tree");
    if (service_check_id("cb", codebase_id, &id, err) < 0 ||
        mux_import_begin(daemon_of(call)->mux, id.text, &import->mux, err) < 0) {
        free(import);
        return -1;
    }
    grpc_call_set_data(call, import);
    return 0;
}

static int timestamp_ns(const Google__Protobuf__Timestamp *at, const char *name, int64_t *ret,
                        struct af_error *err)
{
    if (at->nanos < 0 || at->nanos >= AF_NS_PER_SEC ||
        at->seconds > INT64_MAX / AF_NS_PER_SEC - 1 || at->seconds < INT64_MIN / AF_NS_PER_SEC)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s is out of range", name);
    *ret = at->seconds * AF_NS_PER_SEC + at->nanos;
    return 0;
}

static int import_entry(struct mux_import *import, const Agentfense__V1__ImportEntry *entry,
                        struct af_error *err)
{
    static const mode_t types[] = {
        [AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR] = S_IFREG,
        [AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY] = S_IFDIR,
        [AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK] = S_IFLNK,
        [AGENTFENSE__V1__FILE_KIND__FILE_KIND_FIFO] = S_IFIFO,
        [AGENTFENSE__V1__FILE_KIND__FILE_KIND_SOCKET] = S_IFSOCK,
    };
    if (entry->hard_link.len > 0)
        return mux_import_link(import, entry->path.data, entry->path.len, entry->hard_link.data,
                               entry->hard_link.len, err);
    if (entry->kind <= 0 || (size_t)entry->kind >= AF_ARRAY_LEN(types))
        return af_error_set(err, AF_INVALID_ARGUMENT, "an entry has no known kind");
    if (entry->mode & ~07777u)
        return af_error_set(err, AF_INVALID_ARGUMENT, "mode %o holds more than permission bits",
                            entry->mode);
    int64_t mtime_ns = af_wall_ns();
    if (entry->modified_at && timestamp_ns(entry->modified_at, "modified_at", &mtime_ns, err) < 0)
        return -1;
    return mux_import_entry(import, entry->path.data, entry->path.len,
                            types[entry->kind] | entry->mode, mtime_ns, entry->symlink_target.data,
                            entry->symlink_target.len, err);
}

static int import_expect(struct mux_import *import, const Google__Protobuf__Timestamp *at,
                         struct af_error *err)
{
    int64_t updated_ns = 0;
    if (timestamp_ns(at, "unchanged_since", &updated_ns, err) < 0)
        return -1;
    return mux_import_expect(import, updated_ns, err);
}

static void import_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ImportRequest *request = (const void *)message;
    struct import *import = grpc_call_data(call);
    struct af_error err;
    int rc;
    if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_CODEBASE_ID)
        rc = import_begin(call, request->codebase_id, &err);
    else if (!import)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT, "the first message must name the codebase");
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_ENTRY)
        rc = import_entry(import->mux, request->entry, &err);
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_DATA)
        rc = mux_import_data(import->mux, request->data.data, request->data.len, &err);
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_HOLE)
        rc = mux_import_hole(import->mux, request->hole, &err);
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_UNCHANGED_SINCE)
        rc = import_expect(import->mux, request->unchanged_since, &err);
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_REMOVE)
        rc = mux_import_remove(import->mux, request->remove.data, request->remove.len, &err);
    else if (request->content_case == AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_REPLACE)
        rc = request->replace ? mux_import_replace(import->mux, "", 0, &err) : 0;
    else
        rc = af_error_set(&err, AF_INVALID_ARGUMENT, "a message of the import is empty");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

static void import_end(struct grpc_call *call)
{
    struct import *import = grpc_call_data(call);
    struct af_error err;
    struct mux_import_totals totals;
    int rc = import ? mux_import_commit(AF_TAKE_PTR(import->mux), &totals, &err)
                    : af_error_set(&err, AF_INVALID_ARGUMENT, "the import named no codebase");
    if (rc < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    Agentfense__V1__ImportResponse reply = AGENTFENSE__V1__IMPORT_RESPONSE__INIT;
    reply.files = totals.files;
    reply.directories = totals.directories;
    reply.symlinks = totals.symlinks;
    reply.bytes = totals.bytes;
    reply.hard_links = totals.hard_links;
    Google__Protobuf__Timestamp updated;
    service_set_timestamp(&updated, totals.updated_ns);
    reply.updated_at = &updated;
    grpc_call_reply(call, &reply.base);
}

static void import_free(struct grpc_call *call)
{
    struct import *import = grpc_call_data(call);
    if (import->mux)
        mux_import_abort(import->mux);
    free(import);
}

// ---- ReadFile

struct reading {
    struct mux_file *file;
    uint64_t offset;
    bool holes; // the client knows of them
};

static enum grpc_sent send_piece(struct grpc_call *call, const void *data, size_t len)
{
    Agentfense__V1__ReadFileChunk chunk = AGENTFENSE__V1__READ_FILE_CHUNK__INIT;
    chunk.data = service_bytes(data, len);
    return grpc_call_send(call, &chunk.base);
}

static enum grpc_sent send_hole(struct grpc_call *call, uint64_t len)
{
    Agentfense__V1__ReadFileChunk chunk = AGENTFENSE__V1__READ_FILE_CHUNK__INIT;
    chunk.hole = len;
    return grpc_call_send(call, &chunk.base);
}

static void read_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ReadFileRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading) {
        af_error_errno(&err, ENOMEM, "cannot open the file");
        grpc_call_finish_error(call, &err);
        return;
    }
    if (service_check_id("sb", request->sandbox_id, &id, &err) < 0 ||
        mux_inspect_open_file(daemon_of(call)->mux, id.text, request->path.data, request->path.len,
                              &reading->file, &err) < 0) {
        free(reading);
        grpc_call_finish_error(call, &err);
        return;
    }
    reading->holes = request->holes;
    grpc_call_set_data(call, reading);
}

static void read_writable(struct grpc_call *call)
{
    struct reading *reading = grpc_call_data(call);
    if (reading)
        service_stream_file(call, reading->file, &reading->offset, send_piece,
                            reading->holes ? send_hole : NULL);
}

static void read_free(struct grpc_call *call)
{
    struct reading *reading = grpc_call_data(call);
    mux_file_close(reading->file);
    free(reading);
}

const struct grpc_method tree_methods[] = {
    {
        .path = "/agentfense.v1.TreeService/Import",
        .kind = GRPC_CLIENT_STREAM,
        .request = &agentfense__v1__import_request__descriptor,
        .on_message = import_message,
        .on_end = import_end,
        .on_free = import_free,
    },
    {
        .path = "/agentfense.v1.TreeService/ReadFile",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__read_file_request__descriptor,
        .on_message = read_message,
        .on_writable = read_writable,
        .on_free = read_free,
    },
};
const size_t tree_methods_count = AF_ARRAY_LEN(tree_methods);
