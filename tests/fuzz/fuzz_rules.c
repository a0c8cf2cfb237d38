// Fuzzes the rules: any bytes as a list of patterns and a path, with the promises checked.
//
// Input: records, each one byte of flags (type 2 bits, level 2 bits, priority 2 bits) and a
// pattern up to a newline; what comes after an empty line is a path.
// Read next: docs/RULES.md.
#include "mux/base/text.h"
#include "mux/rules.h"

#include <stdlib.h>
#include <string.h>

#define RULES 16

static void check(bool holds)
{
    if (!holds)
        abort();
}

// Level within the bounds of every ancestor; nothing visible under something hidden.
static void walk(struct rules *rules, const char *path, size_t len)
{
    rules_state at = rules_root(rules);
    enum rules_level max = RULES_WRITE, min = RULES_NONE;
    bool hidden = false;
    for (size_t start = 0; start <= len;) {
        check(rules_level(rules, at) <= max && (start == 0 || rules_level(rules, at) >= min));
        check(!hidden || rules_is_hidden(rules, at));
        check(rules_below_min(rules, at) <= rules_below_max(rules, at));
        max = rules_below_max(rules, at) < max ? rules_below_max(rules, at) : max;
        min = rules_below_min(rules, at) > min ? rules_below_min(rules, at) : min;
        hidden = rules_is_hidden(rules, at);
        const char *slash = memchr(path + start, '/', len - start);
        size_t end = slash ? (size_t)(slash - path) : len;
        rules_state next = rules_step(rules, at, path + start, end - start);
        rules_state_release(rules, at);
        at = next;
        start = end + 1;
    }
    rules_state_release(rules, at);
}

static void explain(struct rules *rules, const char *path, size_t len)
{
    struct rules_explanation e;
    if (rules_explain(rules, path, len, &e) < 0)
        return;
    bool wins = e.n_matches > 0 && !e.matches[0].replaced;
    check(e.level == (wins ? e.matches[0].level : RULES_NONE));
    check(af_text_is_utf8(e.reason, strlen(e.reason)));
    rules_explanation_fini(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rules_input list[RULES];
    size_t n = 0;
    const char *at = (const char *)data, *end = at + size;
    while (n < RULES && at < end && *at != '\n') {
        uint8_t flags = (uint8_t)*at++;
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        list[n++] = (struct rules_input){at, (size_t)(stop - at), flags & 3, flags >> 2 & 3,
                                         flags >> 4 & 3};
        list[n - 1].level += 1;
        at = stop < end ? stop + 1 : end;
    }
    if (at < end)
        at++;
    struct rules *rules;
    struct af_error err;
    if (rules_compile(list, n, &rules, &err) < 0) {
        check(err.status == AF_INVALID_ARGUMENT && af_text_is_utf8(err.text, strlen(err.text)));
        return 0;
    }
    walk(rules, at, (size_t)(end - at));
    explain(rules, at, (size_t)(end - at));
    rules_unref(rules);
    return 0;
}
