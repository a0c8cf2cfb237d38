// agentfense exec and shell: a command in a sandbox, with the streams or the terminal of the user.
//
// Owns the connection. Exit code: the command's, or as in run.h. Read next: stream.h, terminal.h.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "tools/agentfense/stream.h"
#include "tools/common/escape.h"

#include <stdio.h>
#include <unistd.h>

// In the background: prints its id.
static int start(struct session *session, const struct options *options, struct af_error *err)
{
    Agentfense__V1__StartProcessRequest request = AGENTFENSE__V1__START_PROCESS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__Process *process = NULL;
    struct stream_spec spec;
    stream_spec_init(&spec, options, session->sandbox_id.text);
    spec.spec.stdin = options->interactive;
    request.spec = &spec.spec;
    int rc = rpc_unary(session->client, "/agentfense.v1.ProcessService/Start", &request.base,
                       &agentfense__v1__process__descriptor, &process, err);
    stream_spec_fini(&spec);
    if (rc < 0)
        return -1;
    if (options->json) {
        struct json json;
        json_init(&json, stdout);
        report_one_process(&json, process);
        json_finish(&json);
        return 0;
    }
    tool_print_escaped(stdout, process->id.data, process->id.len);
    putchar('\n');
    return 0;
}

int command_exec(const struct options *options)
{
    struct session session = {.fd = -1};
    struct outcome outcome = {0};
    struct af_error err;
    session.keep = true;
    int rc = session_open(&session, options_socket(options), &err);
    if (rc == 0)
        rc = rpc_find_view(session.client, options->args[0], &session.sandbox_id, &err);
    if (rc == 0)
        rc = options->detach
                 ? start(&session, options, &err)
                 : stream_run(session.client, options, session.sandbox_id.text, &outcome, &err);
    int code = outcome.timed_out ? EXIT_TIMED_OUT : outcome.exit_code;
    if (rc < 0)
        code = complain(&err, EXIT_TOOL);
    session_close(&session);
    return code;
}

int command_shell(const struct options *options)
{
    struct options own = *options;
    own.interactive = !options->no_stdin;
    own.terminal |= isatty(STDIN_FILENO); // else the shell reads its commands from there
    return command_exec(&own);
}
