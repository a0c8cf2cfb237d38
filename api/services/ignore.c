// Ignore files. Read next: ignore.h.
#include "api/services/ignore.h"

#include "mux/base/error.h"
#include "mux/base/limits.h"
#include "mux/rules.h"

#include <stdlib.h>
#include <string.h>

struct line {
    struct rules *rules; // one rule
    bool negated, dir_only;
};

struct ignore_list {
    struct line *lines;
    size_t count, capacity;
};

struct ignore_list *ignore_new(void)
{
    return calloc(1, sizeof(struct ignore_list));
}

void ignore_free(struct ignore_list *list)
{
    if (!list)
        return;
    for (size_t i = 0; i < list->count; i++)
        rules_unref(list->lines[i].rules);
    free(list->lines);
    free(list);
}

// Git knows no alternatives: braces are ordinary characters.
static size_t append_escaped(char *out, const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '{' || text[i] == '}')
            out[n++] = '\\';
        out[n++] = text[i];
        if (text[i] == '\\' && i + 1 < len)
            out[n++] = text[++i];
    }
    return n;
}

// The pattern as a rule: rooted when a slash stands anywhere but at the end, else at any depth.
static struct rules *compile(const char *text, size_t len)
{
    char pattern[2 * AF_PATTERN_MAX + 8];
    bool rooted = memchr(text, '/', len) != NULL;
    if (len == 0 || len > AF_PATTERN_MAX)
        return NULL;
    if (text[0] == '/') {
        text++;
        len--;
    }
    size_t n = (size_t)(stpcpy(pattern, rooted ? "/" : "/**/") - pattern);
    n += append_escaped(pattern + n, text, len);
    const struct rules_input input = {
        .pattern = pattern, .pattern_len = n, .type = RULES_GLOB, .level = RULES_WRITE};
    struct rules *rules;
    struct af_error ignored;
    return rules_compile(&input, 1, &rules, &ignored) == 0 ? rules : NULL;
}

static bool add_line(struct ignore_list *list, const char *text, size_t len)
{
    struct line line = {.negated = false};
    while (len > 0 &&
           (text[len - 1] == '\r' || (text[len - 1] == ' ' && (len < 2 || text[len - 2] != '\\'))))
        len--;
    if (len == 0 || text[0] == '#' || memchr(text, '\0', len))
        return true;
    if (text[0] == '!') {
        line.negated = true;
        text++;
        len--;
    }
    if (len > 0 && text[len - 1] == '/') {
        line.dir_only = true;
        len--;
    }
    line.rules = compile(text, len);
    if (!line.rules || list->count == IGNORE_LINES_MAX) {
        rules_unref(line.rules);
        return true;
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        struct line *grown = realloc(list->lines, capacity * sizeof *grown);
        if (!grown) {
            rules_unref(line.rules);
            return false;
        }
        list->lines = grown;
        list->capacity = capacity;
    }
    list->lines[list->count++] = line;
    return true;
}

bool ignore_add(struct ignore_list *list, const char *text, size_t len)
{
    while (len > 0) {
        const char *newline = memchr(text, '\n', len);
        size_t n = newline ? (size_t)(newline - text) : len;
        if (!add_line(list, text, n))
            return false;
        n += newline != NULL;
        text += n;
        len -= n;
    }
    return true;
}

enum ignore_verdict ignore_check(const struct ignore_list *list, const char *path, size_t len,
                                 bool is_dir)
{
    for (size_t i = list->count; i > 0; i--) {
        const struct line *line = &list->lines[i - 1];
        if (line->dir_only && !is_dir)
            continue;
        rules_state state = rules_walk(line->rules, path, len);
        bool matches = rules_level(line->rules, state) == RULES_WRITE;
        rules_state_release(line->rules, state);
        if (matches)
            return line->negated ? IGNORE_KEEP : IGNORE_LEAVE_OUT;
    }
    return IGNORE_UNDECIDED;
}
