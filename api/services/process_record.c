// A process as a message: copies of what the table knows. Owns: its copies. Locks: none.
// Fails: for want of memory. Read next: process_record.h.
#include "api/services/process_record.h"

#include "mux/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

struct process_record {
    Agentfense__V1__Process message;
    Google__Protobuf__Timestamp started, ended;
    Agentfense__V1__ProcessExit exit;
    Google__Protobuf__Duration duration;
    struct process_end end;
    char id[AF_ID_TEXT_MAX], sandbox_id[AF_ID_TEXT_MAX];
};

void process_record_free(void *item)
{
    struct process_record *record = item;
    if (!record)
        return;
    for (size_t i = 0; i < record->message.n_argv; i++)
        free(record->message.argv[i].data);
    free(record->message.argv);
    free(record->message.command.data);
    free(record);
}

static bool copy_text(const char *text, ProtobufCBinaryData *ret)
{
    char *copy = strdup(text);
    *ret = service_bytes(copy, copy ? strlen(copy) : 0);
    return copy != NULL;
}

static bool copy_command(Agentfense__V1__Process *message, const struct process_info *info)
{
    size_t argc = 0;
    if (info->command)
        return copy_text(info->command, &message->command);
    while (info->argv && info->argv[argc])
        argc++;
    if (argc == 0)
        return true;
    message->argv = calloc(argc, sizeof *message->argv);
    for (size_t i = 0; message->argv && i < argc; i++, message->n_argv++)
        if (!copy_text(info->argv[i], &message->argv[i]))
            return false;
    return message->argv != NULL;
}

void process_end_fill(const struct process_end *end, Agentfense__V1__ProcessExit *message,
                      Google__Protobuf__Duration *duration)
{
    agentfense__v1__process_exit__init(message);
    service_set_duration(duration, end->duration_ns);
    message->exit_code = end->exit_code;
    message->signal = end->signal;
    message->duration = duration;
    message->timed_out = end->timed_out;
    message->out_of_memory = end->out_of_memory;
    if (end->error.status != AF_OK)
        message->error = grpc_text(end->error.text);
}

struct process_record *process_record_new(const struct process_info *info)
{
    struct process_record *record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    Agentfense__V1__Process *message = &record->message;
    agentfense__v1__process__init(message);
    strcpy(record->id, info->id); // both are of ids
    strcpy(record->sandbox_id, info->sandbox_id);
    message->id = grpc_text(record->id);
    message->sandbox_id = grpc_text(record->sandbox_id);
    message->running = !info->end;
    message->terminal = info->terminal;
    message->stdin = info->stdin_open;
    message->background = info->background;
    service_set_timestamp(&record->started, info->started_ns);
    message->started_at = &record->started;
    if (info->end) {
        record->end = *info->end;
        service_set_timestamp(&record->ended, info->ended_ns);
        message->ended_at = &record->ended;
        process_end_fill(&record->end, &record->exit, &record->duration);
        message->exit = &record->exit;
    }
    if (copy_command(message, info))
        return record;
    process_record_free(record);
    return NULL;
}

void process_record_cut(struct process_record *record, size_t bytes_max)
{
    Agentfense__V1__Process *message = &record->message;
    if (message->command.len > bytes_max)
        message->command.len = bytes_max;
    size_t left = bytes_max, kept = 0;
    for (size_t i = 0; i < message->n_argv; i++) {
        ProtobufCBinaryData *arg = &message->argv[i];
        if (left == 0) {
            free(arg->data);
            continue;
        }
        arg->len = arg->len < left ? arg->len : left;
        left -= arg->len < left ? arg->len + 1 : left; // an empty one counts as well
        kept++;
    }
    message->n_argv = kept;
}

Agentfense__V1__Process *process_record_message(struct process_record *record)
{
    return &record->message;
}

int process_record_take(void *arg, const struct process_info *info)
{
    *(struct process_record **)arg = process_record_new(info);
    return 0;
}

void process_record_reply(struct grpc_call *call, struct process_record *record)
{
    if (record)
        grpc_call_reply(call, &record->message.base);
    else
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
    process_record_free(record);
}
