// Calls for the tools: see rpc.h.
#include "tools/common/rpc.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

const char *rpc_socket_given(const char *flag)
{
    const char *env = getenv(AF_SOCKET_ENV);
    return flag ? flag : env && *env ? env : NULL;
}

static int open_socket(const char *path, struct af_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path || !*path)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the socket path '%s' is %s: a unix socket's path has 1 to %zu bytes",
                            path, *path ? "too long" : "empty", sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    AF_CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return af_error_errno(err, errno, "cannot make a socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return af_error_set(err, AF_UNAVAILABLE,
                            "cannot connect to %s: %s. Is agentfensed running with this --socket?",
                            path, strerror(errno));
    return af_take_fd(&fd);
}

int rpc_connect(const char *socket, struct af_client **ret, int *ret_fd, struct af_error *err)
{
    if (strncmp(socket, "unix:", 5) == 0)
        socket += strncmp(socket, "unix:///", 8) == 0 ? 7 : 5;
    int fd = open_socket(socket, err);
    if (fd < 0)
        return -1;
    AF_CLEANUP_FD int second = ret_fd ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (ret_fd && second < 0) {
        af_error_errno(err, errno, "cannot duplicate the connection");
        close(fd);
        return -1;
    }
    if (af_client_adopt(fd, 0, ret, err) < 0)
        return -1;
    if (ret_fd)
        *ret_fd = af_take_fd(&second);
    return 0;
}

int rpc_unary(struct af_client *client, const char *path, const ProtobufCMessage *request,
              const ProtobufCMessageDescriptor *reply, void *ret, struct af_error *err)
{
    return af_client_unary(client, path, request, reply, 0, ret, err);
}

static int read_all(struct af_client_call *call, rpc_fn fn, void *arg, struct af_error *err)
{
    for (;;) {
        ProtobufCMessage *message = NULL;
        int rc = af_client_call_recv(call, &message, err);
        if (rc <= 0)
            return rc;
        rc = fn(arg, message, err);
        rpc_free(message);
        if (rc < 0)
            return rc;
    }
}

int rpc_stream(struct af_client *client, const char *path, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *reply, rpc_fn fn, void *arg, struct af_error *err)
{
    struct af_client_call *call;
    if (af_client_call_start(client, path, reply, 0, &call, err) < 0)
        return -1;
    int rc = af_client_call_send(call, request, err);
    if (rc == 0)
        rc = af_client_call_end(call, err);
    if (rc == 0)
        rc = read_all(call, fn, arg, err);
    af_client_call_free(call);
    return rc;
}

void rpc_free(void *message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

void rpc_cleanup(void *message_pointer)
{
    rpc_free(*(void **)message_pointer);
}

static bool has_prefix(ProtobufCBinaryData id, const char *prefix)
{
    size_t len = strlen(prefix);
    if (id.len >= len && memcmp(id.data, prefix, len) == 0)
        return true;
    return id.len >= len + 3 && memcmp(id.data, "sb_", 3) == 0 &&
           memcmp(id.data + 3, prefix, len) == 0;
}

int rpc_find_view(struct af_client *client, const char *prefix, struct af_id *ret,
                  struct af_error *err)
{
    if (af_id_parse("sb", prefix, strlen(prefix), ret))
        return 0;
    if (!*prefix)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the sandbox id is empty");
    Agentfense__V1__ListViewsRequest request = AGENTFENSE__V1__LIST_VIEWS_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__ListViewsResponse *reply = NULL;
    if (rpc_unary(client, "/agentfense.v1.InspectService/ListViews", &request.base,
                  &agentfense__v1__list_views_response__descriptor, &reply, err) < 0)
        return -1;
    size_t found = 0;
    for (size_t i = 0; i < reply->n_views; i++) {
        ProtobufCBinaryData id = reply->views[i]->sandbox_id;
        if (!has_prefix(id, prefix))
            continue;
        if (!af_id_parse("sb", id.data, id.len, ret))
            return af_error_set(err, AF_INTERNAL, "the daemon sent a malformed sandbox id");
        found++;
    }
    if (found == 1)
        return 0;
    if (found == 0)
        return af_error_set(err, AF_NOT_FOUND,
                            "no sandbox's id begins with '%s'; agentfense ls lists them", prefix);
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "'%s' is the beginning of %zu sandbox ids; give more of it", prefix, found);
}
