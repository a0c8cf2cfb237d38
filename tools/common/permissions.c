// Presets and the parser of --permission: see permissions.h.
#include "tools/common/permissions.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/base/text.h"
#include "tools/common/memory.h"
#include "tools/common/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE  AGENTFENSE__V1__LEVEL__LEVEL_NONE
#define VIEW  AGENTFENSE__V1__LEVEL__LEVEL_VIEW
#define READ  AGENTFENSE__V1__LEVEL__LEVEL_READ
#define WRITE AGENTFENSE__V1__LEVEL__LEVEL_WRITE

static const struct permission agent_safe[] = {
    {"**/*", READ, 0},       {"/output/**", WRITE, 10},      {"/tmp/**", WRITE, 10},
    {"**/.env*", NONE, 100}, {"**/secrets/**", NONE, 100},   {"**/*.key", NONE, 100},
    {"**/*.pem", NONE, 100}, {"**/credentials*", NONE, 100}, {"**/.git/**", NONE, 50},
};
static const struct permission read_only[] = {{"**/*", READ, 0}};
static const struct permission full_access[] = {{"**/*", WRITE, 0}};
static const struct permission view_only[] = {{"**/*", VIEW, 0}};
static const struct permission development[] = {
    {"**/*", WRITE, 0},      {"**/.env*", NONE, 100}, {"**/secrets/**", NONE, 100},
    {"**/*.key", NONE, 100}, {"**/*.pem", NONE, 100},
};

const struct preset_rules presets_all[] = {
    {"agent-safe", "reads all but secrets and .git, writes to /output and /tmp only", agent_safe,
     AF_ARRAY_LEN(agent_safe)},
    {"read-only", "reads everything, writes nothing", read_only, AF_ARRAY_LEN(read_only)},
    {"full-access", "reads and writes everything", full_access, AF_ARRAY_LEN(full_access)},
    {"view-only", "sees names and attributes, no content", view_only, AF_ARRAY_LEN(view_only)},
    {"development", "reads and writes all but secrets", development, AF_ARRAY_LEN(development)},
    {NULL, NULL, NULL, 0},
};

const struct preset_rules *preset_find(const char *name)
{
    for (const struct preset_rules *preset = presets_all; preset->name; preset++) {
        if (strcmp(preset->name, name) == 0)
            return preset;
    }
    return NULL;
}

static int parse_priority(const char *text, int32_t *ret)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || (*text != '-' && (*text < '0' || *text > '9')) || value < INT32_MIN ||
        value > INT32_MAX)
        return -1;
    *ret = (int32_t)value;
    return 0;
}

int permissions_add(struct permissions *permissions, const char *text, struct af_error *err)
{
    // The pattern may hold '=' and '@': the level begins at the last '='.
    const char *equals = strrchr(text, '=');
    struct permission rule = {.priority = PERMISSION_PRIORITY_DEFAULT};
    if (!equals || equals == text)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%s' is no permission: write PATTERN=LEVEL or PATTERN=LEVEL@PRIORITY",
                            text);
    AF_CLEANUP_FREE char *level = tool_copy_text(equals + 1);
    char *at = strchr(level, '@');
    if (at)
        *at++ = '\0';
    if (!tool_level_parse(level, &rule.level))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%s' in '%s' is no level: none, view, read or write", level, text);
    if (at && parse_priority(at, &rule.priority) < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "'%s' in '%s' is no priority: a whole number",
                            at, text);
    size_t len = (size_t)(equals - text);
    if (len > AF_PATTERN_MAX || !af_text_is_utf8(text, len))
        return af_error_set(err, AF_INVALID_ARGUMENT, "the pattern of '%s' is %s", text,
                            len > AF_PATTERN_MAX ? "too long" : "not UTF-8");
    rule.pattern = tool_copy(text, len);
    permissions->list =
        tool_grow(permissions->list, permissions->count, &permissions->max, sizeof rule);
    permissions->list[permissions->count++] = rule;
    return 0;
}

void permissions_fini(struct permissions *permissions)
{
    for (size_t i = 0; i < permissions->count; i++)
        free((char *)permissions->list[i].pattern);
    free(permissions->list);
    memset(permissions, 0, sizeof *permissions);
}
