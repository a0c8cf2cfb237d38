// Calls in both directions at once, for programs that wait for other things as well.
//
// Nothing here waits but af_client_wait. Owns nothing. One thread, no locks. Failure: see client.h.
// Read next: client.c, session.c.
#include "api/client/client_priv.h"

#include "mux/base/cleanup.h"

#include <string.h>

#define FDS_MAX 8

int af_client_call_try_recv(struct af_client_call *call, ProtobufCMessage **ret_reply,
                            struct af_error *err)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    int rc = client_call_take_reply(call, ret_reply, err);
    if (rc != 0)
        return rc;
    if (call->closed || (call->client->dead && call->has_status))
        return client_call_end_of(call, err) ? -1 : AF_CLIENT_ENDED;
    if (call->client->dead) {
        *err = call->client->why;
        return -1;
    }
    client_session_flush(call->client); // windows that taking replies has opened
    return AF_CLIENT_NOTHING;
}

bool af_client_call_is_sent(const struct af_client_call *call)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    return call->out.off == call->out.len;
}

int af_client_call_try_send(struct af_client_call *call, const ProtobufCMessage *message, bool last,
                            struct af_error *err)
{
    AF_CHECK_MAGIC(call, AF_CLIENT_CALL_MAGIC);
    if (!af_client_call_is_sent(call))
        return af_error_set(err, AF_FAILED_PRECONDITION, "the former message is not sent yet");
    if (call->closed || call->client->dead)
        return 0; // how the call has ended is for try_recv to say
    return client_call_put(call, message, last, err);
}

int af_client_wait(struct af_client *client, struct pollfd *fds, size_t count, int timeout_ms,
                   struct af_error *err)
{
    AF_CHECK_MAGIC(client, AF_CLIENT_MAGIC);
    struct pollfd polled[FDS_MAX + 1];
    if (client->dead) {
        *err = client->why;
        return -1;
    }
    if (count > FDS_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "more than %d descriptors", FDS_MAX);
    if (count > 0)
        memcpy(polled, fds, count * sizeof *fds);
    int rc = client_session_poll(client, polled, count, timeout_ms, err);
    for (size_t i = 0; i < count; i++)
        fds[i].revents = polled[i].revents;
    return rc;
}
