// agentfense-fsctl diff: what a sandbox changed. See fsctl.h. Entries are printed as they come.
#include "tools/fsctl/fsctl.h"

#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/words.h"

#include <inttypes.h>

struct diff {
    struct fsctl *ctl;
    struct json json;
    uint64_t entries;
};

static void entry_json(struct json *json, const Agentfense__V1__DiffEntry *entry)
{
    json_begin_object(json, NULL);
    json_bytes(json, "path", entry->path.data, entry->path.len);
    json_text(json, "change", tool_change_word(entry->change));
    if (entry->change == AGENTFENSE__V1__DIFF_ENTRY__CHANGE__CHANGE_RENAMED)
        json_bytes(json, "old_path", entry->old_path.data, entry->old_path.len);
    json_text(json, "kind", tool_kind_word(entry->kind));
    json_uint(json, "size", entry->size);
    json_uint(json, "mode", entry->mode);
    if (entry->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK)
        json_bytes(json, "symlink_target", entry->symlink_target.data, entry->symlink_target.len);
    if (entry->modified_at)
        json_time(json, "modified_at", entry->modified_at->seconds, entry->modified_at->nanos);
    json_end(json);
}

static void entry_text(struct fsctl *ctl, const Agentfense__V1__DiffEntry *entry)
{
    FILE *out = ctl->out;
    bool is_directory = entry->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY;
    fprintf(out, "%s%c%s  ", fsctl_change_colour(ctl, entry->change),
            tool_change_letter(entry->change), fsctl_plain(ctl));
    if (entry->change == AGENTFENSE__V1__DIFF_ENTRY__CHANGE__CHANGE_RENAMED) {
        tool_print_escaped(out, entry->old_path.data, entry->old_path.len);
        fputs(" -> ", out);
    }
    tool_print_escaped(out, entry->path.data, entry->path.len);
    fputs(is_directory ? "/" : "", out);
    if (entry->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK &&
        entry->symlink_target.len > 0) {
        fputs(" -> ", out);
        tool_print_escaped(out, entry->symlink_target.data, entry->symlink_target.len);
    }
    if (entry->change == AGENTFENSE__V1__DIFF_ENTRY__CHANGE__CHANGE_METADATA)
        fprintf(out, "  (mode %04" PRIo32 ")", entry->mode);
    fputc('\n', out);
}

static int print_entry(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    struct diff *diff = arg;
    (void)err;
    // A call that fails before its first entry prints nothing.
    if (diff->ctl->json && diff->entries == 0)
        json_begin_array(&diff->json, NULL);
    diff->entries++;
    if (diff->ctl->json)
        entry_json(&diff->json, (const void *)message);
    else
        entry_text(diff->ctl, (const void *)message);
    return 0;
}

int fsctl_diff(struct fsctl *ctl, struct af_error *err)
{
    struct diff diff = {.ctl = ctl};
    struct af_id id;
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    Agentfense__V1__DiffRequest request = AGENTFENSE__V1__DIFF_REQUEST__INIT;
    request.sandbox_id = af_client_text(id.text);
    json_init(&diff.json, ctl->out);
    if (rpc_stream(ctl->client, "/agentfense.v1.InspectService/Diff", &request.base,
                   &agentfense__v1__diff_entry__descriptor, print_entry, &diff, err) < 0)
        return -1;
    if (ctl->json) {
        if (diff.entries == 0)
            json_begin_array(&diff.json, NULL);
        json_end(&diff.json);
        json_finish(&diff.json);
    } else if (diff.entries == 0) {
        fputs("no changes\n", ctl->out);
    }
    return 0;
}
