// MonitorService/ListActivity: the views that run, and what each asks of the daemon.
//
// Which ones run is gathered first; the counts of each are read as it is sent. Owns the list, with
// the call. Fails: an af_error. Read next: fs/fs.h, struct fs_view_counters.
#include "api/services/monitor_service.h"

#include "api/turns.h"
#include "mux/base/cleanup.h"
#include "mux/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct activity {
    char wanted[AF_ID_TEXT_MAX]; // "": all
    bool found;
    struct mux_view_info *views;
    size_t count, capacity, sent;
};

void monitor_activity_free(struct grpc_call *call)
{
    struct activity *list = grpc_call_data(call);
    free(list->views);
    free(list);
}

static int keep_view(void *arg, const struct mux_view_info *info)
{
    struct activity *list = arg;
    bool is_wanted = !*list->wanted || strcmp(list->wanted, info->sandbox_id.text) == 0;
    list->found = list->found || is_wanted;
    if (!is_wanted || info->slot == 0)
        return 0;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        struct mux_view_info *bigger = reallocarray(list->views, capacity, sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        list->views = bigger;
        list->capacity = capacity;
    }
    list->views[list->count++] = *info;
    return 0;
}

void monitor_list_activity(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ListActivityRequest *request = (const void *)message;
    struct activity *list = calloc(1, sizeof *list);
    struct af_error err;
    struct af_id id = {.text = ""};
    if (!list) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    grpc_call_set_data(call, list);
    int rc =
        request->sandbox_id.len > 0 ? service_check_id("sb", request->sandbox_id, &id, &err) : 0;
    strcpy(list->wanted, id.text);
    if (rc == 0)
        rc = mux_inspect_views(daemon_of(call)->mux, keep_view, list, &err);
    if (rc == -ENOMEM)
        af_error_errno(&err, rc, "cannot list what runs");
    if (rc == 0 && *list->wanted && !list->found)
        rc = af_error_set(&err, AF_NOT_FOUND, "there is no sandbox %s", list->wanted);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
}

static enum grpc_sent send_view(struct grpc_call *call, const struct mux_view_info *info)
{
    struct daemon *daemon = daemon_of(call);
    Agentfense__V1__ViewActivity reply = AGENTFENSE__V1__VIEW_ACTIVITY__INIT;
    Agentfense__V1__OperationActivity items[FS_OP_COUNT], *pointers[FS_OP_COUNT];
    struct fs_view_counters counters;
    fs_session_view_counters(daemon->fs, info->slot, info->route, &counters);
    for (int op = 0; op < FS_OP_COUNT; op++) {
        Agentfense__V1__OperationActivity *item = &items[op];
        if (counters.op[op].requests == 0)
            continue;
        agentfense__v1__operation_activity__init(item);
        item->operation = grpc_text(fs_op_name(op));
        item->requests = counters.op[op].requests;
        item->errors = counters.op[op].errors;
        item->busy_ns = counters.op[op].total_ns;
        item->slowest_ns = counters.op[op].slowest_ns;
        pointers[reply.n_operations++] = item;
    }
    reply.operations = pointers;
    reply.sandbox_id = grpc_text(info->sandbox_id.text);
    reply.commands_running = turns_running(daemon->turns, info->sandbox_id.text);
    reply.delta_bytes = info->delta_bytes;
    reply.delta_inodes = info->delta_inodes;
    return grpc_call_send(call, &reply.base);
}

void monitor_activity_writable(struct grpc_call *call)
{
    struct activity *list = grpc_call_data(call);
    if (!list)
        return;
    while (list->sent < list->count)
        if (send_view(call, &list->views[list->sent++]) != GRPC_SENT)
            return;
    grpc_call_finish(call, AF_OK, NULL);
}
