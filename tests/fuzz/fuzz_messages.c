// Fuzzes the decoding of request messages.
//
// Input: one byte that chooses the message type, then its bytes. Promises checked: decoding stays
// within its memory budget; what is accepted holds clean text in every field that the .proto calls
// string; what is refused is refused with a sentence.
// Read next: api/net/message.h.
#include "api/net/message.h"

#include "proto/agentfense.pb-c.h"
#include "proto/agentfense_file.pb-c.h"
#include "proto/agentfense_process.pb-c.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "proto/grpc/reflection.pb-c.h"
#include "proto/sandbox.pb-c.h"

#include <stdlib.h>

#define BUDGET_BYTES (1u << 20)

static const ProtobufCMessageDescriptor *const types[] = {
    &sandbox__v1__create_sandbox_request__descriptor,
    &sandbox__v1__exec_request__descriptor,
    &sandbox__v1__upload_chunk__descriptor,
    &sandbox__v1__list_codebases_request__descriptor,
    &agentfense__v1__import_request__descriptor,
    &agentfense__v1__run_request__descriptor,
    &agentfense__v1__batch_create_request__descriptor,
    &agentfense__v1__update_permissions_request__descriptor,
    &agentfense__v1__process_input__descriptor,
    &agentfense__v1__import_directory_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    struct grpc_arena arena;
    struct af_error err;
    ProtobufCMessage *message;
    grpc_arena_init(&arena, BUDGET_BYTES);
    if (grpc_message_decode(type, data + 1, size - 1, &arena, &message, &err) == 0)
        check(message->descriptor == type && grpc_message_check_text(message, &err) == 0);
    else
        check(err.text[0] != '\0');
    check(arena.budget_bytes <= BUDGET_BYTES);
    grpc_arena_fini(&arena);
    return 0;
}
