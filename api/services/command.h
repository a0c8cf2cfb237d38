// A command as requests describe it, in exec's terms.
//
//   struct service_command command;
//   if (service_command_init(&command, n_env, n_argv, &err) < 0) ...
//   service_command_choose, _common, _env for each variable; use command.spec; _fini
// Errors: INVALID_ARGUMENT with a sentence. Read next: command.c.
#ifndef AF_API_SERVICES_COMMAND_H
#define AF_API_SERVICES_COMMAND_H

#include "api/services/common.h"

// A command's specification in exec's terms, with the copies it needs.
struct service_command {
    struct exec_command_spec spec;
    struct exec_env *env;
    char **texts; // every NUL-terminated copy, for service_command_fini
    size_t n_texts, max_texts;
    const char **argv;
};

// After a failure there is nothing to release.
int service_command_init(struct service_command *command, size_t env_count, size_t argc,
                         struct af_error *err);
void service_command_fini(struct service_command *command);

// Fills what commands have in common. `timeout` may be NULL.
int service_command_common(struct daemon *daemon, struct service_command *command,
                           ProtobufCBinaryData input, ProtobufCBinaryData workdir,
                           const Google__Protobuf__Duration *timeout, struct af_error *err);
void service_command_env(struct service_command *command, ProtobufCBinaryData key,
                         ProtobufCBinaryData value);
// What is run: a command line, or one of the two; `root_shell`: neither is the root's shell.
int service_command_shell(struct service_command *command, ProtobufCBinaryData line,
                          struct af_error *err);
int service_command_choose(struct service_command *command, size_t argc,
                           const ProtobufCBinaryData *argv, ProtobufCBinaryData line,
                           bool root_shell, struct af_error *err);

#endif
