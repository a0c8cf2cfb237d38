// What the service handlers share: ids, times, lists, and the end of a call.
//
// Functions that check return 0, or -1 with *err set. Nothing is locked or kept.
// Read next: codebase_service.c for the plainest use.
#ifndef AF_API_SERVICES_COMMON_H
#define AF_API_SERVICES_COMMON_H

#include "api/daemon.h"
#include "api/net/grpc.h"
#include "mux/base/id.h"
#include "proto/agentfense.pb-c.h"
#include "proto/sandbox.pb-c.h"

// The method tables, one per service.
extern const struct grpc_method codebase_methods[];
extern const size_t codebase_methods_count;
extern const struct grpc_method sandbox_methods[];
extern const size_t sandbox_methods_count;
extern const struct grpc_method commit_methods[];
extern const size_t commit_methods_count;
extern const struct grpc_method view_methods[];
extern const size_t view_methods_count;
extern const struct grpc_method exec_methods[];
extern const size_t exec_methods_count;
extern const struct grpc_method session_methods[];
extern const size_t session_methods_count;
extern const struct grpc_method fsck_methods[];
extern const size_t fsck_methods_count;
extern const struct grpc_method process_methods[];
extern const size_t process_methods_count;
extern const struct grpc_method inspect_methods[];
extern const size_t inspect_methods_count;
extern const struct grpc_method monitor_methods[];
extern const size_t monitor_methods_count;
extern const struct grpc_method watch_methods[];
extern const size_t watch_methods_count;
extern const struct grpc_method tree_methods[];
extern const size_t tree_methods_count;
extern const struct grpc_method archive_methods[];
extern const size_t archive_methods_count;
extern const struct grpc_method file_methods[];
extern const size_t file_methods_count;
extern const struct grpc_method health_methods[];
extern const size_t health_methods_count;
extern const struct grpc_method reflection_methods[];
extern const size_t reflection_methods_count;

static inline struct daemon *daemon_of(const struct grpc_call *call)
{
    return grpc_call_context(call);
}

// A row of a method table: a unary method of the package's service.
#define SERVICE_UNARY(service, name, type, handler)                                                \
    {                                                                                              \
        .path = "/" service "/" name, .kind = GRPC_UNARY, .request = &type##__descriptor,          \
        .on_message = handler                                                                      \
    }

// What a store's callback gathers for a reply: pointers to malloc'ed items, at most a page of them.
struct service_list {
    void **items;
    size_t count, capacity;
    size_t page_size; // 0: no limit
    bool more;        // the page was full and something followed
};

// Takes the item over. 0 to go on, 1 when the page is full (the item is given back through
// free_item), -ENOMEM also for a NULL item.
int service_list_add(struct service_list *list, void *item, void (*free_item)(void *item));
void service_list_fini(struct service_list *list, void (*free_item)(void *item));

// INVALID_ARGUMENT with the form an id has, when the field is none. `prefix`: "cb", "sb" or "sess".
int service_check_id(const char *prefix, ProtobufCBinaryData field, struct af_id *ret,
                     struct af_error *err);

// A page: page_size 0 is everything, page_token "" the beginning (ret_after->text "").
int service_check_page(const char *prefix, int32_t page_size, ProtobufCBinaryData page_token,
                       struct af_id *ret_after, struct af_error *err);

// RESOURCE_EXHAUSTED with `advice` when a reply is too large for the clients.
int service_check_reply(const ProtobufCMessage *reply, const char *advice, struct af_error *err);

// A required or optional text of at most `max` bytes.
int service_check_text(const char *what, ProtobufCBinaryData field, size_t max, bool required,
                       struct af_error *err);

// Nanoseconds of a Duration; NULL gives `absent_ns`. INVALID_ARGUMENT when malformed (fields of
// different sign, nanos out of range), negative, or too long for 64 bits.
int service_duration_ns(const char *what, const Google__Protobuf__Duration *duration,
                        int64_t absent_ns, int64_t *ret, struct af_error *err);

void service_set_duration(Google__Protobuf__Duration *duration, int64_t ns);
void service_set_timestamp(Google__Protobuf__Timestamp *timestamp, int64_t ns);

// A field that refers to bytes of the caller.
static inline ProtobufCBinaryData service_bytes(const void *bytes, size_t len)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)bytes, .len = len};
}

// The kind of a file mode.
Agentfense__V1__FileKind service_file_kind(mode_t mode);

#endif
