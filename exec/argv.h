// A bounded argument list that owns its text: what bwrap is started with.
//
// No allocation; belongs to one thread. Overflow is remembered, so that callers check once.
#ifndef AF_EXEC_ARGV_H
#define AF_EXEC_ARGV_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define EXEC_ARGV_ITEMS_MAX 1024
#define EXEC_ARGV_BYTES_MAX (128u << 10)

struct exec_argv {
    char *items[EXEC_ARGV_ITEMS_MAX + 1]; // NULL-terminated at `count`
    size_t count, used;
    bool overflow;
    char text[EXEC_ARGV_BYTES_MAX];
};

static inline void exec_argv_init(struct exec_argv *argv)
{
    argv->count = argv->used = 0;
    argv->overflow = false;
    argv->items[0] = NULL;
}

// Adds one argument.
static inline __attribute__((format(printf, 2, 3))) void exec_argv_add(struct exec_argv *argv,
                                                                       const char *fmt, ...)
{
    if (argv->overflow)
        return;
    va_list ap;
    va_start(ap, fmt);
    size_t room = sizeof(argv->text) - argv->used;
    int n = vsnprintf(argv->text + argv->used, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= room || argv->count == EXEC_ARGV_ITEMS_MAX) {
        argv->overflow = true;
        return;
    }
    argv->items[argv->count++] = argv->text + argv->used;
    argv->items[argv->count] = NULL;
    argv->used += (size_t)n + 1;
}

// Adds an option with two arguments.
static inline void exec_argv_add3(struct exec_argv *argv, const char *option, const char *first,
                                  const char *second)
{
    exec_argv_add(argv, "%s", option);
    exec_argv_add(argv, "%s", first);
    exec_argv_add(argv, "%s", second);
}

#endif
