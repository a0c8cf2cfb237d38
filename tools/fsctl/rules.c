// agentfense-fsctl rules, quota, access: what a view permits, also while it runs. See fsctl.h.
#include "tools/common/rules.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/common/json.h"
#include "tools/common/words.h"
#include "tools/fsctl/fsctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int fsctl_rules(struct fsctl *ctl, struct af_error *err)
{
    struct rules_change change = {.file = ctl->file, .end_holders = ctl->end_holders};
    return tool_rules_command(ctl->client, ctl->argv[0], &change, ctl->argv + 1, ctl->argc - 1,
                              ctl->json, ctl->out, err);
}

static bool parse_count(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (strcmp(text, "none") == 0) {
        *ret = 0;
        return true;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    unsigned shift = suffix ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
    if (errno || text[0] < '0' || text[0] > '9' || (suffix ? end[1] : *end) != '\0' ||
        value > UINT64_MAX >> shift || value == 0)
        return false;
    *ret = value << shift;
    return true;
}

static void show_json(struct fsctl *ctl, const char *access,
                      const Agentfense__V1__SandboxInfo *info)
{
    struct json json;
    json_init(&json, ctl->out);
    json_begin_object(&json, NULL);
    json_text(&json, "access", access);
    json_uint(&json, "delta_bytes", info->delta_bytes);
    json_uint(&json, "delta_inodes", info->delta_inodes);
    json_uint(&json, "quota_bytes", info->options->quota->bytes); // 0: none
    json_uint(&json, "quota_inodes", info->options->quota->inodes);
    json_end(&json);
    json_finish(&json);
}

static int show(struct fsctl *ctl, const Agentfense__V1__SandboxInfo *info)
{
    const char *access = tool_access_word(info->access);
    char used[TOOL_SIZE_MAX], most[TOOL_SIZE_MAX] = "none";
    const Agentfense__V1__Quota *quota = info->options->quota;
    tool_size_text(info->delta_bytes, used);
    if (quota->bytes)
        tool_size_text(quota->bytes, most);
    if (ctl->json) {
        show_json(ctl, access, info);
        return 0;
    }
    fprintf(ctl->out, "access  %s\nbytes   %s of %s\ninodes  %" PRIu64 " of ", access, used, most,
            info->delta_inodes);
    if (quota->inodes)
        fprintf(ctl->out, "%" PRIu64 "\n", quota->inodes);
    else
        fputs("none\n", ctl->out);
    return 0;
}

int fsctl_quota(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__SetQuotaRequest request = AGENTFENSE__V1__SET_QUOTA_REQUEST__INIT;
    Agentfense__V1__Quota quota = AGENTFENSE__V1__QUOTA__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *info = NULL;
    struct af_id id;
    for (int i = 1; i < ctl->argc; i++)
        if (!parse_count(ctl->argv[i], i == 1 ? &quota.bytes : &quota.inodes))
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "'%s' is no quota: a number, with K, M, G or T, or none",
                                ctl->argv[i]);
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id.data = (uint8_t *)id.text;
    request.sandbox_id.len = strlen(id.text);
    request.quota = &quota;
    if (rpc_unary(ctl->client, "/agentfense.v1.SandboxService/SetQuota", &request.base,
                  &agentfense__v1__sandbox_info__descriptor, &info, err) < 0)
        return -1;
    return show(ctl, info);
}

int fsctl_access(struct fsctl *ctl, struct af_error *err)
{
    Agentfense__V1__SetAccessRequest request = AGENTFENSE__V1__SET_ACCESS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *info = NULL;
    struct af_id id;
    for (int i = AGENTFENSE__V1__ACCESS__ACCESS_NORMAL; i <= AGENTFENSE__V1__ACCESS__ACCESS_CUT_OFF;
         i++)
        if (strcmp(ctl->argv[1], tool_access_word((Agentfense__V1__Access)i)) == 0)
            request.access = (Agentfense__V1__Access)i;
    if (!request.access)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%s' is no access: normal, read-only or cut-off", ctl->argv[1]);
    if (rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id.data = (uint8_t *)id.text;
    request.sandbox_id.len = strlen(id.text);
    if (rpc_unary(ctl->client, "/agentfense.v1.SandboxService/SetAccess", &request.base,
                  &agentfense__v1__sandbox_info__descriptor, &info, err) < 0)
        return -1;
    return show(ctl, info);
}
