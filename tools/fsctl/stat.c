// agentfense-fsctl stat and explain: one path. See fsctl.h.
#include "tools/fsctl/fsctl.h"
#include "tools/fsctl/table.h"

#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/when.h"
#include "tools/common/words.h"
#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <inttypes.h>
#include <string.h>

static void stat_json(struct fsctl *ctl, const Agentfense__V1__StatResponse *reply)
{
    const Agentfense__V1__TreeNode *node = reply->node;
    char nodeid[24];
    struct json json;
    snprintf(nodeid, sizeof nodeid, "0x%" PRIx64, reply->nodeid);
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    json_bytes(&json, "path", node->path.data, node->path.len);
    json_text(&json, "kind", tool_kind_word(node->kind));
    json_text(&json, "level", tool_level_word(node->level));
    json_bool(&json, "traversable_only", node->traversable_only);
    json_uint(&json, "size", node->size);
    json_uint(&json, "mode", node->mode);
    json_uint(&json, "nlink", reply->nlink);
    json_uint(&json, "ino", reply->ino);
    json_text(&json, "nodeid", nodeid); // 64 bits: more than a JSON number keeps everywhere
    if (node->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK)
        json_bytes(&json, "symlink_target", node->symlink_target.data, node->symlink_target.len);
    if (reply->modified_at)
        json_time(&json, "modified_at", reply->modified_at->seconds, reply->modified_at->nanos);
    if (reply->changed_at)
        json_time(&json, "changed_at", reply->changed_at->seconds, reply->changed_at->nanos);
    json_bytes(&json, "layer", reply->layer.data, reply->layer.len);
    json_bytes(&json, "content", reply->content.data, reply->content.len);
    json_bool(&json, "shared", reply->shared);
    json_end(&json);
    json_finish(&json);
}

static void line_bytes(FILE *out, const char *title, ProtobufCBinaryData bytes)
{
    fprintf(out, "%-9s ", title);
    tool_print_escaped(out, bytes.data, bytes.len);
    fputc('\n', out);
}

static void line_time(FILE *out, const char *title, const Google__Protobuf__Timestamp *at)
{
    char when[TOOL_WHEN_MAX] = "-";
    if (at)
        tool_when_local(at->seconds, when);
    fprintf(out, "%-9s %s\n", title, when);
}

static void stat_text(struct fsctl *ctl, const Agentfense__V1__StatResponse *reply)
{
    const Agentfense__V1__TreeNode *node = reply->node;
    FILE *out = ctl->out;
    char mode[TOOL_MODE_MAX];
    tool_mode_text(node->kind, node->mode, mode);
    fprintf(out, "%-9s /", "path");
    tool_print_escaped(out, node->path.data, node->path.len);
    fprintf(out, "\n%-9s %s\n", "kind", tool_kind_word(node->kind));
    if (node->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK)
        line_bytes(out, "target", node->symlink_target);
    fprintf(out, "%-9s %s%s%s%s\n", "level", fsctl_level_colour(ctl, node->level),
            tool_level_word(node->level), fsctl_plain(ctl),
            node->traversable_only ? " (traversable: leads to something visible)" : "");
    fprintf(out, "%-9s %" PRIu64 "\n", "size", node->size);
    fprintf(out, "%-9s %s (%04" PRIo32 ")\n", "mode", mode, node->mode);
    fprintf(out, "%-9s %" PRIu32 "\n", "links", reply->nlink);
    line_time(out, "modified", reply->modified_at);
    line_time(out, "changed", reply->changed_at);
    fprintf(out, "%-9s %" PRIu64 "\n", "inode", reply->ino);
    fprintf(out, "%-9s 0x%" PRIx64 "\n", "nodeid", reply->nodeid);
    line_bytes(out, "layer", reply->layer);
    line_bytes(out, "content", reply->content);
    fprintf(out, "%-9s %s\n", "pages",
            reply->shared ? "shared with other views" : "of this view alone");
}

int fsctl_stat(struct fsctl *ctl, struct af_error *err)
{
    struct af_id id;
    char path[AF_PATH_MAX + 1];
    Agentfense__V1__StatRequest request = AGENTFENSE__V1__STAT_REQUEST__INIT;
    if (fsctl_path(ctl->argv[1], path, &request.path, err) < 0 ||
        rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id = af_client_text(id.text);
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__StatResponse *reply = NULL;
    if (rpc_unary(ctl->client, "/agentfense.v1.InspectService/Stat", &request.base,
                  &agentfense__v1__stat_response__descriptor, &reply, err) < 0) {
        if (err->status == AF_NOT_FOUND && strncmp(err->text, "there is no sandbox", 19) != 0)
            return af_error_set(err, AF_NOT_FOUND, "no such file in the view: '/%s'", path);
        return -1;
    }
    if (!reply->node)
        return af_error_set(err, AF_INTERNAL, "the daemon's reply has no node");
    if (ctl->json)
        stat_json(ctl, reply);
    else
        stat_text(ctl, reply);
    return 0;
}

static void explain_json(struct fsctl *ctl, ProtobufCBinaryData path,
                         const Agentfense__V1__ExplainResponse *reply)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    json_bytes(&json, "path", path.data, path.len);
    json_text(&json, "level", tool_level_word(reply->level));
    json_bool(&json, "exists", reply->exists);
    json_bool(&json, "traversable_only", reply->traversable_only);
    json_bytes(&json, "reason", reply->reason.data, reply->reason.len);
    json_begin_array(&json, "matched");
    for (size_t i = 0; i < reply->n_matched; i++) {
        const Agentfense__V1__MatchedRule *rule = reply->matched[i];
        json_begin_object(&json, NULL);
        json_uint(&json, "index", rule->index);
        json_bytes(&json, "pattern", rule->pattern.data, rule->pattern.len);
        json_bytes(&json, "type", rule->type.data, rule->type.len);
        json_text(&json, "level", tool_level_word(rule->level));
        json_int(&json, "priority", rule->priority);
        json_end(&json);
    }
    json_end(&json);
    json_end(&json);
    json_finish(&json);
}

static void explain_text(struct fsctl *ctl, ProtobufCBinaryData path,
                         const Agentfense__V1__ExplainResponse *reply)
{
    static const char *const titles[] = {"", "RULE", "TYPE", "LEVEL", ">PRIORITY", ">INDEX"};
    FILE *out = ctl->out;
    fputc('/', out);
    tool_print_escaped(out, path.data, path.len);
    fprintf(out, ": %s%s%s%s%s\n", fsctl_level_colour(ctl, reply->level),
            tool_level_word(reply->level), fsctl_plain(ctl),
            reply->traversable_only ? ", traversable: it leads to something visible" : "",
            reply->exists ? "" : " (no such file now)");
    if (reply->reason.len > 0) {
        tool_print_escaped(out, reply->reason.data, reply->reason.len);
        fputc('\n', out);
    }
    if (reply->n_matched == 0)
        return;
    fputc('\n', out);
    struct table table;
    table_init(&table, AF_ARRAY_LEN(titles), titles);
    for (size_t i = 0; i < reply->n_matched; i++) {
        const Agentfense__V1__MatchedRule *rule = reply->matched[i];
        AF_CLEANUP_FREE char *pattern = tool_escaped(rule->pattern.data, rule->pattern.len);
        AF_CLEANUP_FREE char *type = tool_escaped(rule->type.data, rule->type.len);
        table_add(&table, i == 0 ? "decides" : "lost");
        table_add(&table, pattern);
        table_add(&table, type);
        table_add(&table, tool_level_word(rule->level));
        table_addf(&table, "%" PRId32, rule->priority);
        table_addf(&table, "%" PRIu32, rule->index);
    }
    table_print(&table, out, fsctl_bold(ctl), fsctl_plain(ctl));
}

int fsctl_explain(struct fsctl *ctl, struct af_error *err)
{
    struct af_id id;
    char path[AF_PATH_MAX + 1];
    Agentfense__V1__ExplainRequest request = AGENTFENSE__V1__EXPLAIN_REQUEST__INIT;
    if (fsctl_path(ctl->argv[1], path, &request.path, err) < 0 ||
        rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id = af_client_text(id.text);
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ExplainResponse *reply = NULL;
    if (rpc_unary(ctl->client, "/agentfense.v1.InspectService/Explain", &request.base,
                  &agentfense__v1__explain_response__descriptor, &reply, err) < 0)
        return -1;
    if (ctl->json)
        explain_json(ctl, request.path, reply);
    else
        explain_text(ctl, request.path, reply);
    return 0;
}
