// grpc.reflection.v1 and v1alpha: the server's own description, for grpcurl and the like.
//
// One request, one reply, in the order of the requests; what cannot be found is an error_response
// and the stream goes on. The descriptions are no secret: they are in this project's proto/.
// Read next: descriptors.h.
#include "api/services/descriptors.h"

#include "api/services/common.h"
#include "api/net/server.h"
#include "mux/base/cleanup.h"
#include "proto/grpc/reflection.pb-c.h"

#include <string.h>

#define GRPC_NOT_FOUND        5
#define GRPC_INVALID_ARGUMENT 3
#define FILES_PER_REPLY       64
#define SERVICES_MAX          64

typedef Grpc__Reflection__V1__ServerReflectionRequest request_message;
typedef Grpc__Reflection__V1__ServerReflectionResponse reply_message;

static void send_error(struct grpc_call *call, reply_message *reply, int code, const char *text)
{
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = code;
    error.error_message = grpc_text(text);
    reply->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    reply->error_response = &error;
    grpc_call_send(call, &reply->base);
}

struct file_list {
    ProtobufCBinaryData files[FILES_PER_REPLY];
    size_t count;
};

static void add_file(void *arg, const uint8_t *bytes, size_t len)
{
    struct file_list *list = arg;
    if (list->count < FILES_PER_REPLY)
        list->files[list->count++] = service_bytes(bytes, len);
}

static void send_file(struct grpc_call *call, reply_message *reply,
                      const struct descriptor_file *file)
{
    if (!file) {
        send_error(call, reply, GRPC_NOT_FOUND, "this server knows no such file or symbol");
        return;
    }
    struct file_list list = {.count = 0};
    descriptors_closure(file, add_file, &list);
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    files.file_descriptor_proto = list.files;
    files.n_file_descriptor_proto = list.count;
    reply->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    reply->file_descriptor_response = &files;
    grpc_call_send(call, &reply->base);
}

struct service_names {
    struct grpc_call *call;
    char *texts[SERVICES_MAX];
    size_t count;
};

static void add_service(void *arg, const char *service, const char *method_path)
{
    struct service_names *names = arg;
    const struct net_server *server = daemon_of(names->call)->server;
    if (!net_server_has_method(server, method_path) || names->count == SERVICES_MAX)
        return;
    char *copy = strdup(service);
    if (copy)
        names->texts[names->count++] = copy;
}

static void send_services(struct grpc_call *call, reply_message *reply)
{
    struct service_names names = {.call = call};
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX], *pointers[SERVICES_MAX];
    descriptors_services(add_service, &names);
    for (size_t i = 0; i < names.count; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = grpc_text(names.texts[i]);
        pointers[i] = &services[i];
    }
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    list.service = pointers;
    list.n_service = names.count;
    reply->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    reply->list_services_response = &list;
    grpc_call_send(call, &reply->base);
    for (size_t i = 0; i < names.count; i++)
        free(names.texts[i]);
}

static void reflect(struct grpc_call *call, const ProtobufCMessage *message)
{
    const request_message *request = (const void *)message;
    reply_message reply = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    reply.valid_host = request->host;
    reply.original_request = (request_message *)(uintptr_t)request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        send_file(call, &reply,
                  descriptors_by_name((const char *)request->file_by_filename.data,
                                      request->file_by_filename.len));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        send_file(call, &reply,
                  descriptors_by_symbol((const char *)request->file_containing_symbol.data,
                                        request->file_containing_symbol.len));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        send_services(call, &reply);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        send_error(call, &reply, GRPC_NOT_FOUND, "proto3 files have no extensions");
        break;
    default:
        send_error(call, &reply, GRPC_INVALID_ARGUMENT, "the request asks for nothing");
        break;
    }
}

static void end_reflection(struct grpc_call *call)
{
    grpc_call_finish(call, AF_OK, NULL);
}

#define METHOD(package)                                                                            \
    {                                                                                              \
        .path = "/" package ".ServerReflection/ServerReflectionInfo", .kind = GRPC_BIDI_STREAM,    \
        .request = &grpc__reflection__v1__server_reflection_request__descriptor,                   \
        .on_message = reflect, .on_end = end_reflection                                            \
    }

const struct grpc_method reflection_methods[] = {
    METHOD("grpc.reflection.v1"),
    METHOD("grpc.reflection.v1alpha"),
};
const size_t reflection_methods_count = AF_ARRAY_LEN(reflection_methods);
