// Which rule decides for a path, asked again and again: for Trace.
//
// Answers are those of the rules at the moment of asking. Owns a reference to them and a bounded
// memory of answers. Thread: one at a time. Read next: watch_rules.c.
#ifndef AF_API_SERVICES_WATCH_RULES_H
#define AF_API_SERVICES_WATCH_RULES_H

#include "mux/inspect.h"

struct watch_rules;

struct watch_verdict {
    enum rules_level level;
    int32_t rule;        // index in the sandbox's list, -1: none matches
    const char *pattern; // "" when none; valid until the next call
    size_t pattern_len;
};

struct watch_rules *watch_rules_new(void); // NULL: out of memory
void watch_rules_free(struct watch_rules *rules);
// Takes up what has become of the sandbox's rules. Once for some events. -1: they cannot be read;
// the former ones stay.
int watch_rules_refresh(struct watch_rules *rules, struct mux *mux, const char *sandbox_id,
                        struct af_error *err);
// A path as fs_event has it. Without rules, or for want of memory: level 0, rule -1.
void watch_rules_ask(struct watch_rules *rules, const char *path, struct watch_verdict *ret);

#endif
