// agentfense.v1.SandboxService.List: sandboxes as a stream, as fast as the client reads.
//
// Owns the filter and the place where it is, with the call. Each turn looks at a bounded number of
// records in one read transaction, so that a client that reads slowly holds none open. A sandbox
// that is made or destroyed meanwhile may or may not be in it. Read next: view_record.h.
#include "api/services/view_record.h"
#include "api/services/view_service.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MAX  1024 // records looked at in one transaction
#define BATCH_MAX 64   // of them, kept to be sent

struct listing {
    Agentfense__V1__ListRequest *filter; // a copy
    struct af_id after;                  // the last record looked at; "" at the start
    unsigned looked;
    bool end, no_memory;
    struct view_reply *batch[BATCH_MAX];
    size_t next, count;
};

static void drop_batch(struct listing *list)
{
    while (list->next < list->count)
        view_reply_free(list->batch[list->next++]);
    list->next = list->count = 0;
}

static bool is_text(ProtobufCBinaryData wanted, const char *text, size_t len)
{
    return wanted.len == 0 || (wanted.len == len && memcmp(wanted.data, text, len) == 0);
}

static int look(void *arg, const struct store_sandbox *record, const struct store_layer *delta)
{
    struct listing *list = arg;
    const Agentfense__V1__ListRequest *filter = list->filter;
    if (list->count == BATCH_MAX || list->looked == LOOK_MAX)
        return 1;
    list->looked++;
    list->after = record->id;
    if ((filter->status != 0 && (int)filter->status != (int)record->status) ||
        !is_text(filter->codebase_id, record->codebase_id.text, strlen(record->codebase_id.text)) ||
        !is_text(filter->owner_id, record->owner, record->owner_len))
        return 0;
    struct view_reply *reply = view_reply_new(record, delta);
    if (!reply) {
        list->no_memory = true;
        return 1;
    }
    if (view_reply_has_labels(reply, filter->labels, filter->n_labels))
        list->batch[list->count++] = reply;
    else
        view_reply_free(reply);
    return 0;
}

static int fill(struct daemon *daemon, struct listing *list, struct af_error *err)
{
    list->next = list->count = 0;
    list->looked = 0;
    int rc =
        mux_sandbox_scan(daemon->mux, *list->after.text ? list->after.text : NULL, look, list, err);
    if (list->no_memory)
        return af_error_errno(err, ENOMEM, "cannot list the sandboxes");
    list->end = rc == 0;
    return rc < 0 ? -1 : 0;
}

void view_list_writable(struct grpc_call *call)
{
    struct listing *list = grpc_call_data(call);
    struct af_error err;
    if (!list)
        return;
    while (!grpc_call_is_over(call)) {
        while (list->next < list->count) {
            struct view_reply *reply = list->batch[list->next++];
            enum grpc_sent sent = grpc_call_send(call, &view_reply_message(reply)->base);
            view_reply_free(reply);
            if (sent != GRPC_SENT)
                return;
        }
        if (list->end) {
            grpc_call_finish(call, AF_OK, NULL);
            return;
        }
        if (fill(daemon_of(call), list, &err) < 0) {
            grpc_call_finish_error(call, &err);
            return;
        }
    }
}

void view_list_free(struct grpc_call *call)
{
    struct listing *list = grpc_call_data(call);
    drop_batch(list);
    agentfense__v1__list_request__free_unpacked(list->filter, NULL);
    free(list);
}

// The message lives only as long as the handler, the stream longer.
static Agentfense__V1__ListRequest *copy_filter(const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AF_CLEANUP_FREE uint8_t *packed = malloc(size + 1);
    if (!packed)
        return NULL;
    protobuf_c_message_pack(message, packed);
    return agentfense__v1__list_request__unpack(NULL, size, packed);
}

void view_list(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ListRequest *request = (const void *)message;
    struct af_error err;
    struct af_id id;
    if ((request->codebase_id.len > 0 &&
         service_check_id("cb", request->codebase_id, &id, &err) < 0) ||
        service_check_text("owner_id", request->owner_id, AF_NAME_TEXT_MAX, false, &err) < 0 ||
        grpc_check_enum(&sandbox__v1__sandbox_status__descriptor, (int)request->status, "status",
                        &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct listing *list = calloc(1, sizeof *list);
    if (list && !(list->filter = copy_filter(message))) {
        free(list);
        list = NULL;
    }
    if (!list)
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the list");
    else
        grpc_call_set_data(call, list);
}
