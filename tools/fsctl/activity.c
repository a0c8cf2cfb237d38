// Looks at all running sandboxes, and what changed between two. Read next: activity.h.
#include "tools/fsctl/activity.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/memory.h"

#include <stdlib.h>
#include <string.h>

static bool is_one_of(ProtobufCBinaryData name, const char *const *words)
{
    for (; *words; words++)
        if (name.len == strlen(*words) && memcmp(name.data, *words, name.len) == 0)
            return true;
    return false;
}

static void add(struct activity_counts *counts, const Agentfense__V1__OperationActivity *op)
{
    static const char *const reads[] = {"read", NULL}, *const writes[] = {"write", NULL};
    static const char *const names[] = {"lookup", "create", "mknod",  "mkdir", "symlink",
                                        "link",   "unlink", "rename", "rmdir", NULL};
    counts->requests += op->requests;
    counts->errors += op->errors;
    counts->busy_ns += op->busy_ns;
    counts->reads += is_one_of(op->operation, reads) ? op->requests : 0;
    counts->writes += is_one_of(op->operation, writes) ? op->requests : 0;
    counts->names += is_one_of(op->operation, names) ? op->requests : 0;
}

static int keep(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    const Agentfense__V1__ViewActivity *from = (const void *)reply;
    struct activity *list = arg;
    struct af_id id;
    if (!af_id_parse("sb", from->sandbox_id.data, from->sandbox_id.len, &id))
        return af_error_set(err, AF_INTERNAL, "the daemon sent a malformed sandbox id");
    list->views = tool_grow(list->views, list->count, &list->capacity, sizeof *list->views);
    struct activity_view *view = &list->views[list->count++];
    *view = (struct activity_view){.commands = from->commands_running,
                                   .delta_bytes = from->delta_bytes};
    strcpy(view->id, id.text);
    for (size_t i = 0; i < from->n_operations; i++)
        add(&view->counts, from->operations[i]);
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    const struct activity_view *x = a, *y = b;
    return strcmp(x->id, y->id);
}

int activity_look(struct af_client *client, struct activity *ret, struct af_error *err)
{
    Agentfense__V1__ListActivityRequest request = AGENTFENSE__V1__LIST_ACTIVITY_REQUEST__INIT;
    ret->count = 0;
    ret->at_ns = af_monotonic_ns();
    if (rpc_stream(client, "/agentfense.v1.MonitorService/ListActivity", &request.base,
                   &agentfense__v1__view_activity__descriptor, keep, ret, err) < 0)
        return -1;
    if (ret->count > 1)
        qsort(ret->views, ret->count, sizeof *ret->views, compare_ids);
    return 0;
}

void activity_fini(struct activity *activity)
{
    free(activity->views);
    *activity = (struct activity){0};
}

void activity_compare(const struct activity *before, const struct activity *now,
                      struct activity_rates *ret)
{
    static const struct activity_counts none = {0};
    double seconds = (double)(now->at_ns - before->at_ns) / 1e9;
    for (size_t i = 0; i < now->count; i++) {
        const struct activity_view *view = &now->views[i], *was = NULL;
        if (before->count > 0)
            was = bsearch(view, before->views, before->count, sizeof *view, compare_ids);
        const struct activity_counts *to = &view->counts;
        const struct activity_counts *from =
            was && was->counts.requests <= to->requests ? &was->counts : &none;
        uint64_t requests = to->requests - from->requests;
        double busy_ns = (double)(to->busy_ns - from->busy_ns);
        ret[i] = (struct activity_rates){
            .view = view,
            .requests = (double)requests / seconds,
            .errors = (double)(to->errors - from->errors) / seconds,
            .reads = (double)(to->reads - from->reads) / seconds,
            .writes = (double)(to->writes - from->writes) / seconds,
            .names = (double)(to->names - from->names) / seconds,
            .busy = busy_ns / 1e9 / seconds,
            .mean_us = requests > 0 ? busy_ns / 1e3 / (double)requests : 0,
        };
    }
}
