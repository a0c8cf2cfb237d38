// agentfense.v1.FileService: files of a running sandbox, as its agent would use them.
//
// Handlers run the calls of file_agent.h on their worker, but for Remove, which may take long and
// has a job's thread. What is written waits in a nameless file in the daemon's run directory until
// the stream has ended well. Read next: file_agent.h, file_list.c.
#include "api/services/file_service.h"

#include "api/jobs.h"
#include "api/services/file_agent.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (256u << 10)

// ---- entries in replies

static int send_stat(struct grpc_call *call, const struct file_agent *agent, const char *path,
                     struct af_error *err)
{
    struct stat st;
    char target[AF_SYMLINK_MAX + 1];
    if (file_agent_stat(agent, path, &st, target, err) < 0)
        return -1;
    Google__Protobuf__Timestamp modified;
    Agentfense__V1__FileEntry reply = AGENTFENSE__V1__FILE_ENTRY__INIT;
    reply.path = service_bytes(path, strlen(path));
    reply.kind = service_file_kind(st.st_mode);
    reply.size = (uint64_t)st.st_size;
    reply.mode = st.st_mode & 07777;
    service_set_timestamp(&modified, st.st_mtim.tv_sec * AF_NS_PER_SEC + st.st_mtim.tv_nsec);
    reply.modified_at = &modified;
    reply.symlink_target = service_bytes(target, strlen(target));
    grpc_call_reply(call, &reply.base);
    return 0;
}

// ---- Stat, MakeDirectory, Rename

typedef int (*one_path_fn)(const struct file_agent *agent, const char *path, mode_t mode,
                           struct af_error *err);

static int check_mode(uint32_t mode, struct af_error *err)
{
    return mode & ~0777u ? af_error_set(err, AF_INVALID_ARGUMENT,
                                        "mode %o holds more than permission bits", mode)
                         : 0;
}

// Does `fn`, if there is one, and replies with what is at the path then.
static void one_path(struct grpc_call *call, const ProtobufCMessage *message, one_path_fn fn)
{
    const Agentfense__V1__FileRequest *request = (const void *)message;
    struct af_error err;
    struct file_agent agent;
    AF_CLEANUP_FREE char *path = NULL;
    if (check_mode(request->mode, &err) < 0 || file_agent_path(request->path, &path, &err) < 0 ||
        file_agent_open(daemon_of(call), request->sandbox_id, &agent, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if ((fn && fn(&agent, path, request->mode, &err) < 0) ||
        send_stat(call, &agent, path, &err) < 0)
        grpc_call_finish_error(call, &err);
    file_agent_close(&agent);
}

static void stat_file(struct grpc_call *call, const ProtobufCMessage *message)
{
    one_path(call, message, NULL);
}

static void make_directory(struct grpc_call *call, const ProtobufCMessage *message)
{
    one_path(call, message, file_agent_mkdir);
}

static void rename_file(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileRenameRequest *request = (const void *)message;
    struct af_error err;
    struct file_agent agent;
    AF_CLEANUP_FREE char *from = NULL, *to = NULL;
    if (file_agent_path(request->from, &from, &err) < 0 ||
        file_agent_path(request->to, &to, &err) < 0 ||
        file_agent_open(daemon_of(call), request->sandbox_id, &agent, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if (file_agent_rename(&agent, from, to, &err) < 0 || send_stat(call, &agent, to, &err) < 0)
        grpc_call_finish_error(call, &err);
    file_agent_close(&agent);
}

static void link_file(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileLinkRequest *request = (const void *)message;
    const ProtobufCBinaryData target = request->target;
    struct af_error err;
    struct file_agent agent;
    AF_CLEANUP_FREE char *path = NULL, *leads_to = NULL;
    int rc = file_agent_path(request->path, &path, &err);
    if (rc == 0 && request->hard)
        rc = file_agent_path(target, &leads_to, &err);
    else if (rc == 0 && (target.len == 0 || target.len > AF_SYMLINK_MAX ||
                         memchr(target.data, '\0', target.len)))
        rc = af_error_set(&err, AF_INVALID_ARGUMENT,
                          "the target of a symbolic link has 1 to %d bytes, none of them 0",
                          AF_SYMLINK_MAX);
    else if (rc == 0)
        leads_to = grpc_text_dup(target);
    if (rc == 0)
        rc = file_agent_open(daemon_of(call), request->sandbox_id, &agent, &err);
    if (rc < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    if (file_agent_link(&agent, path, leads_to, request->hard, &err) < 0 ||
        send_stat(call, &agent, path, &err) < 0)
        grpc_call_finish_error(call, &err);
    file_agent_close(&agent);
}

// ---- Remove

struct removal {
    struct job job;
    struct grpc_call *call; // a reference
    struct file_agent agent;
    char *path;
    bool recursive;
};

static void run_removal(struct job *job, const atomic_bool *stop)
{
    struct removal *removal = (struct removal *)job;
    Agentfense__V1__FileRemoveResponse reply = AGENTFENSE__V1__FILE_REMOVE_RESPONSE__INIT;
    struct af_error err;
    int rc = atomic_load(stop) ? af_error_set(&err, AF_UNAVAILABLE, "the server is stopping")
                               : file_agent_remove(&removal->agent, removal->path,
                                                   removal->recursive, &reply.removed, &err);
    if (rc < 0)
        grpc_call_finish_error(removal->call, &err);
    else
        grpc_call_reply(removal->call, &reply.base);
    grpc_call_unref(removal->call);
    file_agent_close(&removal->agent);
    free(removal->path);
    free(removal);
}

static void remove_file(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileRemoveRequest *request = (const void *)message;
    struct af_error err;
    struct removal *removal = calloc(1, sizeof *removal);
    int rc = removal ? 0 : af_error_errno(&err, ENOMEM, "cannot remove the file");
    if (rc == 0)
        rc = file_agent_path(request->path, &removal->path, &err);
    if (rc == 0)
        rc = file_agent_open(daemon_of(call), request->sandbox_id, &removal->agent, &err);
    if (rc < 0) {
        if (removal)
            free(removal->path);
        free(removal);
        grpc_call_finish_error(call, &err);
        return;
    }
    removal->job.run = run_removal;
    removal->call = grpc_call_ref(call);
    removal->recursive = request->recursive;
    jobs_submit(daemon_of(call)->jobs, &removal->job);
}

// ---- Read

struct reading {
    int fd;
    uint64_t at, left;
};

static void read_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileReadRequest *request = (const void *)message;
    struct af_error err;
    struct file_agent agent;
    AF_CLEANUP_FREE char *path = NULL;
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory to read the file");
        return;
    }
    *reading = (struct reading){
        .fd = -1, .at = request->offset, .left = request->length ? request->length : UINT64_MAX};
    grpc_call_set_data(call, reading);
    int rc = 0;
    if (request->offset > INT64_MAX)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT, "offset is out of range");
    if (rc == 0)
        rc = file_agent_path(request->path, &path, &err);
    if (rc == 0)
        rc = file_agent_open(daemon_of(call), request->sandbox_id, &agent, &err);
    if (rc == 0) {
        rc = file_agent_read(&agent, path, &reading->fd, &err);
        file_agent_close(&agent);
    }
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

static void read_writable(struct grpc_call *call)
{
    struct reading *reading = grpc_call_data(call);
    enum grpc_sent sent = GRPC_SENT;
    uint8_t *bytes = malloc(CHUNK_BYTES);
    ssize_t n = bytes ? 1 : -1;
    while (n > 0 && sent == GRPC_SENT) {
        size_t want = reading->left < CHUNK_BYTES ? (size_t)reading->left : CHUNK_BYTES;
        n = pread(reading->fd, bytes, want, (off_t)reading->at);
        if (n <= 0)
            break;
        Agentfense__V1__FileData chunk = AGENTFENSE__V1__FILE_DATA__INIT;
        chunk.data = service_bytes(bytes, (size_t)n);
        sent = grpc_call_send(call, &chunk.base);
        reading->at += (uint64_t)n;
        reading->left -= (uint64_t)n;
    }
    struct af_error err;
    if (n < 0) {
        af_error_errno(&err, errno, "cannot read the file");
        grpc_call_finish_error(call, &err);
    } else if (n == 0) {
        grpc_call_finish(call, AF_OK, NULL);
    }
    free(bytes);
}

static void read_free(struct grpc_call *call)
{
    struct reading *reading = grpc_call_data(call);
    if (reading->fd >= 0)
        close(reading->fd);
    free(reading);
}

// ---- Write

struct writing {
    struct file_agent agent;
    char *path;
    mode_t mode;
    int spool;
    uint64_t size;
};

static int write_begin(struct grpc_call *call, const Agentfense__V1__FileRequest *target,
                       struct af_error *err)
{
    struct daemon *daemon = daemon_of(call);
    if (grpc_call_data(call))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the target came twice");
    struct writing *writing = calloc(1, sizeof *writing);
    if (!writing)
        return af_error_errno(err, ENOMEM, "cannot take the file");
    writing->agent.root = writing->spool = -1;
    writing->mode = target->mode;
    grpc_call_set_data(call, writing);
    if (check_mode(target->mode, err) < 0 ||
        file_agent_path(target->path, &writing->path, err) < 0 ||
        file_agent_open(daemon, target->sandbox_id, &writing->agent, err) < 0)
        return -1;
    writing->spool = open(daemon->run_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return writing->spool < 0 ? af_error_errno(err, errno, "cannot keep what is written") : 0;
}

static int write_data(struct writing *writing, ProtobufCBinaryData data, struct af_error *err)
{
    if (writing->size + data.len > AF_FILE_SIZE_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the file is larger than %lld bytes",
                            AF_FILE_SIZE_MAX);
    int rc = af_write_whole(writing->spool, data.data, data.len, (off_t)writing->size);
    if (rc < 0)
        return af_error_errno(err, rc, "cannot keep what is written");
    writing->size += data.len;
    return 0;
}

static void write_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileWriteRequest *request = (const void *)message;
    struct writing *writing = grpc_call_data(call);
    struct af_error err;
    int rc;
    if (request->content_case == AGENTFENSE__V1__FILE_WRITE_REQUEST__CONTENT_TARGET)
        rc = write_begin(call, request->target, &err);
    else if (!writing)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT, "the first message must name the target");
    else
        rc = write_data(writing, request->data, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

static void write_end(struct grpc_call *call)
{
    struct writing *writing = grpc_call_data(call);
    struct af_error err;
    int rc = writing ? file_agent_write(&writing->agent, writing->path, writing->mode,
                                        writing->spool, &err)
                     : af_error_set(&err, AF_INVALID_ARGUMENT, "the write named no target");
    if (rc == 0)
        rc = send_stat(call, &writing->agent, writing->path, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

static void write_free(struct grpc_call *call)
{
    struct writing *writing = grpc_call_data(call);
    if (writing->agent.root >= 0)
        file_agent_close(&writing->agent);
    if (writing->spool >= 0)
        close(writing->spool);
    free(writing->path);
    free(writing);
}

#define METHOD(name, type, handler)                                                                \
    SERVICE_UNARY("agentfense.v1.FileService", name, agentfense__v1__##type, handler)

const struct grpc_method file_methods[] = {
    METHOD("Stat", file_request, stat_file),
    METHOD("MakeDirectory", file_request, make_directory),
    METHOD("Rename", file_rename_request, rename_file),
    METHOD("Link", file_link_request, link_file),
    METHOD("Remove", file_remove_request, remove_file),
    {
        .path = "/agentfense.v1.FileService/Read",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__file_read_request__descriptor,
        .on_message = read_message,
        .on_writable = read_writable,
        .on_free = read_free,
    },
    {
        .path = "/agentfense.v1.FileService/List",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__file_list_request__descriptor,
        .on_message = file_list_message,
        .on_writable = file_list_writable,
        .on_free = file_list_free,
    },
    {
        .path = "/agentfense.v1.FileService/Write",
        .kind = GRPC_CLIENT_STREAM,
        .request = &agentfense__v1__file_write_request__descriptor,
        .on_message = write_message,
        .on_end = write_end,
        .on_free = write_free,
    },
};
const size_t file_methods_count = AF_ARRAY_LEN(file_methods);
