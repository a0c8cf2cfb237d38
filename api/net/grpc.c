// What handlers ask of a call, and their small helpers. Nothing here locks or can fail.
// Read next: grpc.h.
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void grpc_call_set_data(struct grpc_call *call, void *data)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    // The network thread asks whether there is data when the stream closes.
    pthread_mutex_lock(&call->lock);
    call->data = data;
    pthread_mutex_unlock(&call->lock);
}

void *grpc_call_data(const struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    return call->data;
}

void *grpc_call_context(const struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    return call->server->options.context;
}

const struct grpc_method *grpc_call_method(const struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    return call->method;
}

const struct grpc_peer *grpc_call_peer(const struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    return &call->peer;
}

int64_t grpc_call_deadline_ns(const struct grpc_call *call)
{
    AF_CHECK_MAGIC(call, GRPC_CALL_MAGIC);
    return call->deadline_ns;
}

ProtobufCBinaryData grpc_text(const char *text)
{
    if (!text)
        return (ProtobufCBinaryData){0};
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

char *grpc_text_dup(ProtobufCBinaryData field)
{
    char *copy = malloc(field.len + 1);
    if (!copy) {
        // Field sizes are bounded by the message size: the machine is out of memory.
        fprintf(stderr, "level=fatal msg=\"out of memory\" bytes=%zu\n", field.len + 1);
        abort();
    }
    if (field.len > 0)
        memcpy(copy, field.data, field.len);
    copy[field.len] = '\0';
    return copy;
}

bool grpc_text_copy(ProtobufCBinaryData field, char *buf, size_t size)
{
    if (field.len >= size)
        return false;
    if (field.len > 0)
        memcpy(buf, field.data, field.len);
    buf[field.len] = '\0';
    return true;
}

bool grpc_text_equals(ProtobufCBinaryData field, const char *text)
{
    size_t len = strlen(text);
    return field.len == len && (len == 0 || memcmp(field.data, text, len) == 0);
}

int grpc_check_enum(const ProtobufCEnumDescriptor *descriptor, int value, const char *field,
                    struct af_error *err)
{
    if (protobuf_c_enum_descriptor_get_value(descriptor, value))
        return 0;
    return af_error_set(err, AF_INVALID_ARGUMENT, "field %s has the unknown %s value %d", field,
                        descriptor->name, value);
}
