// agentfense cp, from this machine: see copy.c.
//
// libarchive walks the tree without following links (those in the arguments excepted). Into a
// codebase everything goes in one archive, all or nothing; into a sandbox file by file, as its
// agent would write, where FIFOs are left out. Second names of a file are hard links. Owns the call
// while it runs.
#include "tools/agentfense/copy.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/hardlinks.h"
#include "tools/agentfense/interrupt.h"
#include "tools/common/escape.h"
#include "tools/common/memory.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct walk {
    struct copy *copy;
    struct hardlinks links;
    struct archive *disk;
    const char *rename; // of a single file: its name at the place
    struct af_client_call *call;
    struct archive *out; // codebase
    struct af_error from_daemon;
    char *piece; // COPY_PIECE_BYTES
};

static int leave_out(struct walk *walk, const char *path, const char *why)
{
    AF_CLEANUP_FREE char *shown = tool_escaped(path, strlen(path));
    progress_end(&walk->copy->progress);
    fprintf(stderr, "agentfense: left out: %s (%s)\n", shown, why);
    walk->copy->left_out++;
    return 0;
}

static int failed(struct archive *archive, const char *path, struct af_error *err)
{
    const char *text = archive_error_string(archive);
    return af_error_set(err, AF_FAILED_PRECONDITION, "cannot copy '%s': %s", path,
                        text ? text : "unknown error");
}

// ---- into a codebase --------------------------------------------------------------------

static la_ssize_t send_chunk(struct archive *archive, void *arg, const void *bytes, size_t len)
{
    struct walk *walk = arg;
    Agentfense__V1__ImportArchiveRequest request = AGENTFENSE__V1__IMPORT_ARCHIVE_REQUEST__INIT;
    request.content_case = AGENTFENSE__V1__IMPORT_ARCHIVE_REQUEST__CONTENT_DATA;
    request.data.data = (uint8_t *)bytes;
    request.data.len = len;
    if (af_client_call_send(walk->call, &request.base, &walk->from_daemon) < 0) {
        archive_set_error(archive, EIO, "the daemon refused the archive");
        return -1;
    }
    return (la_ssize_t)len;
}

static int pack_entry(struct walk *walk, struct archive_entry *entry, const char *path,
                      struct af_error *err)
{
    if (archive_write_header(walk->out, entry) < ARCHIVE_WARN)
        return failed(walk->out, path, err);
    for (int64_t left = archive_entry_size(entry); left > 0;) {
        la_ssize_t got = archive_read_data(walk->disk, walk->piece, COPY_PIECE_BYTES);
        if (got < 0)
            return failed(walk->disk, path, err);
        if (got == 0)
            return af_error_set(err, AF_ABORTED, "'%s' became shorter; try again", path);
        if (interrupt_check(err) < 0)
            return -1;
        size_t want = left < got ? (size_t)left : (size_t)got;
        if (archive_write_data(walk->out, walk->piece, want) < 0)
            return failed(walk->out, path, err);
        progress_add(&walk->copy->progress, want);
        left -= (int64_t)want;
    }
    return 0;
}

// ---- into a sandbox ---------------------------------------------------------------------

static int make_directory(struct walk *walk, const char *path, mode_t mode, struct af_error *err)
{
    Agentfense__V1__FileRequest request = AGENTFENSE__V1__FILE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__FileEntry *reply = NULL;
    request.sandbox_id = af_client_text(walk->copy->id.text);
    request.path = af_client_text(path);
    request.mode = mode & 0777;
    int rc = rpc_unary(walk->copy->session.client, "/agentfense.v1.FileService/MakeDirectory",
                       &request.base, &agentfense__v1__file_entry__descriptor, &reply, err);
    return rc < 0 && err->status == AF_ALREADY_EXISTS ? 0 : rc;
}

// What leads to a path. Where that fails, for what is there may not be written, the step that needs
// it fails as well and says why.
static void make_parents(struct walk *walk, const char *path)
{
    struct af_error err;
    AF_CLEANUP_FREE char *parent = tool_copy_text(path);
    for (char *slash = strchr(parent, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)make_directory(walk, parent, 0755, &err);
        *slash = '/';
    }
}

static int send_file(struct walk *walk, struct af_client_call *call, const char *path, mode_t mode,
                     struct af_error *err)
{
    Agentfense__V1__FileWriteRequest request = AGENTFENSE__V1__FILE_WRITE_REQUEST__INIT;
    Agentfense__V1__FileRequest target = AGENTFENSE__V1__FILE_REQUEST__INIT;
    target.sandbox_id = af_client_text(walk->copy->id.text);
    target.path = af_client_text(path);
    target.mode = mode & 0777;
    request.content_case = AGENTFENSE__V1__FILE_WRITE_REQUEST__CONTENT_TARGET;
    request.target = &target;
    if (af_client_call_send(call, &request.base, err) < 0)
        return -1;
    request.content_case = AGENTFENSE__V1__FILE_WRITE_REQUEST__CONTENT_DATA;
    for (;;) {
        la_ssize_t got = archive_read_data(walk->disk, walk->piece, COPY_PIECE_BYTES);
        if (got < 0)
            return failed(walk->disk, path, err);
        if (interrupt_check(err) < 0)
            return -1;
        if (got == 0)
            break;
        request.data.data = (uint8_t *)walk->piece;
        request.data.len = (size_t)got;
        progress_add(&walk->copy->progress, (uint64_t)got);
        if (af_client_call_send(call, &request.base, err) < 0)
            return -1;
    }
    ProtobufCMessage *reply = NULL;
    int rc = af_client_call_recv(call, &reply, err);
    rpc_free(AF_TAKE_PTR(reply));
    if (rc > 0) // the status comes after the reply
        rc = af_client_call_recv(call, &reply, err);
    rpc_free(reply);
    return rc < 0 ? -1 : 0;
}

static int make_link(struct walk *walk, const char *path, const char *target, bool hard,
                     struct af_error *err)
{
    Agentfense__V1__FileLinkRequest request = AGENTFENSE__V1__FILE_LINK_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__FileEntry *reply = NULL;
    request.sandbox_id = af_client_text(walk->copy->id.text);
    request.path = af_client_text(path);
    request.target = af_client_text(target);
    request.hard = hard;
    return rpc_unary(walk->copy->session.client, "/agentfense.v1.FileService/Link", &request.base,
                     &agentfense__v1__file_entry__descriptor, &reply, err);
}

// In the place of what has the name, unless that is a directory with something in it.
static int put_link(struct walk *walk, const char *path, const char *target, bool hard,
                    struct af_error *err)
{
    Agentfense__V1__FileRemoveRequest request = AGENTFENSE__V1__FILE_REMOVE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__FileRemoveResponse *reply = NULL;
    int rc = make_link(walk, path, target, hard, err);
    if (rc == 0 || err->status != AF_ALREADY_EXISTS)
        return rc;
    request.sandbox_id = af_client_text(walk->copy->id.text);
    request.path = af_client_text(path);
    rc = rpc_unary(walk->copy->session.client, "/agentfense.v1.FileService/Remove", &request.base,
                   &agentfense__v1__file_remove_response__descriptor, &reply, err);
    return rc < 0 ? -1 : make_link(walk, path, target, hard, err);
}

static int write_entry(struct walk *walk, struct archive_entry *entry, const char *path,
                       struct af_error *err)
{
    struct af_client_call *call;
    mode_t mode = archive_entry_perm(entry);
    if (archive_entry_filetype(entry) == AE_IFDIR)
        return *path ? make_directory(walk, path, mode, err) : 0;
    if (archive_entry_hardlink(entry))
        return put_link(walk, path, archive_entry_hardlink(entry), true, err);
    if (archive_entry_filetype(entry) == AE_IFLNK)
        return put_link(walk, path, archive_entry_symlink(entry), false, err);
    if (archive_entry_filetype(entry) != AE_IFREG)
        return leave_out(walk, path, "a FIFO is not copied into a sandbox");
    if (af_client_call_start(walk->copy->session.client, "/agentfense.v1.FileService/Write",
                             &agentfense__v1__file_entry__descriptor, 0, &call, err) < 0)
        return -1;
    int rc = send_file(walk, call, path, mode, err);
    af_client_call_free(call);
    return rc;
}

// ---- the walk ---------------------------------------------------------------------------

// Where an entry goes: below the place, or, of a single file, under its name. To be freed.
static char *place_of(const struct walk *walk, const char *name)
{
    char *path;
    while (name[0] == '.' && name[1] == '/')
        name += 2;
    if (walk->rename)
        name = walk->rename;
    else if (strcmp(name, ".") == 0)
        name = "";
    const char *base = walk->copy->path;
    if (asprintf(&path, "%s%s%s", base, *base && *name ? "/" : "", name) < 0)
        path = tool_copy_text("");
    return path;
}

// A file's second name becomes a hard link to the place of the first.
static void note_links(struct walk *walk, struct archive_entry *entry, const char *path)
{
    const struct stat *st = archive_entry_stat(entry);
    if (!S_ISREG(st->st_mode) || st->st_nlink < 2)
        return;
    const char *first = hardlinks_meet(&walk->links, st, path);
    if (first) {
        archive_entry_copy_hardlink(entry, first);
        archive_entry_unset_size(entry);
    }
}

static int copy_entry(struct walk *walk, struct archive_entry *entry, struct af_error *err)
{
    AF_CLEANUP_FREE char *path = place_of(walk, archive_entry_pathname(entry));
    mode_t type = archive_entry_filetype(entry);
    if (archive_read_disk_can_descend(walk->disk))
        archive_read_disk_descend(walk->disk);
    if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK && type != AE_IFIFO)
        return leave_out(walk, path, "a socket or a device");
    note_links(walk, entry, path);
    if (!walk->copy->is_codebase)
        return write_entry(walk, entry, path, err);
    if (!*path)
        return 0; // the root is there
    archive_entry_copy_pathname(entry, path);
    archive_entry_xattr_clear(entry);
    archive_entry_acl_clear(entry);
    return pack_entry(walk, entry, path, err);
}

static int walk_all(struct walk *walk, const char *start, struct af_error *err)
{
    struct archive_entry *entry = archive_entry_new();
    int rc = 0, got = ARCHIVE_OK;
    archive_read_disk_set_symlink_physical(walk->disk);
    archive_read_disk_set_behavior(walk->disk, ARCHIVE_READDISK_NO_XATTR | ARCHIVE_READDISK_NO_ACL |
                                                   ARCHIVE_READDISK_NO_FFLAGS);
    if (archive_read_disk_open(walk->disk, start) != ARCHIVE_OK)
        rc = failed(walk->disk, start, err);
    while (rc == 0 && (got = archive_read_next_header2(walk->disk, entry)) == ARCHIVE_OK) {
        progress_add_file(&walk->copy->progress);
        rc = interrupt_check(err) < 0 ? -1 : copy_entry(walk, entry, err);
        archive_entry_clear(entry);
    }
    if (rc == 0 && got != ARCHIVE_EOF)
        rc = failed(walk->disk, start, err);
    archive_entry_free(entry);
    return rc;
}

static int pack_all(struct walk *walk, const char *start, struct af_error *err)
{
    Agentfense__V1__ImportArchiveRequest request = AGENTFENSE__V1__IMPORT_ARCHIVE_REQUEST__INIT;
    Agentfense__V1__ImportTarget target = AGENTFENSE__V1__IMPORT_TARGET__INIT;
    target.codebase_id = af_client_text(walk->copy->id.text);
    target.merge = true;
    request.content_case = AGENTFENSE__V1__IMPORT_ARCHIVE_REQUEST__CONTENT_TARGET;
    request.target = &target;
    if (af_client_call_send(walk->call, &request.base, err) < 0)
        return -1;
    walk->out = archive_write_new();
    archive_write_set_format_pax_restricted(walk->out);
    archive_write_set_bytes_per_block(walk->out, COPY_PIECE_BYTES);
    archive_write_set_bytes_in_last_block(walk->out, 1);
    int rc = archive_write_open(walk->out, walk, NULL, send_chunk, NULL) == ARCHIVE_OK
                 ? walk_all(walk, start, err)
                 : failed(walk->out, start, err);
    if (rc < 0)
        archive_write_fail(walk->out); // an archive that is cut is refused
    else if (archive_write_close(walk->out) != ARCHIVE_OK)
        rc = failed(walk->out, start, err);
    archive_write_free(walk->out);
    if (rc < 0)
        return -1;
    ProtobufCMessage *reply = NULL;
    rc = af_client_call_recv(walk->call, &reply, err);
    rpc_free(AF_TAKE_PTR(reply));
    if (rc > 0)
        rc = af_client_call_recv(walk->call, &reply, err);
    rpc_free(reply);
    return rc < 0 ? -1 : 0;
}

static int into_codebase(struct walk *walk, const char *start, struct af_error *err)
{
    if (af_client_call_start(
            walk->copy->session.client, "/agentfense.v1.ArchiveService/ImportArchive",
            &agentfense__v1__import_archive_response__descriptor, 0, &walk->call, err) < 0)
        return -1;
    int rc = pack_all(walk, start, err);
    if (rc < 0 && walk->from_daemon.status != AF_OK)
        *err = walk->from_daemon;
    af_client_call_free(walk->call);
    return rc;
}

int copy_in(struct copy *copy, const char *from, struct af_error *err)
{
    struct stat st;
    struct walk walk = {.copy = copy};
    if (stat(from, &st) < 0)
        return af_error_errno(err, errno, "cannot copy '%s'", from);
    AF_CLEANUP_FREE char *real = realpath(from, NULL);
    if (!real)
        return af_error_errno(err, errno, "cannot copy '%s'", from);
    bool is_dir = S_ISDIR(st.st_mode);
    if (!is_dir)
        copy->progress.total = (uint64_t)st.st_size;
    const char *name = strrchr(from, '/');
    if (!is_dir)
        walk.rename = copy->is_into ? (name ? name + 1 : from) : "";
    if (is_dir && chdir(real) < 0)
        return af_error_errno(err, errno, "cannot use the directory '%s'", from);
    walk.piece = tool_alloc(COPY_PIECE_BYTES);
    walk.disk = archive_read_disk_new();
    const char *start = is_dir ? "." : real;
    AF_CLEANUP_FREE char *first = place_of(&walk, start);
    if (!copy->is_codebase)
        make_parents(&walk, first);
    int rc = copy->is_codebase ? into_codebase(&walk, start, err) : walk_all(&walk, start, err);
    archive_read_free(walk.disk);
    hardlinks_fini(&walk.links);
    free(walk.piece);
    return rc;
}
