// BatchCreate and BatchDestroy: see batch.h.
#include "tools/agentfense/batch.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/run.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void complain_of(const char *name, ProtobufCBinaryData text)
{
    fprintf(stderr, "agentfense: %s%s", name, *name ? ": " : "");
    tool_print_escaped(stderr, text.data, text.len);
    fputc('\n', stderr);
}

// ---- create

static void print_all(const struct session *session,
                      const Agentfense__V1__BatchCreateResponse *reply, bool as_json)
{
    struct json json;
    if (as_json) {
        json_init(&json, stdout);
        json_begin_array(&json, NULL);
    }
    for (size_t i = 0; i < reply->n_items; i++) {
        const Sandbox__V1__Sandbox *sandbox = reply->items[i]->sandbox;
        if (!sandbox)
            continue;
        if (!as_json) {
            tool_print_escaped(stdout, sandbox->id.data, sandbox->id.len);
            putchar('\n');
            continue;
        }
        json_begin_object(&json, NULL);
        json_bytes(&json, "sandbox_id", sandbox->id.data, sandbox->id.len);
        json_text(&json, "codebase_id", session->codebase_id.text);
        json_end(&json);
    }
    if (as_json) {
        json_end(&json);
        json_finish(&json);
    }
}

int batch_create(struct session *session, const Agentfense__V1__CreateRequest *one, size_t count,
                 bool as_json, struct af_error *err)
{
    Agentfense__V1__BatchCreateRequest request = AGENTFENSE__V1__BATCH_CREATE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__BatchCreateResponse *reply = NULL;
    Agentfense__V1__CreateRequest item = *one;
    AF_CLEANUP_FREE Agentfense__V1__CreateRequest **items = tool_alloc(count * sizeof(void *));
    item.start = true;
    for (size_t i = 0; i < count; i++)
        items[i] = &item;
    request.items = items;
    request.n_items = count;
    if (rpc_unary(session->client, "/agentfense.v1.SandboxService/BatchCreate", &request.base,
                  &agentfense__v1__batch_create_response__descriptor, &reply, err) < 0)
        return -1;
    const Agentfense__V1__ItemStatus *failure = NULL;
    for (size_t i = 0; i < reply->n_items; i++)
        if (reply->items[i]->status && reply->items[i]->status->code != 0) {
            failure = reply->items[i]->status;
            session->failed++;
        }
    if (failure && session->failed == reply->n_items)
        return af_error_set(err, (enum af_status)failure->code, "%.*s", (int)failure->message.len,
                            failure->message.data ? (char *)failure->message.data : "");
    print_all(session, reply, as_json);
    if (failure) // most often they have one reason
        complain_of("not all could be made", failure->message);
    return 0;
}

// ---- rm

struct victim {
    struct af_id id;
    const char *name;
    Sandbox__V1__Sandbox *sandbox;
};

static int find(struct af_client *client, const char *name, struct victim *ret,
                struct af_error *err)
{
    Sandbox__V1__GetSandboxRequest get = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    ret->name = name;
    if (rpc_find_view(client, name, &ret->id, err) < 0)
        return -1;
    get.sandbox_id = af_client_text(ret->id.text);
    return rpc_unary(client, "/sandbox.v1.SandboxService/GetSandbox", &get.base,
                     &sandbox__v1__sandbox__descriptor, &ret->sandbox, err);
}

// The codebases go when the last sandbox on them has gone.
static size_t finish(struct af_client *client, const struct victim *victims, size_t count,
                     const Agentfense__V1__BatchDestroyResponse *reply, struct report *report)
{
    size_t failed = 0;
    struct af_error err;
    for (size_t i = 0; i < count; i++) {
        const Agentfense__V1__ItemStatus *status = i < reply->n_items ? reply->items[i] : NULL;
        if (!status || status->code != 0) {
            ProtobufCBinaryData text = status ? status->message : (ProtobufCBinaryData){0};
            complain_of(victims[i].name, text);
            report_failed(report, victims[i].name, (const char *)text.data, text.len);
            failed++;
        } else if (session_delete_owned(client, victims[i].sandbox, &err) < 0) {
            failed += report_error(report, victims[i].name, &err, 1) != 0;
        } else {
            report_sandbox(report, victims[i].id.text, "destroyed");
        }
    }
    return failed;
}

size_t batch_destroy(struct af_client *client, char *const *names, size_t count,
                     struct report *report)
{
    Agentfense__V1__BatchDestroyRequest request = AGENTFENSE__V1__BATCH_DESTROY_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__BatchDestroyResponse *reply = NULL;
    AF_CLEANUP_FREE struct victim *victims = tool_alloc(count * sizeof *victims);
    AF_CLEANUP_FREE ProtobufCBinaryData *ids = tool_alloc(count * sizeof *ids);
    size_t found = 0, failed = 0;
    struct af_error err;
    for (size_t i = 0; i < count && !interrupt_signal(); i++) {
        if (find(client, names[i], &victims[found], &err) < 0) {
            failed += report_error(report, names[i], &err, 1) != 0;
        } else {
            ids[found] = af_client_text(victims[found].id.text);
            found++;
        }
    }
    request.sandbox_ids = ids;
    request.n_sandbox_ids = found;
    if (found > 0 &&
        rpc_unary(client, "/agentfense.v1.SandboxService/BatchDestroy", &request.base,
                  &agentfense__v1__batch_destroy_response__descriptor, &reply, &err) < 0) {
        complain(&err, 1);
        for (size_t i = 0; i < found; i++)
            report_failed(report, victims[i].name, err.text, strlen(err.text));
        failed += found;
    } else if (found > 0) {
        failed += finish(client, victims, found, reply, report);
    }
    for (size_t i = 0; i < found; i++)
        rpc_free(victims[i].sandbox);
    return failed;
}
