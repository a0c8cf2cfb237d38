// From a request's fields to a command's specification: checks, limits, copies.
//
// Owns: the copies, until service_command_fini. Locks: none. Fails: af_error.
// Read next: exec_service.c, process_service.c.
#include "api/services/command.h"

#include "api/services/exec_service.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void service_command_fini(struct service_command *command)
{
    for (size_t i = 0; i < command->n_texts; i++)
        free(command->texts[i]);
    free(command->texts);
    free(command->env);
    free(command->argv);
}

static const char *keep_text(struct service_command *command, ProtobufCBinaryData field)
{
    return command->texts[command->n_texts++] = grpc_text_dup(field);
}

int exec_check_bytes(const char *what, ProtobufCBinaryData field, struct af_error *err)
{
    if (field.len > 0 && memchr(field.data, 0, field.len))
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s holds a NUL byte", what);
    return service_check_text(what, field, AF_COMMAND_MAX, false, err);
}

int service_command_init(struct service_command *command, size_t env_count, size_t argc,
                         struct af_error *err)
{
    memset(command, 0, sizeof *command);
    if (env_count > AF_ENV_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "%zu environment variables; at most %d are allowed", env_count,
                            AF_ENV_MAX);
    command->max_texts = 2 * env_count + argc + 2;
    command->texts = calloc(command->max_texts, sizeof *command->texts);
    command->env = calloc(env_count + 1, sizeof *command->env);
    command->argv = calloc(argc + 1, sizeof *command->argv);
    if (command->texts && command->env && command->argv)
        return 0;
    service_command_fini(command);
    return af_error_errno(err, ENOMEM, "cannot take the command");
}

int exec_check_timeout(struct daemon *daemon, const Google__Protobuf__Duration *timeout,
                       int64_t *ret_ns, struct af_error *err)
{
    int64_t max_ns = daemon->config.exec.timeout_max_ns;
    if (service_duration_ns("timeout", timeout, daemon->config.exec.timeout_default_ns, ret_ns,
                            err) < 0)
        return -1;
    if (*ret_ns == 0) // asked for in so many words: as long as is allowed
        *ret_ns = max_ns;
    if (*ret_ns > max_ns)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "timeout is longer than the %" PRId64 " s that this server allows",
                            max_ns / AF_NS_PER_SEC);
    return 0;
}

// Fills what both messages have in common. `timeout` may be NULL.
int service_command_common(struct daemon *daemon, struct service_command *command,
                           ProtobufCBinaryData input, ProtobufCBinaryData workdir,
                           const Google__Protobuf__Duration *timeout, struct af_error *err)
{
    if (input.len > AF_STDIN_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "stdin has %zu bytes; at most %u fit into one call", input.len,
                            AF_STDIN_MAX);
    if (exec_check_bytes("workdir", workdir, err) < 0 ||
        exec_check_timeout(daemon, timeout, &command->spec.timeout_ns, err) < 0)
        return -1;
    command->spec.stdin_bytes = input.len > 0 ? input.data : NULL;
    command->spec.stdin_len = input.len;
    command->spec.workdir = keep_text(command, workdir);
    command->spec.output_bytes_max = daemon->config.exec.output_bytes;
    command->spec.env = command->env;
    return 0;
}

void service_command_env(struct service_command *command, ProtobufCBinaryData key,
                         ProtobufCBinaryData value)
{
    struct exec_env *env = &command->env[command->spec.env_count++];
    env->name = keep_text(command, key);
    env->value = keep_text(command, value);
}

int service_command_shell(struct service_command *command, ProtobufCBinaryData line,
                          struct af_error *err)
{
    if (line.len == 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "command is required");
    if (exec_check_bytes("command", line, err) < 0)
        return -1;
    command->spec.shell_line = keep_text(command, line);
    return 0;
}

int service_command_choose(struct service_command *command, size_t argc,
                           const ProtobufCBinaryData *argv, ProtobufCBinaryData line,
                           bool root_shell, struct af_error *err)
{
    if (argc > 0 && line.len > 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "give either argv or command");
    if (argc == 0 && line.len == 0 && root_shell) {
        command->spec.root_shell = true;
        return 0;
    }
    if (argc == 0)
        return line.len > 0 ? service_command_shell(command, line, err)
                            : af_error_set(err, AF_INVALID_ARGUMENT, "give either argv or command");
    for (size_t i = 0; i < argc; i++) {
        if (exec_check_bytes("an argument", argv[i], err) < 0)
            return -1;
        command->argv[i] = keep_text(command, argv[i]);
    }
    if (!*command->argv[0])
        return af_error_set(err, AF_INVALID_ARGUMENT, "the program's name is empty");
    command->spec.argv = command->argv;
    return 0;
}
