// Permission rules as the command line gives them: presets by name, and PATTERN=LEVEL[@PRIORITY].
//
// A preset is nothing but a list of rules that is sent to the daemon. The lists here are those of
// mux/presets.c, which tools may not include; tests/unit/tools/both proves them equal.
// A rule of the command line without a priority gets 20: it wins over what a preset says in general
// (0 and 10) and loses to what a preset protects (.git 50; .env, secrets, keys 100). So
// `--permission '/src/**=write'` opens src without uncovering a secret in it; @101 uncovers.
// Owns its list. Thread: one. Read next: docs/RULES.md for which rule wins.
#ifndef AF_TOOLS_COMMON_PERMISSIONS_H
#define AF_TOOLS_COMMON_PERMISSIONS_H

#include "mux/base/error.h"
#include "proto/agentfense.pb-c.h"

#include <stddef.h>
#include <stdint.h>

#define PERMISSION_PRIORITY_DEFAULT 20
#define PRESET_DEFAULT              "agent-safe"

struct permission {
    const char *pattern; // of a preset: static; else owned by the list
    Agentfense__V1__Level level;
    int32_t priority;
};

struct preset_rules {
    const char *name, *summary;
    const struct permission *rules;
    size_t count;
};

// NULL when there is none of that name. presets_all ends with a NULL name.
const struct preset_rules *preset_find(const char *name);
extern const struct preset_rules presets_all[];

struct permissions {
    struct permission *list; // of --permission, in order
    size_t count, max;
};

// Parses one --permission value and adds it; -1 and INVALID_ARGUMENT with a sentence.
int permissions_add(struct permissions *permissions, const char *text, struct af_error *err);
void permissions_fini(struct permissions *permissions);

#endif
