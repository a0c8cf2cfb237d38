// agentfense-fsctl views and stats: the daemon as a whole. See fsctl.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/when.h"
#include "tools/common/words.h"
#include "mux/base/cleanup.h"

#include <inttypes.h>

static void views_json(struct fsctl *ctl, const Agentfense__V1__ListViewsResponse *reply)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_array(&json, NULL);
    for (size_t i = 0; i < reply->n_views; i++) {
        const Agentfense__V1__View *view = reply->views[i];
        json_begin_object(&json, NULL);
        json_bytes(&json, "sandbox_id", view->sandbox_id.data, view->sandbox_id.len);
        json_bytes(&json, "codebase_id", view->codebase_id.data, view->codebase_id.len);
        json_bytes(&json, "status", view->status.data, view->status.len);
        json_uint(&json, "slot", view->slot);
        json_uint(&json, "uid", view->uid);
        json_uint(&json, "stack_depth", view->stack_depth);
        json_uint(&json, "delta_bytes", view->delta_bytes);
        json_uint(&json, "delta_inodes", view->delta_inodes);
        json_uint(&json, "rules", view->rules);
        json_uint(&json, "quota_bytes", view->quota_bytes);
        json_uint(&json, "quota_inodes", view->quota_inodes);
        json_uint(&json, "iops", view->iops); // in a second, 0: any number
        json_uint(&json, "bandwidth", view->bandwidth);
        json_bytes(&json, "access", view->access.data, view->access.len);
        if (view->created_at)
            json_time(&json, "created_at", view->created_at->seconds, view->created_at->nanos);
        json_end(&json);
    }
    json_end(&json);
    json_finish(&json);
}

static void add_bytes(struct table *table, ProtobufCBinaryData bytes)
{
    AF_CLEANUP_FREE char *text = tool_escaped(bytes.data, bytes.len);
    table_add(table, text);
}

// A number, or a dash where 0 means that there is none.
static void add_number(struct table *table, uint64_t value)
{
    if (value)
        table_addf(table, "%" PRIu64, value);
    else
        table_add(table, "-");
}

int fsctl_views(struct fsctl *ctl, struct af_error *err)
{
    static const char *const titles[] = {
        "SANDBOX", "STATUS",  ">SLOT", ">UID",     ">LAYERS", ">DELTA", ">QUOTA",
        ">INODES", ">IQUOTA", ">IOPS", ">BYTES/s", ">RULES",  "ACCESS", "CREATED",
    };
    Agentfense__V1__ListViewsRequest request = AGENTFENSE__V1__LIST_VIEWS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListViewsResponse *reply = NULL;
    if (rpc_unary(ctl->client, "/agentfense.v1.InspectService/ListViews", &request.base,
                  &agentfense__v1__list_views_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->json) {
        views_json(ctl, reply);
        return 0;
    }
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < reply->n_views; i++) {
        const Agentfense__V1__View *view = reply->views[i];
        char size[TOOL_SIZE_MAX], quota[TOOL_SIZE_MAX] = "-", rate[TOOL_SIZE_MAX] = "-",
                                  when[TOOL_WHEN_MAX] = "-";
        tool_size_text(view->delta_bytes, size);
        if (view->quota_bytes)
            tool_size_text(view->quota_bytes, quota);
        if (view->bandwidth)
            tool_size_text(view->bandwidth, rate);
        if (view->created_at)
            tool_when_local(view->created_at->seconds, when);
        add_bytes(&table, view->sandbox_id);
        add_bytes(&table, view->status);
        add_number(&table, view->slot);
        add_number(&table, view->uid);
        table_addf(&table, "%" PRIu32, view->stack_depth);
        table_add(&table, size);
        table_add(&table, quota);
        table_addf(&table, "%" PRIu64, view->delta_inodes);
        add_number(&table, view->quota_inodes);
        add_number(&table, view->iops);
        table_add(&table, rate);
        table_addf(&table, "%" PRIu32, view->rules);
        add_bytes(&table, view->access);
        table_add(&table, when);
    }
    table_print(&table, ctl->out, fsctl_bold(ctl), fsctl_plain(ctl));
    return 0;
}
