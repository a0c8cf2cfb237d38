// What the service handlers share. Pure functions. Read next: common.h.
#include "api/services/common.h"

#include "mux/base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int service_list_add(struct service_list *list, void *item, void (*free_item)(void *item))
{
    if (!item)
        return -ENOMEM;
    if (list->page_size > 0 && list->count == list->page_size) {
        list->more = true;
        free_item(item);
        return 1;
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 16;
        void **grown = reallocarray(list->items, capacity, sizeof *grown);
        if (!grown) {
            free_item(item);
            return -ENOMEM;
        }
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return 0;
}

void service_list_fini(struct service_list *list, void (*free_item)(void *item))
{
    for (size_t i = 0; i < list->count; i++)
        free_item(list->items[i]);
    free(list->items);
}

int service_check_id(const char *prefix, ProtobufCBinaryData field, struct af_id *ret,
                     struct af_error *err)
{
    if (af_id_parse(prefix, field.data, field.len, ret))
        return 0;
    if (field.len == 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "an id is missing: expected %s_...", prefix);
    int shown = field.len > AF_ID_TEXT_MAX ? AF_ID_TEXT_MAX : (int)field.len;
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "\"%.*s\" is no id: expected %s_ and %d letters or digits", shown,
                        (const char *)field.data, prefix, AF_ID_RANDOM_CHARS);
}

int service_check_page(const char *prefix, int32_t page_size, ProtobufCBinaryData page_token,
                       struct af_id *ret_after, struct af_error *err)
{
    if (page_size < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "page_size must not be negative");
    memset(ret_after, 0, sizeof *ret_after);
    if (page_token.len > 0 && !af_id_parse(prefix, page_token.data, page_token.len, ret_after))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "page_token must be the next_page_token of an earlier reply");
    return 0;
}

int service_check_reply(const ProtobufCMessage *reply, const char *advice, struct af_error *err)
{
    size_t size = protobuf_c_message_get_packed_size(reply);
    if (size <= AF_MESSAGE_MAX)
        return 0;
    return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                        "the reply would have %zu bytes, more than the %u that clients accept: %s",
                        size, AF_MESSAGE_MAX, advice);
}

int service_check_text(const char *what, ProtobufCBinaryData field, size_t max, bool required,
                       struct af_error *err)
{
    if (required && field.len == 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s is required", what);
    if (field.len > max)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s has %zu bytes; at most %zu are allowed",
                            what, field.len, max);
    return 0;
}

int service_duration_ns(const char *what, const Google__Protobuf__Duration *duration,
                        int64_t absent_ns, int64_t *ret, struct af_error *err)
{
    if (!duration) {
        *ret = absent_ns;
        return 0;
    }
    int64_t seconds = duration->seconds, nanos = duration->nanos;
    if (nanos <= -AF_NS_PER_SEC || nanos >= AF_NS_PER_SEC || (seconds > 0 && nanos < 0) ||
        (seconds < 0 && nanos > 0))
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s is no well-formed duration", what);
    if (seconds < 0 || nanos < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s must not be negative", what);
    if (seconds >= INT64_MAX / AF_NS_PER_SEC / 2)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s of %" PRId64 " s is too long", what,
                            seconds);
    *ret = seconds * AF_NS_PER_SEC + nanos;
    return 0;
}

void service_set_duration(Google__Protobuf__Duration *duration, int64_t ns)
{
    google__protobuf__duration__init(duration);
    duration->seconds = ns / AF_NS_PER_SEC;
    duration->nanos = (int32_t)(ns % AF_NS_PER_SEC);
}

void service_set_timestamp(Google__Protobuf__Timestamp *timestamp, int64_t ns)
{
    struct timespec ts = af_timespec_of_ns(ns);
    google__protobuf__timestamp__init(timestamp);
    timestamp->seconds = ts.tv_sec;
    timestamp->nanos = (int32_t)ts.tv_nsec;
}

Agentfense__V1__FileKind service_file_kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR;
    case S_IFDIR:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY;
    case S_IFLNK:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK;
    case S_IFIFO:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_FIFO;
    case S_IFSOCK:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_SOCKET;
    default:
        return AGENTFENSE__V1__FILE_KIND__FILE_KIND_UNSPECIFIED;
    }
}
