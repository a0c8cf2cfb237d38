// Decoding and checking one request message. Owns nothing, no locks. Read next: message.h.
#include "api/net/message.h"

#include "api/net/raw_fields.h"
#include "mux/base/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_PATH_MAX 256

// Where the walk is: a chain of fields from the innermost outwards.
struct place {
    const struct place *outer;
    const char *field;
};

static void place_write(const struct place *place, char *out, size_t size)
{
    char outer[FIELD_PATH_MAX] = "";
    if (place->outer)
        place_write(place->outer, outer, sizeof outer);
    snprintf(out, size, "%s%s%s", outer, *outer ? "." : "", place->field);
}

static int compare_name(const void *key, const void *entry)
{
    return strcmp(key, *(const char *const *)entry);
}

static bool is_raw(const ProtobufCMessageDescriptor *message, const ProtobufCFieldDescriptor *field)
{
    char name[FIELD_PATH_MAX];
    snprintf(name, sizeof name, "%s.%s", message->name, field->name);
    return bsearch(name, grpc_raw_fields, grpc_raw_field_count, sizeof grpc_raw_fields[0],
                   compare_name) != NULL;
}

static int check_message(const ProtobufCMessage *message, const struct place *outer,
                         struct af_error *err);

static int check_bytes(const ProtobufCBinaryData *bytes, const struct place *place,
                       struct af_error *err)
{
    if (bytes->len == 0 || af_text_is_utf8(bytes->data, bytes->len))
        return 0;
    char name[FIELD_PATH_MAX];
    place_write(place, name, sizeof name);
    bool nul = memchr(bytes->data, '\0', bytes->len) != NULL;
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        nul ? "field %s contains a NUL byte" : "field %s is not valid UTF-8", name);
}

// One value of a field at `at`: bytes, or a pointer to a message.
static int check_value(const ProtobufCFieldDescriptor *field, const void *at,
                       const struct place *place, struct af_error *err)
{
    if (field->type == PROTOBUF_C_TYPE_BYTES)
        return check_bytes(at, place, err);
    const ProtobufCMessage *sub = *(const ProtobufCMessage *const *)at;
    return sub ? check_message(sub, place, err) : 0;
}

static int check_field(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                       const struct place *outer, struct af_error *err)
{
    const char *base = (const char *)message;
    const char *at = base + field->offset;
    bool bytes = field->type == PROTOBUF_C_TYPE_BYTES;
    if (!bytes && field->type != PROTOBUF_C_TYPE_MESSAGE)
        return 0;
    if (bytes && is_raw(message->descriptor, field))
        return 0;
    struct place place = {outer, field->name};
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count = *(const size_t *)(base + field->quantifier_offset);
        const char *values = *(const char *const *)at;
        size_t step = bytes ? sizeof(ProtobufCBinaryData) : sizeof(void *);
        for (size_t i = 0; i < count; i++)
            if (check_value(field, values + i * step, &place, err))
                return -1;
        return 0;
    }
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        uint32_t which = *(const uint32_t *)(base + field->quantifier_offset);
        if (which != field->id)
            return 0;
    }
    return check_value(field, at, &place, err);
}

static int check_message(const ProtobufCMessage *message, const struct place *outer,
                         struct af_error *err)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    for (unsigned i = 0; i < descriptor->n_fields; i++)
        if (check_field(message, &descriptor->fields[i], outer, err))
            return -1;
    return 0;
}

int grpc_message_check_text(const ProtobufCMessage *message, struct af_error *err)
{
    return check_message(message, NULL, err);
}

int grpc_message_decode(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                        size_t len, struct grpc_arena *arena, ProtobufCMessage **ret_message,
                        struct af_error *err)
{
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &arena->allocator, len, bytes);
    if (!message && arena->exceeded)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "the request would take too much memory when decoded: send fewer "
                            "elements in one message");
    if (!message)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the request is not a valid %s message",
                            descriptor->name);
    if (check_message(message, NULL, err))
        return -1;
    *ret_message = message;
    return 0;
}
