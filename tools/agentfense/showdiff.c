// Running diff(1) on pairs of temporary files: see showdiff.h.
#include "tools/agentfense/showdiff.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "tools/agentfense/beneath.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/plan.h"
#include "tools/agentfense/sparse.h"
#include "tools/common/escape.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIFF_BYTES_MAX (32u << 20) // of a file to be compared, and of the differences shown

struct destination {
    const char *path; // for messages
    int fd;
    off_t offset;
};

static int write_piece(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    const Agentfense__V1__ReadFileChunk *chunk = (const void *)message;
    struct destination *to = arg;
    if (interrupt_check(err) < 0)
        return -1;
    if (chunk->hole > (uint64_t)(AF_FILE_SIZE_MAX - to->offset))
        return af_error_set(err, AF_INTERNAL, "the daemon sent too much of '%s'", to->path);
    to->offset += (off_t)chunk->hole;
    int rc = sparse_write(to->fd, chunk->data.data, chunk->data.len, to->offset);
    to->offset += (off_t)chunk->data.len;
    return rc < 0 ? af_error_errno(err, rc, "cannot write the content of '%s'", to->path) : 0;
}

int view_fetch(void *arg, const char *path, int fd, struct af_error *err)
{
    const struct view_source *source = arg;
    struct destination to = {path, fd, 0};
    Agentfense__V1__ReadFileRequest request = AGENTFENSE__V1__READ_FILE_REQUEST__INIT;
    request.sandbox_id = af_client_text(source->sandbox_id);
    request.path = af_client_text(path);
    request.holes = true;
    if (rpc_stream(source->client, "/agentfense.v1.TreeService/ReadFile", &request.base,
                   &agentfense__v1__read_file_chunk__descriptor, write_piece, &to, err) < 0)
        return -1;
    if (ftruncate(fd, to.offset) < 0) // it may end in a hole
        return af_error_errno(err, errno, "cannot write the content of '%s'", path);
    return 0;
}

// What diff(1) would hold in memory, both sides.
static bool is_too_large(const struct change *change, const struct manifest_entry *base)
{
    return (change->type != CHANGE_DELETED && change->size > DIFF_BYTES_MAX) ||
           (base && base->size > DIFF_BYTES_MAX);
}

// A file without a name for one side; *fd is closed by the caller.
static int temporary(int *fd, struct af_error *err)
{
    *fd = memfd_create("agentfense-diff", MFD_CLOEXEC);
    return *fd < 0 ? af_error_errno(err, errno, "cannot make a temporary file") : 0;
}

// Reads diff's output to its end. Returns the bytes, cut at DIFF_BYTES_MAX.
static char *read_output(int fd, size_t *ret_len)
{
    size_t max = 65536, len = 0;
    char *bytes = tool_alloc(max);
    for (;;) {
        if (len == max) {
            char *more = max < DIFF_BYTES_MAX ? realloc(bytes, 2 * max) : NULL;
            if (!more)
                break;
            bytes = more;
            max *= 2;
        }
        ssize_t got = read(fd, bytes + len, max - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        len += (size_t)got;
    }
    *ret_len = len;
    return bytes;
}

static int spawn_diff(char *const argv[], int out, int old_fd, int new_fd, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return ENOMEM;
    int rc = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    if (rc == 0) // a descriptor on itself loses its close-on-exec flag
        rc = posix_spawn_file_actions_adddup2(&actions, old_fd, old_fd);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&actions, new_fd, new_fd);
    if (rc == 0)
        rc = posix_spawnp(ret, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

// diff -u of two open files, -1 standing for one that does not exist.
static int run_diff(const char *old_path, int old_fd, const char *new_path, int new_fd, FILE *file,
                    struct af_error *err)
{
    int out[2];
    char old_name[40] = "/dev/null", new_name[40] = "/dev/null";
    AF_CLEANUP_FD int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || pipe2(out, O_CLOEXEC) < 0)
        return af_error_errno(err, errno, "cannot run diff");
    if (old_fd >= 0)
        snprintf(old_name, sizeof old_name, "/proc/self/fd/%d", old_fd);
    if (new_fd >= 0)
        snprintf(new_name, sizeof new_name, "/proc/self/fd/%d", new_fd);
    AF_CLEANUP_FREE char *old_text = tool_escaped(old_path, strlen(old_path));
    AF_CLEANUP_FREE char *new_text = tool_escaped(new_path, strlen(new_path));
    AF_CLEANUP_FREE char *old_label = tool_alloc(strlen(old_text) + 3);
    AF_CLEANUP_FREE char *new_label = tool_alloc(strlen(new_text) + 3);
    sprintf(old_label, "%s%s", old_fd < 0 ? "" : "a/", old_fd < 0 ? "/dev/null" : old_text);
    sprintf(new_label, "%s%s", new_fd < 0 ? "" : "b/", new_fd < 0 ? "/dev/null" : new_text);
    char *argv[] = {"diff",    "-u", "--label", old_label, "--label",
                    new_label, "--", old_name,  new_name,  NULL};
    pid_t pid;
    int rc = spawn_diff(argv, out[1], old_fd < 0 ? null : old_fd, new_fd < 0 ? null : new_fd, &pid);
    close(out[1]);
    size_t len = 0;
    AF_CLEANUP_FREE char *bytes = rc == 0 ? read_output(out[0], &len) : NULL;
    close(out[0]);
    if (rc != 0)
        return af_error_errno(err, rc, "cannot run diff (install diffutils)");
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (isatty(fileno(file)))
        tool_print_text(file, bytes, len);
    else
        return fwrite(bytes, 1, len, file) == len
                   ? 0
                   : af_error_errno(err, errno, "cannot write the differences");
    return 0;
}

// The file as it was imported; -1 in *ret_fd with a note when it is that no more.
static void open_old(int root, const struct manifest_entry *entry, FILE *file, int *ret_fd)
{
    struct stat st;
    AF_CLEANUP_FD int fd = beneath_open(root, entry->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd >= 0 && fstat(fd, &st) == 0 && manifest_is_same(entry, &st, false)) {
        *ret_fd = af_take_fd(&fd);
        return;
    }
    AF_CLEANUP_FREE char *path = tool_escaped(entry->path, strlen(entry->path));
    fprintf(file, "%s: changed in the directory meanwhile, no diff\n", path);
    *ret_fd = -1;
}

static int show_one(struct view_source *source, int root, const struct change *change,
                    const char *old_path, const struct manifest_entry *base, FILE *file,
                    struct af_error *err)
{
    AF_CLEANUP_FD int old_fd = -1;
    AF_CLEANUP_FD int new_fd = -1;
    if (is_too_large(change, base)) {
        AF_CLEANUP_FREE char *path = tool_escaped(change->path, strlen(change->path));
        fprintf(file, "%s: more than %u MiB, no diff\n", path, DIFF_BYTES_MAX >> 20);
        return 0;
    }
    if (base) {
        open_old(root, base, file, &old_fd);
        if (old_fd < 0)
            return 0;
    }
    if (change->type != CHANGE_DELETED &&
        (temporary(&new_fd, err) < 0 || view_fetch(source, change->path, new_fd, err) < 0))
        return -1;
    return run_diff(base ? old_path : change->path, old_fd, change->path, new_fd, file, err);
}

int show_diffs(struct view_source *source, int root, const struct changes *changes,
               const struct manifest *manifest, FILE *file, struct af_error *err)
{
    for (size_t i = 0; i < changes->count; i++) {
        const struct change *change = &changes->list[i];
        const struct manifest_entry *base = NULL;
        bool is_new = change->type == CHANGE_ADDED && S_ISREG(change->mode);
        if (interrupt_check(err) < 0)
            return -1;
        if (change->type == CHANGE_DELETED || change->type == CHANGE_MODIFIED) {
            AF_CLEANUP_FREE char *old = change->type == CHANGE_DELETED
                                            ? plan_place(changes, change->path)
                                            : plan_base(changes, change->path);
            base = old ? manifest_find(manifest, old) : NULL;
        }
        // A directory that was removed is one entry in the list: what it held is not shown.
        if (!is_new && (!base || !S_ISREG(base->mode)))
            continue;
        if (show_one(source, root, change, base ? base->path : change->path, base, file, err) < 0)
            return -1;
    }
    return 0;
}
