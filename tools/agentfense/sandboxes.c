// agentfense create, exec, ls, rm: sandboxes of a daemon that runs already. See run.h.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/session.h"
#include "tools/common/escape.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *socket_of(const struct options *options)
{
    return options->socket ? options->socket : AF_SOCKET_DEFAULT;
}

static int complain(const struct af_error *err)
{
    struct af_error signal;
    fprintf(stderr, "agentfense: %s\n", interrupt_check(&signal) < 0 ? signal.text : err->text);
    return interrupt_signal() ? 128 + interrupt_signal() : 1;
}

int command_create(const struct options *options)
{
    struct session session = {.fd = -1};
    struct manifest manifest = {0};
    struct af_error err;
    char absolute[4096];
    const char *dir = options->args[0];
    const char *name = realpath(dir, absolute) ? absolute : dir;
    AF_CLEANUP_FD int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = root < 0 ? af_error_errno(&err, errno, "cannot open the directory '%s'", dir) : 0;
    if (rc == 0)
        rc = session_open(&session, socket_of(options), &err);
    if (rc == 0)
        rc = session_create(&session, root, name, options, &manifest, &err);
    if (rc == 0) {
        session.keep = true;
        printf("%s\n", session.sandbox_id.text);
    }
    int code = rc < 0 ? complain(&err) : 0;
    if (!session_close(&session) && code == 0)
        code = 1;
    manifest_fini(&manifest);
    return code;
}

int command_exec(const struct options *options)
{
    struct session session = {.fd = -1};
    struct outcome outcome = {0};
    struct af_error err;
    session.keep = true;
    int rc = session_open(&session, socket_of(options), &err);
    if (rc == 0)
        rc = rpc_find_view(session.client, options->args[0], &session.sandbox_id, &err);
    if (rc == 0)
        rc = session_exec(&session, options, &outcome, &err);
    int code = outcome.timed_out ? EXIT_TIMED_OUT : outcome.exit_code;
    if (rc < 0) {
        complain(&err);
        code = interrupt_signal() ? 128 + interrupt_signal() : EXIT_TOOL;
    }
    session_close(&session);
    return code;
}

static const char *status_word(Sandbox__V1__SandboxStatus status)
{
    static const char *const words[] = {"unknown", "pending", "running", "stopped", "error"};
    return (int)status >= 0 && (size_t)status < AF_ARRAY_LEN(words) ? words[status] : "unknown";
}

int command_ls(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    Sandbox__V1__ListSandboxesRequest request = SANDBOX__V1__LIST_SANDBOXES_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__ListSandboxesResponse *reply = NULL;
    int rc = session_open(&session, socket_of(options), &err);
    if (rc == 0)
        rc = rpc_unary(session.client, "/sandbox.v1.SandboxService/ListSandboxes", &request.base,
                       &sandbox__v1__list_sandboxes_response__descriptor, &reply, &err);
    for (size_t i = 0; rc == 0 && i < reply->n_sandboxes; i++) {
        const Sandbox__V1__Sandbox *sandbox = reply->sandboxes[i];
        tool_print_escaped(stdout, sandbox->id.data, sandbox->id.len);
        printf("  %-7s  ", status_word(sandbox->status));
        tool_print_escaped(stdout, sandbox->codebase_id.data, sandbox->codebase_id.len);
        putchar('\n');
    }
    int code = rc < 0 ? complain(&err) : 0;
    session_close(&session);
    return code;
}

int command_rm(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    int code = 0;
    if (session_open(&session, socket_of(options), &err) < 0)
        code = complain(&err);
    for (int i = 0; session.client && i < options->n_args && !interrupt_signal(); i++) {
        struct af_id id;
        if (rpc_find_view(session.client, options->args[i], &id, &err) < 0 ||
            session_destroy(session.client, id.text, &err) < 0)
            code = complain(&err);
    }
    session_close(&session);
    return code;
}
