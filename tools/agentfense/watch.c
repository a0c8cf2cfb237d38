// agentfense watch: what changes in a sandbox or a codebase, as it happens. See run.h.
//
// Each line is written out at once. A signal ends it as it ends every command. Owns the connection.
// Read next: proto/agentfense_monitor.proto, WatchEvent.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/base/text.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/agentfense/session.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/when.h"
#include "tools/common/words.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct watch {
    const struct options *options;
    uint64_t seen;
    bool done; // --count
};

static const char *kind_word(Agentfense__V1__WatchEvent__Kind kind)
{
    static const char *const words[] = {"unknown", "created", "modified", "deleted",
                                        "renamed", "denied",  "lost",     "ready"};
    return (int)kind > 0 && (size_t)kind < AF_ARRAY_LEN(words) ? words[kind] : words[0];
}

static void print_json(const Agentfense__V1__WatchEvent *event)
{
    struct json json;
    json_init(&json, stdout);
    json.one_line = true;
    json_begin_object(&json, NULL);
    if (event->at)
        json_time(&json, "at", event->at->seconds, event->at->nanos);
    json_text(&json, "event", kind_word(event->kind));
    json_bytes(&json, "path", event->path.data, event->path.len);
    if (event->old_path.len > 0)
        json_bytes(&json, "old_path", event->old_path.data, event->old_path.len);
    json_bool(&json, "path_is_cut", event->path_is_cut);
    json_text(&json, "kind", tool_kind_word(event->file_kind));
    json_bytes(&json, "operation", event->operation.data, event->operation.len);
    json_uint(&json, "pid", event->pid);
    if (event->sandbox_id.len > 0)
        json_bytes(&json, "sandbox", event->sandbox_id.data, event->sandbox_id.len);
    json_uint(&json, "lost", event->lost);
    json_end(&json);
    json_finish(&json);
}

static void print_path(const Agentfense__V1__WatchEvent *event, ProtobufCBinaryData path)
{
    fputs(event->path_is_cut ? ".../" : "", stdout);
    tool_print_escaped(stdout, path.data, path.len);
    if (event->file_kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY)
        fputc('/', stdout);
}

static void print_line(const Agentfense__V1__WatchEvent *event)
{
    char when[TOOL_WHEN_MAX] = "";
    if (event->kind == AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_LOST) {
        printf("%" PRIu64 " events lost: they came faster than they could be shown\n", event->lost);
        return;
    }
    if (event->at)
        tool_when_local(event->at->seconds, when);
    const char *time = strchr(when, ' ');
    printf("%s  %-8s  ", time ? time + 1 : when, kind_word(event->kind));
    if (event->old_path.len > 0) {
        print_path(event, event->old_path);
        fputs(" -> ", stdout);
    }
    print_path(event, event->path);
    if (event->operation.len > 0) {
        fputs("  (", stdout);
        tool_print_escaped(stdout, event->operation.data, event->operation.len);
        fputc(')', stdout);
    }
    if (event->sandbox_id.len > 0) {
        fputs("  (", stdout);
        tool_print_escaped(stdout, event->sandbox_id.data, event->sandbox_id.len);
        fputc(')', stdout);
    }
    putchar('\n');
}

static int print_event(void *arg, const ProtobufCMessage *reply, struct af_error *err)
{
    const Agentfense__V1__WatchEvent *event = (const void *)reply;
    struct watch *watch = arg;
    bool is_ready = event->kind == AGENTFENSE__V1__WATCH_EVENT__KIND__KIND_READY;
    if (watch->options->json)
        print_json(event);
    else if (!is_ready)
        print_line(event);
    if (fflush(stdout) != 0)
        return af_error_errno(err, errno, "cannot write the output");
    watch->done = !is_ready && ++watch->seen == watch->options->count;
    return watch->done ? -1 : 0;
}

static int take_path(const char *text, char out[AF_PATH_MAX + 1], struct af_error *err)
{
    size_t len = strlen(text);
    if (len > AF_PATH_MAX || af_path_normalize(text, len, true, out, &len) < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%s' is no path in a sandbox or codebase: give one below its root, "
                            "without '..'",
                            text);
    return 0;
}

int command_watch(const struct options *options)
{
    struct session session = {.fd = -1, .keep = true};
    struct watch watch = {.options = options};
    struct af_error err;
    struct af_id codebase_id;
    char path[AF_PATH_MAX + 1] = "";
    const char *of = options->args[0];
    bool is_codebase = af_id_parse("cb", of, strlen(of), &codebase_id);
    Agentfense__V1__WatchRequest request = AGENTFENSE__V1__WATCH_REQUEST__INIT;
    int rc = options->n_args > 1 ? take_path(options->args[1], path, &err) : 0;
    if (rc == 0 && !is_codebase && strncmp(of, "cb_", 3) == 0)
        rc = af_error_set(&err, AF_INVALID_ARGUMENT,
                          "'%s' is no codebase's id: give the whole of it, cb_ and 26 letters or "
                          "digits",
                          of);
    if (rc == 0)
        rc = session_open(&session, options_socket(options), &err);
    if (rc == 0 && !is_codebase)
        rc = rpc_find_view(session.client, of, &session.sandbox_id, &err);
    if (is_codebase)
        request.codebase_id = af_client_text(codebase_id.text);
    else
        request.sandbox_id = af_client_text(session.sandbox_id.text);
    request.path = af_client_text(path);
    request.denied = options->denied;
    if (rc == 0)
        rc = rpc_stream(session.client, "/agentfense.v1.MonitorService/Watch", &request.base,
                        &agentfense__v1__watch_event__descriptor, print_event, &watch, &err);
    int code = rc < 0 && !watch.done ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}
