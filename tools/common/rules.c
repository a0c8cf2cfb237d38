// Showing and changing a sandbox's rules. Read next: rules.h.
#include "tools/common/rules.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int get(struct af_client *client, const char *id, Agentfense__V1__SandboxInfo **ret,
               struct af_error *err)
{
    Agentfense__V1__GetRequest request = AGENTFENSE__V1__GET_REQUEST__INIT;
    request.sandbox_id.data = (uint8_t *)(uintptr_t)id;
    request.sandbox_id.len = strlen(id);
    return rpc_unary(client, "/agentfense.v1.SandboxService/Get", &request.base,
                     &agentfense__v1__sandbox_info__descriptor, ret, err);
}

// ---- showing

static const char *type_word(Sandbox__V1__PatternType type)
{
    static const char *const words[] = {"glob", "glob", "directory", "file"};
    return (int)type >= 0 && (size_t)type < AF_ARRAY_LEN(words) ? words[type] : "unknown";
}

static const char *level_word(Sandbox__V1__Permission permission)
{
    return tool_level_word(permission ? (Agentfense__V1__Level)permission
                                      : AGENTFENSE__V1__LEVEL__LEVEL_NONE);
}

static void print_json(const Sandbox__V1__Sandbox *sandbox, FILE *out)
{
    struct json json;
    json_init(&json, out);
    json_begin_array(&json, NULL);
    for (size_t i = 0; i < sandbox->n_permissions; i++) {
        const Sandbox__V1__PermissionRule *rule = sandbox->permissions[i];
        json_begin_object(&json, NULL);
        json_bytes(&json, "pattern", rule->pattern.data, rule->pattern.len);
        json_text(&json, "type", type_word(rule->type));
        json_text(&json, "level", level_word(rule->permission));
        json_int(&json, "priority", rule->priority);
        json_end(&json);
    }
    json_end(&json);
    json_finish(&json);
}

int tool_rules_show(struct af_client *client, const char *id, bool json, FILE *out,
                    struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *info = NULL;
    if (get(client, id, &info, err) < 0)
        return -1;
    if (json) {
        print_json(info->sandbox, out);
        return 0;
    }
    fputs("PRIORITY  TYPE       LEVEL  PATTERN\n", out);
    for (size_t i = 0; i < info->sandbox->n_permissions; i++) {
        const Sandbox__V1__PermissionRule *rule = info->sandbox->permissions[i];
        fprintf(out, "%8d  %-9s  %-5s  ", (int)rule->priority, type_word(rule->type),
                level_word(rule->permission));
        tool_print_escaped(out, rule->pattern.data, rule->pattern.len);
        fputc('\n', out);
    }
    return 0;
}

// ---- changing

// Lines are rules, empty ones and those that begin with # are none.
static int read_file(const char *path, struct permissions *list, struct af_error *err)
{
    AF_CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    ssize_t len;
    int rc = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return af_error_errno(err, errno, "cannot read the rules in '%s'", path);
    while (rc == 0 && (len = getline(&line, &size, file)) >= 0) {
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            line[--len] = '\0';
        if (strlen(line) != (size_t)len)
            rc = af_error_set(err, AF_INVALID_ARGUMENT, "'%s' is no text: it holds NUL", path);
        else if (len > 0 && line[0] != '#')
            rc = permissions_add(list, line, err);
    }
    if (rc == 0 && ferror(file))
        rc = af_error_errno(err, errno, "cannot read the rules in '%s'", path);
    fclose(file);
    return rc;
}

static bool replaces(const struct permission *rule, const Sandbox__V1__PermissionRule *old)
{
    size_t len = strlen(rule->pattern);
    return old->priority == rule->priority &&
           old->type <= SANDBOX__V1__PATTERN_TYPE__PATTERN_TYPE_GLOB && old->pattern.len == len &&
           memcmp(old->pattern.data, rule->pattern, len) == 0;
}

static bool is_replaced(const struct permissions *set, const Sandbox__V1__PermissionRule *old)
{
    for (size_t i = 0; i < set->count; i++)
        if (replaces(&set->list[i], old))
            return true;
    return false;
}

static void fill_rule(Sandbox__V1__PermissionRule *to, const struct permission *from)
{
    sandbox__v1__permission_rule__init(to);
    to->pattern.data = (uint8_t *)(uintptr_t)from->pattern;
    to->pattern.len = strlen(from->pattern);
    to->permission = (Sandbox__V1__Permission)from->level;
    to->priority = from->priority;
}

// The present rules that stay, then the new ones.
static int send(struct af_client *client, const char *id, const Sandbox__V1__Sandbox *now,
                const struct permissions *set, bool end_holders, uint32_t *ret_ended,
                struct af_error *err)
{
    Agentfense__V1__UpdatePermissionsRequest request =
        AGENTFENSE__V1__UPDATE_PERMISSIONS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__UpdatePermissionsResponse *reply = NULL;
    size_t kept = now ? now->n_permissions : 0;
    AF_CLEANUP_FREE Sandbox__V1__PermissionRule **pointers =
        tool_alloc((kept + set->count + 1) * sizeof(*pointers));
    AF_CLEANUP_FREE Sandbox__V1__PermissionRule *rules =
        tool_alloc((set->count + 1) * sizeof(*rules));
    for (size_t i = 0; i < kept; i++)
        if (!is_replaced(set, now->permissions[i]))
            pointers[request.n_permissions++] = now->permissions[i];
    for (size_t i = 0; i < set->count; i++) {
        fill_rule(&rules[i], &set->list[i]);
        pointers[request.n_permissions++] = &rules[i];
    }
    request.permissions = pointers;
    request.sandbox_id.data = (uint8_t *)(uintptr_t)id;
    request.sandbox_id.len = strlen(id);
    request.end_holders = end_holders;
    if (rpc_unary(client, "/agentfense.v1.SandboxService/UpdatePermissions", &request.base,
                  &agentfense__v1__update_permissions_response__descriptor, &reply, err) < 0)
        return -1;
    *ret_ended = reply->processes_ended;
    return 0;
}

int tool_rules_change(struct af_client *client, const char *id, const struct rules_change *change,
                      uint32_t *ret_ended, struct af_error *err)
{
    struct permissions set = {0};
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *info = NULL;
    int rc = change->file ? read_file(change->file, &set, err) : get(client, id, &info, err);
    for (int i = 0; rc == 0 && i < change->set_count; i++)
        rc = permissions_add(&set, change->set[i], err);
    if (rc == 0)
        rc = send(client, id, info ? info->sandbox : NULL, &set, change->end_holders, ret_ended,
                  err);
    permissions_fini(&set);
    return rc;
}

int tool_rules_command(struct af_client *client, const char *view, struct rules_change *change,
                       char **args, int n_args, bool json, FILE *out, struct af_error *err)
{
    struct af_id id;
    uint32_t ended = 0;
    if (n_args > 0 && strcmp(args[0], "set") != 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%s' is nothing that can be done with rules: write set, then "
                            "PATTERN=LEVEL[@PRIORITY]...",
                            args[0]);
    if (n_args == 1 && !change->file)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "set needs a rule: PATTERN=LEVEL[@PRIORITY], or --file FILE");
    if (n_args == 0 && (change->file || change->end_holders))
        return af_error_set(err, AF_INVALID_ARGUMENT, "--file and --end-holders belong to set");
    if (rpc_find_view(client, view, &id, err) < 0)
        return -1;
    if (n_args > 0) {
        change->set = args + 1;
        change->set_count = n_args - 1;
        if (tool_rules_change(client, id.text, change, &ended, err) < 0)
            return -1;
        if (ended > 0)
            fprintf(stderr, "%u process%s ended that held files which are forbidden now\n", ended,
                    ended == 1 ? "" : "es");
    }
    return tool_rules_show(client, id.text, json, out, err);
}
