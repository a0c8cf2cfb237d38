// The walk and the stream of an import: see import.h. Owns the call while it runs.
#include "tools/agentfense/import.h"

#include "tools/agentfense/beneath.h"
#include "tools/agentfense/hardlinks.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/progress.h"
#include "tools/agentfense/sparse.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "tools/common/escape.h"
#include "tools/common/memory.h"
#include "tools/common/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES (256u << 10)

struct import {
    int root;
    const struct stat *exclude;
    struct manifest *manifest;
    struct af_client_call *call;
    char *piece;
    dev_t dev;
    struct hardlinks links;
    struct progress progress;
    char path[AF_PATH_MAX + 1]; // of the entry at hand
};

static int fail(const struct import *import, int errnum, const char *what, struct af_error *err)
{
    return af_error_errno(err, errnum, "cannot %s '%s'", what, import->path);
}

// Notes an entry that stays out.
static int skip(struct import *import, const struct stat *st, const char *why)
{
    AF_CLEANUP_FREE char *path = tool_escaped(import->path, strlen(import->path));
    progress_end(&import->progress);
    fprintf(stderr, "agentfense: left out: %s (%s)\n", path, why);
    manifest_add(import->manifest, import->path, st, true);
    return 0;
}

static int send_message(struct import *import, Agentfense__V1__ImportRequest *request,
                        struct af_error *err)
{
    return af_client_call_send(import->call, &request->base, err);
}

static int send_entry(struct import *import, const struct stat *st, const char *target, size_t len,
                      struct af_error *err)
{
    Agentfense__V1__ImportRequest request = AGENTFENSE__V1__IMPORT_REQUEST__INIT;
    Agentfense__V1__ImportEntry entry = AGENTFENSE__V1__IMPORT_ENTRY__INIT;
    Google__Protobuf__Timestamp mtime = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    mtime.seconds = st->st_mtim.tv_sec;
    mtime.nanos = (int32_t)st->st_mtim.tv_nsec;
    entry.path = af_client_text(import->path);
    entry.kind = S_ISREG(st->st_mode)   ? AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR
                 : S_ISDIR(st->st_mode) ? AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY
                 : S_ISLNK(st->st_mode) ? AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK
                                        : AGENTFENSE__V1__FILE_KIND__FILE_KIND_FIFO;
    entry.mode = st->st_mode & 07777;
    entry.modified_at = &mtime;
    entry.symlink_target.data = (uint8_t *)target;
    entry.symlink_target.len = len;
    request.content_case = AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_ENTRY;
    request.entry = &entry;
    manifest_add(import->manifest, import->path, st, false);
    progress_add_file(&import->progress);
    return send_message(import, &request, err);
}

static int send_hole(struct import *import, off_t len, struct af_error *err)
{
    Agentfense__V1__ImportRequest request = AGENTFENSE__V1__IMPORT_REQUEST__INIT;
    request.content_case = AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_HOLE;
    request.hole = (uint64_t)len;
    return len > 0 ? send_message(import, &request, err) : 0;
}

// The bytes of [at, end); *ret_end is where the file ended when it became shorter.
static int send_data(struct import *import, int fd, off_t at, off_t end, off_t *ret_end,
                     struct af_error *err)
{
    while (at < end) {
        size_t want = end - at < (off_t)PIECE_BYTES ? (size_t)(end - at) : PIECE_BYTES;
        ssize_t got = pread(fd, import->piece, want, at);
        if (got < 0 && errno != EINTR)
            return fail(import, errno, "read", err);
        if (got == 0)
            break;
        if (interrupt_check(err) < 0)
            return -1;
        if (got < 0)
            continue;
        Agentfense__V1__ImportRequest request = AGENTFENSE__V1__IMPORT_REQUEST__INIT;
        request.content_case = AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_DATA;
        request.data.data = (uint8_t *)import->piece;
        request.data.len = (size_t)got;
        if (send_message(import, &request, err) < 0)
            return -1;
        progress_add(&import->progress, (uint64_t)got);
        at += got;
    }
    *ret_end = at;
    return 0;
}

static int send_content(struct import *import, int fd, const struct stat *st, struct af_error *err)
{
    off_t size = st->st_size;
    bool has_holes = st->st_blocks < size / 512; // else save the two calls
    for (off_t at = 0, data = 0, end = size, sent = size; at < size; at = end) {
        if (interrupt_check(err) < 0)
            return -1;
        if (has_holes)
            sparse_next(fd, at, size, &data, &end);
        if (send_hole(import, data - at, err) < 0 ||
            send_data(import, fd, data, end, &sent, err) < 0)
            return -1;
        if (sent < end)
            return 0; // it became shorter: the manifest will tell
    }
    return 0;
}

static int import_file(struct import *import, struct af_error *err)
{
    struct stat st;
    AF_CLEANUP_FD int fd =
        beneath_open(import->root, import->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0)
        return fail(import, fd, "open", err);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return af_error_set(err, AF_ABORTED, "'%s' was replaced while it was read; try again",
                            import->path);
    if (send_entry(import, &st, NULL, 0, err) < 0)
        return -1;
    return send_content(import, fd, &st, err);
}

// One more name of a file that was sent. 1: it is not, and goes as a file of its own.
static int import_name(struct import *import, const struct stat *st, struct af_error *err)
{
    Agentfense__V1__ImportRequest request = AGENTFENSE__V1__IMPORT_REQUEST__INIT;
    Agentfense__V1__ImportEntry entry = AGENTFENSE__V1__IMPORT_ENTRY__INIT;
    const char *path = hardlinks_meet(&import->links, st, import->path);
    const struct manifest_entry *first = path ? manifest_find(import->manifest, path) : NULL;
    // What was sent is what the first name had: this one may have been written since, or the
    // inode's number be another file's.
    if (!first || !manifest_is_same(first, st, false))
        return 1;
    entry.path = af_client_text(import->path);
    entry.hard_link = af_client_text(path);
    request.content_case = AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_ENTRY;
    request.entry = &entry;
    manifest_add(import->manifest, import->path, st, false);
    progress_add_file(&import->progress);
    return send_message(import, &request, err);
}

static int import_symlink(struct import *import, int fd, const struct stat *st,
                          struct af_error *err)
{
    char target[AF_SYMLINK_MAX + 2];
    ssize_t len = readlinkat(fd, "", target, sizeof target);
    if (len < 0)
        return fail(import, errno, "read the link", err);
    if (len == 0 || len > AF_SYMLINK_MAX)
        return skip(import, st, "a link whose target is empty or too long");
    return send_entry(import, st, target, (size_t)len, err);
}

static int import_children(struct import *import, struct af_error *err);

static int import_one(struct import *import, struct af_error *err)
{
    struct stat st;
    if (interrupt_check(err) < 0)
        return -1;
    AF_CLEANUP_FD int fd = beneath_open(import->root, import->path, O_PATH, 0);
    if (fd == -ENOENT)
        return 0; // gone since the directory was listed
    if (fd == -EXDEV) {
        memset(&st, 0, sizeof st);
        return skip(import, &st, "a mount point");
    }
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail(import, fd < 0 ? fd : errno, "look at", err);
    if (import->exclude && st.st_dev == import->exclude->st_dev &&
        st.st_ino == import->exclude->st_ino) {
        manifest_add(import->manifest, import->path, &st, true);
        return 0;
    }
    if (st.st_dev != import->dev)
        return skip(import, &st, "on another file system");
    bool may_have_names = S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode); // what is always sent
    int rc = may_have_names && st.st_nlink > 1 ? import_name(import, &st, err) : 1;
    if (rc <= 0)
        return rc;
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        return import_file(import, err);
    case S_IFLNK:
        return import_symlink(import, fd, &st, err);
    case S_IFIFO:
        return send_entry(import, &st, NULL, 0, err);
    case S_IFDIR:
        if (send_entry(import, &st, NULL, 0, err) < 0)
            return -1;
        return import_children(import, err);
    default:
        return skip(import, &st, S_ISSOCK(st.st_mode) ? "a socket" : "a device");
    }
}

// What the directory at import->path holds; leaves the path as it was.
static int import_children(struct import *import, struct af_error *err)
{
    char **names = NULL;
    size_t count = 0, len = strlen(import->path);
    int rc = beneath_list(import->root, import->path, &names, &count);
    if (rc < 0)
        return fail(import, rc, "list", err);
    for (size_t i = 0; i < count; i++) {
        int wrote = rc < 0 ? 0
                           : snprintf(import->path + len, sizeof import->path - len, "%s%s",
                                      len ? "/" : "", names[i]);
        if (rc == 0 && (size_t)wrote >= sizeof import->path - len) {
            import->path[len] = '\0';
            rc = af_error_set(err, AF_INVALID_ARGUMENT,
                              "a path in '%s' has more than %d bytes: too long for a codebase",
                              import->path, AF_PATH_MAX);
        }
        if (rc == 0)
            rc = import_one(import, err);
    }
    beneath_free_names(names, count);
    import->path[len] = '\0';
    return rc;
}

static int send_all(struct import *import, const char *codebase_id, struct af_error *err)
{
    Agentfense__V1__ImportRequest request = AGENTFENSE__V1__IMPORT_REQUEST__INIT;
    request.content_case = AGENTFENSE__V1__IMPORT_REQUEST__CONTENT_CODEBASE_ID;
    request.codebase_id = af_client_text(codebase_id);
    if (send_message(import, &request, err) < 0 || import_children(import, err) < 0)
        return -1;
    ProtobufCMessage *reply = NULL, *more = NULL;
    int rc = af_client_call_recv(import->call, &reply, err);
    rpc_free(reply);
    if (rc == 0)
        return af_error_set(err, AF_INTERNAL, "the daemon ended the import without a result");
    if (rc > 0) // the status, which decides, comes after the result
        rc = af_client_call_recv(import->call, &more, err);
    rpc_free(more);
    return rc < 0 ? -1 : 0;
}

int import_directory(struct af_client *client, const char *codebase_id, int root,
                     const struct stat *exclude, struct manifest *manifest, struct af_error *err)
{
    struct stat st;
    if (fstat(root, &st) < 0)
        return af_error_errno(err, errno, "cannot look at the directory");
    struct import *import = tool_alloc(sizeof *import);
    *import =
        (struct import){.root = root, .exclude = exclude, .manifest = manifest, .dev = st.st_dev};
    import->piece = tool_alloc(PIECE_BYTES);
    int rc =
        af_client_call_start(client, "/agentfense.v1.TreeService/Import",
                             &agentfense__v1__import_response__descriptor, 0, &import->call, err);
    if (rc == 0) {
        progress_start(&import->progress, "import");
        rc = send_all(import, codebase_id, err);
        progress_end(&import->progress);
        af_client_call_free(import->call);
    }
    hardlinks_fini(&import->links);
    free(import->piece);
    free(import);
    return rc;
}
