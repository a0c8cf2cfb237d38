// ProcessService.Attach and Wait: calls that read a process until its end.
//
// A call is woken when there is something to read (grpc_call_wake), and then reads on a worker, as
// much as its client takes. Nothing is read ahead: a client that is slow misses what the process's
// ring forgets, and slows nobody.
// Owns: the reader, the call's data. Locks: none. Fails: with the call's status.
// Read next: api/processes.h, process_service.c.
#include "api/services/process_service.h"

#include "mux/base/cleanup.h"

#include <stdlib.h>

struct attachment {
    struct process_reader reader;
    bool follow;
};

static void wake(void *arg)
{
    grpc_call_wake(arg);
}

// Opens a reader for the call; NULL when the call has been finished.
static struct attachment *open_reader(struct grpc_call *call, ProtobufCBinaryData id, bool end_only)
{
    struct af_error err;
    struct process *process;
    if (process_of(call, id, &process, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return NULL;
    }
    struct attachment *attachment = calloc(1, sizeof *attachment);
    if (!attachment) {
        process_unref(process);
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the call");
        return NULL;
    }
    attachment->reader.wake = wake;
    attachment->reader.arg = call;
    attachment->reader.end_only = end_only;
    grpc_call_set_data(call, attachment);
    process_reader_open(&attachment->reader, process);
    return attachment;
}

void process_reader_stop(struct grpc_call *call)
{
    struct attachment *attachment = grpc_call_data(call);
    if (attachment)
        process_reader_close(&attachment->reader);
}

void process_reader_free(struct grpc_call *call)
{
    process_reader_stop(call);
    free(grpc_call_data(call));
}

// ---- Attach -----------------------------------------------------------------------------

static int send_exit(void *arg, const struct process_info *info)
{
    Agentfense__V1__ProcessOutput output = AGENTFENSE__V1__PROCESS_OUTPUT__INIT;
    Agentfense__V1__ProcessExit exit;
    Google__Protobuf__Duration duration;
    process_end_fill(info->end, &exit, &duration);
    output.output_case = AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_EXIT;
    output.exit = &exit;
    grpc_call_send(arg, &output.base);
    return 0;
}

static enum grpc_sent send_piece(struct grpc_call *call, const struct process_piece *piece)
{
    Agentfense__V1__ProcessOutput output = AGENTFENSE__V1__PROCESS_OUTPUT__INIT;
    if (piece->skipped > 0) {
        output.output_case = AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_SKIPPED;
        output.skipped = piece->skipped;
        grpc_call_send(call, &output.base);
        agentfense__v1__process_output__init(&output);
    }
    bool is_stderr = piece->kind == EXEC_OUTPUT_STDERR;
    output.output_case = is_stderr ? AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDERR
                                   : AGENTFENSE__V1__PROCESS_OUTPUT__OUTPUT_STDOUT;
    *(is_stderr ? &output.stderr : &output.stdout) = service_bytes(piece->bytes, piece->len);
    return grpc_call_send(call, &output.base);
}

void process_attach_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__AttachProcessRequest *request = (const void *)message;
    struct attachment *attachment = open_reader(call, request->process_id, false);
    if (attachment)
        attachment->follow = request->follow; // on_writable follows
}

void process_attach_writable(struct grpc_call *call)
{
    struct attachment *attachment = grpc_call_data(call);
    struct process_piece piece;
    if (!attachment || !attachment->reader.process)
        return;
    for (;;) {
        switch (process_reader_read(&attachment->reader, &piece)) {
        case PROCESS_OUTPUT:
            if (send_piece(call, &piece) != GRPC_SENT)
                return;
            break;
        case PROCESS_NOTHING:
            if (!attachment->follow)
                grpc_call_finish(call, AF_OK, NULL);
            return;
        case PROCESS_ENDED:
            process_look(attachment->reader.process, send_exit, call);
            grpc_call_finish(call, AF_OK, NULL);
            return;
        }
    }
}

// ---- Wait -------------------------------------------------------------------------------

void process_wait_writable(struct grpc_call *call)
{
    struct attachment *attachment = grpc_call_data(call);
    struct process_record *record = NULL;
    if (!attachment || !attachment->reader.process ||
        process_reader_read(&attachment->reader, NULL) != PROCESS_ENDED)
        return;
    process_look(attachment->reader.process, process_record_take, &record);
    process_record_reply(call, record);
}

void process_wait_message(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ProcessRequest *request = (const void *)message;
    if (open_reader(call, request->process_id, true))
        process_wait_writable(call);
}
