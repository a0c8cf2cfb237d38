// agentfense.v1.MonitorService/Fsck: the store checked while the daemon runs, read-only.
//
// One check at a time, on the worker that took the call: it reads one consistent state of the
// store, and everything else goes on beside it. What it finds is kept with the call, at most
// FINDINGS_MAX, and sent as the client reads; the last message says how much there was.
// Fails: FAILED_PRECONDITION while another check runs. Read next: mux/store/fsck.h.
#include "api/services/common.h"

#include "mux/base/cleanup.h"
#include "mux/mux.h"
#include "mux/store/fsck.h"
#include "proto/agentfense_monitor.pb-c.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FINDINGS_MAX 1000

struct finding {
    char *kind, *text;
    bool repairable;
};

struct findings {
    struct grpc_call *call;
    struct finding items[FINDINGS_MAX];
    size_t count, sent;
    struct store_fsck_result result;
};

static atomic_flag is_busy = ATOMIC_FLAG_INIT;

static int keep(void *arg, const struct store_finding *from)
{
    struct findings *list = arg;
    if (grpc_call_is_over(list->call))
        return 1;
    if (list->count == FINDINGS_MAX)
        return 0; // counted in the result
    struct finding *item = &list->items[list->count];
    *item = (struct finding){strdup(from->kind), strdup(from->text), from->repairable};
    list->count++;
    return item->kind && item->text ? 0 : -ENOMEM;
}

static void fsck_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    (void)message;
    struct findings *list = calloc(1, sizeof *list);
    if (!list) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the findings");
        return;
    }
    list->call = call;
    grpc_call_set_data(call, list);
    if (atomic_flag_test_and_set(&is_busy)) {
        grpc_call_finish(call, AF_FAILED_PRECONDITION,
                         "another check of the store is running; wait for it");
        return;
    }
    struct store_fsck_options options = {.fn = keep, .arg = list};
    int rc = store_fsck(mux_store(daemon_of(call)->mux), &options, &list->result);
    atomic_flag_clear(&is_busy);
    struct af_error err;
    if (rc < 0) {
        af_error_errno(&err, rc, "the store could not be checked");
        grpc_call_finish_error(call, &err);
    }
}

static void fsck_writable(struct grpc_call *call)
{
    struct findings *list = grpc_call_data(call);
    while (list && list->sent < list->count) {
        const struct finding *item = &list->items[list->sent++];
        Agentfense__V1__FsckFinding reply = AGENTFENSE__V1__FSCK_FINDING__INIT;
        reply.kind = grpc_text(item->kind);
        reply.text = grpc_text(item->text);
        reply.repairable = item->repairable;
        if (grpc_call_send(call, &reply.base) != GRPC_SENT)
            return;
    }
    Agentfense__V1__FsckFinding last = AGENTFENSE__V1__FSCK_FINDING__INIT;
    last.done = true;
    last.records = list ? list->result.records : 0;
    grpc_call_reply(call, &last.base);
}

static void fsck_free(struct grpc_call *call)
{
    struct findings *list = grpc_call_data(call);
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].kind);
        free(list->items[i].text);
    }
    free(list);
}

const struct grpc_method fsck_methods[] = {
    {
        .path = "/agentfense.v1.MonitorService/Fsck",
        .kind = GRPC_SERVER_STREAM,
        .request = &agentfense__v1__fsck_request__descriptor,
        .on_message = fsck_message,
        .on_writable = fsck_writable,
        .on_free = fsck_free,
    },
};
const size_t fsck_methods_count = AF_ARRAY_LEN(fsck_methods);
