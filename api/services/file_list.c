// agentfense.v1.FileService.List: a tree in path order, entry by entry, without a bound.
//
// One directory's entries are read at a time, as one consistent state; those of the directories on
// the way down wait in a stack. So memory is the names of one branch, and a directory that goes
// meanwhile is just not entered. What lies deeper than a path can say is left out, and the call
// ends with an error that says so. Works on idle sandboxes, too. Read next: mux/inspect.h.
#include "api/services/file_service.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct entry *next;
    mode_t mode;
    uint64_t size;
    int64_t mtime_ns;
    enum rules_level level;
    const char *target; // behind the path, or NULL
    char path[];
};

struct directory {
    struct directory *up;
    struct entry *first, **last; // not yet sent
};

struct list {
    struct af_id id;
    bool codebase, recursive;
    struct directory *top;
    uint64_t too_deep; // directories that were not entered: no call can name what is in them
};

static int add_entry(void *arg, const struct mux_tree_node *node)
{
    struct directory *directory = arg;
    // The target of a link that may only be seen is its content.
    const char *target = node->level >= RULES_READ ? node->symlink_target : NULL;
    size_t path_len = strlen(node->path), target_len = target ? strlen(target) + 1 : 0;
    struct entry *entry = malloc(sizeof *entry + path_len + 1 + target_len);
    if (!entry)
        return -ENOMEM;
    *entry = (struct entry){
        .mode = node->mode, .size = node->size, .mtime_ns = node->mtime_ns, .level = node->level};
    memcpy(entry->path, node->path, path_len + 1);
    if (target)
        entry->target = memcpy(entry->path + path_len + 1, target, target_len);
    *directory->last = entry;
    directory->last = &entry->next;
    return 0;
}

static void pop(struct list *list)
{
    struct directory *directory = list->top;
    list->top = directory->up;
    while (directory->first) {
        struct entry *next = directory->first->next;
        free(directory->first);
        directory->first = next;
    }
    free(directory);
}

static int push(struct mux *mux, struct list *list, const void *path, size_t len,
                struct af_error *err)
{
    struct directory *directory = calloc(1, sizeof *directory);
    if (!directory)
        return af_error_errno(err, ENOMEM, "cannot list the directory");
    directory->last = &directory->first;
    directory->up = list->top;
    list->top = directory;
    int rc =
        list->codebase
            ? mux_codebase_tree(mux, list->id.text, path, len, 1, add_entry, directory, err)
            : mux_inspect_tree(mux, list->id.text, path, len, 1, false, add_entry, directory, err);
    if (rc == -ENOMEM)
        rc = af_error_errno(err, ENOMEM, "cannot list the directory");
    if (rc < 0)
        pop(list);
    return rc;
}

void file_list_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__FileListRequest *request = (const void *)message;
    struct af_error err;
    struct list *list = calloc(1, sizeof *list);
    if (!list) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the list");
        return;
    }
    grpc_call_set_data(call, list);
    list->codebase = request->tree_case == AGENTFENSE__V1__FILE_LIST_REQUEST__TREE_CODEBASE_ID;
    list->recursive = request->recursive;
    if (service_check_id(list->codebase ? "cb" : "sb",
                         list->codebase ? request->codebase_id : request->sandbox_id, &list->id,
                         &err) < 0 ||
        push(daemon_of(call)->mux, list, request->path.data ? (void *)request->path.data : "",
             request->path.len, &err) < 0)
        grpc_call_finish_error(call, &err);
}

static enum grpc_sent send_entry(struct grpc_call *call, const struct entry *entry)
{
    Google__Protobuf__Timestamp modified;
    Agentfense__V1__FileEntry reply = AGENTFENSE__V1__FILE_ENTRY__INIT;
    reply.path = service_bytes(entry->path, strlen(entry->path));
    reply.kind = service_file_kind(entry->mode);
    reply.size = entry->size;
    reply.mode = entry->mode & 07777;
    service_set_timestamp(&modified, entry->mtime_ns);
    reply.modified_at = &modified;
    reply.level = (Agentfense__V1__Level)entry->level;
    if (entry->target)
        reply.symlink_target = service_bytes(entry->target, strlen(entry->target));
    return grpc_call_send(call, &reply.base);
}

// Sends the next entry and goes into it. 1 while there is more, 0 at the end, -1 with *err.
static int step(struct grpc_call *call, struct list *list, enum grpc_sent *sent,
                struct af_error *err)
{
    while (list->top && !list->top->first)
        pop(list);
    if (!list->top)
        return 0;
    struct entry *entry = list->top->first;
    list->top->first = entry->next;
    *sent = send_entry(call, entry);
    int rc = 1;
    bool enter = list->recursive && S_ISDIR(entry->mode) && *sent != GRPC_GONE;
    bool too_deep = strlen(entry->path) > AF_PATH_MAX;
    list->too_deep += enter && too_deep;
    if (enter && !too_deep &&
        push(daemon_of(call)->mux, list, entry->path, strlen(entry->path), err) < 0 &&
        err->status != AF_NOT_FOUND && err->status != AF_INVALID_ARGUMENT)
        rc = -1;
    free(entry);
    return rc;
}

void file_list_writable(struct grpc_call *call)
{
    struct list *list = grpc_call_data(call);
    struct af_error err;
    enum grpc_sent sent = GRPC_SENT;
    int rc = 1;
    while (rc > 0 && sent == GRPC_SENT)
        rc = step(call, list, &sent, &err);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else if (rc == 0 && list->too_deep > 0)
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED,
                         "everything else was listed, but not what is in %" PRIu64
                         " directories whose paths have more than %d bytes: remove or move them "
                         "from inside the sandbox",
                         list->too_deep, AF_PATH_MAX);
    else if (rc == 0)
        grpc_call_finish(call, AF_OK, NULL);
}

void file_list_free(struct grpc_call *call)
{
    struct list *list = grpc_call_data(call);
    while (list->top)
        pop(list);
    free(list);
}
