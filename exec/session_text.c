// See session_text.h. Why it looks the way it does:
//   "command eval": a syntax error in a plain eval ends a POSIX shell (it is a special builtin).
//   zsh's `command` knows no builtins, and its eval survives.
//   "command echo": lines may define an echo of their own.
//   The report is a simple command on a line of its own: bash, after a syntax error inside eval,
//   takes a `{` there for an ordinary word.
//   "(exit N) ||" sets $? without tripping set -e.
// Owns: nothing. Read next: session.c.
#include "exec/session_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct exec_shell_kind kinds[] = {
    {9, "command eval", "command echo", "exec 8<&-\n"},
    {63, "command eval", "command echo", "exec 63>&9 8<&- 9>&-\nBASH_ARGV0=bash\n"},
    {9, "eval", "builtin echo", "exec 8<&-\n"},
};

const struct exec_shell_kind *exec_shell_kind_of(const char *shell)
{
    const char *slash = strrchr(shell, '/');
    const char *name = slash ? slash + 1 : shell;
    return strcmp(name, "bash") == 0 ? &kinds[1] : strcmp(name, "zsh") == 0 ? &kinds[2] : &kinds[0];
}

char *exec_session_opening(const struct exec_shell_kind *kind)
{
    char *text;
    return asprintf(&text, "%secho 0 0 >&%d\n", kind->setup, kind->report_fd) < 0 ? NULL : text;
}

// Writes the line as one word in single quotes; a quote becomes '\''.
static void put_quoted(FILE *file, const char *line)
{
    fputc('\'', file);
    for (;;) {
        size_t n = strcspn(line, "'");
        if (fwrite(line, 1, n, file) != n)
            return; // the file remembers
        line += n;
        if (!*line)
            break;
        fputs("'\\''", file);
        line++;
    }
    fputc('\'', file);
}

char *exec_session_turn_text(const struct exec_shell_kind *kind, uint64_t sequence, int last_status,
                             const char *line)
{
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    if (!file)
        return NULL;
    if (last_status != 0)
        fprintf(file, "(exit %d) || ", last_status);
    fprintf(file, "%s ", kind->eval);
    put_quoted(file, line);
    fprintf(file, " %d>&-\n%s \"%" PRIu64 " $?\" >&%d\n", kind->report_fd, kind->echo, sequence,
            kind->report_fd);
    bool failed = ferror(file);
    if (fclose(file) == 0 && !failed)
        return text;
    free(text);
    return NULL;
}

// Decimal digits only, at most 18 of them. Returns how many there are, 0 when it is no number.
static size_t parse_number(const char *text, size_t len, uint64_t *ret)
{
    size_t n = 0;
    uint64_t value = 0;
    while (n < len && text[n] >= '0' && text[n] <= '9' && n <= 18)
        value = value * 10 + (uint64_t)(text[n++] - '0');
    *ret = value;
    return n <= 18 ? n : 0;
}

bool exec_session_parse_report(const char *text, size_t len, uint64_t *ret_sequence,
                               int *ret_status)
{
    uint64_t sequence, status;
    size_t n = parse_number(text, len, &sequence);
    if (n == 0 || n == len || text[n] != ' ')
        return false;
    size_t m = parse_number(text + n + 1, len - n - 1, &status);
    if (m == 0 || n + 1 + m != len || status > 255)
        return false;
    *ret_sequence = sequence;
    *ret_status = (int)status;
    return true;
}
