// A sandbox's rules for a person and for a program, and changing them while it runs.
//
// Owns nothing. Thread: one. Failure: -1 and an af_error with a sentence.
// Read next: permissions.h for how a rule is written, docs/RULES.md for what it means.
#ifndef AF_TOOLS_COMMON_RULES_H
#define AF_TOOLS_COMMON_RULES_H

#include "tools/common/permissions.h"
#include "tools/common/rpc.h"

#include <stdio.h>

struct rules_change {
    const char *file; // whole list, one PATTERN=LEVEL[@PRIORITY] a line; NULL: only what `set` says
    char **set;       // rules that are added; one with the same pattern and priority is replaced
    int set_count;
    bool end_holders;
};

// Prints the rules of a sandbox, in the order of the list.
int tool_rules_show(struct af_client *client, const char *id, bool json, FILE *out,
                    struct af_error *err);
// Changes them; returns when they hold. *ret_ended: processes ended.
int tool_rules_change(struct af_client *client, const char *id, const struct rules_change *change,
                      uint32_t *ret_ended, struct af_error *err);
// What both tools do with their arguments after the sandbox: none, or "set" and rules.
int tool_rules_command(struct af_client *client, const char *view, struct rules_change *change,
                       char **args, int n_args, bool json, FILE *out, struct af_error *err);

#endif
