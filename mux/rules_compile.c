// From a list of rules to a shared, immutable automaton: ranking, numbering, interning.
//
// Owns: struct rules, and the intern table of those alive. Locks: intern_lock (a leaf) guards the
// table and the step from one reference to none; compiling itself runs outside of it.
// Fails: rules_compile with a sentence. Read next: rules_state.c.
#include "mux/base/cleanup.h"
#include "mux/rules_priv.h"

#include <string.h>

#define INTERN_BUCKETS 1024

static struct {
    pthread_mutex_t lock;
    struct rules *buckets[INTERN_BUCKETS];
} intern = {.lock = PTHREAD_MUTEX_INITIALIZER};

// ---- rank

#define DECIDE(a, b, why)                                                                          \
    do {                                                                                           \
        if ((a) != (b)) {                                                                          \
            *ret_why = (why);                                                                      \
            return (a) > (b) ? -1 : 1;                                                             \
        }                                                                                          \
    } while (0)

int rules_rank_order(const struct rules_pattern *a, const struct rules_pattern *b,
                     const char **ret_why)
{
    const char *ignored;
    if (!ret_why)
        ret_why = &ignored;
    DECIDE(a->priority, b->priority, "its priority is higher");
    DECIDE(a->type, b->type, "a file rule goes before a directory rule, and that before a glob");
    DECIDE(a->rooted, b->rooted, "it is rooted and the other starts with **");
    DECIDE(a->prefix_len, b->prefix_len, "more of it comes before its first wildcard");
    DECIDE(!a->wildcard, !b->wildcard, "it has no wildcard");
    DECIDE(a->literal_bytes, b->literal_bytes, "it has more literal bytes");
    DECIDE(b->level, a->level, "in a full tie the most restrictive wins");
    *ret_why = "both say the same";
    return 0;
}

// Total, so that sorting is deterministic: a full tie goes by place in the list.
static int order_for_sort(const void *a, const void *b)
{
    const struct rules_pattern *x = a, *y = b;
    int r = rules_rank_order(x, y, NULL);
    if (r == 0)
        r = x->first_part < y->first_part ? -1 : x->first_part > y->first_part;
    return r;
}

// ---- replacement

static const uint8_t *code_of(const struct rules_patterns *patterns, const struct rules_part *part)
{
    return patterns->code + part->code;
}

static bool same_part(const struct rules_patterns *patterns, const struct rules_part *a,
                      const struct rules_part *b)
{
    return a->kind == b->kind && a->len == b->len &&
           (a->len == 0 || memcmp(code_of(patterns, a), code_of(patterns, b), a->len) == 0);
}

static bool same_pattern(const struct rules_patterns *patterns, const struct rules_pattern *a,
                         const struct rules_pattern *b)
{
    if (a->priority != b->priority || a->type != b->type || a->n_parts != b->n_parts)
        return false;
    for (size_t i = 0; i < a->n_parts; i++) {
        if (!same_part(patterns, &patterns->parts[a->first_part + i],
                       &patterns->parts[b->first_part + i]))
            return false;
    }
    return true;
}

static uint64_t hash_pattern(const struct rules_patterns *patterns, const struct rules_pattern *p)
{
    uint64_t hash = (uint64_t)p->type << 32 ^ (uint32_t)p->priority;
    for (size_t i = 0; i < p->n_parts; i++) {
        const struct rules_part *part = &patterns->parts[p->first_part + i];
        hash = rules_hash(&part->kind, 1, hash);
        if (part->len)
            hash = rules_hash(code_of(patterns, part), part->len, hash);
    }
    return hash;
}

// Marks every pattern that a later one repeats. The list is still in the order given.
static bool mark_replaced(struct rules_patterns *patterns)
{
    size_t size = 16;
    while (size < patterns->n * 2)
        size *= 2;
    AF_CLEANUP_FREE uint32_t *table = calloc(size, sizeof *table); // index + 1
    if (!table)
        return false;
    for (size_t i = 0; i < patterns->n; i++) {
        size_t at = hash_pattern(patterns, &patterns->list[i]) & (size - 1);
        while (table[at] &&
               !same_pattern(patterns, &patterns->list[table[at] - 1], &patterns->list[i]))
            at = (at + 1) & (size - 1);
        if (table[at])
            patterns->list[table[at] - 1].replaced = true;
        table[at] = (uint32_t)i + 1;
    }
    return true;
}

// ---- matchers

struct part_ref {
    struct rules_part *part;
    struct rules_matcher matcher;
};

static int order_refs(const void *a, const void *b)
{
    const struct rules_matcher *x = &((const struct part_ref *)a)->matcher;
    const struct rules_matcher *y = &((const struct part_ref *)b)->matcher;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return memcmp(x->code, y->code, x->len);
}

// Gives equal parts one matcher. Numbers go by kind, then length, then bytes.
static bool number_matchers(struct rules *rules)
{
    struct rules_patterns *patterns = &rules->patterns;
    rules->any = RULES_NO_MATCHER;
    size_t n = 0;
    AF_CLEANUP_FREE struct part_ref *refs = calloc(patterns->n_parts + 1, sizeof *refs);
    rules->matchers = calloc(patterns->n_parts + 1, sizeof *rules->matchers);
    if (!refs || !rules->matchers)
        return false;
    static const uint8_t no_code[1];
    for (size_t i = 0; i < patterns->n_parts; i++) {
        struct rules_part *part = &patterns->parts[i];
        const uint8_t *code = part->len ? code_of(patterns, part) : no_code;
        if (part->kind != RULES_PART_DOUBLESTAR)
            refs[n++] = (struct part_ref){part, {code, 0, part->len, part->kind}};
    }
    qsort(refs, n, sizeof *refs, order_refs);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || order_refs(&refs[i - 1], &refs[i]) != 0) {
            rules->matchers[rules->n_matchers] = refs[i].matcher;
            rules_matcher_prepare(&rules->matchers[rules->n_matchers++]);
        }
        refs[i].part->matcher = (uint16_t)(rules->n_matchers - 1);
        if (refs[i].matcher.kind == RULES_PART_ANY)
            rules->any = refs[i].part->matcher;
    }
    return true;
}

// ---- positions

// `**/*` is `**`: made only of "any depth" and one final "any name", it covers the root, too.
static bool covers_everything(const struct rules_part *parts, size_t n)
{
    return n == 2 && parts[0].kind == RULES_PART_DOUBLESTAR && parts[1].kind == RULES_PART_ANY;
}

static void number_pattern(struct rules *rules, size_t index)
{
    struct rules_pattern *pattern = &rules->patterns.list[index];
    size_t n = pattern->n_parts; // none: the root itself, and perhaps there are no parts at all
    const struct rules_part *parts = n ? rules->patterns.parts + pattern->first_part : NULL;
    struct rules_position *first = rules->positions + rules->n_positions, *p = first;
    bool loop = false;
    pattern->first_position = (uint16_t)rules->n_positions;
    if (covers_everything(parts, n))
        n = 1;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].kind == RULES_PART_DOUBLESTAR) {
            loop = true;
            continue;
        }
        *p++ = (struct rules_position){parts[i].matcher, (uint16_t)index, loop ? RULES_POS_LOOP : 0,
                                       pattern->level};
        loop = false;
    }
    loop |= pattern->type == RULES_DIRECTORY;
    *p = (struct rules_position){RULES_NO_MATCHER, (uint16_t)index,
                                 RULES_POS_ACCEPT | (loop ? RULES_POS_LOOP | RULES_POS_COVERS : 0),
                                 pattern->level};
    // `*` before the end covers all below if any depth follows, or comes before (`a/**/*`).
    if (p > first && p[-1].matcher == rules->any && (loop || (p[-1].flags & RULES_POS_LOOP)))
        p[-1].flags |= RULES_POS_COVERS;
    rules->n_positions += (size_t)(p - first) + 1;
}

static bool number_positions(struct rules *rules)
{
    rules->positions = calloc(rules->patterns.n_positions + 1, sizeof *rules->positions);
    if (!rules->positions)
        return false;
    for (size_t i = 0; i < rules->patterns.n; i++)
        number_pattern(rules, i);
    return true;
}

// ---- the object

static void rules_free(struct rules *rules)
{
    rules_states_fini(rules);
    rules_patterns_fini(&rules->patterns);
    free(rules->matchers);
    free(rules->positions);
    free(rules->inputs);
    free(rules->texts);
    rules->magic = 0;
    free(rules);
}

static void cleanup_rules(struct rules **rules)
{
    if (*rules)
        rules_free(*rules);
}

// Copies the inputs, unset values made explicit, so that equal lists have equal copies.
static bool copy_inputs(struct rules *rules, const struct rules_input *list, size_t n)
{
    size_t text_len = 0;
    for (size_t i = 0; i < n; i++)
        text_len += list[i].pattern_len;
    rules->inputs = calloc(n + 1, sizeof *rules->inputs);
    rules->texts = calloc(text_len + 1, 1);
    if (!rules->inputs || !rules->texts)
        return false;
    char *to = rules->texts;
    uint64_t hash = n;
    for (size_t i = 0; i < n; i++) {
        struct rules_input copy = list[i];
        copy.type = copy.type ? copy.type : RULES_GLOB;
        copy.level = copy.level ? copy.level : RULES_NONE;
        if (copy.pattern_len)
            memcpy(to, copy.pattern, copy.pattern_len);
        copy.pattern = to;
        to += copy.pattern_len;
        rules->inputs[i] = copy;
        int32_t facts[3] = {copy.type, copy.level, copy.priority};
        hash = rules_hash(facts, sizeof facts, hash);
        hash = rules_hash(copy.pattern, copy.pattern_len, hash);
    }
    rules->n_inputs = n;
    rules->hash = hash;
    return true;
}

// What need not be parsed to be refused.
static int check_inputs(const struct rules_input *list, size_t n, struct af_error *err)
{
    if (n > AF_RULES_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "rule %d is one too many: %d at most",
                            AF_RULES_MAX, AF_RULES_MAX);
    for (size_t i = 0; i < n; i++) {
        if (list[i].type < 0 || list[i].type > RULES_FILE)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "rule %zu: %d is no pattern type (1 glob, 2 directory, 3 file)", i,
                                list[i].type);
        if (list[i].level < 0 || list[i].level > RULES_WRITE)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "rule %zu: %d is no permission (1 none, 2 view, 3 read, 4 write)",
                                i, list[i].level);
        if (list[i].pattern_len > AF_PATTERN_MAX)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "rule %zu: the pattern is longer than %d bytes", i, AF_PATTERN_MAX);
    }
    return 0;
}

static int build(const struct rules_input *list, size_t n, struct rules **ret, struct af_error *err)
{
    if (check_inputs(list, n, err) < 0)
        return -1;
    AF_CLEANUP(cleanup_rules) struct rules *rules = calloc(1, sizeof *rules);
    if (!rules || !copy_inputs(rules, list, n))
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "no memory for the rules");
    rules->magic = RULES_MAGIC;
    atomic_init(&rules->refs, 1);
    for (size_t i = 0; i < n; i++) {
        if (rules_parse(&rules->patterns, (uint32_t)i, &rules->inputs[i], err) < 0)
            return -1;
    }
    if (!mark_replaced(&rules->patterns))
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "no memory for the rules");
    if (rules->patterns.n)
        qsort(rules->patterns.list, rules->patterns.n, sizeof *rules->patterns.list,
              order_for_sort);
    if (!number_matchers(rules) || !number_positions(rules) || rules_states_init(rules) < 0)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "no memory for the rules");
    *ret = AF_TAKE_PTR(rules);
    return 0;
}

// ---- interning

static bool same_list(const struct rules *rules, const struct rules_input *list, size_t n)
{
    if (rules->n_inputs != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct rules_input *a = &rules->inputs[i], *b = &list[i];
        if (a->type != b->type || a->level != b->level || a->priority != b->priority ||
            a->pattern_len != b->pattern_len || memcmp(a->pattern, b->pattern, a->pattern_len) != 0)
            return false;
    }
    return true;
}

int rules_compile(const struct rules_input *list, size_t n, struct rules **ret,
                  struct af_error *err)
{
    AF_CLEANUP(cleanup_rules) struct rules *made = NULL;
    if (build(list, n, &made, err) < 0)
        return -1;
    pthread_mutex_lock(&intern.lock);
    struct rules **bucket = &intern.buckets[made->hash % INTERN_BUCKETS], *found = *bucket;
    while (found && (found->hash != made->hash || !same_list(found, made->inputs, n)))
        found = found->intern_next;
    if (found) {
        atomic_fetch_add_explicit(&found->refs, 1, memory_order_relaxed);
    } else {
        found = AF_TAKE_PTR(made);
        found->intern_next = *bucket;
        *bucket = found;
    }
    pthread_mutex_unlock(&intern.lock);
    *ret = found;
    return 0;
}

struct rules *rules_ref(struct rules *rules)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    atomic_fetch_add_explicit(&rules->refs, 1, memory_order_relaxed);
    return rules;
}

void rules_unref(struct rules *rules)
{
    if (!rules)
        return;
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    // Only under the lock may the count reach zero: rules_compile must not find such an object.
    size_t refs = atomic_load_explicit(&rules->refs, memory_order_relaxed);
    while (refs > 1) {
        if (atomic_compare_exchange_weak_explicit(&rules->refs, &refs, refs - 1,
                                                  memory_order_release, memory_order_relaxed))
            return;
    }
    pthread_mutex_lock(&intern.lock);
    bool last = atomic_fetch_sub_explicit(&rules->refs, 1, memory_order_acq_rel) == 1;
    if (last) {
        struct rules **at = &intern.buckets[rules->hash % INTERN_BUCKETS];
        while (*at != rules)
            at = &(*at)->intern_next;
        *at = rules->intern_next;
    }
    pthread_mutex_unlock(&intern.lock);
    if (last)
        rules_free(rules);
}

size_t rules_count(const struct rules *rules)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    return rules->n_inputs;
}

struct rules_input rules_at(const struct rules *rules, size_t index)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    return rules->inputs[index];
}
