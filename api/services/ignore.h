// Ignore files: which names of a tree are left out (gitignore(5)).
//
// A list is the lines of one file, for the directory it stands in. Paths are relative to that
// directory. Patterns are matched by the rules' automaton (mux/rules.h). Owns what it compiled.
// Thread: one at a time. Errors: NULL for want of memory. Read next: ignore.c.
#ifndef AF_API_SERVICES_IGNORE_H
#define AF_API_SERVICES_IGNORE_H

#include <stdbool.h>
#include <stddef.h>

struct ignore_list;

#define IGNORE_LINES_MAX 4096
#define IGNORE_BYTES_MAX (1u << 20)

struct ignore_list *ignore_new(void);
void ignore_free(struct ignore_list *list); // NULL is allowed
// Adds the lines of a text. What is no pattern is passed over, as git does. False: no memory.
bool ignore_add(struct ignore_list *list, const char *text, size_t len);

enum ignore_verdict { IGNORE_UNDECIDED, IGNORE_KEEP, IGNORE_LEAVE_OUT };
// What the last line that matches says.
enum ignore_verdict ignore_check(const struct ignore_list *list, const char *path, size_t len,
                                 bool is_dir);

#endif
