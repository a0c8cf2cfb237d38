// What is said between the engine and a session's shell: script one way, reports the other.
//
// The shell executes a script that comes through a pipe (EXEC_CHANNEL_IN), a line at a time as the
// engine writes it. A command is one quoted word for `eval`, so that quotes, here-documents and
// syntax errors in it end with it. After it comes a line that writes "SEQUENCE STATUS" to a
// descriptor which is closed while commands run. Pure functions; no locks. Fails: NULL when memory
// is out. Read next: session_text.c, session.c.
#ifndef AF_EXEC_SESSION_TEXT_H
#define AF_EXEC_SESSION_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXEC_REPORT_MAX 32 // bytes of one report, with its newline

// What differs between shells.
struct exec_shell_kind {
    int report_fd;    // high where the shell can, so that scripts may use the low ones
    const char *eval; // survives a syntax error in what it evaluates
    const char *echo; // the shell's own, whatever functions there are
    const char *setup;
};

// By the last part of the shell's path.
const struct exec_shell_kind *exec_shell_kind_of(const char *shell);

// The first lines of the script; they report sequence 0. To be freed.
char *exec_session_opening(const struct exec_shell_kind *kind);

// The lines for one command. `last_status` is what $? is at its beginning. To be freed.
char *exec_session_turn_text(const struct exec_shell_kind *kind, uint64_t sequence, int last_status,
                             const char *line);

// Reads "SEQUENCE STATUS", without the newline; a status lies between 0 and 255.
bool exec_session_parse_report(const char *text, size_t len, uint64_t *ret_sequence,
                               int *ret_status);

#endif
