// A process as a message.
//
// Read next: process_record.c, api/processes.h.
#ifndef AF_API_SERVICES_PROCESS_RECORD_H
#define AF_API_SERVICES_PROCESS_RECORD_H

#include "api/services/common.h"
#include "proto/agentfense_process.pb-c.h"

struct process_record;

// NULL when memory is short.
struct process_record *process_record_new(const struct process_info *info);
void process_record_free(void *record); // NULL is allowed
Agentfense__V1__Process *process_record_message(struct process_record *record);

// Keeps that much of what is shown of the command, an argument counted with its end.
void process_record_cut(struct process_record *record, size_t bytes_max);

// A process_seen: *(struct process_record **)arg becomes the record.
int process_record_take(void *arg, const struct process_info *info);

// Answers a unary call with the record, and frees it; NULL: memory was short.
void process_record_reply(struct grpc_call *call, struct process_record *record);

// An end as a message; `duration` is its own, to live as long.
void process_end_fill(const struct process_end *end, Agentfense__V1__ProcessExit *message,
                      Google__Protobuf__Duration *duration);

#endif
