// agentfense cp: files and trees between the host and a sandbox or a codebase. See run.h.
//
// One side is on the host, the other is ID:PATH. Trees leave as an archive (ExportArchive) and are
// unpacked by libarchive, which follows no link and leaves the target directory nowhere; they enter
// a codebase as an archive and a sandbox file by file, as its agent would write them.
// Owns the connection. Read next: copy_in.c for the way in, docs/TOOLS.md for the rules.
#include "tools/agentfense/copy.h"
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/common/json.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// "ID:PATH": an id has no slash before its colon.
static bool parse_place(const char *text, char id[AF_ID_TEXT_MAX], const char **ret_path)
{
    size_t len = strcspn(text, ":/");
    if (text[len] != ':' || len == 0 || len >= AF_ID_TEXT_MAX)
        return false;
    memcpy(id, text, len);
    id[len] = '\0';
    *ret_path = text + len + 1;
    while (**ret_path == '/')
        ++*ret_path;
    return true;
}

static int find_place(struct copy *copy, const char *id, struct af_error *err)
{
    if (strncmp(id, "cb_", 3) != 0)
        return rpc_find_view(copy->session.client, id, &copy->id, err);
    copy->is_codebase = true;
    if (!af_id_parse("cb", id, strlen(id), &copy->id))
        return af_error_set(err, AF_INVALID_ARGUMENT, "'%s' is no codebase's id", id);
    return 0;
}

// ---- out --------------------------------------------------------------------------------

struct source {
    struct copy *copy;
    struct af_client_call *call;
    ProtobufCMessage *reply;
    struct af_error *err;
};

static la_ssize_t read_chunk(struct archive *archive, void *arg, const void **ret)
{
    struct source *source = arg;
    rpc_free(AF_TAKE_PTR(source->reply));
    int rc = af_client_call_recv(source->call, &source->reply, source->err);
    if (rc < 0) {
        archive_set_error(archive, EIO, "the daemon ended the archive");
        return -1;
    }
    if (rc == 0)
        return 0;
    const Agentfense__V1__ArchiveChunk *chunk = (const void *)source->reply;
    *ret = chunk->data.data;
    return (la_ssize_t)chunk->data.len;
}

static int archive_failed(struct archive *archive, const char *what, struct af_error *err)
{
    const char *text = archive_error_string(archive);
    return af_error_set(err, AF_INTERNAL, "cannot %s: %s", what, text ? text : "unknown error");
}

static int unpack_data(struct archive *in, struct archive *out, struct progress *progress,
                       struct af_error *err)
{
    const void *bytes;
    size_t len;
    la_int64_t offset;
    for (;;) {
        int rc = archive_read_data_block(in, &bytes, &len, &offset);
        if (rc == ARCHIVE_EOF)
            return 0;
        if (interrupt_check(err) < 0)
            return -1;
        if (rc != ARCHIVE_OK)
            return archive_failed(in, "read the archive", err);
        if (archive_write_data_block(out, bytes, len, offset) < ARCHIVE_OK)
            return archive_failed(out, "write a file", err);
        progress_add(progress, len);
    }
}

// Set-id bits do not come from a sandbox to the host.
static int unpack_entry(struct archive *in, struct archive *out, struct archive_entry *entry,
                        struct progress *progress, struct af_error *err)
{
    archive_entry_set_perm(entry, archive_entry_perm(entry) & 01777);
    if (archive_write_header(out, entry) < ARCHIVE_OK)
        return archive_failed(out, archive_entry_pathname(entry), err);
    if (archive_entry_size(entry) > 0 && unpack_data(in, out, progress, err) < 0)
        return -1;
    return archive_write_finish_entry(out) < ARCHIVE_OK ? archive_failed(out, "write", err) : 0;
}

static int unpack(struct source *source, const char *dir, struct af_error *err)
{
    struct archive *in = archive_read_new(), *out = archive_write_disk_new();
    struct progress *progress = &source->copy->progress;
    struct archive_entry *entry;
    int rc = 0, got = ARCHIVE_EOF;
    archive_read_support_format_tar(in);
    archive_write_disk_set_options(
        out, ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                 ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS);
    if (archive_read_open(in, source, NULL, read_chunk, NULL) != ARCHIVE_OK)
        rc = archive_failed(in, "read the archive", err);
    else if ((mkdir(dir, 0777) < 0 && errno != EEXIST) || chdir(dir) < 0)
        rc = af_error_errno(err, errno, "cannot use the directory '%s'", dir);
    while (rc == 0 && (got = archive_read_next_header(in, &entry)) == ARCHIVE_OK) {
        progress_add_file(progress);
        rc = interrupt_check(err) < 0 ? -1 : unpack_entry(in, out, entry, progress, err);
    }
    if (rc == 0 && got != ARCHIVE_EOF)
        rc = archive_failed(in, "read the archive", err);
    if (archive_write_close(out) != ARCHIVE_OK && rc == 0) // times of directories
        rc = archive_failed(out, "finish", err);
    archive_read_free(in);
    archive_write_free(out);
    return rc;
}

static int copy_tree_out(struct copy *copy, const char *dir, struct af_error *err)
{
    struct af_error from_daemon = {0};
    struct source source = {.copy = copy, .err = &from_daemon};
    Agentfense__V1__ExportArchiveRequest request = AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__INIT;
    request.source_case = copy->is_codebase
                              ? AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__SOURCE_CODEBASE_ID
                              : AGENTFENSE__V1__EXPORT_ARCHIVE_REQUEST__SOURCE_SANDBOX_ID;
    request.codebase_id = af_client_text(copy->id.text); // a union with sandbox_id
    request.path = af_client_text(copy->path);
    if (af_client_call_start(copy->session.client, "/agentfense.v1.ArchiveService/ExportArchive",
                             &agentfense__v1__archive_chunk__descriptor, 0, &source.call, err) < 0)
        return -1;
    int rc = af_client_call_send(source.call, &request.base, err);
    if (rc == 0)
        rc = af_client_call_end(source.call, err);
    if (rc == 0)
        rc = unpack(&source, dir, err);
    if (rc < 0 && from_daemon.status != AF_OK)
        *err = from_daemon;
    rpc_free(source.reply);
    af_client_call_free(source.call);
    return rc;
}

struct target {
    struct copy *copy;
    int fd;
};

static int write_piece(struct target *target, ProtobufCBinaryData bytes, struct af_error *err)
{
    progress_add(&target->copy->progress, bytes.len);
    for (size_t done = 0; done < bytes.len;) {
        ssize_t wrote = write(target->fd, bytes.data + done, bytes.len - done);
        if (wrote < 0 && errno != EINTR)
            return af_error_errno(err, errno, "cannot write the file");
        if (interrupt_check(err) < 0)
            return -1;
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    return 0;
}

static int write_file_data(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    return write_piece(arg, ((const Agentfense__V1__FileData *)message)->data, err);
}

static int write_codebase_data(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    return write_piece(arg, ((const Sandbox__V1__FileChunk *)message)->data, err);
}

static int fetch_file(struct copy *copy, struct target *target, struct af_error *err)
{
    if (copy->is_codebase) {
        Sandbox__V1__DownloadFileRequest request = SANDBOX__V1__DOWNLOAD_FILE_REQUEST__INIT;
        request.codebase_id = af_client_text(copy->id.text);
        request.file_path = af_client_text(copy->path);
        return rpc_stream(copy->session.client, "/sandbox.v1.CodebaseService/DownloadFile",
                          &request.base, &sandbox__v1__file_chunk__descriptor, write_codebase_data,
                          target, err);
    }
    Agentfense__V1__FileReadRequest request = AGENTFENSE__V1__FILE_READ_REQUEST__INIT;
    request.sandbox_id = af_client_text(copy->id.text);
    request.path = af_client_text(copy->path);
    return rpc_stream(copy->session.client, "/agentfense.v1.FileService/Read", &request.base,
                      &agentfense__v1__file_data__descriptor, write_file_data, target, err);
}

// A file is complete or not there: it gets its name at the end.
static int copy_file_out(struct copy *copy, const char *to, struct af_error *err)
{
    struct stat st;
    const char *name = strrchr(copy->path, '/');
    AF_CLEANUP_FREE char *path = NULL, *partial = NULL;
    bool is_dir = stat(to, &st) == 0 && S_ISDIR(st.st_mode);
    if (asprintf(&path, is_dir ? "%s/%s" : "%s", to, name ? name + 1 : copy->path) < 0 ||
        asprintf(&partial, "%s.XXXXXX", path) < 0)
        return af_error_errno(err, ENOMEM, "cannot copy");
    struct target target = {.copy = copy, .fd = mkostemp(partial, O_CLOEXEC)};
    if (target.fd < 0)
        return af_error_errno(err, errno, "cannot make a file at '%s'", path);
    mode_t mask = umask(0);
    umask(mask);
    int rc = fetch_file(copy, &target, err);
    progress_add_file(&copy->progress);
    if (rc == 0 && (fchmod(target.fd, 0666 & ~mask) < 0 || rename(partial, path) < 0))
        rc = af_error_errno(err, errno, "cannot write '%s'", path);
    if (close(target.fd) < 0 && rc == 0)
        rc = af_error_errno(err, errno, "cannot write '%s'", path);
    if (rc < 0)
        (void)unlink(partial);
    return rc;
}

// What a path is, by the listing of what it is in: a directory, or a file.
struct look {
    const char *path;
    bool is_found, is_dir;
    uint64_t size;
};

static int look_at(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    struct look *look = arg;
    const Agentfense__V1__FileEntry *entry = (const void *)message;
    (void)err;
    if (entry->path.len != strlen(look->path) ||
        memcmp(entry->path.data, look->path, entry->path.len) != 0)
        return 0;
    look->is_found = true;
    look->is_dir = entry->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY;
    look->size = entry->size;
    return 0;
}

static int copy_out(struct copy *copy, const char *to, struct af_error *err)
{
    struct look look = {.path = copy->path, .is_dir = !*copy->path, .is_found = !*copy->path};
    const char *slash = strrchr(copy->path, '/');
    Agentfense__V1__FileListRequest request = AGENTFENSE__V1__FILE_LIST_REQUEST__INIT;
    request.tree_case = copy->is_codebase ? AGENTFENSE__V1__FILE_LIST_REQUEST__TREE_CODEBASE_ID
                                          : AGENTFENSE__V1__FILE_LIST_REQUEST__TREE_SANDBOX_ID;
    request.sandbox_id = af_client_text(copy->id.text); // a union with codebase_id
    request.path.data = (uint8_t *)copy->path;
    request.path.len = slash ? (size_t)(slash - copy->path) : 0;
    if (!look.is_dir &&
        rpc_stream(copy->session.client, "/agentfense.v1.FileService/List", &request.base,
                   &agentfense__v1__file_entry__descriptor, look_at, &look, err) < 0)
        return -1;
    if (!look.is_found)
        return af_error_set(err, AF_NOT_FOUND, "there is no '%s' in %s", copy->path, copy->id.text);
    if (!look.is_dir)
        copy->progress.total = look.size;
    return look.is_dir ? copy_tree_out(copy, to, err) : copy_file_out(copy, to, err);
}

// ---- the command

static int copy_places(struct copy *copy, const struct options *options, struct af_error *err)
{
    char id[AF_ID_TEXT_MAX];
    const char *path, *other;
    bool is_out = parse_place(options->args[0], id, &path);
    if (is_out ==
        parse_place(options->args[1], is_out ? copy->unused : id, is_out ? &other : &path))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "one of the two is ID:PATH, the other is on this machine (begin it "
                            "with ./ when its name has a colon)");
    size_t len = strlen(path);
    AF_CLEANUP_FREE char *trimmed = strdup(path);
    copy->is_into = len == 0 || path[len - 1] == '/';
    while (trimmed && len > 0 && trimmed[len - 1] == '/')
        trimmed[--len] = '\0';
    copy->path = trimmed;
    if (!trimmed)
        return af_error_errno(err, ENOMEM, "cannot copy");
    if (session_open(&copy->session, options_socket(options), err) < 0 ||
        find_place(copy, id, err) < 0)
        return -1;
    progress_start(&copy->progress, "cp");
    int rc = is_out ? copy_out(copy, options->args[1], err) : copy_in(copy, options->args[0], err);
    progress_end(&copy->progress);
    copy->path = NULL;
    return rc;
}

static void print_json(const struct copy *copy)
{
    struct json json;
    json_init(&json, stdout);
    json_begin_object(&json, NULL);
    json_uint(&json, "entries", copy->progress.files);
    json_uint(&json, "bytes", copy->progress.bytes);
    json_uint(&json, "left_out", copy->left_out);
    json_end(&json);
    json_finish(&json);
}

int command_cp(const struct options *options)
{
    struct copy copy = {.session = {.fd = -1, .keep = true}};
    struct af_error err;
    int rc = copy_places(&copy, options, &err);
    int code = rc < 0 ? complain(&err, 1) : 0;
    if (rc == 0 && options->json)
        print_json(&copy);
    if (rc == 0 && copy.left_out > 0) {
        fprintf(stderr, "agentfense: %zu left out\n", copy.left_out);
        code = 1;
    }
    copy.session.keep = true;
    session_close(&copy.session);
    return code;
}
