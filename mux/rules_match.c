// Components of patterns against one name.
//
// Owns nothing, takes no locks, cannot fail. `*` is greedy with one point of return: when a later
// operation fails, only the last star gives up a byte more. An earlier star never has to, since
// what stands between the two has been found at its leftmost place; so the work is bounded by the
// product of the lengths, also for `*a*a*a*b`. Read next: rules_state.c.
#include "mux/rules_priv.h"

#include <string.h>

static bool byte_matches(const uint8_t *code, uint8_t byte)
{
    switch (*code) {
    case RULES_OP_BYTE:
        return code[1] == byte;
    case RULES_OP_ONE:
        return true;
    case RULES_OP_CLASS:
        return code[1 + byte / 8] >> (byte % 8) & 1;
    default:
        return false;
    }
}

static size_t op_size(uint8_t op)
{
    return op == RULES_OP_BYTE ? 2 : op == RULES_OP_CLASS ? 1 + RULES_CLASS_BYTES : 1;
}

static bool match_code(const uint8_t *code, const uint8_t *code_end, const uint8_t *name,
                       const uint8_t *name_end)
{
    const uint8_t *after_star = NULL, *retry = NULL;
    for (;;) {
        if (code < code_end && *code == RULES_OP_STAR) {
            after_star = ++code;
            retry = name;
            if (code == code_end)
                return true;
        }
        if (name == name_end)
            return code == code_end;
        if (code < code_end && byte_matches(code, *name)) {
            code += op_size(*code);
            name++;
        } else if (after_star) {
            code = after_star;
            name = ++retry;
        } else {
            return false;
        }
    }
}

bool rules_matcher_test(const struct rules_matcher *matcher, const void *name, size_t len)
{
    const uint8_t *code = matcher->code;
    size_t code_len = matcher->len;
    switch (matcher->kind) {
    case RULES_PART_LITERAL:
        return len == code_len && memcmp(name, code, len) == 0;
    case RULES_PART_PREFIX:
        return len >= code_len && memcmp(name, code, code_len) == 0;
    case RULES_PART_SUFFIX:
        return len >= code_len &&
               memcmp((const uint8_t *)name + len - code_len, code, code_len) == 0;
    case RULES_PART_ANY:
        return true;
    default:
        return match_code(code, code + code_len, name, (const uint8_t *)name + len);
    }
}

void rules_matcher_prepare(struct rules_matcher *matcher)
{
    const uint8_t *code = matcher->code, *end = code + matcher->len;
    matcher->needs = 0;
    for (; matcher->kind == RULES_PART_WILD && code < end; code += op_size(*code))
        matcher->needs |= *code == RULES_OP_BYTE ? rules_byte_bit(code[1]) : 0;
}

static uint64_t bits_of(const uint8_t *name, size_t len)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < len; i++)
        bits |= rules_byte_bit(name[i]);
    return bits;
}

// The matcher of a group of equal-length codes that equals the bytes, or -1.
static int find_code(const struct rules_matcher *matchers, const uint16_t *active,
                     const struct rules_group *group, const uint8_t *bytes)
{
    int low = group->first, high = group->first + group->n - 1;
    while (low <= high) {
        int middle = (low + high) / 2;
        const uint8_t *code = matchers[active[middle]].code;
        int r = (int)bytes[0] - (int)code[0]; // mostly decides without a call
        if (r == 0)
            r = memcmp(bytes, code, group->len);
        if (r == 0)
            return middle;
        if (r < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

size_t rules_find_hits(const struct rules_matcher *matchers, const struct rules_state_rec *rec,
                       const void *name, size_t len, uint16_t *hits, size_t max)
{
    size_t n = 0;
    for (size_t g = 0; g < rec->n_groups && n < max; g++) {
        const struct rules_group *group = &rec->groups[g];
        if (group->kind == RULES_PART_WILD) {
            uint64_t bits = bits_of(name, len);
            for (size_t i = group->first; i < (size_t)group->first + group->n && n < max; i++) {
                const struct rules_matcher *m = &matchers[rec->active[i]];
                if ((m->needs & ~bits) == 0 && rules_matcher_test(m, name, len))
                    hits[n++] = (uint16_t)i;
            }
            continue;
        }
        if (group->len > len || (group->kind == RULES_PART_LITERAL && group->len != len))
            continue;
        size_t skip = group->kind == RULES_PART_SUFFIX ? len - group->len : 0;
        int found = find_code(matchers, rec->active, group, (const uint8_t *)name + skip);
        if (found >= 0)
            hits[n++] = (uint16_t)found;
    }
    return n;
}
