// The list of changes: see changes.h.
#include "tools/agentfense/changes.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "mux/base/text.h"
#include "tools/common/escape.h"
#include "tools/common/memory.h"
#include "tools/common/rpc.h"
#include "tools/common/words.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const mode_t kind_types[] = {
    [AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR] = S_IFREG,
    [AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY] = S_IFDIR,
    [AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK] = S_IFLNK,
    [AGENTFENSE__V1__FILE_KIND__FILE_KIND_FIFO] = S_IFIFO,
    [AGENTFENSE__V1__FILE_KIND__FILE_KIND_SOCKET] = S_IFSOCK,
};

static int malformed(struct af_error *err, const char *what)
{
    return af_error_set(err, AF_INTERNAL, "the daemon listed a change with %s", what);
}

// A path in normal form, copied; NULL when it is not.
static char *copy_path(ProtobufCBinaryData path)
{
    size_t len;
    if (path.len > AF_PATH_MAX)
        return NULL;
    char *copy = tool_alloc(path.len + 1);
    if (af_path_normalize(path.data, path.len, false, copy, &len) == 0 && len == path.len)
        return copy;
    free(copy);
    return NULL;
}

static int check_entry(const Agentfense__V1__DiffEntry *entry, struct af_error *err)
{
    bool is_deleted = (int)entry->change == CHANGE_DELETED;
    if ((int)entry->change < CHANGE_ADDED || (int)entry->change > CHANGE_RENAMED)
        return malformed(err, "an unknown kind of change");
    if (entry->mode & ~07777u)
        return malformed(err, "a malformed mode");
    if ((int)entry->kind < 0 || (size_t)entry->kind >= AF_ARRAY_LEN(kind_types) ||
        (!is_deleted && entry->kind == 0))
        return malformed(err, "an unknown kind of file");
    ProtobufCBinaryData target = entry->symlink_target;
    if (kind_types[entry->kind] == S_IFLNK && !is_deleted &&
        (target.len == 0 || target.len > AF_SYMLINK_MAX || memchr(target.data, 0, target.len)))
        return malformed(err, "a malformed link target");
    const Google__Protobuf__Timestamp *at = entry->modified_at;
    if (at &&
        (at->nanos < 0 || at->nanos >= AF_NS_PER_SEC || at->seconds >= INT64_MAX / AF_NS_PER_SEC ||
         at->seconds <= INT64_MIN / AF_NS_PER_SEC))
        return malformed(err, "a time out of range");
    return 0;
}

int changes_add(struct changes *changes, const Agentfense__V1__DiffEntry *entry,
                struct af_error *err)
{
    if (check_entry(entry, err) < 0)
        return -1;
    if (entry->path.len > AF_PATH_MAX || entry->old_path.len > AF_PATH_MAX) {
        changes->too_long++;
        return 0;
    }
    bool is_rename = (int)entry->change == CHANGE_RENAMED;
    AF_CLEANUP_FREE char *path = copy_path(entry->path);
    AF_CLEANUP_FREE char *old_path = is_rename ? copy_path(entry->old_path) : NULL;
    if (!path || (is_rename && (!old_path || !*old_path || !*path)))
        return malformed(err, "a malformed path");
    if (!*path && (int)entry->change != CHANGE_METADATA)
        return malformed(err, "the root as its path");
    struct change change = {
        .type = (enum change_type)entry->change,
        .mode = entry->mode | kind_types[entry->kind],
        .size = entry->size,
        .ino = entry->ino,
    };
    if (S_ISLNK(change.mode) && change.type != CHANGE_DELETED)
        change.target = tool_copy(entry->symlink_target.data, entry->symlink_target.len);
    if (entry->modified_at) {
        change.has_mtime = true;
        change.mtime_ns = entry->modified_at->seconds * AF_NS_PER_SEC + entry->modified_at->nanos;
    }
    change.path = AF_TAKE_PTR(path);
    change.old_path = AF_TAKE_PTR(old_path);
    changes->list = tool_grow(changes->list, changes->count, &changes->max, sizeof *changes->list);
    changes->list[changes->count++] = change;
    return 0;
}

// At one path: what was there goes, what is there comes, then its content and attributes.
static int rank(enum change_type type)
{
    return type == CHANGE_DELETED    ? 0
           : type == CHANGE_RENAMED  ? 1
           : type == CHANGE_ADDED    ? 2
           : type == CHANGE_MODIFIED ? 3
                                     : 4;
}

static int compare_changes(const void *a, const void *b)
{
    const struct change *left = a, *right = b;
    int order = manifest_compare_paths(left->path, right->path);
    return order ? order : rank(left->type) - rank(right->type);
}

void changes_sort(struct changes *changes)
{
    if (changes->count > 0)
        qsort(changes->list, changes->count, sizeof *changes->list, compare_changes);
}

void changes_fini(struct changes *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        free(changes->list[i].path);
        free(changes->list[i].old_path);
        free(changes->list[i].target);
    }
    free(changes->list);
    memset(changes, 0, sizeof *changes);
}

const struct change *changes_find(const struct changes *changes, const char *path, unsigned types)
{
    size_t low = 0, high = changes->count;
    while (low < high) { // the first that is not before path
        size_t middle = low + (high - low) / 2;
        if (manifest_compare_paths(changes->list[middle].path, path) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < changes->count && strcmp(changes->list[low].path, path) == 0; low++) {
        if (types & (1u << changes->list[low].type))
            return &changes->list[low];
    }
    return NULL;
}

static int keep_entry(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    return changes_add(arg, (const void *)message, err);
}

int changes_fetch(struct af_client *client, const char *sandbox_id, struct changes *ret,
                  struct af_error *err)
{
    struct changes changes = {0};
    Agentfense__V1__DiffRequest request = AGENTFENSE__V1__DIFF_REQUEST__INIT;
    request.sandbox_id = af_client_text(sandbox_id);
    if (rpc_stream(client, "/agentfense.v1.InspectService/Diff", &request.base,
                   &agentfense__v1__diff_entry__descriptor, keep_entry, &changes, err) < 0) {
        changes_fini(&changes);
        return -1;
    }
    changes_sort(&changes);
    *ret = changes;
    return 0;
}

static void print_path(FILE *file, const char *path)
{
    tool_print_escaped(file, path, strlen(path));
}

static void print_change(const struct change *change, const struct manifest *manifest, FILE *file)
{
    mode_t mode = change->mode;
    const struct manifest_entry *old = manifest_find(manifest, change->path);
    if (change->type == CHANGE_DELETED && old)
        mode = old->mode; // whatever the daemon said, this is what goes
    fprintf(file, "  %c  ",
            tool_change_letter((Agentfense__V1__DiffEntry__Change)(int)change->type));
    if (change->type == CHANGE_RENAMED) {
        print_path(file, change->old_path);
        fputs(S_ISDIR(mode) ? "/ -> " : " -> ", file);
    }
    print_path(file, *change->path ? change->path : ".");
    fputs(S_ISDIR(mode) && *change->path ? "/" : "", file);
    if (S_ISLNK(mode) && change->target && change->type != CHANGE_RENAMED) {
        fputs(" -> ", file);
        print_path(file, change->target);
    }
    if (change->type == CHANGE_METADATA && old && (old->mode & 07777) == (mode & 07777))
        fputs("  (times)", file);
    else if (change->type == CHANGE_METADATA)
        fprintf(file, "  (mode %04o)", (unsigned)(mode & 07777));
    fputc('\n', file);
}

void changes_print(const struct changes *changes, const struct manifest *manifest, size_t max_lines,
                   FILE *file)
{
    size_t lines = max_lines && changes->count > max_lines ? max_lines : changes->count;
    for (size_t i = 0; i < lines; i++)
        print_change(&changes->list[i], manifest, file);
    if (lines < changes->count)
        fprintf(file, "  ... and %zu more\n", changes->count - lines);
}
