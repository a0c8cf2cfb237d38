// The named rule lists that clients offer: agent-safe, read-only, full-access, view-only,
// development.
//
// Owns nothing: static, read-only tables. Any thread, no locks, cannot fail. A preset is nothing
// but a list of rules: a client may send the same list, and gets the same compiled object.
// Read next: docs/RULES.md.
#ifndef AF_MUX_PRESETS_H
#define AF_MUX_PRESETS_H

#include "mux/rules.h"

struct preset {
    const char *name;
    const char *summary; // one sentence for a person
    const struct rules_input *rules;
    size_t n_rules;
};

// NULL when there is no preset of that name.
const struct preset *presets_get(const char *name);

// All of them, in the order in which they are documented.
const struct preset *presets_list(size_t *ret_count);

#endif
