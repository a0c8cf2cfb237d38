// agentfense start, stop, diff: sandboxes of a daemon that runs already. See run.h.
//
// A name that is no sandbox's, or a call that fails, does not keep the others from being tried; the
// exit code is then 1. Owns the connection.
#include "tools/agentfense/run.h"

#include "tools/agentfense/changes.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"

#include <stdio.h>

typedef int each_fn(struct session *session, struct af_error *err);

static int for_each(const struct options *options, each_fn *fn, const char *status)
{
    struct session session = {.fd = -1};
    struct af_error err;
    struct report report;
    int code = 0;
    if (session_open(&session, options_socket(options), &err) < 0)
        return complain(&err, 1);
    session.keep = true;
    report_begin(&report, options);
    for (int i = 0; i < options->n_args && !interrupt_signal(); i++) {
        const char *name = options->args[i];
        if (rpc_find_view(session.client, name, &session.sandbox_id, &err) < 0 ||
            fn(&session, &err) < 0) {
            code = report_error(&report, name, &err, 1);
        } else {
            report_sandbox(&report, session.sandbox_id.text, status);
        }
    }
    report_end(&report);
    session_close(&session);
    return code;
}

int command_start(const struct options *options)
{
    return for_each(options, session_start, "running");
}

int command_stop(const struct options *options)
{
    return for_each(options, session_stop, "stopped");
}

// ---- diff

static void print_json(const struct changes *changes)
{
    struct json json;
    json_init(&json, stdout);
    report_changes(&json, NULL, changes);
    json_finish(&json);
}

int command_diff(const struct options *options)
{
    struct session session = {.fd = -1, .keep = true};
    struct changes changes = {0};
    struct manifest nothing = {0};
    struct af_error err;
    int rc = session_open(&session, options_socket(options), &err);
    session.keep = true;
    if (rc == 0)
        rc = rpc_find_view(session.client, options->args[0], &session.sandbox_id, &err);
    if (rc == 0)
        rc = changes_fetch(session.client, session.sandbox_id.text, &changes, &err);
    int code = rc < 0 ? complain(&err, 1) : 0;
    if (rc == 0 && options->json)
        print_json(&changes);
    else if (rc == 0)
        changes_print(&changes, &nothing, 0, stdout);
    if (changes.too_long > 0) {
        fprintf(stderr, "agentfense: %zu more changes lie at paths that are too long to list\n",
                changes.too_long);
        code = 1;
    }
    changes_fini(&changes);
    session_close(&session);
    return code;
}
