// agentfense.v1.ArchiveService: archives and directories into codebases, trees out as archives.
//
// libarchive pulls, so an import's bytes go through a feed to a thread that reads the archive; the
// thread ends the call. An export is pushed: each time there is room, some steps of the writer.
// An import's data: from its target to its on_free. Read next: archive.h, archive_turns.h, feed.h.
#include "api/services/archive.h"
#include "api/services/archive_turns.h"
#include "api/services/ignore.h"
#include "api/services/common.h"
#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "proto/agentfense_file.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

// ---- ImportArchive

struct archive_import {
    struct archive_turn turn;
    struct feed feed;
    struct archive_target target;
};

static void send_totals(struct grpc_call *call, const struct mux_import_totals *totals)
{
    Agentfense__V1__ImportArchiveResponse reply = AGENTFENSE__V1__IMPORT_ARCHIVE_RESPONSE__INIT;
    reply.files = totals->files;
    reply.directories = totals->directories;
    reply.symlinks = totals->symlinks;
    reply.hard_links = totals->hard_links;
    reply.bytes = totals->bytes;
    reply.reused_files = totals->reused_files;
    grpc_call_reply(call, &reply.base);
}

static void run_import(struct grpc_call *call)
{
    struct archive_import *import = grpc_call_data(call);
    struct mux_import_totals totals;
    struct af_error err;
    feed_resume(&import->feed);
    int rc = archive_read(&import->feed, &import->target, &err);
    // Whatever follows the archive's end has to have come before the call may end well.
    const void *ignored;
    ssize_t more = 1;
    while (rc == 0 && (more = feed_read(&import->feed, &ignored)) > 0)
        continue;
    if (rc == 0 && more < 0)
        rc = archive_no_more((int)-more, &err);
    if (rc == 0)
        rc = mux_import_commit(AF_TAKE_PTR(import->target.import), &totals, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_totals(call, &totals);
}

static int set_up(struct mux *mux, const Agentfense__V1__ImportTarget *target,
                  struct archive_import *import, struct af_error *err)
{
    struct af_id id;
    if (service_check_id("cb", target->codebase_id, &id, err) < 0)
        return -1;
    if (target->path.len > AF_PATH_MAX ||
        memchr(target->path.data ? target->path.data : (void *)"", '\0', target->path.len))
        return af_error_set(err, AF_INVALID_ARGUMENT, "path is no path of a codebase");
    import->target.prefix = grpc_text_dup(target->path);
    if (mux_import_begin(mux, id.text, &import->target.import, err) < 0)
        return -1;
    for (size_t i = 0; i < target->n_remove; i++)
        if (mux_import_remove(import->target.import, target->remove[i].data, target->remove[i].len,
                              err) < 0)
            return -1;
    return target->merge ? 0
                         : mux_import_replace(import->target.import, target->path.data,
                                              target->path.len, err);
}

static int import_begin(struct grpc_call *call, const Agentfense__V1__ImportTarget *target,
                        struct af_error *err)
{
    if (grpc_call_data(call))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the target came twice");
    struct archive_import *import = calloc(1, sizeof *import);
    if (!import)
        return af_error_errno(err, ENOMEM, "cannot take the archive");
    struct archives *archives = daemon_of(call)->archives;
    feed_init(&import->feed, call, archives_waiting(archives));
    grpc_call_set_data(call, import);
    if (set_up(daemon_of(call)->mux, target, import, err) < 0)
        return -1;
    feed_hold(&import->feed); // until its turn comes: what waits takes no memory
    return archive_turn_begin(archives, &import->turn, call, run_import, err) < 0 ? -1 : 0;
}

// Nobody waits for its end any more.
static void import_give_up(struct grpc_call *call, struct archive_import *import)
{
    archive_turn_leave(daemon_of(call)->archives, &import->turn);
    feed_cancel(&import->feed);
}

static void import_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ImportArchiveRequest *request = (const void *)message;
    struct archive_import *import = grpc_call_data(call);
    struct af_error err;
    int rc = 0;
    if (request->content_case == AGENTFENSE__V1__IMPORT_ARCHIVE_REQUEST__CONTENT_TARGET)
        rc = import_begin(call, request->target, &err);
    else if (!import)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT, "the first message must name the target");
    else if (!feed_put(&import->feed, request->data.data, request->data.len))
        rc = af_error_errno(&err, ENOMEM, "cannot take the archive");
    if (rc == 0)
        return;
    grpc_call_ref(call); // whose data the feed is
    grpc_call_finish_error(call, &err);
    if (import) // only now: the thread that it ends would say why it ends
        import_give_up(call, import);
    grpc_call_unref(call);
}

static void import_end(struct grpc_call *call)
{
    struct archive_import *import = grpc_call_data(call);
    if (import)
        feed_end(&import->feed);
    else
        grpc_call_finish(call, AF_INVALID_ARGUMENT, "the import named no target");
}

static void import_cancel(struct grpc_call *call)
{
    struct archive_import *import = grpc_call_data(call);
    if (import)
        import_give_up(call, import);
}

static void import_free(struct grpc_call *call)
{
    struct archive_import *import = grpc_call_data(call);
    if (import->target.import)
        mux_import_abort(import->target.import);
    free(import->target.prefix);
    feed_fini(&import->feed);
    free(import);
}

// ---- ImportDirectory

struct directory_import {
    struct archive_turn turn;
    struct mux_import *import;
    char *path;
    struct ignore_list *exclude;
    bool honour_ignore_files;
};

static bool is_cancelled(void *call)
{
    return grpc_call_is_over(call);
}

static void run_directory(struct grpc_call *call)
{
    struct directory_import *import = grpc_call_data(call);
    const struct grpc_peer *peer = grpc_call_peer(call);
    struct mux_import_totals totals;
    struct af_error err;
    struct statx mount;
    struct archive_directory directory = {.path = import->path,
                                          .uid = peer->uid,
                                          .gid = peer->gid,
                                          .exclude = import->exclude,
                                          .honour_ignore_files = import->honour_ignore_files,
                                          .cancelled = is_cancelled,
                                          .arg = call};
    int rc = 0;
    if (statx(AT_FDCWD, daemon_of(call)->config.mount, AT_STATX_DONT_SYNC, STATX_INO, &mount) < 0)
        rc = af_error_errno(&err, errno, "cannot tell the directory from the daemon's own mount");
    directory.refused_dev = makedev(mount.stx_dev_major, mount.stx_dev_minor);
    if (rc == 0)
        rc = archive_read_directory(&directory, import->import, &err);
    if (rc == 0)
        rc = mux_import_commit(AF_TAKE_PTR(import->import), &totals, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        send_totals(call, &totals);
}

static int directory_set_up(struct grpc_call *call,
                            const Agentfense__V1__ImportDirectoryRequest *request,
                            struct directory_import *import, struct af_error *err)
{
    struct af_id id;
    const ProtobufCBinaryData path = request->path;
    if (!grpc_call_peer(call)->local)
        return af_error_set(err, AF_PERMISSION_DENIED,
                            "directories are read with the rights of who calls, which only the "
                            "unix socket tells: send an archive instead");
    if (path.len == 0 || path.data[0] != '/' || path.len >= PATH_MAX ||
        memchr(path.data, '\0', path.len))
        return af_error_set(err, AF_INVALID_ARGUMENT, "path must be an absolute path of this host");
    if (service_check_id("cb", request->codebase_id, &id, err) < 0)
        return -1;
    import->path = grpc_text_dup(path);
    import->honour_ignore_files = request->honour_ignore_files;
    import->exclude = ignore_new();
    for (size_t i = 0; import->exclude && i < request->n_exclude; i++)
        if (!ignore_add(import->exclude, (const char *)request->exclude[i].data,
                        request->exclude[i].len))
            return af_error_errno(err, ENOMEM, "cannot take the patterns");
    if (!import->exclude)
        return af_error_errno(err, ENOMEM, "cannot take the patterns");
    if (mux_import_begin(daemon_of(call)->mux, id.text, &import->import, err) < 0)
        return -1;
    return request->merge ? 0 : mux_import_replace(import->import, "", 0, err);
}

static void directory_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    struct af_error err;
    struct directory_import *import = calloc(1, sizeof *import);
    if (!import) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the import");
        return;
    }
    grpc_call_set_data(call, import);
    if (directory_set_up(call, (const void *)message, import, &err) < 0 ||
        archive_turn_begin(daemon_of(call)->archives, &import->turn, call, run_directory, &err) < 0)
        grpc_call_finish_error(call, &err);
}

// One that is at work finds out by itself.
static void directory_cancel(struct grpc_call *call)
{
    struct directory_import *import = grpc_call_data(call);
    if (import)
        archive_turn_leave(daemon_of(call)->archives, &import->turn);
}

static void directory_free(struct grpc_call *call)
{
    struct directory_import *import = grpc_call_data(call);
    if (import->import)
        mux_import_abort(import->import);
    ignore_free(import->exclude);
    free(import->path);
    free(import);
}

// ---- ExportArchive

struct archive_export {
    struct grpc_call *call; // borrowed: its own data
    struct archive_writer *writer;
    enum grpc_sent sent; // by the last chunk
};

static void send_chunk(void *arg, const void *bytes, size_t len)
{
    struct archive_export *export = arg;
    Agentfense__V1__ArchiveChunk chunk = AGENTFENSE__V1__ARCHIVE_CHUNK__INIT;
    chunk.data = service_bytes(bytes, len);
    export->sent = grpc_call_send(export->call, &chunk.base);
}

static int export_source(const Agentfense__V1__ExportArchiveRequest *request,
                         struct archive_source *ret, struct af_id *id, struct af_error *err)
{
    *ret = (struct archive_source){.path = request->path.data ? (void *)request->path.data : "",
                                   .path_len = request->path.len,
                                   .zstd = request->zstd,
                                   .all = request->all};
    switch (request->source_case) {
    case AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__SOURCE_CODEBASE_ID:
        ret->codebase_id = id->text;
        return service_check_id("cb", request->codebase_id, id, err);
    case AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__SOURCE_SANDBOX_ID:
        ret->sandbox_id = id->text;
        return service_check_id("sb", request->sandbox_id, id, err);
    case AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__SOURCE_DELTA_OF:
        ret->sandbox_id = id->text;
        ret->delta = ret->all = true;
        if (request->path.len > 0)
            return af_error_set(err, AF_INVALID_ARGUMENT, "a delta is exported as a whole");
        return service_check_id("sb", request->delta_of, id, err);
    default:
        return af_error_set(err, AF_INVALID_ARGUMENT, "the export names no source");
    }
}

static void export_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    struct af_error err;
    struct af_id id;
    struct archive_source source;
    struct archive_export *export = calloc(1, sizeof *export);
    if (!export) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the archive");
        return;
    }
    export->call = call;
    grpc_call_set_data(call, export);
    if (export_source((const void *)message, &source, &id, &err) < 0 ||
        archive_writer_new(daemon_of(call)->mux, &source, send_chunk, export, &export->writer,
                           &err) < 0)
        grpc_call_finish_error(call, &err);
}

static void export_writable(struct grpc_call *call)
{
    struct archive_export *export = grpc_call_data(call);
    struct af_error err;
    int rc = 1;
    export->sent = GRPC_SENT;
    while (export->writer && rc > 0 && export->sent == GRPC_SENT)
        rc = archive_writer_step(export->writer, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else if (rc == 0)
        grpc_call_finish(call, AF_OK, NULL);
}

static void export_free(struct grpc_call *call)
{
    struct archive_export *export = grpc_call_data(call);
    archive_writer_free(export->writer);
    free(export);
}

const struct grpc_method archive_methods[] = {
    {
        .path = "/agentfense.v1.ArchiveService/ImportArchive",
        .kind = GRPC_CLIENT_STREAM,
        .request = &agentfense__v1__import_archive_request__descriptor,
        .on_message = import_message,
        .on_end = import_end,
        .on_cancel = import_cancel,
        .on_free = import_free,
    },
    {
        .path = "/agentfense.v1.ArchiveService/ImportDirectory",
        .kind = GRPC_UNARY,
        .request = &agentfense__v1__import_directory_request__descriptor,
        .on_message = directory_message,
        .on_cancel = directory_cancel,
        .on_free = directory_free,
    },
    {
        .path = "/agentfense.v1.ArchiveService/ExportArchive",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__export_archive_request__descriptor,
        .on_message = export_message,
        .on_writable = export_writable,
        .on_free = export_free,
    },
};
const size_t archive_methods_count = AF_ARRAY_LEN(archive_methods);
