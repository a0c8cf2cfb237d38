// One component of a pattern against one name.
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

int rules_name_order(const void *a, size_t a_len, const void *b, size_t b_len)
{
    if (a_len != b_len)
        return a_len < b_len ? -1 : 1;
    return memcmp(a, b, a_len);
}
