// A spec in one piece of memory: the struct, its arrays, its strings.
//
// A container's shell and variables are known when its init is up, so the text of a command that
// comes before is made then (command_spec.c), from this copy. Descriptors and input are ready at
// once, and are not copied.
// Owns: nothing. Locks: none. Fails: NULL. Read next: command_spec.c.
#include "exec/late.h"

#include <stdlib.h>
#include <string.h>

#include "exec/engine_priv.h"

static size_t size_of(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

static const char *put(char **at, const char *text)
{
    if (!text)
        return NULL;
    char *copy = *at;
    *at = stpcpy(copy, text) + 1;
    return copy;
}

struct exec_command_spec *exec_late_new(const struct exec_command_spec *spec)
{
    size_t argc = 0,
           size = sizeof(*spec) + size_of(spec->shell_line) + size_of(spec->shell_argument);
    while (spec->argv && spec->argv[argc])
        size += size_of(spec->argv[argc++]);
    size_t arrays = (argc + 1) * sizeof(char *) + spec->env_count * sizeof(struct exec_env);
    for (size_t i = 0; i < spec->env_count; i++)
        size += size_of(spec->env[i].name) + size_of(spec->env[i].value);
    struct exec_command_spec *copy = calloc(1, size + arrays);
    if (!copy)
        return NULL;
    const char **argv = (const char **)(copy + 1);
    struct exec_env *env = (struct exec_env *)(argv + argc + 1);
    char *at = (char *)(env + spec->env_count);
    copy->shell_line = put(&at, spec->shell_line);
    copy->root_shell = spec->root_shell;
    copy->shell_argument = put(&at, spec->shell_argument);
    copy->argv = spec->argv ? argv : NULL;
    for (size_t i = 0; i < argc; i++)
        argv[i] = put(&at, spec->argv[i]);
    copy->env = env;
    copy->env_count = spec->env_count;
    for (size_t i = 0; i < spec->env_count; i++)
        env[i] = (struct exec_env){put(&at, spec->env[i].name), put(&at, spec->env[i].value)};
    return copy;
}
