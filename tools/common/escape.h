// Bytes that came from an agent, made safe to print.
//
// File names, symlink targets and messages may hold anything: escape sequences that drive a
// terminal, newlines that fake a line of output, characters that reorder what follows. Every name
// that a tool prints for a person passes through here. Machines read --json (json.h).
// No locks, no state. Read next: escape.c.
#ifndef AF_TOOLS_COMMON_ESCAPE_H
#define AF_TOOLS_COMMON_ESCAPE_H

#include <stddef.h>
#include <stdio.h>

// Bytes an escaped text needs at most, NUL included.
#define TOOL_ESCAPED_MAX(len) (4 * (len) + 1)

// Writes the bytes to `out` (capacity TOOL_ESCAPED_MAX(len)), NUL-terminated; returns the length.
// Printable UTF-8 stays. A backslash is doubled; newline, tab and carriage return become \n \t \r;
// other control characters, bytes that are not UTF-8, and characters that are invisible or turn
// the writing direction become \xNN, byte by byte. So the text tells the bytes exactly.
size_t tool_escape(const void *bytes, size_t len, char *out);

// The same into new memory; exits the tool when there is none.
char *tool_escaped(const void *bytes, size_t len);

// Prints the escaped bytes.
void tool_print_escaped(FILE *file, const void *bytes, size_t len);

// Prints text that may have several lines (the output of diff): newlines and tabs stay, what
// drives a terminal is escaped as above.
void tool_print_text(FILE *file, const void *bytes, size_t len);

// The columns a terminal uses for a text made by tool_escape: one for each character.
size_t tool_columns(const char *text);

#endif
