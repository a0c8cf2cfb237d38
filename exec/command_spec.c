// What a caller asks for becomes the text and the descriptors of one START message.
//
// Runs on the caller's thread, so that commands of many callers are prepared in parallel and a
// bad one never reaches the event thread. The pipes belong to the box's uid: programs that open
// /dev/stdout again (echo x > /dev/stderr) need that.
// The environment is built from nothing here; the daemon's own is never read (E7).
// Owns: the command until it is posted. Locks: none. Fails: af_error. Read next: command.c.
#include "exec/command_spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/input.h"
#include "exec/late.h"
#include "exec/pty.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ---- text -------------------------------------------------------------------------------

// NUL-terminated strings, one after the other.
struct text {
    FILE *file;
    char *bytes;
    size_t size;
    struct af_error *err;
};

static int text_add(struct text *text, const char *what, const char *name, const char *value)
{
    size_t len = strlen(name) + strlen(value);
    if (len > AF_COMMAND_MAX)
        return af_error_set(text->err, AF_INVALID_ARGUMENT, "%s is longer than %u bytes", what,
                            AF_COMMAND_MAX);
    fputs(name, text->file);
    fputs(value, text->file);
    fputc('\0', text->file);
    return 0;
}

static int add_argv(struct text *text, const struct exec_box *box,
                    const struct exec_command_spec *spec, struct exec_msg_start *head)
{
    if (spec->argv) {
        for (const char *const *arg = spec->argv; *arg; arg++, head->argc++)
            if (head->argc == EXEC_PROTO_STRINGS_MAX)
                return af_error_set(text->err, AF_INVALID_ARGUMENT, "more than %u arguments",
                                    EXEC_PROTO_STRINGS_MAX);
            else if (text_add(text, "an argument", "", *arg) < 0)
                return -1;
        return 0;
    }
    if (box->shell == EXEC_SHELL_NONE)
        return af_error_set(text->err, AF_FAILED_PRECONDITION,
                            "the sandbox's root has no /bin/bash and no /bin/sh");
    text_add(text, "", "", box->shell == EXEC_SHELL_BASH ? "/bin/bash" : "/bin/sh");
    if (spec->root_shell) {
        head->argc = spec->shell_argument ? 2 : 1;
        return spec->shell_argument ? text_add(text, "", "", spec->shell_argument) : 0;
    }
    head->argc = 3;
    text_add(text, "", "", "-c");
    return text_add(text, "the command line", "", spec->shell_line);
}

static bool env_has(const struct exec_command_spec *spec, size_t from, const char *name)
{
    for (size_t i = from; i < spec->env_count; i++)
        if (strcmp(spec->env[i].name, name) == 0)
            return true;
    return false;
}

// What an image says that is not about who runs where.
static bool image_may_say(const char *text)
{
    static const char *const ours[] = {"HOME=", "USER=", "LOGNAME=", "SHELL=", "PWD=", "TERM="};
    for (size_t i = 0; i < AF_ARRAY_LEN(ours); i++)
        if (strncmp(text, ours[i], strlen(ours[i])) == 0)
            return false;
    return text[0] != '=';
}

static bool image_says(const struct exec_box *box, const char *name)
{
    size_t len = strlen(name);
    for (char **env = box->launch.env; env && *env; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=' && image_may_say(*env))
            return true;
    return false;
}

static int add_image_env(struct text *text, const struct exec_box *box,
                         const struct exec_command_spec *spec, struct exec_msg_start *head)
{
    for (char **env = box->launch.env; env && *env; env++) {
        char name[256];
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(*env, "="), *env);
        if (!image_may_say(*env) || env_has(spec, 0, name))
            continue;
        if (head->envc == AF_IMAGE_ENV_MAX)
            return af_error_set(text->err, AF_FAILED_PRECONDITION,
                                "the image has more than %d environment variables",
                                AF_IMAGE_ENV_MAX);
        if (text_add(text, "a variable of the image", "", *env) < 0)
            return -1;
        head->envc++;
    }
    return 0;
}

static int add_env(struct text *text, const struct exec_command *command,
                   const struct exec_command_spec *spec, struct exec_msg_start *head)
{
    const struct exec_box *box = command->box;
    const struct exec_env base[] = {
        {"HOME", EXEC_INSIDE_HOME},
        {"PATH", PATH_DEFAULT},
        {"LANG", "C.UTF-8"},
        {"TERM", command->terminal ? "xterm-256color" : "dumb"},
        {"USER", EXEC_INSIDE_USER},
        {"LOGNAME", EXEC_INSIDE_USER},
        {"SHELL", box->shell == EXEC_SHELL_BASH ? "/bin/bash" : "/bin/sh"},
        {"PWD", command->workdir},
    };
    char name[32];
    if (add_image_env(text, box, spec, head) < 0)
        return -1;
    for (size_t i = 0; i < AF_ARRAY_LEN(base); i++) {
        if (env_has(spec, 0, base[i].name) || image_says(box, base[i].name))
            continue;
        snprintf(name, sizeof(name), "%s=", base[i].name);
        text_add(text, "", name, base[i].value);
        head->envc++;
    }
    for (size_t i = 0; i < spec->env_count; i++) {
        const struct exec_env *env = &spec->env[i];
        if (env_has(spec, i + 1, env->name))
            continue; // the last one of a name counts
        size_t name_len = strlen(env->name);
        if (name_len > AF_COMMAND_MAX)
            return af_error_set(text->err, AF_INVALID_ARGUMENT, "a variable's name is too long");
        AF_CLEANUP_FREE char *head_text = NULL;
        if (asprintf(&head_text, "%s=", env->name) < 0) {
            head_text = NULL;
            return af_error_errno(text->err, ENOMEM, "cannot prepare the command");
        }
        if (text_add(text, "an environment variable", head_text, env->value) < 0)
            return -1;
        head->envc++;
    }
    return 0;
}

static int build_text(struct exec_command *command, const struct exec_command_spec *spec,
                      struct af_error *err)
{
    const struct exec_box *box = command->box;
    struct text text = {.err = err};
    text.file = open_memstream(&text.bytes, &text.size);
    if (!text.file)
        return af_error_errno(err, ENOMEM, "cannot prepare the command");
    int e = add_argv(&text, box, spec, &command->head);
    if (e == 0)
        e = add_env(&text, command, spec, &command->head);
    if (e == 0)
        e = text_add(&text, "the working directory", "", command->workdir);
    bool written = !ferror(text.file);
    written = fclose(text.file) == 0 && written;
    command->text = text.bytes;
    if (e < 0)
        return e;
    if (!written)
        return af_error_errno(err, ENOMEM, "cannot prepare the command");
    if (text.size > EXEC_PROTO_MEMFD_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the command and its environment are longer than %u bytes",
                            EXEC_PROTO_MEMFD_MAX);
    command->head.text_bytes = (uint32_t)text.size;
    return 0;
}

static int check_spec(const struct exec_command_spec *spec, struct af_error *err)
{
    if (!!spec->shell_line + !!spec->argv + spec->root_shell != 1 || (spec->argv && !spec->argv[0]))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a command needs either a command line or an argument list");
    if (spec->stdin_bytes && spec->stdin_open)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "stdin is either given with the command or left open");
    if (spec->stdin_len > AF_STDIN_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "stdin is longer than %u bytes",
                            AF_STDIN_MAX);
    if (spec->env_count > AF_ENV_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "more than %u environment variables",
                            AF_ENV_MAX);
    for (size_t i = 0; i < spec->env_count; i++) {
        const char *name = spec->env[i].name;
        if (!name[0] || strchr(name, '='))
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "'%.64s' is no name for an environment variable: it must not be "
                                "empty or contain '='",
                                name);
    }
    if (spec->workdir && spec->workdir[0] &&
        (spec->workdir[0] != '/' || strlen(spec->workdir) > AF_PATH_MAX))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "workdir must be an absolute path inside the sandbox of at most %d "
                            "bytes",
                            AF_PATH_MAX);
    if (spec->timeout_ns < 0 || spec->timeout_ns > AF_TIMEOUT_MAX_NS)
        return af_error_set(err, AF_INVALID_ARGUMENT, "a timeout lies between 0 and %lld s",
                            AF_TIMEOUT_MAX_NS / AF_NS_PER_SEC);
    return 0;
}

// ---- descriptors ------------------------------------------------------------------------

// A pipe whose `ours` end does not block, owned by the box's user. The other end goes to
// command->fds.
static int add_pipe(struct exec_command *command, bool we_write, int *ret_ours)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    int ours = ends[we_write], theirs = ends[!we_write];
    command->fds[command->fd_count++] = theirs;
    *ret_ours = ours;
    if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0 ||
        fchown(ours, command->box->uid, command->box->gid) < 0)
        return -errno;
    return 0;
}

// The status pipe; with orders in the other direction a socket.
static int add_status(struct exec_command *command)
{
    if (!command->controlled)
        return add_pipe(command, false, &command->status.fd);
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    command->fds[command->fd_count++] = ends[1];
    command->status.fd = ends[0];
    return fcntl(ends[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
}

// Most inputs fit into the pipe at once: then the event thread has nothing to do for them.
static int fill_stdin(struct exec_command *command, const struct exec_command_spec *spec)
{
    size_t at = 0;
    ssize_t n = 0;
    while (at < spec->stdin_len && n >= 0) {
        n = write(command->stdin_watch.fd, (const char *)spec->stdin_bytes + at,
                  spec->stdin_len - at);
        if (n > 0)
            at += (size_t)n;
    }
    if (n < 0 && errno != EAGAIN)
        return -errno;
    if (at == spec->stdin_len) {
        close(command->stdin_watch.fd);
        command->stdin_watch.fd = -1;
        return 0;
    }
    struct exec_input *input =
        exec_input_new((const char *)spec->stdin_bytes + at, spec->stdin_len - at, true);
    if (!input)
        return -ENOMEM;
    STAILQ_INSERT_TAIL(&command->input, input, link);
    return 0;
}

static int text_to_memfd(struct exec_command *command)
{
    AF_CLEANUP_FD int fd = memfd_create("agentfense-command", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t size = command->head.text_bytes;
    ssize_t n = write(fd, command->text, size);
    if (n != (ssize_t)size)
        return n < 0 ? -errno : -ENOSPC;
    command->fds[command->fd_count++] = af_take_fd(&fd);
    command->head.flags |= EXEC_START_TEXT_FD;
    return 0;
}

// Among the descriptors it has its place before a channel's.
static int move_text(struct exec_command *command)
{
    if (command->head.text_bytes <= EXEC_PROTO_TEXT_MAX)
        return 0;
    int channel = command->head.flags & EXEC_START_CHANNEL ? 2 : 0;
    int place = command->fd_count - channel;
    int e = text_to_memfd(command);
    if (e < 0)
        return e;
    int fd = command->fds[command->fd_count - 1];
    memmove(command->fds + place + 1, command->fds + place, (size_t)channel * sizeof(int));
    command->fds[place] = fd;
    return 0;
}

// In the order of the protocol.
static int open_fds(struct exec_command *command, const struct exec_command_spec *spec,
                    const int channel[2])
{
    bool pipes = !command->terminal; // a terminal is opened on the event thread (pty.c)
    int e = add_status(command);
    if (e == 0 && pipes)
        e = add_pipe(command, false, &command->out.watch.fd);
    if (e == 0 && pipes)
        e = add_pipe(command, false, &command->err.watch.fd);
    if (e == 0 && pipes && (spec->stdin_bytes || spec->stdin_open)) {
        command->head.flags |= EXEC_START_HAS_STDIN;
        e = add_pipe(command, true, &command->stdin_watch.fd);
        if (e == 0 && spec->stdin_bytes)
            e = fill_stdin(command, spec);
    }
    if (channel)
        command->head.flags |= EXEC_START_CHANNEL;
    for (int i = 0; e == 0 && channel && i < 2; i++) {
        int fd = fcntl(channel[i], F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            e = -errno;
        else
            command->fds[command->fd_count++] = fd;
    }
    return e;
}

static int refuse_fds(int e, struct af_error *err)
{
    return af_error_set(err, AF_RESOURCE_EXHAUSTED, "cannot make the pipes of a command: %s",
                        strerror(-e));
}

void exec_command_close_fds(struct exec_command *command)
{
    for (int i = 0; i < command->fd_count; i++)
        close(command->fds[i]);
    command->fd_count = 0;
}

// ---- life -------------------------------------------------------------------------------

void exec_command_free(struct exec_command *command)
{
    exec_command_close_fds(command);
    int fds[] = {command->status.fd, command->out.watch.fd, command->err.watch.fd,
                 command->stdin_watch.fd};
    for (size_t i = 0; i < AF_ARRAY_LEN(fds); i++)
        af_cleanup_fd(&fds[i]);
    exec_gather_fini(&command->out.kept);
    exec_gather_fini(&command->err.kept);
    exec_input_drop(command);
    free(command->text);
    free(command->late);
    free(command->program);
    free(command->workdir);
    command->magic = 0;
    free(command);
}

static struct exec_command *command_alloc(struct exec_box *box,
                                          const struct exec_command_spec *spec)
{
    struct exec_command *command = calloc(1, sizeof(*command));
    if (!command)
        return NULL;
    command->magic = EXEC_COMMAND_MAGIC;
    command->box = box;
    command->engine = box->engine;
    command->status.fd = command->stdin_watch.fd = -1;
    command->out.watch.fd = command->err.watch.fd = -1;
    command->out.command = command->err.command = command;
    command->started_ns = af_monotonic_ns();
    command->timeout_ns = spec->timeout_ns ? spec->timeout_ns : AF_TIMEOUT_DEFAULT_NS;
    command->on_output = spec->on_output;
    command->on_started = spec->on_started;
    command->stdin_open = spec->stdin_open;
    command->controlled = spec->controlled;
    command->terminal = spec->terminal != NULL;
    command->head.flags |= (spec->controlled ? EXEC_START_CONTROL : 0) |
                           (spec->terminal ? EXEC_START_TERMINAL | EXEC_START_HAS_STDIN : 0);
    if (spec->terminal)
        exec_pty_want(command, spec->terminal);
    STAILQ_INIT(&command->input);
    command->output_max = spec->output_bytes_max ? spec->output_bytes_max : AF_OUTPUT_MAX;
    command->head.head.kind = EXEC_MSG_START;
    command->program = strndup(spec->argv ? spec->argv[0] : "the shell", 256);
    command->workdir = strdup(spec->workdir && spec->workdir[0] ? spec->workdir : "/workspace");
    if (!command->program || !command->workdir) {
        exec_command_free(command);
        return NULL;
    }
    return command;
}

static int make_text(struct exec_command *command, const struct exec_command_spec *spec,
                     struct af_error *err)
{
    if (build_text(command, spec, err) < 0)
        return -1;
    int e = move_text(command);
    return e < 0 ? refuse_fds(e, err) : 0;
}

int exec_command_new(struct exec_box *box, const struct exec_command_spec *spec,
                     const int channel[2], struct exec_command **ret_command, struct af_error *err)
{
    if (check_spec(spec, err) < 0)
        return -1;
    struct exec_command *command = command_alloc(box, spec);
    if (!command)
        return af_error_errno(err, ENOMEM, "cannot prepare the command");
    int rc = open_fds(command, spec, channel);
    if (rc < 0)
        rc = refuse_fds(rc, err);
    else if (atomic_load(&box->known))
        rc = make_text(command, spec, err);
    else if (!(command->late = exec_late_new(spec)))
        rc = af_error_errno(err, ENOMEM, "cannot prepare the command");
    if (rc < 0) {
        exec_command_free(command);
        return -1;
    }
    *ret_command = command;
    return 0;
}

int exec_command_complete(struct exec_command *command)
{
    int rc = make_text(command, command->late, &command->error);
    free(AF_TAKE_PTR(command->late));
    if (rc == 0 && command->on_begin)
        command->on_begin(command->arg);
    return rc;
}
