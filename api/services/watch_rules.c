// Verdicts, remembered by path. Read next: watch_rules.h, mux/rules.h.
#include "api/services/watch_rules.h"

#include <stdlib.h>
#include <string.h>

#define REMEMBERED 256 // answers; a path of the same hash takes the place of another

struct answer {
    char *path; // or NULL
    enum rules_level level;
    int32_t rule;
};

struct watch_rules {
    struct rules *rules; // or NULL
    struct answer answers[REMEMBERED];
};

static void forget(struct watch_rules *rules)
{
    for (size_t i = 0; i < REMEMBERED; i++) {
        free(rules->answers[i].path);
        rules->answers[i].path = NULL;
    }
}

struct watch_rules *watch_rules_new(void)
{
    return calloc(1, sizeof(struct watch_rules));
}

void watch_rules_free(struct watch_rules *rules)
{
    if (!rules)
        return;
    forget(rules);
    rules_unref(rules->rules);
    free(rules);
}

int watch_rules_refresh(struct watch_rules *rules, struct mux *mux, const char *sandbox_id,
                        struct af_error *err)
{
    struct rules *now;
    if (mux_inspect_rules(mux, sandbox_id, &now, err) < 0)
        return -1;
    if (now != rules->rules)
        forget(rules);
    rules_unref(rules->rules);
    rules->rules = now;
    return 0;
}

static size_t place_of(const char *path)
{
    uint32_t hash = 2166136261u; // FNV-1a: of paths that only one sandbox suffers from
    for (const char *at = path; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    return hash % REMEMBERED;
}

static int find_out(struct watch_rules *rules, const char *path, struct answer *ret)
{
    struct rules_explanation found = {0};
    char *copy = strdup(path);
    if (!copy || rules_explain(rules->rules, path, strlen(path), &found) < 0) {
        free(copy);
        return -1;
    }
    free(ret->path);
    *ret = (struct answer){
        .path = copy,
        .level = found.level,
        .rule = found.n_matches > 0 ? (int32_t)found.matches[0].index : -1,
    };
    rules_explanation_fini(&found);
    return 0;
}

void watch_rules_ask(struct watch_rules *rules, const char *path, struct watch_verdict *ret)
{
    *ret = (struct watch_verdict){.rule = -1, .pattern = ""};
    struct answer *answer = &rules->answers[place_of(path)];
    if (!rules->rules)
        return;
    if ((!answer->path || strcmp(answer->path, path) != 0) && find_out(rules, path, answer) < 0)
        return;
    ret->level = answer->level;
    ret->rule = answer->rule;
    if (answer->rule >= 0) {
        struct rules_input rule = rules_at(rules->rules, (size_t)answer->rule);
        ret->pattern = rule.pattern;
        ret->pattern_len = rule.pattern_len;
    }
}
