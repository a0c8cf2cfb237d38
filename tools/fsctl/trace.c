// agentfense-fsctl trace: the requests of a view as they come. See fsctl.h.
//
// Each line is written out at once. Ends with the sandbox, after --count, or by a signal, which has
// nothing to put away. Read next: proto/agentfense_monitor.proto, TraceEvent.
#include "tools/fsctl/fsctl.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/when.h"
#include "tools/common/words.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct trace {
    struct fsctl *ctl;
    uint64_t seen;
    bool done; // --count
};

static const char *error_name(int32_t error)
{
    const char *name = error == 0 ? "ok" : strerrorname_np(error);
    return name ? name : "unknown";
}

static int64_t took_ns(const Agentfense__V1__TraceEvent *event)
{
    return event->took ? event->took->seconds * AF_NS_PER_SEC + event->took->nanos : 0;
}

static void print_json(struct fsctl *ctl, const Agentfense__V1__TraceEvent *event)
{
    struct json json;
    json_init(&json, ctl->out);
    json.one_line = true;
    json_begin_object(&json, NULL);
    if (event->at)
        json_time(&json, "at", event->at->seconds, event->at->nanos);
    json_bool(&json, "ready", event->ready);
    json_bytes(&json, "operation", event->operation.data, event->operation.len);
    json_bytes(&json, "path", event->path.data, event->path.len);
    if (event->new_path.len > 0)
        json_bytes(&json, "new_path", event->new_path.data, event->new_path.len);
    json_bool(&json, "path_is_cut", event->path_is_cut);
    json_uint(&json, "pid", event->pid);
    json_text(&json, "error", error_name(event->error));
    json_bool(&json, "hidden", event->hidden);
    json_text(&json, "level", tool_level_word(event->level));
    json_int(&json, "rule", event->rule);
    json_bytes(&json, "pattern", event->pattern.data, event->pattern.len);
    json_int(&json, "took_ns", took_ns(event));
    json_uint(&json, "lost", event->lost);
    json_end(&json);
    json_finish(&json);
}

static void print_path(FILE *out, const Agentfense__V1__TraceEvent *event)
{
    fputs(event->path_is_cut ? ".../" : "/", out);
    tool_print_escaped(out, event->path.data, event->path.len);
    if (event->new_path.len == 0)
        return;
    fputs(" -> /", out);
    tool_print_escaped(out, event->new_path.data, event->new_path.len);
}

static void print_line(struct fsctl *ctl, const Agentfense__V1__TraceEvent *event)
{
    char when[TOOL_WHEN_MAX] = "";
    FILE *out = ctl->out;
    if (event->lost > 0)
        fprintf(out, "%s%" PRIu64 " events lost: they came faster than they could be shown%s\n",
                fsctl_bold(ctl), event->lost, fsctl_plain(ctl));
    if (event->at)
        tool_when_local(event->at->seconds, when);
    const char *time = strchr(when, ' ');
    fprintf(out, "%s.%06d %7" PRIu32 " %9.1f ", time ? time + 1 : when,
            event->at ? (int)event->at->nanos / 1000 : 0, event->pid,
            (double)took_ns(event) / 1000);
    AF_CLEANUP_FREE char *operation = tool_escaped(event->operation.data, event->operation.len);
    fprintf(out, "%-15s %-8s %s%-5s%s ", operation,
            event->hidden ? "hidden" : error_name(event->error),
            fsctl_level_colour(ctl, event->level), tool_level_word(event->level), fsctl_plain(ctl));
    print_path(out, event);
    if (event->rule >= 0) {
        fprintf(out, "  (rule %" PRId32 ": ", event->rule);
        tool_print_escaped(out, event->pattern.data, event->pattern.len);
        fputc(')', out);
    }
    fputc('\n', out);
}

static int print_event(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    const Agentfense__V1__TraceEvent *event = (const void *)reply;
    struct trace *trace = arg;
    struct fsctl *ctl = trace->ctl;
    if (ctl->json) {
        print_json(ctl, event);
    } else if (event->ready) {
        fprintf(ctl->out, "%s%-15s %7s %9s %-15s %-8s %-5s PATH  (RULE)%s\n", fsctl_bold(ctl),
                "TIME", "PID", "TOOK us", "OPERATION", "RESULT", "LEVEL", fsctl_plain(ctl));
    } else {
        print_line(ctl, event);
    }
    if (fflush(ctl->out) != 0)
        return af_error_errno(err, errno, "cannot write the output");
    trace->done = !event->ready && ++trace->seen == ctl->count;
    return trace->done ? -1 : 0;
}

int fsctl_trace(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__TraceRequest request = AGENTFENSE__V1__TRACE_REQUEST__INIT;
    struct trace trace = {.ctl = ctl};
    struct af_id id;
    char path[AF_PATH_MAX + 1];
    if ((ctl->argc > 1 && fsctl_path(ctl->argv[1], path, &request.path, err) < 0) ||
        rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id = af_client_text(id.text);
    request.denied = ctl->denied;
    int rc = rpc_stream(ctl->client, "/agentfense.v1.MonitorService/Trace", &request.base,
                        &agentfense__v1__trace_event__descriptor, print_event, &trace, err);
    return trace.done ? 0 : rc;
}
