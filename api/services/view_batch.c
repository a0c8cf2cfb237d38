// agentfense.v1.SandboxService: many sandboxes in one call.
//
// BatchCreate makes all that are well-formed in one transaction and then starts those that are to
// run; BatchDestroy ends them side by side. A batch owns its call (a reference) and one item each,
// which the steps on the runner's thread fill in; whoever ends the last step answers.
// Read next: view_service.c, api/runner.h.
#include "api/services/view_record.h"
#include "api/services/view_service.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct batch;

struct item {
    struct batch *batch;
    struct af_id id;
    struct af_error error; // status AF_OK: done
};

struct batch {
    struct grpc_call *call;
    void (*answer)(struct batch *batch);
    atomic_size_t pending; // steps under way, and the one that starts them
    size_t count;
    struct item items[];
};

static struct batch *batch_new(struct grpc_call *call, size_t count,
                               void (*answer)(struct batch *batch))
{
    struct batch *batch = calloc(1, sizeof *batch + count * sizeof batch->items[0]);
    if (!batch)
        return NULL;
    batch->call = grpc_call_ref(call);
    batch->answer = answer;
    batch->count = count;
    atomic_store(&batch->pending, 1);
    for (size_t i = 0; i < count; i++)
        batch->items[i].batch = batch;
    return batch;
}

static void batch_put(struct batch *batch)
{
    if (atomic_fetch_sub(&batch->pending, 1) != 1)
        return;
    batch->answer(batch);
    grpc_call_unref(batch->call);
    free(batch);
}

static int check_count(size_t count, struct af_error *err)
{
    if (count <= AF_BATCH_MAX)
        return 0;
    return af_error_set(err, AF_INVALID_ARGUMENT, "%zu sandboxes in one call; at most %d fit",
                        count, AF_BATCH_MAX);
}

static void no_memory(struct grpc_call *call)
{
    grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the batch");
}

static void fill_status(Agentfense__V1__ItemStatus *status, const struct af_error *error)
{
    agentfense__v1__item_status__init(status);
    status->code = (uint32_t)error->status;
    if (error->status != AF_OK)
        status->message = grpc_text(error->text);
}

// ---- creating

struct created {
    Agentfense__V1__BatchCreateItem message;
    Agentfense__V1__ItemStatus status;
    struct view_reply *reply;
};

static void answer_created(struct batch *batch)
{
    Agentfense__V1__BatchCreateResponse reply = AGENTFENSE__V1__BATCH_CREATE_RESPONSE__INIT;
    AF_CLEANUP_FREE struct created *items = calloc(batch->count + 1, sizeof *items);
    AF_CLEANUP_FREE Agentfense__V1__BatchCreateItem **pointers =
        calloc(batch->count + 1, sizeof *pointers);
    if (!items || !pointers) {
        no_memory(batch->call);
        return;
    }
    for (size_t i = 0; i < batch->count; i++) {
        struct item *item = &batch->items[i];
        struct created *to = &items[i];
        agentfense__v1__batch_create_item__init(&to->message);
        if (item->error.status == AF_OK) {
            to->reply = view_reply_read(daemon_of(batch->call), item->id.text, &item->error);
            if (to->reply) {
                item->error.status = AF_OK;
                to->message.sandbox = view_reply_message(to->reply)->sandbox;
            }
        }
        fill_status(&to->status, &item->error);
        to->message.status = &to->status;
        pointers[i] = &to->message;
    }
    reply.items = pointers;
    reply.n_items = batch->count;
    grpc_call_reply(batch->call, &reply.base);
    for (size_t i = 0; i < batch->count; i++)
        view_reply_free(items[i].reply);
}

static void destroyed_again(void *arg, const struct af_error *err)
{
    (void)arg;
    (void)err; // the item says what went wrong first
}

static void item_started(void *arg, const struct af_error *err)
{
    struct item *item = arg;
    struct af_error ignored;
    if (err) {
        item->error = *err;
        runner_destroy(daemon_of(item->batch->call)->runner, item->id.text, destroyed_again, NULL,
                       &ignored);
    }
    batch_put(item->batch);
}

static void start_items(struct batch *batch, const Agentfense__V1__BatchCreateRequest *request)
{
    struct runner *runner = daemon_of(batch->call)->runner;
    struct af_error err;
    for (size_t i = 0; i < batch->count; i++) {
        struct item *item = &batch->items[i];
        if (item->error.status != AF_OK || !request->items[i]->start)
            continue;
        atomic_fetch_add(&batch->pending, 1);
        if (runner_start(runner, item->id.text, item_started, item, &err) < 0)
            item_started(item, &err);
    }
}

struct parsed {
    struct sandbox_request *requests;
    const struct mux_sandbox_spec **specs; // NULL: refused already
    struct mux_sandbox_made *made;
    size_t count;
};

static void free_parsed(struct parsed *parsed)
{
    for (size_t i = 0; parsed->requests && parsed->specs && i < parsed->count; i++)
        if (parsed->specs[i])
            sandbox_request_fini(&parsed->requests[i]);
    free(parsed->requests);
    free(parsed->specs);
    free(parsed->made);
}

static int parse(const Agentfense__V1__BatchCreateRequest *request, struct batch *batch,
                 struct parsed *ret)
{
    static const Sandbox__V1__CreateSandboxRequest nothing =
        SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    ret->count = request->n_items;
    ret->requests = calloc(ret->count + 1, sizeof *ret->requests);
    ret->specs = calloc(ret->count + 1, sizeof *ret->specs);
    ret->made = calloc(ret->count + 1, sizeof *ret->made);
    if (!ret->requests || !ret->specs || !ret->made)
        return -1;
    for (size_t i = 0; i < ret->count; i++) {
        const Agentfense__V1__CreateRequest *item = request->items[i];
        if (sandbox_request_parse(daemon_of(batch->call), item->sandbox ? item->sandbox : &nothing,
                                  item->options, &ret->requests[i], &batch->items[i].error) == 0)
            ret->specs[i] = &ret->requests[i].spec;
    }
    return 0;
}

static int create(struct daemon *daemon, struct batch *batch, struct parsed *parsed,
                  struct af_error *err)
{
    if (mux_sandbox_create_many(daemon->mux, parsed->specs, parsed->count, parsed->made, err) < 0)
        return -1;
    for (size_t i = 0; i < parsed->count; i++) {
        if (!parsed->specs[i])
            continue;
        if (!parsed->made[i].ok) {
            batch->items[i].error = parsed->made[i].error;
            continue;
        }
        batch->items[i].error.status = AF_OK;
        batch->items[i].id = parsed->made[i].id;
        if (parsed->specs[i]->expires_ns > 0)
            runner_expect_expiry(daemon->runner, parsed->specs[i]->expires_ns);
    }
    return 0;
}

// Known before anything is made: the reply repeats the request and adds ids, times and defaults.
static int check_reply_size(const Agentfense__V1__BatchCreateRequest *request, struct af_error *err)
{
    size_t size = protobuf_c_message_get_packed_size(&request->base) + request->n_items * 256;
    if (size <= AF_MESSAGE_MAX)
        return 0;
    return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                        "the reply would not fit into the %u bytes that clients accept: send "
                        "smaller batches",
                        AF_MESSAGE_MAX);
}

static void answer_nothing(struct batch *batch)
{
    (void)batch; // the call has ended with an error
}

void view_batch_create(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__BatchCreateRequest *request = (const void *)message;
    struct af_error err;
    if (check_count(request->n_items, &err) < 0 || check_reply_size(request, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct batch *batch = batch_new(call, request->n_items, answer_created);
    if (!batch) {
        no_memory(call);
        return;
    }
    struct parsed parsed = {0};
    int rc = parse(request, batch, &parsed);
    if (rc < 0)
        af_error_errno(&err, ENOMEM, "cannot take the batch");
    else
        rc = create(daemon_of(call), batch, &parsed, &err);
    free_parsed(&parsed);
    if (rc < 0) {
        grpc_call_finish_error(call, &err);
        batch->answer = answer_nothing;
    } else {
        start_items(batch, request);
    }
    batch_put(batch);
}

// ---- destroying

static void answer_destroyed(struct batch *batch)
{
    Agentfense__V1__BatchDestroyResponse reply = AGENTFENSE__V1__BATCH_DESTROY_RESPONSE__INIT;
    AF_CLEANUP_FREE Agentfense__V1__ItemStatus *items = calloc(batch->count + 1, sizeof *items);
    AF_CLEANUP_FREE Agentfense__V1__ItemStatus **pointers =
        calloc(batch->count + 1, sizeof *pointers);
    if (!items || !pointers) {
        no_memory(batch->call);
        return;
    }
    for (size_t i = 0; i < batch->count; i++) {
        fill_status(&items[i], &batch->items[i].error);
        pointers[i] = &items[i];
    }
    reply.items = pointers;
    reply.n_items = batch->count;
    grpc_call_reply(batch->call, &reply.base);
}

static void item_destroyed(void *arg, const struct af_error *err)
{
    struct item *item = arg;
    if (err)
        item->error = *err;
    batch_put(item->batch);
}

void view_batch_destroy(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__BatchDestroyRequest *request = (const void *)message;
    struct runner *runner = daemon_of(call)->runner;
    struct af_error err;
    if (check_count(request->n_sandbox_ids, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    struct batch *batch = batch_new(call, request->n_sandbox_ids, answer_destroyed);
    if (!batch) {
        no_memory(call);
        return;
    }
    for (size_t i = 0; i < batch->count; i++) {
        struct item *item = &batch->items[i];
        atomic_fetch_add(&batch->pending, 1);
        int rc = service_check_id("sb", request->sandbox_ids[i], &item->id, &err);
        if (rc == 0)
            rc = runner_destroy(runner, item->id.text, item_destroyed, item, &err);
        if (rc < 0)
            item_destroyed(item, &err);
    }
    batch_put(batch);
}
