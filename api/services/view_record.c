// SandboxInfo messages. Read next: view_record.h.
#include "api/services/view_record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct view_reply {
    Agentfense__V1__SandboxInfo message;
    Agentfense__V1__SandboxOptions options;
    Agentfense__V1__Quota quota;
    Agentfense__V1__IoLimit io_limit;
    struct sandbox_reply *sandbox;
    char owner[AF_NAME_TEXT_MAX + 1];
};

struct view_reply *view_reply_new(const struct store_sandbox *record,
                                  const struct store_layer *delta)
{
    struct view_reply *reply = calloc(1, sizeof *reply);
    struct sandbox_options options;
    if (!reply)
        return NULL;
    reply->sandbox = sandbox_reply_new(record);
    if (!reply->sandbox || sandbox_options_of(record, &options) < 0) {
        view_reply_free(reply);
        return NULL;
    }
    agentfense__v1__sandbox_options__init(&reply->options);
    agentfense__v1__quota__init(&reply->quota);
    reply->quota.bytes = record->quota_bytes;
    reply->quota.inodes = record->quota_inodes;
    agentfense__v1__io_limit__init(&reply->io_limit);
    reply->io_limit.iops = record->iops;
    reply->io_limit.bandwidth = record->bandwidth;
    reply->options.commit_policy = options.commit_policy;
    reply->options.conflict_policy = options.conflict_policy;
    reply->options.network = options.network;
    reply->options.quota = &reply->quota;
    reply->options.io_limit = &reply->io_limit;
    memcpy(reply->owner, record->owner, record->owner_len);

    Agentfense__V1__SandboxInfo *message = &reply->message;
    agentfense__v1__sandbox_info__init(message);
    message->sandbox = (Sandbox__V1__Sandbox *)(uintptr_t)sandbox_reply_message(reply->sandbox);
    message->options = &reply->options;
    message->access = (Agentfense__V1__Access)record->access;
    message->delta_bytes = delta->bytes;
    message->delta_inodes = delta->inodes;
    message->owner_id = service_bytes(reply->owner, record->owner_len);
    return reply;
}

void view_reply_free(struct view_reply *reply)
{
    if (!reply)
        return;
    sandbox_reply_free(reply->sandbox);
    free(reply);
}

Agentfense__V1__SandboxInfo *view_reply_message(struct view_reply *reply)
{
    return &reply->message;
}

static int keep(void *arg, const struct store_sandbox *record, const struct store_layer *delta)
{
    struct view_reply **reply = arg;
    *reply = view_reply_new(record, delta);
    return 0;
}

struct view_reply *view_reply_read(struct daemon *daemon, const char *id, struct af_error *err)
{
    struct view_reply *reply = NULL;
    if (mux_sandbox_info(daemon->mux, id, keep, &reply, err) < 0)
        return NULL;
    if (!reply)
        af_error_errno(err, ENOMEM, "cannot describe sandbox %s", id);
    return reply;
}

void view_reply_send(struct grpc_call *call, const char *id)
{
    struct af_error err;
    struct view_reply *reply = view_reply_read(daemon_of(call), id, &err);
    if (reply)
        grpc_call_reply(call, &reply->message.base);
    else
        grpc_call_finish_error(call, &err);
    view_reply_free(reply);
}

static bool same(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

bool view_reply_has_labels(struct view_reply *reply,
                           Agentfense__V1__ListRequest__LabelsEntry *const *labels, size_t count)
{
    const Sandbox__V1__Sandbox *sandbox = reply->message.sandbox;
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        for (size_t j = 0; !found && j < sandbox->n_labels; j++)
            found = same(labels[i]->key, sandbox->labels[j]->key) &&
                    same(labels[i]->value, sandbox->labels[j]->value);
        if (!found)
            return false;
    }
    return true;
}
