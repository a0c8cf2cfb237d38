// grpc.health.v1.Health. Read next: health_service.h.
//
// A status changes once in a daemon's life, when it stops; so a watcher gets one message, and a
// second and the end then. Lock: health.lock (rank 70), over grpc_call_* (80).
#include "api/services/health_service.h"

#include "api/services/common.h"
#include "api/services/descriptors.h"
#include "api/net/server.h"
#include "mux/base/cleanup.h"
#include "proto/grpc/health.pb-c.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define SERVING         GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

struct watcher {
    struct grpc_call *call; // a reference while listed
    struct health *health;
    bool listed;
    LIST_ENTRY(watcher) link;
};

struct health {
    pthread_mutex_t lock;
    bool stopped;
    LIST_HEAD(, watcher) watchers;
};

int health_new(struct health **ret, struct af_error *err)
{
    struct health *health = calloc(1, sizeof *health);
    if (!health)
        return af_error_errno(err, ENOMEM, "cannot prepare the health service");
    pthread_mutex_init(&health->lock, NULL);
    LIST_INIT(&health->watchers);
    *ret = health;
    return 0;
}

static void send_status(struct grpc_call *call, serving_status status)
{
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = status;
    grpc_call_send(call, &reply.base);
}

// Under the lock. The caller gives the returned reference back when the lock is free, for that may
// run on_free, which takes it.
static struct grpc_call *unlist(struct watcher *watcher)
{
    if (!watcher->listed)
        return NULL;
    LIST_REMOVE(watcher, link);
    watcher->listed = false;
    return watcher->call;
}

void health_stop(struct health *health)
{
    if (!health)
        return;
    for (;;) {
        pthread_mutex_lock(&health->lock);
        health->stopped = true;
        struct watcher *watcher = LIST_FIRST(&health->watchers);
        struct grpc_call *call = watcher ? unlist(watcher) : NULL;
        pthread_mutex_unlock(&health->lock);
        if (!call)
            return;
        send_status(call, NOT_SERVING);
        grpc_call_finish(call, AF_UNAVAILABLE, "the server is stopping");
        grpc_call_unref(call);
    }
}

void health_free(struct health *health)
{
    if (!health)
        return;
    pthread_mutex_destroy(&health->lock);
    free(health);
}

// ---- which services there are

struct wanted {
    const struct net_server *server;
    ProtobufCBinaryData name;
    bool found;
};

static void match_service(void *arg, const char *service, const char *method_path)
{
    struct wanted *wanted = arg;
    if (grpc_text_equals(wanted->name, service) &&
        net_server_has_method(wanted->server, method_path))
        wanted->found = true;
}

static bool is_known(struct grpc_call *call, ProtobufCBinaryData service)
{
    struct wanted wanted = {.server = daemon_of(call)->server, .name = service};
    if (service.len == 0)
        return true;
    descriptors_services(match_service, &wanted);
    return wanted.found;
}

// ---- methods

static void check(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)message;
    struct health *health = daemon_of(call)->health;
    if (!is_known(call, request->service)) {
        grpc_call_finish(call, AF_NOT_FOUND, "this server has no such service");
        return;
    }
    pthread_mutex_lock(&health->lock);
    bool stopped = health->stopped;
    pthread_mutex_unlock(&health->lock);
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = stopped ? NOT_SERVING : SERVING;
    grpc_call_reply(call, &reply.base);
}

static void watch(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)message;
    struct health *health = daemon_of(call)->health;
    struct watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the watch");
        return;
    }
    *watcher = (struct watcher){.call = call, .health = health};
    grpc_call_set_data(call, watcher);
    send_status(call, is_known(call, request->service) ? SERVING : SERVICE_UNKNOWN);
    pthread_mutex_lock(&health->lock);
    bool listed = watcher->listed = !health->stopped;
    if (listed) {
        grpc_call_ref(call);
        LIST_INSERT_HEAD(&health->watchers, watcher, link);
    }
    pthread_mutex_unlock(&health->lock);
    // From here on the watcher is whoever's takes it off the list.
    if (!listed)
        grpc_call_finish(call, AF_UNAVAILABLE, "the server is stopping");
}

static void watch_cancelled(struct grpc_call *call)
{
    struct watcher *watcher = grpc_call_data(call);
    pthread_mutex_lock(&watcher->health->lock);
    struct grpc_call *listed = unlist(watcher);
    pthread_mutex_unlock(&watcher->health->lock);
    grpc_call_unref(listed);
}

static void watch_free(struct grpc_call *call)
{
    free(grpc_call_data(call));
}

const struct grpc_method health_methods[] = {
    SERVICE_UNARY("grpc.health.v1.Health", "Check", grpc__health__v1__health_check_request, check),
    {
        .path = "/grpc.health.v1.Health/Watch",
        .kind = GRPC_SERVER_STREAM,
        .request = &grpc__health__v1__health_check_request__descriptor,
        .on_message = watch,
        .on_cancel = watch_cancelled,
        .on_free = watch_free,
    },
};
const size_t health_methods_count = AF_ARRAY_LEN(health_methods);
