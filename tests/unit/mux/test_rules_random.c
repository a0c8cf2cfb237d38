// The automaton against a slow matcher that follows docs/RULES.md word by word, on random lists.
//
// The reference works on texts and whole paths, with recursion where recursion is shortest, and
// shares no code with the rules. RULES_SEED and RULES_LISTS (environment) choose another or a
// longer run; a failure prints the seed of its list, to be run alone with RULES_LISTS=1.
#include "tests/unit/mux/test_rules.h"

#include "mux/base/cleanup.h"

#include <stdbool.h>

// ---- the reference

struct ref_pattern {
    char text[256]; // one alternative: no leading slash, no braces
    const struct test_rule *rule;
    size_t index;
    int type;
    bool dead; // replaced
};

struct ref_list {
    struct ref_pattern patterns[1024];
    size_t n;
};

// A class at p against c; *end is left after its ']'.
static bool ref_class(const char *p, unsigned char c, const char **end)
{
    bool negated = *++p == '!' || *p == '^', in = false;
    p += negated;
    for (bool first = true; first || *p != ']'; first = false) {
        unsigned char low = (unsigned char)(*p == '\\' ? *++p : *p), high = low;
        p++;
        if (p[0] == '-' && p[1] != ']') {
            p++;
            high = (unsigned char)(*p == '\\' ? *++p : *p);
            p++;
        }
        in |= low <= c && c <= high;
    }
    *end = p + 1;
    return in != negated;
}

// One component against one name, all choices tried.
static bool ref_glob(const char *p, const char *p_end, const char *s, const char *s_end)
{
    if (p == p_end)
        return s == s_end;
    if (*p == '*')
        return ref_glob(p + 1, p_end, s, s_end) || (s < s_end && ref_glob(p, p_end, s + 1, s_end));
    if (s == s_end)
        return false;
    if (*p == '?')
        return ref_glob(p + 1, p_end, s + 1, s_end);
    if (*p == '[') {
        const char *end;
        bool in = ref_class(p, (unsigned char)*s, &end);
        return in && ref_glob(end, p_end, s + 1, s_end);
    }
    if (*p == '\\')
        p++;
    return *p == *s && ref_glob(p + 1, p_end, s + 1, s_end);
}

static const char *ref_cut(const char *text)
{
    const char *slash = strchr(text, '/'); // no class or escape of these tests contains one
    return slash ? slash : text + strlen(text);
}

// Components against components; both without a leading slash, "" is none.
static bool ref_parts(const char *pattern, const char *path)
{
    if (!*pattern)
        return !*path;
    const char *end = ref_cut(pattern), *rest = *end ? end + 1 : end, *name_end = ref_cut(path);
    const char *path_rest = *name_end ? name_end + 1 : name_end;
    if (end - pattern == 2 && memcmp(pattern, "**", 2) == 0)
        return ref_parts(rest, path) || (*path && ref_parts(pattern, path_rest));
    return *path && ref_glob(pattern, end, path, name_end) && ref_parts(rest, path_rest);
}

static bool ref_matches(const struct ref_pattern *p, const char *path)
{
    char prefix[1024];
    if (!*path) { // only `**` components and one final `*`
        const char *t = p->text;
        while (strncmp(t, "**/", 3) == 0)
            t += 3;
        if (t > p->text && strcmp(t, "*") == 0)
            return true;
    }
    if (ref_parts(p->text, path))
        return true;
    if (p->type != RULES_DIRECTORY)
        return false;
    snprintf(prefix, sizeof prefix, "%s", path); // or an ancestor matches
    while (*prefix) {
        char *slash = strrchr(prefix, '/');
        *(slash ? slash : prefix) = '\0';
        if (ref_parts(p->text, prefix))
            return true;
    }
    return false;
}

struct ref_rank {
    int rooted, prefix, plain, literal;
};

static struct ref_rank ref_rank(const struct ref_pattern *p)
{
    struct ref_rank r = {.rooted =
                             strncmp(p->text, "**", 2) != 0 || (p->text[2] && p->text[2] != '/'),
                         .plain = true};
    int length = 1; // of the literal text so far, with the root's slash
    for (const char *t = p->text; *t; t++) {
        if (*t == '*' || *t == '?' || *t == '[') {
            if (r.plain)
                r.prefix = length;
            r.plain = false;
            if (*t == '[') {
                const char *end;
                ref_class(t, 0, &end);
                t = end - 1;
            }
            continue;
        }
        if (*t == '\\')
            t++;
        length++;
        r.literal += *t != '/';
    }
    if (r.plain)
        r.prefix = *p->text ? length + 1 : length; // the end counts as a separator
    if (!r.rooted)
        r.prefix = 0;
    return r;
}

// Whether a wins over b (both match); ties by the lower level.
static bool ref_beats(const struct ref_pattern *a, const struct ref_pattern *b)
{
    struct ref_rank x = ref_rank(a), y = ref_rank(b);
    if (a->rule->priority != b->rule->priority)
        return a->rule->priority > b->rule->priority;
    if (a->type != b->type)
        return a->type > b->type;
    if (x.rooted != y.rooted)
        return x.rooted > y.rooted;
    if (x.prefix != y.prefix)
        return x.prefix > y.prefix;
    if (x.plain != y.plain)
        return x.plain > y.plain;
    if (x.literal != y.literal)
        return x.literal > y.literal;
    return a->rule->level < b->rule->level;
}

static const struct ref_pattern *ref_winner(const struct ref_list *list, const char *path)
{
    const struct ref_pattern *best = NULL;
    for (size_t i = 0; i < list->n; i++) {
        const struct ref_pattern *p = &list->patterns[i];
        if (!p->dead && ref_matches(p, path) && (!best || ref_beats(p, best)))
            best = p;
    }
    return best;
}

// Adds one alternative in normal form: what differs in spelling only becomes equal.
static void ref_add(struct ref_list *list, const char *text, const struct test_rule *rule,
                    size_t index)
{
    struct ref_pattern *p = &list->patterns[list->n];
    *p = (struct ref_pattern){.rule = rule, .index = index, .type = rule->type ? rule->type : 1};
    if (*text == '/')
        text++;
    snprintf(p->text, sizeof p->text, "%s", text);
    size_t len = strlen(p->text);
    if (len && p->text[len - 1] == '/') {
        p->text[len - 1] = '\0';
        if (p->type == RULES_GLOB)
            strcat(p->text, "/**");
    }
    for (char *twice; (twice = strstr(p->text, "**/**"));) { // the generator makes no a**/**b
        if (twice[5] && twice[5] != '/')
            break;
        memmove(twice, twice + 3, strlen(twice + 3) + 1);
    }
    for (char *t = p->text; (t = strstr(t, "a**b"));) // the generator's only stars of this kind
        memmove(t + 1, t + 2, strlen(t + 2) + 1);
    for (size_t i = 0; i < list->n; i++) {
        struct ref_pattern *old = &list->patterns[i];
        if (old->type == p->type && old->rule->priority == rule->priority &&
            strcmp(old->text, p->text) == 0)
            old->dead = true;
    }
    list->n++;
}

// Braces, the first pair first.
static void ref_expand(struct ref_list *list, const char *text, const struct test_rule *rule,
                       size_t index)
{
    const char *open = strchr(text, '{'), *close = open;
    if (!open) {
        ref_add(list, text, rule, index);
        return;
    }
    for (int depth = 0; depth += (*close == '{') - (*close == '}'), depth > 0;)
        close++;
    const char *from = open + 1;
    int depth = 0;
    for (const char *t = from; t <= close; t++) {
        depth += (*t == '{') - (*t == '}' && t != close);
        if (t != close && (*t != ',' || depth > 0))
            continue;
        char joined[256];
        snprintf(joined, sizeof joined, "%.*s%.*s%s", (int)(open - text), text, (int)(t - from),
                 from, close + 1);
        ref_expand(list, joined, rule, index);
        from = t + 1;
    }
}

// ---- random lists and paths

static uint64_t random_state;

static unsigned pick(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 11) % n);
}

static const char *const names[] = {"a", "b", "ab", "ba", "aab", ".a", "b.a", "*", "c", "a*b"};
#define N_NAMES AF_ARRAY_LEN(names)

static const char *const parts[] = {
    "a",     "b",      "ab",    "ba",     "aab",      ".a",     "b.a",    "\\*",        "a\\*b",
    "*",     "*",      "a*",    "*a",     "*b*",      "?",      "a?",     "?*",         "[ab]",
    "[!a]*", "[a-b]b", "*a*b",  "a*b",    ".*",       "*.a",    "**",     "**",         "**",
    "**",    "a**b",   "{a,b}", "{a,*b}", "{a,b/**}", "{**,c}", "x{,.a}", "{a,{b,c}a}",
};

static void random_pattern(char *to, int type)
{
    *to = '\0';
    if (pick(40) == 0) {
        strcpy(to, "/");
        return;
    }
    if (pick(2))
        strcat(to, "/");
    for (unsigned i = 0, n = 1 + pick(4), braces = 0; i < n; i++) {
        const char *part = parts[pick(AF_ARRAY_LEN(parts))];
        braces += strchr(part, '{') != NULL;
        strcat(to, i ? "/" : "");
        strcat(to, braces > 3 ? "a" : part); // 3 x 3 x 3 alternatives are allowed
    }
    if (type != RULES_FILE && pick(8) == 0)
        strcat(to, "/");
}

static void random_path(char *to)
{
    *to = '\0';
    for (unsigned i = 0, n = pick(6); i < n; i++) {
        strcat(to, i ? "/" : "");
        strcat(to, names[pick(N_NAMES)]);
    }
}

struct random_list {
    char texts[12][128];
    struct test_rule rules[12];
    size_t n;
    struct ref_list ref;
    struct rules *compiled;
};

static void random_list(struct random_list *list)
{
    list->n = pick(12) + (pick(20) != 0);
    list->n = list->n > 12 ? 12 : list->n;
    list->ref.n = 0;
    for (size_t i = 0; i < list->n; i++) {
        int type = pick(3) ? 0 : (int)pick(4);
        if (i && pick(6) == 0)
            strcpy(list->texts[i], list->texts[pick((unsigned)i)]);
        else
            random_pattern(list->texts[i], type);
        if (type == RULES_FILE && list->texts[i][strlen(list->texts[i]) - 1] == '/')
            type = RULES_DIRECTORY;
        list->rules[i] =
            (struct test_rule){list->texts[i], 1 + (int)pick(4), (int)pick(3) - 1, type};
        ref_expand(&list->ref, list->texts[i], &list->rules[i], i);
    }
    list->compiled = test_compile(list->rules, list->n);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void complain(const struct random_list *list, uint64_t seed, const char *path,
                     const char *what)
{
    for (size_t i = 0; i < list->n; i++)
        print_error("%zu: %s %s type %d priority %d\n", i, list->texts[i],
                    rules_level_name((enum rules_level)list->rules[i].level), list->rules[i].type,
                    list->rules[i].priority);
    fail_msg("RULES_SEED=%llu RULES_LISTS=1: /%s: %s", (unsigned long long)seed, path, what);
}

// ---- what must hold

static void check_path(struct random_list *list, uint64_t seed, const char *path)
{
    const struct ref_pattern *winner = ref_winner(&list->ref, path);
    enum rules_level expected = winner ? (enum rules_level)winner->rule->level : RULES_NONE;
    if (test_facts(list->compiled, path).level != expected)
        complain(list, seed, path, rules_level_name(expected));
    struct rules_explanation e;
    assert_int_equal(rules_explain(list->compiled, path, strlen(path), &e), 0);
    size_t in_force = 0;
    while (in_force < e.n_matches && !e.matches[in_force].replaced)
        in_force++;
    if (e.level != expected || (in_force > 0) != (winner != NULL) ||
        (winner && e.matches[0].level != expected))
        complain(list, seed, path, "explained otherwise");
    rules_explanation_fini(&e);
}

struct bounds {
    enum rules_level min, max;
};

static uint64_t n_bounds, n_tight_max, n_tight_min;

// The levels that really occur strictly below, to some depth, with names that no pattern knows
// among them; every bound on the way is checked against them.
static struct bounds check_below(struct random_list *list, uint64_t seed, rules_state state,
                                 char *path, int depth)
{
    static const char *const below[] = {"a", "b",  "ab", "c",   ".a",  "b.a", "zz",
                                        "*", "xa", "ba", "aab", "a*b", "x.a"};
    struct bounds found = {RULES_WRITE, RULES_NONE};
    size_t len = strlen(path);
    for (size_t i = 0; depth > 0 && i < AF_ARRAY_LEN(below); i++) {
        rules_state child = rules_step(list->compiled, state, below[i], strlen(below[i]));
        sprintf(path + len, "%s%s", len ? "/" : "", below[i]);
        struct bounds deeper = check_below(list, seed, child, path, depth - 1);
        enum rules_level level = rules_level(list->compiled, child);
        deeper.min = level < deeper.min ? level : deeper.min;
        deeper.max = level > deeper.max ? level : deeper.max;
        found.min = deeper.min < found.min ? deeper.min : found.min;
        found.max = deeper.max > found.max ? deeper.max : found.max;
        rules_state_release(list->compiled, child);
        path[len] = '\0';
    }
    enum rules_level max = rules_below_max(list->compiled, state);
    enum rules_level min = rules_below_min(list->compiled, state);
    if (depth > 0 && (found.max > max || found.min < min))
        complain(list, seed, path, "something below is outside of the bounds");
    if (found.max > RULES_NONE && rules_is_hidden(list->compiled, state))
        complain(list, seed, path, "an ancestor of something visible is hidden");
    if (depth > 2) {
        n_bounds++;
        n_tight_max += found.max == max;
        n_tight_min += found.min == min;
    }
    return found;
}

static void test_random_lists_agree_with_the_reference(void **state)
{
    (void)state;
    uint64_t seed = setting("RULES_SEED", 20240601), lists = setting("RULES_LISTS", 10000);
    struct random_list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    for (uint64_t i = 0; i < lists; i++, seed++) {
        random_state = seed * 0x9e3779b97f4a7c15u | 1;
        pick(2);
        random_list(list);
        char path[512] = "";
        check_path(list, seed, path);
        for (int k = 0; k < 40; k++) {
            random_path(path);
            check_path(list, seed, path);
        }
        rules_unref(list->compiled);
    }
    free(list);
}

static void test_random_bounds_below_are_sound_and_mostly_tight(void **state)
{
    (void)state;
    uint64_t seed = setting("RULES_SEED", 7), lists = setting("RULES_LISTS", 200);
    struct random_list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    n_bounds = n_tight_max = n_tight_min = 0;
    for (uint64_t i = 0; i < lists; i++, seed++) {
        random_state = seed * 0x9e3779b97f4a7c15u | 1;
        pick(2);
        random_list(list);
        char path[512] = "";
        check_below(list, seed, rules_root(list->compiled), path, 4);
        rules_unref(list->compiled);
    }
    free(list);
    print_message("of %llu directories below_max is reached in %.1f %%, below_min in %.1f %%\n",
                  (unsigned long long)n_bounds, 100.0 * (double)n_tight_max / (double)n_bounds,
                  100.0 * (double)n_tight_min / (double)n_bounds);
    assert_true(lists < 100 ||
                (n_tight_max * 10 > n_bounds * 9 && n_tight_min * 10 > n_bounds * 9));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_lists_agree_with_the_reference),
        cmocka_unit_test(test_random_bounds_below_are_sound_and_mostly_tight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
