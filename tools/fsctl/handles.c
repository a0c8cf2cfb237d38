// agentfense-fsctl handles: what a sandbox's processes have open. See fsctl.h.
// Read next: proto/agentfense_monitor.proto, ListHandles.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"

#include <inttypes.h>

struct handles {
    struct fsctl *ctl;
    struct json json; // the array of handles is open
    struct table table;
    uint64_t kernel_references, nodes_cached, unlinked_open;
};

static const char *kind_word(Agentfense__V1__Handle__Kind kind)
{
    static const char *const words[] = {"unknown", "fd", "cwd", "program", "map"};
    return (int)kind > 0 && (size_t)kind < AF_ARRAY_LEN(words) ? words[(size_t)kind] : words[0];
}

static void put_json(struct json *json, const Agentfense__V1__Handle *handle)
{
    json_begin_object(json, NULL);
    json_text(json, "kind", kind_word(handle->kind));
    json_uint(json, "pid", handle->pid);
    json_bytes(json, "command", handle->command.data, handle->command.len);
    json_int(json, "fd", handle->fd);
    json_bool(json, "reads", handle->reads);
    json_bool(json, "writes", handle->writes);
    json_uint(json, "offset", handle->offset);
    json_uint(json, "ino", handle->ino);
    json_bytes(json, "path", handle->path.data, handle->path.len);
    json_bool(json, "unlinked", handle->unlinked);
    json_uint(json, "locks", handle->locks);
    json_end(json);
}

static void add_row(struct table *table, const Agentfense__V1__Handle *handle)
{
    AF_CLEANUP_FREE char *command = tool_escaped(handle->command.data, handle->command.len);
    AF_CLEANUP_FREE char *path = tool_escaped(handle->path.data, handle->path.len);
    table_addf(table, "%" PRIu32, handle->pid);
    table_add(table, command);
    if (handle->fd >= 0)
        table_addf(table, "%" PRId32, handle->fd);
    else
        table_add(table, kind_word(handle->kind));
    table_addf(table, "%s%s", handle->reads ? "r" : "-", handle->writes ? "w" : "-");
    table_addf(table, "%" PRIu64, handle->offset);
    table_addf(table, "%" PRIu32, handle->locks);
    table_addf(table, "%" PRIu64, handle->ino);
    if (handle->unlinked)
        table_add(table, "(no name any more)");
    else
        table_addf(table, "/%s", path);
}

static int take(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    const Agentfense__V1__ListHandlesReply *message = (const void *)reply;
    struct handles *handles = arg;
    (void)err;
    if (message->held) {
        handles->kernel_references = message->held->kernel_references;
        handles->nodes_cached = message->held->nodes_cached;
        handles->unlinked_open = message->held->unlinked_open;
    }
    if (message->handle && handles->ctl->json)
        put_json(&handles->json, message->handle);
    else if (message->handle)
        add_row(&handles->table, message->handle);
    return 0;
}

// What was not told is left out: it is not 0.
static void finish_json(struct handles *handles, bool complete)
{
    json_end(&handles->json);
    if (complete) {
        json_uint(&handles->json, "kernel_references", handles->kernel_references);
        json_uint(&handles->json, "nodes_cached", handles->nodes_cached);
        json_uint(&handles->json, "unlinked_open", handles->unlinked_open);
    }
    json_end(&handles->json);
    json_finish(&handles->json);
}

static void finish_text(struct handles *handles)
{
    struct fsctl *ctl = handles->ctl;
    table_print(&handles->table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
    fprintf(ctl->out,
            "\n%" PRIu64 " references of the kernel to files and directories of its own\n"
            "%" PRIu64 " inodes of its own cached by the daemon\n"
            "%" PRIu64 " files without a name kept for who has them open\n",
            handles->kernel_references, handles->nodes_cached, handles->unlinked_open);
}

int fsctl_handles(struct fsctl *ctl, struct af_error *err)
{
    static const char *const titles[] = {">PID",    "COMMAND", ">FD",  "MODE",
                                         ">OFFSET", ">LOCKS",  ">INO", "PATH"};
    Agentfense__V1__ListHandlesRequest request = AGENTFENSE__V1__LIST_HANDLES_REQUEST__INIT;
    struct handles handles = {.ctl = ctl};
    struct af_id id;
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id = af_client_text(id.text);
    table_init(&handles.table, AF_ARRAY_LEN(titles), titles);
    json_init(&handles.json, ctl->out);
    if (ctl->json) {
        json_begin_object(&handles.json, NULL);
        json_text(&handles.json, "sandbox_id", id.text);
        json_begin_array(&handles.json, "handles");
    }
    int rc = rpc_stream(ctl->client, "/agentfense.v1.MonitorService/ListHandles", &request.base,
                        &agentfense__v1__list_handles_reply__descriptor, take, &handles, err);
    if (ctl->json)
        finish_json(&handles, rc == 0);
    else if (rc == 0)
        finish_text(&handles);
    table_fini(&handles.table);
    return rc;
}
