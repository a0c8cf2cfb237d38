// UploadFiles and DownloadFile: one file in, one file out.
//
// An upload owns a mux_upload from its metadata to its end; a download owns a mux_file, a fixed
// version of the content. Both are freed with the call, however it ends. Read next: mux/codebase.h.
#include "api/services/codebase_service.h"

#include "api/services/common.h"
#include "mux/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_BYTES 65536u

// ---- upload

struct upload {
    struct mux_upload *mux; // NULL after commit
    struct af_id codebase_id;
};

static int upload_begin(struct grpc_call *call, const Sandbox__V1__UploadChunk__Metadata *metadata,
                        struct af_error *err)
{
    if (grpc_call_data(call))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the metadata came twice: upload one file per call");
    struct upload *upload = calloc(1, sizeof *upload);
    if (!upload)
        return af_error_errno(err, ENOMEM, "cannot take the upload");
    if (service_check_id("cb", metadata->codebase_id, &upload->codebase_id, err) < 0 ||
        mux_upload_begin(daemon_of(call)->mux, upload->codebase_id.text, metadata->file_path.data,
                         metadata->file_path.len, metadata->total_size, &upload->mux, err) < 0) {
        free(upload);
        return -1;
    }
    grpc_call_set_data(call, upload);
    return 0;
}

static int upload_data(struct grpc_call *call, ProtobufCBinaryData data, struct af_error *err)
{
    struct upload *upload = grpc_call_data(call);
    if (!upload)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "data came before the metadata: the first message must name the file");
    return mux_upload_write(upload->mux, data.data, data.len, err);
}

void codebase_upload_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__UploadChunk *chunk = (const void *)message;
    struct af_error err;
    int rc;
    if (chunk->content_case == SANDBOX__V1__UPLOAD_CHUNK__CONTENT_METADATA)
        rc = upload_begin(call, chunk->metadata, &err);
    else if (chunk->content_case == SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA)
        rc = upload_data(call, chunk->data, &err);
    else
        rc = af_error_set(&err, AF_INVALID_ARGUMENT,
                          "a message of the upload holds neither metadata nor data");
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

void codebase_upload_end(struct grpc_call *call)
{
    struct upload *upload = grpc_call_data(call);
    struct af_error err;
    struct mux_upload_result result;
    if (!upload) {
        af_error_set(&err, AF_INVALID_ARGUMENT,
                     "the upload ended without metadata: the first message must name the file");
        grpc_call_finish_error(call, &err);
        return;
    }
    if (mux_upload_commit(AF_TAKE_PTR(upload->mux), &result, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    Sandbox__V1__UploadResult reply = SANDBOX__V1__UPLOAD_RESULT__INIT;
    reply.codebase_id = grpc_text(upload->codebase_id.text);
    reply.file_path = grpc_text(result.path);
    reply.size = (int64_t)result.size;
    reply.checksum = grpc_text(result.md5_hex);
    grpc_call_reply(call, &reply.base);
}

void codebase_upload_free(struct grpc_call *call)
{
    struct upload *upload = grpc_call_data(call);
    if (upload->mux)
        mux_upload_abort(upload->mux);
    free(upload);
}

// ---- download

struct download {
    struct mux_file *file;
    uint64_t offset;
};

void service_stream_file(struct grpc_call *call, struct mux_file *file, uint64_t *offset,
                         enum grpc_sent (*send)(struct grpc_call *call, const void *data,
                                                size_t len),
                         enum grpc_sent (*send_hole)(struct grpc_call *call, uint64_t len))
{
    uint8_t chunk[CHUNK_BYTES];
    for (;;) {
        uint64_t hole = send_hole ? mux_file_hole(file, *offset) : 0;
        if (hole >= CHUNK_BYTES) { // a smaller one is read
            *offset += hole;
            if (send_hole(call, hole) != GRPC_SENT)
                return;
            continue;
        }
        ssize_t n = mux_file_read(file, chunk, sizeof chunk, *offset);
        if (n < 0) {
            struct af_error err;
            af_error_errno(&err, (int)n, "cannot read the file");
            grpc_call_finish_error(call, &err);
            return;
        }
        if (n == 0) {
            grpc_call_finish(call, AF_OK, NULL);
            return;
        }
        *offset += (uint64_t)n;
        if (send(call, chunk, (size_t)n) != GRPC_SENT)
            return; // full: on_writable goes on; gone: nobody reads
    }
}

static enum grpc_sent send_chunk(struct grpc_call *call, const void *data, size_t len)
{
    Sandbox__V1__FileChunk chunk = SANDBOX__V1__FILE_CHUNK__INIT;
    chunk.data = service_bytes(data, len);
    return grpc_call_send(call, &chunk.base);
}

void codebase_download_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Sandbox__V1__DownloadFileRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    struct download *download = calloc(1, sizeof *download);
    if (!download) {
        af_error_errno(&err, ENOMEM, "cannot open the file");
        grpc_call_finish_error(call, &err);
        return;
    }
    if (service_check_id("cb", request->codebase_id, &id, &err) < 0 ||
        mux_codebase_open_file(daemon_of(call)->mux, id.text, request->file_path.data,
                               request->file_path.len, &download->file, &err) < 0) {
        free(download);
        grpc_call_finish_error(call, &err);
        return;
    }
    grpc_call_set_data(call, download);
}

void codebase_download_writable(struct grpc_call *call)
{
    struct download *download = grpc_call_data(call);
    if (download)
        service_stream_file(call, download->file, &download->offset, send_chunk, NULL);
}

void codebase_download_free(struct grpc_call *call)
{
    struct download *download = grpc_call_data(call);
    mux_file_close(download->file);
    free(download);
}
