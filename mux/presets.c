// The presets as tables. Their text is part of the interface: clients send the same lists.
//
// Owns nothing, takes no locks, cannot fail. Read next: presets.h.
#include "mux/presets.h"

#include "mux/base/cleanup.h"

#include <string.h>

#define RULE(text, rule_level, rule_priority)                                                      \
    {                                                                                              \
        .pattern = (text), .pattern_len = sizeof(text) - 1, .type = RULES_GLOB,                    \
        .level = (rule_level), .priority = (rule_priority)                                         \
    }

static const struct rules_input agent_safe[] = {
    RULE("**/*", RULES_READ, 0),
    RULE("/output/**", RULES_WRITE, 10),
    RULE("/tmp/**", RULES_WRITE, 10),
    RULE("**/.env*", RULES_NONE, 100),
    RULE("**/secrets/**", RULES_NONE, 100),
    RULE("**/*.key", RULES_NONE, 100),
    RULE("**/*.pem", RULES_NONE, 100),
    RULE("**/credentials*", RULES_NONE, 100),
    RULE("**/.git/**", RULES_NONE, 50),
};

static const struct rules_input read_only[] = {RULE("**/*", RULES_READ, 0)};
static const struct rules_input full_access[] = {RULE("**/*", RULES_WRITE, 0)};
static const struct rules_input view_only[] = {RULE("**/*", RULES_VIEW, 0)};

static const struct rules_input development[] = {
    RULE("**/*", RULES_WRITE, 0),           RULE("**/.env*", RULES_NONE, 100),
    RULE("**/secrets/**", RULES_NONE, 100), RULE("**/*.key", RULES_NONE, 100),
    RULE("**/*.pem", RULES_NONE, 100),
};

#define PRESET(preset_name, list, text)                                                            \
    {                                                                                              \
        .name = (preset_name), .summary = (text), .rules = (list), .n_rules = AF_ARRAY_LEN(list)   \
    }

static const struct preset presets[] = {
    PRESET("agent-safe", agent_safe,
           "Reads all but secrets and .git, writes to /output and /tmp only."),
    PRESET("read-only", read_only, "Reads everything, writes nothing."),
    PRESET("full-access", full_access, "Reads and writes everything."),
    PRESET("view-only", view_only, "Sees names and attributes, no content."),
    PRESET("development", development, "Reads and writes all but secrets."),
};

const struct preset *presets_get(const char *name)
{
    for (size_t i = 0; i < AF_ARRAY_LEN(presets); i++) {
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    }
    return NULL;
}

const struct preset *presets_list(size_t *ret_count)
{
    *ret_count = AF_ARRAY_LEN(presets);
    return presets;
}
