// From a pattern's text to parts: validation, braces, components.
//
// Three passes: check() walks the text once by atoms (an escaped byte, a whole [...], or one byte)
// and refuses what is malformed; expand() replaces braces by their alternatives; parse_one() cuts
// an alternative into components and each into operations.
// Owns nothing; what it makes belongs to the rules_patterns given. No locks.
// Fails: -1 with a sentence naming the rule's index. Nothing is ever skipped or guessed.
// Read next: rules_compile.c.
#include "mux/base/cleanup.h"
#include "mux/rules_priv.h"

#include <string.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x) // the value of a limit, for messages

struct rule {
    uint32_t index;
    const struct rules_input *input;
    struct af_error *err;
};

static int refuse(const struct rule *rule, const char *fault)
{
    int shown = rule->input->pattern_len > 120 ? 120 : (int)rule->input->pattern_len;
    return af_error_set(rule->err, AF_INVALID_ARGUMENT, "rule %u, pattern \"%.*s\"%s: %s",
                        rule->index, shown, rule->input->pattern,
                        rule->input->pattern_len > 120 ? "..." : "", fault);
}

static int no_memory(const struct rule *rule)
{
    return af_error_set(rule->err, AF_RESOURCE_EXHAUSTED, "no memory for the rules");
}

bool rules_grow(void **array, size_t *cap, size_t need, size_t element_size)
{
    if (need <= *cap)
        return true;
    size_t grown = need + need / 2 + 16;
    void *moved = realloc(*array, grown * element_size);
    if (!moved)
        return false;
    *array = moved;
    *cap = grown;
    return true;
}

void rules_patterns_fini(struct rules_patterns *patterns)
{
    free(patterns->list);
    free(patterns->parts);
    free(patterns->code);
    *patterns = (struct rules_patterns){0};
}

// ---- atoms

struct text {
    char *bytes;
    size_t len;
};

// The end of the [...] that begins at `at`; 0 with the fault when there is none.
static size_t class_end(const char *bytes, size_t len, size_t at, const char **fault)
{
    size_t i = at + 1;
    if (i < len && (bytes[i] == '!' || bytes[i] == '^'))
        i++;
    for (size_t first = i; i < len; i++) {
        if (bytes[i] == ']' && i > first)
            return i + 1;
        size_t escaped = bytes[i] == '\\';
        if (i + escaped < len && bytes[i + escaped] == '/') {
            *fault = "'/' inside [...]: a class stands for one byte of one component; write \\[ "
                     "for a literal '['";
            return 0;
        }
        if (bytes[i] == '[' && i + 1 < len && strchr(":.=", bytes[i + 1])) {
            *fault = "named classes such as [:alpha:] are not supported; write a range, or \\[ "
                     "for a literal '['";
            return 0;
        }
        i += escaped;
    }
    *fault = "'[' is not closed; write \\[ for a literal '['";
    return 0;
}

// The end of the atom at `at`; 0 with the fault when it has none.
static size_t atom_end(const char *bytes, size_t len, size_t at, const char **fault)
{
    if (bytes[at] == '[')
        return class_end(bytes, len, at, fault);
    if (bytes[at] != '\\')
        return at + 1;
    if (at + 1 == len) {
        *fault = "it ends in a backslash, which escapes nothing";
        return 0;
    }
    if (bytes[at + 1] == '/') {
        *fault = "'/' cannot be escaped: no name contains it";
        return 0;
    }
    return at + 2;
}

// Everything that can be told from the whole text. NULL or the fault.
static const char *check(const char *bytes, size_t len)
{
    if (len == 0)
        return "it is empty";
    if (len > AF_PATTERN_MAX)
        return "it is longer than " TEXT(AF_PATTERN_MAX) " bytes";
    if (memchr(bytes, '\0', len))
        return "it contains a NUL byte";
    size_t depth = 0;
    const char *fault = NULL;
    for (size_t i = 0; i < len;) {
        if (bytes[i] == '{') {
            depth++;
        } else if (bytes[i] == '}') {
            if (depth == 0)
                return "'}' without '{'; write \\} for a literal '}'";
            depth--;
        }
        i = atom_end(bytes, len, i, &fault);
        if (!i)
            return fault;
    }
    return depth ? "'{' is not closed; write \\{ for a literal '{'" : NULL;
}

// ---- braces

struct texts {
    struct text list[AF_BRACE_EXPANSION_MAX];
    size_t n;
};

static void texts_fini(struct texts *texts)
{
    for (size_t i = 0; i < texts->n; i++)
        free(texts->list[i].bytes);
}

// prefix + middle + suffix.
static bool join(struct text *ret, const char *prefix, size_t prefix_len, const char *middle,
                 size_t middle_len, const char *suffix, size_t suffix_len)
{
    char *bytes = malloc(prefix_len + middle_len + suffix_len + 1);
    if (!bytes)
        return false;
    memcpy(bytes, prefix, prefix_len);
    memcpy(bytes + prefix_len, middle, middle_len);
    memcpy(bytes + prefix_len + middle_len, suffix, suffix_len);
    *ret = (struct text){bytes, prefix_len + middle_len + suffix_len};
    return true;
}

// The outermost '{' that comes first, its commas and its '}': cuts[0 .. n - 1]. 0 when none.
// The text is well formed. Positions past the capacity are counted, not stored.
static size_t find_brace(struct text text, size_t *cuts, size_t cap)
{
    const char *fault;
    size_t n = 0, depth = 0;
    for (size_t i = 0; i < text.len; i = atom_end(text.bytes, text.len, i, &fault)) {
        char c = text.bytes[i];
        bool cut = (c == '{' && depth == 0) || (c == ',' && depth == 1) || (c == '}' && depth == 1);
        if (cut) {
            if (n < cap)
                cuts[n] = i;
            n++;
        }
        if (c == '{')
            depth++;
        else if (c == '}' && --depth == 0)
            return n;
    }
    return 0;
}

// Replaces texts->list[at] by its alternatives when it has a brace.
static int expand_one(const struct rule *rule, struct texts *texts, size_t at, bool *ret_found)
{
    size_t cuts[AF_BRACE_EXPANSION_MAX + 1];
    struct text whole = texts->list[at];
    size_t n_cuts = find_brace(whole, cuts, AF_ARRAY_LEN(cuts));
    *ret_found = n_cuts > 0;
    if (n_cuts == 0)
        return 0;
    size_t n = n_cuts - 1; // alternatives
    if (n > AF_BRACE_EXPANSION_MAX || texts->n - 1 + n > AF_BRACE_EXPANSION_MAX)
        return refuse(rule,
                      "its braces stand for more than " TEXT(AF_BRACE_EXPANSION_MAX) " patterns");
    struct text made[AF_BRACE_EXPANSION_MAX];
    size_t suffix = cuts[n] + 1;
    for (size_t i = 0; i < n; i++) {
        if (!join(&made[i], whole.bytes, cuts[0], whole.bytes + cuts[i] + 1,
                  cuts[i + 1] - cuts[i] - 1, whole.bytes + suffix, whole.len - suffix)) {
            while (i-- > 0)
                free(made[i].bytes);
            return no_memory(rule);
        }
    }
    free(whole.bytes);
    memmove(&texts->list[at + n], &texts->list[at + 1], (texts->n - at - 1) * sizeof whole);
    memcpy(&texts->list[at], made, n * sizeof whole);
    texts->n += n - 1;
    return 0;
}

// Every pass takes one pair of braces out of one text, so it ends.
static int expand(const struct rule *rule, struct texts *texts)
{
    for (size_t at = 0; at < texts->n;) {
        bool found;
        int r = expand_one(rule, texts, at, &found);
        if (r < 0)
            return r;
        at += !found;
    }
    return 0;
}

// ---- components

static bool emit(struct rules_patterns *to, const void *bytes, size_t len)
{
    if (!rules_grow((void **)&to->code, &to->cap_code, to->n_code + len, 1))
        return false;
    memcpy(to->code + to->n_code, bytes, len);
    to->n_code += len;
    return true;
}

// A member of a class, escaped or not; *i is left after it.
static uint8_t class_member(const char *bytes, size_t *i)
{
    if (bytes[*i] == '\\')
        ++*i;
    return (uint8_t)bytes[(*i)++];
}

// The class bytes[0 .. len - 1], brackets included, well formed. NULL or the fault.
static const char *parse_class(const char *bytes, size_t len, uint8_t bits[RULES_CLASS_BYTES])
{
    size_t i = 1, end = len - 1;
    bool negated = bytes[i] == '!' || bytes[i] == '^';
    i += negated;
    memset(bits, 0, RULES_CLASS_BYTES);
    while (i < end) {
        unsigned low = class_member(bytes, &i), high = low;
        if (i + 1 < end && bytes[i] == '-') {
            i++;
            high = class_member(bytes, &i);
        }
        if (low > high)
            return "a range in [...] is reversed";
        for (unsigned b = low; b <= high; b++)
            bits[b / 8] |= (uint8_t)(1u << b % 8);
    }
    for (size_t b = 0; negated && b < RULES_CLASS_BYTES; b++)
        bits[b] = (uint8_t)~bits[b];
    return NULL;
}

// What a component's operations amount to.
struct shape {
    size_t bytes, stars, singles; // operations by kind; singles: `?` and classes
    bool star_first, star_last;
};

// Appends the operations of one component. NULL, the fault, or "" for want of memory.
static const char *compile_component(struct rules_patterns *to, const char *bytes, size_t len,
                                     struct shape *shape)
{
    const char *fault = NULL;
    *shape = (struct shape){0};
    for (size_t i = 0, end; i < len; i = end) {
        end = atom_end(bytes, len, i, &fault);
        uint8_t op[1 + RULES_CLASS_BYTES] = {RULES_OP_BYTE, (uint8_t)bytes[end - 1]};
        size_t op_len = 2;
        bool star = bytes[i] == '*', one = bytes[i] == '?', class = bytes[i] == '[';
        if (star && shape->star_last)
            continue; // `**` inside a component is `*`
        if (class) {
            op[0] = RULES_OP_CLASS;
            op_len = 1 + RULES_CLASS_BYTES;
            fault = parse_class(bytes + i, end - i, op + 1);
            if (fault)
                return fault;
        } else if (star || one) {
            op[0] = star ? RULES_OP_STAR : RULES_OP_ONE;
            op_len = 1;
        }
        shape->star_first |= star && shape->bytes + shape->singles == 0;
        shape->star_last = star;
        shape->stars += star;
        shape->singles += one || class;
        shape->bytes += !star && !one && !class;
        if (!emit(to, op, op_len))
            return "";
    }
    return NULL;
}

// Keeps only the literal bytes of the code from `start` on.
static void keep_literals(struct rules_patterns *to, size_t start)
{
    size_t out = start;
    for (size_t i = start; i < to->n_code;) {
        bool byte = to->code[i] == RULES_OP_BYTE;
        if (byte)
            to->code[out++] = to->code[i + 1];
        i += byte ? 2 : 1;
    }
    to->n_code = out;
}

static const char *finish_part(struct rules_patterns *to, size_t start, const struct shape *shape)
{
    uint8_t kind = RULES_PART_WILD;
    if (shape->bytes + shape->singles > AF_NAME_MAX)
        return "a component is longer than any name (255 bytes)";
    if (shape->singles == 0 && shape->stars == 0)
        kind = RULES_PART_LITERAL;
    else if (shape->singles == 0 && shape->bytes == 0)
        kind = RULES_PART_ANY;
    else if (shape->singles == 0 && shape->stars == 1 && shape->star_last)
        kind = RULES_PART_PREFIX;
    else if (shape->singles == 0 && shape->stars == 1 && shape->star_first)
        kind = RULES_PART_SUFFIX;
    if (kind != RULES_PART_WILD)
        keep_literals(to, start);
    size_t len = to->n_code - start;
    if (kind == RULES_PART_LITERAL && (len == 1 || len == 2) &&
        memcmp(to->code + start, "..", len) == 0)
        return "a component is \".\" or \"..\"; write the path without it";
    if (!rules_grow((void **)&to->parts, &to->cap_parts, to->n_parts + 1, sizeof *to->parts))
        return "";
    to->parts[to->n_parts++] = (struct rules_part){
        .code = (uint32_t)start, .len = (uint16_t)len, .matcher = RULES_NO_MATCHER, .kind = kind};
    return NULL;
}

// Appends one component to the pattern; counts what its rank depends on.
static const char *parse_component(struct rules_patterns *to, struct rules_pattern *pattern,
                                   const char *bytes, size_t len)
{
    if (len == 0)
        return "a component is empty (\"//\"); write single slashes";
    if (pattern->n_parts == AF_PATTERN_PARTS_MAX)
        return "it has more than " TEXT(AF_PATTERN_PARTS_MAX) " components";
    size_t start = to->n_code;
    if (len == 2 && memcmp(bytes, "**", 2) == 0) {
        pattern->rooted &= pattern->n_parts > 0;
        pattern->wildcard = true;
        bool repeated =
            pattern->n_parts > 0 && to->parts[to->n_parts - 1].kind == RULES_PART_DOUBLESTAR;
        if (repeated)
            return NULL; // zero or more, twice, is zero or more
        if (!rules_grow((void **)&to->parts, &to->cap_parts, to->n_parts + 1, sizeof *to->parts))
            return "";
        to->parts[to->n_parts++] = (struct rules_part){
            .code = (uint32_t)start, .matcher = RULES_NO_MATCHER, .kind = RULES_PART_DOUBLESTAR};
        pattern->n_parts++;
        return NULL;
    }
    struct shape shape;
    const char *fault = compile_component(to, bytes, len, &shape);
    if (!fault)
        fault = finish_part(to, start, &shape);
    if (fault)
        return fault;
    pattern->n_parts++;
    pattern->literal_bytes += (uint16_t)shape.bytes;
    if (!pattern->wildcard) {
        bool literal = shape.stars + shape.singles == 0;
        size_t lead = 0;
        const char *ignored;
        for (size_t i = 0; i < len && !strchr("*?[", bytes[i]); lead++)
            i = atom_end(bytes, len, i, &ignored);
        pattern->prefix_len += (uint16_t)(lead + literal); // a whole component counts its separator
        pattern->wildcard = !literal;
    }
    return NULL;
}

// Cuts an alternative at its slashes. NULL, the fault, or "" for want of memory.
static const char *parse_components(struct rules_patterns *to, struct rules_pattern *pattern,
                                    struct text text)
{
    const char *bytes = text.bytes, *fault = NULL;
    size_t len = text.len;
    if (len == 0)
        return "one of its alternatives is empty";
    if (bytes[0] == '/') {
        bytes++;
        len--;
    }
    bool below = len > 0 && bytes[len - 1] == '/'; // no atom but a separator can end so
    if (below && pattern->type == RULES_FILE)
        return "a file rule cannot end in '/'";
    len -= below;
    if (below && len == 0)
        return "a component is empty (\"//\"); write single slashes";
    for (size_t i = 0, start = 0; i <= len && len > 0;) {
        if (i < len && bytes[i] != '/') {
            i = atom_end(bytes, len, i, &fault);
            continue;
        }
        fault = parse_component(to, pattern, bytes + start, i - start);
        if (fault)
            return fault;
        start = ++i;
    }
    if (below && pattern->type == RULES_GLOB)
        return parse_component(to, pattern, "**", 2);
    return NULL;
}

size_t rules_pattern_positions(const struct rules_patterns *patterns,
                               const struct rules_pattern *pattern)
{
    size_t n = 1;
    for (size_t i = 0; i < pattern->n_parts; i++)
        n += patterns->parts[pattern->first_part + i].kind != RULES_PART_DOUBLESTAR;
    return n;
}

static int parse_one(struct rules_patterns *to, const struct rule *rule, struct text text)
{
    struct rules_pattern pattern = {
        .rule = rule->index,
        .first_part = (uint32_t)to->n_parts,
        .priority = rule->input->priority,
        .type = (uint8_t)rule->input->type,
        .level = (uint8_t)rule->input->level,
        .rooted = true,
        .prefix_len = 1, // the root's slash
    };
    const char *fault = parse_components(to, &pattern, text);
    if (fault)
        return *fault ? refuse(rule, fault) : no_memory(rule);
    if (!pattern.rooted)
        pattern.prefix_len = 0;
    to->n_positions += rules_pattern_positions(to, &pattern);
    if (to->n_positions > RULES_POSITIONS_MAX)
        return refuse(rule, "with this rule the list has more than " TEXT(
                                RULES_POSITIONS_MAX) " components; each alternative adds one");
    if (!rules_grow((void **)&to->list, &to->cap, to->n + 1, sizeof *to->list))
        return no_memory(rule);
    to->list[to->n++] = pattern;
    return 0;
}

int rules_parse(struct rules_patterns *to, uint32_t index, const struct rules_input *input,
                struct af_error *err)
{
    struct rule rule = {index, input, err};
    const char *fault = check(input->pattern, input->pattern_len);
    if (fault)
        return refuse(&rule, fault);
    AF_CLEANUP(texts_fini) struct texts texts = {.n = 0};
    if (!join(&texts.list[0], input->pattern, input->pattern_len, "", 0, "", 0))
        return no_memory(&rule);
    texts.n = 1;
    int r = expand(&rule, &texts);
    for (size_t i = 0; r == 0 && i < texts.n; i++)
        r = parse_one(to, &rule, texts.list[i]);
    return r;
}
