// Which rules match a path, which one wins, and why.
//
// Works on the same positions as rules_state.c but drops nothing: lost and replaced patterns are
// wanted here. Owns nothing but what it puts into an explanation. No locks of its own.
// Fails: -errno, the explanation untouched. Read next: rules_compile.c for the order.
#include "mux/base/cleanup.h"
#include "mux/base/text.h"
#include "mux/rules_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *rules_level_name(enum rules_level level)
{
    static const char *const names[] = {[RULES_NONE] = "none",
                                        [RULES_VIEW] = "view",
                                        [RULES_READ] = "read",
                                        [RULES_WRITE] = "write"};
    return (size_t)level < AF_ARRAY_LEN(names) && names[level] ? names[level] : "unknown";
}

const char *rules_type_name(enum rules_type type)
{
    static const char *const names[] = {
        [RULES_GLOB] = "glob", [RULES_DIRECTORY] = "directory", [RULES_FILE] = "file"};
    return (size_t)type < AF_ARRAY_LEN(names) && names[type] ? names[type] : "unknown";
}

void rules_explanation_fini(struct rules_explanation *explanation)
{
    free(explanation->block_);
    *explanation = (struct rules_explanation){0};
}

// Every position of every pattern after one more name.
static void step_all(const struct rules *rules, const struct rules_set *from, struct rules_set *to,
                     const char *name, size_t len)
{
    to->n = 0;
    for (uint32_t i = 0; i < from->n; i++) {
        uint16_t at = from->at[i];
        const struct rules_position *p = &rules->positions[at];
        if (p->flags & RULES_POS_LOOP)
            rules_set_add(to, at);
        if (p->matcher != RULES_NO_MATCHER &&
            rules_matcher_test(&rules->matchers[p->matcher], name, len))
            rules_set_add(to, at + 1u);
    }
}

// The patterns that match a normalised path, in order of rank, replaced ones included.
static void match_all(const struct rules *rules, const char *path, size_t len,
                      struct rules_set sets[2])
{
    struct rules_set *now = &sets[0], *next = &sets[1];
    now->n = 0;
    for (size_t i = 0; i < rules->patterns.n; i++)
        rules_set_add(now, rules->patterns.list[i].first_position);
    for (size_t start = 0; start < len;) {
        const char *slash = memchr(path + start, '/', len - start);
        size_t end = slash ? (size_t)(slash - path) : len;
        step_all(rules, now, next, path + start, end - start);
        struct rules_set *last = now;
        now = next;
        next = last;
        start = end + 1;
    }
    uint32_t out = 0;
    for (uint32_t i = 0; i < now->n; i++) {
        const struct rules_position *p = &rules->positions[now->at[i]];
        if (p->flags & RULES_POS_ACCEPT)
            sets[0].at[out++] = p->pattern;
    }
    sets[0].n = out;
}

// Moves each rule's best pattern to the front, rules in force first. Returns how many rules.
static size_t one_per_rule(const struct rules *rules, struct rules_set *set, bool *seen)
{
    AF_CLEANUP_FREE uint16_t *kept = malloc((set->n + 1) * sizeof *kept);
    if (!kept)
        return SIZE_MAX;
    size_t n = 0;
    for (int replaced = 0; replaced < 2; replaced++) {
        for (uint32_t i = 0; i < set->n; i++) {
            const struct rules_pattern *p = &rules->patterns.list[set->at[i]];
            if (p->replaced != replaced || seen[p->rule])
                continue;
            seen[p->rule] = true;
            kept[n++] = set->at[i];
        }
    }
    memcpy(set->at, kept, n * sizeof *kept);
    set->n = (uint32_t)n;
    return n;
}

static int fill_matches(const struct rules *rules, const struct rules_set *set,
                        struct rules_explanation *ret)
{
    size_t bytes = set->n * sizeof(struct rules_match) + 1;
    for (uint32_t i = 0; i < set->n; i++)
        bytes += rules->inputs[rules->patterns.list[set->at[i]].rule].pattern_len + 1;
    ret->block_ = malloc(bytes);
    if (!ret->block_)
        return -ENOMEM;
    struct rules_match *matches = ret->block_;
    char *text = (char *)(matches + set->n);
    for (uint32_t i = 0; i < set->n; i++) {
        const struct rules_pattern *p = &rules->patterns.list[set->at[i]];
        const struct rules_input *input = &rules->inputs[p->rule];
        matches[i] = (struct rules_match){
            .index = p->rule,
            .pattern = text,
            .pattern_len = input->pattern_len,
            .type = (enum rules_type)input->type,
            .level = (enum rules_level)input->level,
            .priority = input->priority,
            .replaced = p->replaced,
        };
        memcpy(text, input->pattern, input->pattern_len);
        text[input->pattern_len] = '\0';
        text += input->pattern_len + 1;
    }
    ret->matches = matches;
    ret->n_matches = set->n;
    return 0;
}

// snprintf at the end of the reason; what does not fit is cut.
static __attribute__((format(printf, 2, 3))) void add(struct rules_explanation *ret,
                                                      const char *fmt, ...)
{
    size_t used = strlen(ret->reason);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(ret->reason + used, sizeof ret->reason - used, fmt, ap);
    va_end(ap);
}

static void give_reason(const struct rules *rules, const struct rules_set *set,
                        struct rules_explanation *ret)
{
    const struct rules_match *m = ret->matches;
    ret->reason[0] = '\0';
    if (ret->n_matches == 0 || m[0].replaced) {
        add(ret, "no rule matches, so the level is none");
    } else {
        add(ret, "rule %u (%.100s, %s, %s, priority %d) ", m[0].index, m[0].pattern,
            rules_type_name(m[0].type), rules_level_name(m[0].level), m[0].priority);
        if (ret->n_matches == 1 || m[1].replaced) {
            add(ret, "is the only one in force that matches");
        } else {
            const char *why;
            rules_rank_order(&rules->patterns.list[set->at[0]], &rules->patterns.list[set->at[1]],
                             &why);
            add(ret, "wins over rule %u (%.100s, %s): %s", m[1].index, m[1].pattern,
                rules_level_name(m[1].level), why);
        }
    }
    if (ret->traversable_only)
        add(ret, "; a directory here can be entered and listed, for a rule may allow something "
                 "below it");
    af_text_make_printable(ret->reason);
}

int rules_explain(struct rules *rules, const void *path, size_t len, struct rules_explanation *ret)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    if (len > AF_PATH_MAX)
        return -ENAMETOOLONG;
    char normal[AF_PATH_MAX + 1];
    size_t normal_len;
    int r = af_path_normalize(path, len, true, normal, &normal_len);
    if (r < 0)
        return r;
    AF_CLEANUP_FREE struct rules_set *sets = calloc(2, sizeof *sets);
    AF_CLEANUP_FREE bool *seen = calloc(rules->n_inputs + 1, sizeof *seen);
    if (!sets || !seen)
        return -ENOMEM;
    match_all(rules, normal, normal_len, sets);
    if (one_per_rule(rules, &sets[0], seen) == SIZE_MAX)
        return -ENOMEM;
    rules_state state = rules_walk(rules, normal, normal_len);
    if (state == RULES_STATE_INVALID)
        return -ENOMEM;
    struct rules_explanation made = {
        .level = rules_level(rules, state),
        .below_max = rules_below_max(rules, state),
    };
    rules_state_release(rules, state);
    made.traversable_only = made.level == RULES_NONE && made.below_max > RULES_NONE;
    r = fill_matches(rules, &sets[0], &made);
    if (r < 0)
        return r;
    give_reason(rules, &sets[0], &made);
    *ret = made;
    return 0;
}
