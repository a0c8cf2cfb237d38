// agentfense ps, logs, attach, kill, wait: background processes of a daemon that runs.
//
// Owns the connection. What comes from a sandbox is escaped where it is listed; logs and attach
// show it as it is. Read next: stream.h, docs/TOOLS.md.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "tools/agentfense/stream.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/when.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVICE    "/agentfense.v1.ProcessService/"
#define ID_PREFIX  "proc_"
#define STATUS_MAX 40

// ---- finding ----------------------------------------------------------------------------

static int list(struct af_client *client, const char *sandbox_id,
                Agentfense__V1__ListProcessesResponse **ret, struct af_error *err)
{
    Agentfense__V1__ListProcessesRequest request = AGENTFENSE__V1__LIST_PROCESSES_REQUEST__INIT;
    request.sandbox_id = af_client_text(sandbox_id);
    return rpc_unary(client, SERVICE "List", &request.base,
                     &agentfense__v1__list_processes_response__descriptor, ret, err);
}

static bool begins_with(ProtobufCBinaryData id, const char *prefix)
{
    size_t skip = strncmp(prefix, ID_PREFIX, strlen(ID_PREFIX)) == 0 ? 0 : strlen(ID_PREFIX);
    size_t len = strlen(prefix);
    return len > 0 && id.len >= skip + len && memcmp(id.data + skip, prefix, len) == 0;
}

// The one process whose id begins with this; in a list of its own, to be freed.
static int find(struct af_client *client, const char *prefix,
                Agentfense__V1__ListProcessesResponse **ret_list, Agentfense__V1__Process **ret,
                struct af_error *err)
{
    if (list(client, "", ret_list, err) < 0)
        return -1;
    *ret = NULL;
    for (size_t i = 0; i < (*ret_list)->n_processes; i++) {
        Agentfense__V1__Process *process = (*ret_list)->processes[i];
        if (!begins_with(process->id, prefix))
            continue;
        if (*ret)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "more than one process begins with '%.80s'", prefix);
        *ret = process;
    }
    if (*ret)
        return 0;
    return af_error_set(err, AF_NOT_FOUND, "there is no process '%.80s': see agentfense ps",
                        prefix);
}

static void disconnect(struct session *session)
{
    session->keep = true;
    session_close(session);
}

// ---- ps ---------------------------------------------------------------------------------

static void status_text(const Agentfense__V1__Process *process, char out[STATUS_MAX])
{
    const Agentfense__V1__ProcessExit *exit = process->exit;
    if (process->running || !exit)
        snprintf(out, STATUS_MAX, "running");
    else if (exit->timed_out)
        snprintf(out, STATUS_MAX, "timed out");
    else if (exit->error.len > 0)
        snprintf(out, STATUS_MAX, "ended");
    else if (exit->signal)
        snprintf(out, STATUS_MAX, "signal %d", exit->signal);
    else
        snprintf(out, STATUS_MAX, "exit %d", exit->exit_code);
}

static void print_command(const Agentfense__V1__Process *process)
{
    for (size_t i = 0; i < process->n_argv; i++) {
        if (i > 0)
            putchar(' ');
        tool_print_escaped(stdout, process->argv[i].data, process->argv[i].len);
    }
    if (process->command.len > 0)
        tool_print_escaped(stdout, process->command.data, process->command.len);
    else if (process->n_argv == 0)
        fputs("(shell)", stdout);
}

static void print_table(const Agentfense__V1__ListProcessesResponse *reply)
{
    printf("%-31s  %-29s  %-10s  %-19s  %s\n", "PROCESS", "SANDBOX", "STATUS", "STARTED",
           "COMMAND");
    for (size_t i = 0; i < reply->n_processes; i++) {
        const Agentfense__V1__Process *process = reply->processes[i];
        char status[STATUS_MAX], when[TOOL_WHEN_MAX] = "";
        status_text(process, status);
        if (process->started_at)
            tool_when_local(process->started_at->seconds, when);
        AF_CLEANUP_FREE char *id = tool_escaped(process->id.data, process->id.len);
        AF_CLEANUP_FREE char *sandbox =
            tool_escaped(process->sandbox_id.data, process->sandbox_id.len);
        printf("%-31s  %-29s  %-10s  %-19s  ", id, sandbox, status, when);
        print_command(process);
        putchar('\n');
    }
}

static void print_json(const Agentfense__V1__ListProcessesResponse *reply)
{
    struct json json;
    json_init(&json, stdout);
    json_begin_array(&json, NULL);
    for (size_t i = 0; i < reply->n_processes; i++)
        report_one_process(&json, reply->processes[i]);
    json_end(&json);
    json_finish(&json);
}

int command_ps(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    struct af_id id = {.text = ""};
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListProcessesResponse *reply = NULL;
    int code = 0, rc = session_open(&session, options_socket(options), &err);
    if (rc == 0 && options->n_args > 0)
        rc = rpc_find_view(session.client, options->args[0], &id, &err);
    if (rc == 0)
        rc = list(session.client, id.text, &reply, &err);
    if (rc < 0)
        code = complain(&err, 1);
    else if (options->json)
        print_json(reply);
    else
        print_table(reply);
    disconnect(&session);
    return code;
}

// ---- logs and attach --------------------------------------------------------------------

static int show(const struct options *options, bool follow, bool input)
{
    struct session session = {.fd = -1};
    struct outcome outcome = {0};
    struct af_error err;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListProcessesResponse *reply = NULL;
    Agentfense__V1__Process *process;
    int rc = session_open(&session, options_socket(options), &err);
    if (rc == 0)
        rc = find(session.client, options->args[0], &reply, &process, &err);
    if (rc == 0)
        rc = stream_attach(session.client, process, follow, input, options->json, &outcome, &err);
    int code = outcome.timed_out ? EXIT_TIMED_OUT : outcome.exit_code;
    if (rc < 0)
        code = complain(&err, EXIT_TOOL);
    else if (outcome.detached)
        fprintf(stderr, "\nagentfense: left running: %.*s\n", (int)process->id.len,
                (const char *)process->id.data);
    disconnect(&session);
    return follow || rc < 0 ? code : 0;
}

int command_logs(const struct options *options)
{
    return show(options, options->follow, false);
}

int command_attach(const struct options *options)
{
    return show(options, true, true);
}

// ---- kill and wait ----------------------------------------------------------------------

static int send_signal(struct af_client *client, const struct options *options, const char *prefix,
                       struct report *report, struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListProcessesResponse *reply = NULL;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__Process *after = NULL;
    Agentfense__V1__SignalProcessRequest request = AGENTFENSE__V1__SIGNAL_PROCESS_REQUEST__INIT;
    Agentfense__V1__Process *process;
    if (find(client, prefix, &reply, &process, err) < 0)
        return -1;
    request.process_id = process->id;
    request.signal = options->signal ? options->signal : SIGTERM;
    request.all = options->all;
    if (rpc_unary(client, SERVICE "Signal", &request.base, &agentfense__v1__process__descriptor,
                  &after, err) < 0)
        return -1;
    report_process(report, after);
    return 0;
}

int command_kill(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    struct report report;
    int code = 0;
    if (session_open(&session, options_socket(options), &err) < 0)
        return complain(&err, 1);
    report_begin(&report, options);
    for (int i = 0; i < options->n_args && !interrupt_signal(); i++)
        if (send_signal(session.client, options, options->args[i], &report, &err) < 0)
            code = report_error(&report, options->args[i], &err, 1);
    report_end(&report);
    disconnect(&session);
    return code;
}

static int wait_one(struct af_client *client, const char *prefix, struct report *report,
                    int *ret_code, struct af_error *err)
{
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListProcessesResponse *reply = NULL;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__Process *ended = NULL;
    Agentfense__V1__ProcessRequest request = AGENTFENSE__V1__PROCESS_REQUEST__INIT;
    Agentfense__V1__Process *process;
    struct outcome outcome = {0};
    if (find(client, prefix, &reply, &process, err) < 0)
        return -1;
    request.process_id = process->id;
    if (af_client_unary(client, SERVICE "Wait", &request.base, &agentfense__v1__process__descriptor,
                        0, (ProtobufCMessage **)&ended, err) < 0)
        return -1;
    if (!ended->exit)
        return af_error_set(err, AF_INTERNAL, "the daemon does not say how the process ended");
    stream_outcome(ended->exit, &outcome);
    report_process(report, ended);
    *ret_code = outcome.timed_out            ? EXIT_TIMED_OUT
                : ended->exit->error.len > 0 ? EXIT_TOOL
                                             : outcome.exit_code;
    return 0;
}

int command_wait(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    struct report report;
    int code = 0;
    if (session_open(&session, options_socket(options), &err) < 0)
        return complain(&err, EXIT_TOOL);
    report_begin(&report, options);
    for (int i = 0; i < options->n_args && !interrupt_signal(); i++)
        if (wait_one(session.client, options->args[i], &report, &code, &err) < 0)
            code = report_error(&report, options->args[i], &err, EXIT_TOOL);
    report_end(&report);
    disconnect(&session);
    return code;
}
