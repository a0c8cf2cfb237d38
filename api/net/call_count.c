// Calls counted by method and status, and by how long they took.
//
// Owns server->counts: one entry per method and one for methods that there are none of, so that a
// client cannot make up labels. Relaxed atomics; no locks, nothing fails.
// Read next: server.h, struct net_method_stats.
#include "api/net/net_priv.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <string.h>

void net_call_count_begin(struct grpc_call *call, size_t method)
{
    call->count = &call->server->counts[method];
    call->counted_ns = af_monotonic_ns();
}

void net_call_count_end(struct grpc_call *call, enum af_status status)
{
    if (!call->count)
        return;
    if ((unsigned)status > AF_UNAUTHENTICATED)
        status = AF_UNKNOWN;
    atomic_fetch_add_explicit(&call->count->by_status[status], 1, memory_order_relaxed);
    af_histogram_observe(&call->count->latency, af_monotonic_ns() - call->counted_ns);
    call->count = NULL;
}

bool net_server_method_stats(struct net_server *server, size_t index, struct net_method_stats *ret)
{
    AF_CHECK_MAGIC(server, NET_SERVER_MAGIC);
    if (!server->counts || index > server->method_count)
        return false;
    const struct net_method_count *count = &server->counts[index];
    memset(ret, 0, sizeof *ret);
    ret->path = index < server->method_count ? server->methods[index]->path : "unknown";
    for (unsigned i = 0; i <= AF_UNAUTHENTICATED; i++)
        ret->by_status[i] = atomic_load_explicit(&count->by_status[i], memory_order_relaxed);
    af_histogram_gather(&count->latency, &ret->latency);
    return true;
}
