// agentfense create, ls, rules, rm: sandboxes of a daemon that runs already. See run.h.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/batch.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int complain(const struct af_error *err, int code)
{
    struct af_error signal;
    fprintf(stderr, "agentfense: %s\n", interrupt_check(&signal) < 0 ? signal.text : err->text);
    return interrupt_signal() ? 128 + interrupt_signal() : code;
}

static void print_created(const struct session *session, bool as_json)
{
    struct json json;
    if (!as_json) {
        printf("%s\n", session->sandbox_id.text);
        return;
    }
    json_init(&json, stdout);
    json_begin_object(&json, NULL);
    json_text(&json, "sandbox_id", session->sandbox_id.text);
    json_text(&json, "codebase_id", session->codebase_id.text);
    json_end(&json);
    json_finish(&json);
}

int command_create(const struct options *options)
{
    struct session session = {.fd = -1};
    struct manifest manifest = {0};
    struct af_error err;
    char absolute[4096];
    const char *dir = options->args[0];
    const char *name = realpath(dir, absolute) ? absolute : dir;
    struct af_id codebase;
    bool is_codebase = af_id_parse("cb", dir, strlen(dir), &codebase);
    AF_CLEANUP_FD int root = is_codebase ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = root < 0 && !is_codebase
                 ? af_error_errno(&err, errno, "cannot open the directory '%s'", dir)
                 : 0;
    if (rc == 0)
        rc = session_open(&session, options_socket(options), &err);
    if (rc == 0 && is_codebase) {
        session.codebase_id = codebase;
        session.codebase_is_given = true;
    }
    if (rc == 0)
        rc = session_create(&session, root, name, options, &manifest, &err);
    if (rc == 0) {
        session.keep = true;
        if (!options->copies)
            print_created(&session, options->json);
    }
    int code = rc < 0 ? complain(&err, 1) : session.failed > 0;
    if (!session_close(&session) && code == 0)
        code = 1;
    manifest_fini(&manifest);
    return code;
}

// ---- ls

struct listing {
    struct json json;
    bool as_json;
};

static int print_sandbox(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    struct listing *list = arg;
    const Agentfense__V1__SandboxInfo *info = (const void *)message;
    const Sandbox__V1__Sandbox *sandbox = info->sandbox;
    (void)err;
    if (!list->as_json) {
        tool_print_escaped(stdout, sandbox->id.data, sandbox->id.len);
        printf("  %-7s  ", report_status(sandbox->status));
        tool_print_escaped(stdout, sandbox->codebase_id.data, sandbox->codebase_id.len);
        putchar('\n');
        return 0;
    }
    json_begin_object(&list->json, NULL);
    json_bytes(&list->json, "sandbox_id", sandbox->id.data, sandbox->id.len);
    json_text(&list->json, "status", report_status(sandbox->status));
    json_bytes(&list->json, "codebase_id", sandbox->codebase_id.data, sandbox->codebase_id.len);
    json_bytes(&list->json, "owner_id", info->owner_id.data, info->owner_id.len);
    json_begin_array(&list->json, "labels");
    for (size_t i = 0; i < sandbox->n_labels; i++) {
        json_begin_object(&list->json, NULL);
        json_bytes(&list->json, "key", sandbox->labels[i]->key.data, sandbox->labels[i]->key.len);
        json_bytes(&list->json, "value", sandbox->labels[i]->value.data,
                   sandbox->labels[i]->value.len);
        json_end(&list->json);
    }
    json_end(&list->json);
    json_end(&list->json);
    return 0;
}

static void fill_label(Agentfense__V1__ListRequest__LabelsEntry *to, const char *text)
{
    size_t key = strcspn(text, "=");
    agentfense__v1__list_request__labels_entry__init(to);
    to->key.data = (uint8_t *)(uintptr_t)text;
    to->key.len = key;
    to->value.data = (uint8_t *)(uintptr_t)(text + key + 1);
    to->value.len = strlen(text + key + 1);
}

int command_ls(const struct options *options)
{
    struct session session = {.fd = -1};
    struct listing list = {.as_json = options->json};
    struct af_error err;
    Agentfense__V1__ListRequest request = AGENTFENSE__V1__LIST_REQUEST__INIT;
    size_t count = options->n_labels;
    AF_CLEANUP_FREE Agentfense__V1__ListRequest__LabelsEntry *labels =
        tool_alloc((count + 1) * sizeof(*labels));
    AF_CLEANUP_FREE Agentfense__V1__ListRequest__LabelsEntry **pointers =
        tool_alloc((count + 1) * sizeof(*pointers));
    for (size_t i = 0; i < count; i++) {
        fill_label(&labels[i], options->labels[i]);
        pointers[i] = &labels[i];
    }
    request.labels = pointers;
    request.n_labels = count;
    if (options->json) {
        json_init(&list.json, stdout);
        json_begin_array(&list.json, NULL);
    }
    int rc = session_open(&session, options_socket(options), &err);
    if (rc == 0)
        rc = rpc_stream(session.client, "/agentfense.v1.SandboxService/List", &request.base,
                        &agentfense__v1__sandbox_info__descriptor, print_sandbox, &list, &err);
    if (rc == 0 && options->json) {
        json_end(&list.json);
        json_finish(&list.json);
    }
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}

int command_rules(const struct options *options)
{
    struct session session = {.fd = -1};
    struct rules_change change = {.file = options->file, .end_holders = options->end_holders};
    struct af_error err;
    int rc = session_open(&session, options_socket(options), &err);
    if (rc == 0)
        rc = tool_rules_command(session.client, options->args[0], &change, options->args + 1,
                                options->n_args - 1, options->json, stdout, &err);
    int code = rc < 0 ? complain(&err, 1) : 0;
    session_close(&session);
    return code;
}

int command_rm(const struct options *options)
{
    struct session session = {.fd = -1};
    struct af_error err;
    struct report report;
    int code = 0;
    if (session_open(&session, options_socket(options), &err) < 0)
        return complain(&err, 1);
    report_begin(&report, options);
    if (batch_destroy(session.client, options->args, (size_t)options->n_args, &report) > 0)
        code = interrupt_signal() ? 128 + interrupt_signal() : 1;
    report_end(&report);
    session_close(&session);
    return code;
}
