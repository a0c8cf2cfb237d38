// What the files of api/client share: the connection and its calls.
//
// One thread; no locks. client.c is the public side, session.c the HTTP/2 side, address.c the
// endpoints.
#ifndef AF_API_CLIENT_CLIENT_PRIV_H
#define AF_API_CLIENT_CLIENT_PRIV_H

#include "api/client/client.h"
#include "mux/base/bytes.h"
#include "mux/base/clock.h"

#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#define AF_CLIENT_MAGIC      0x41434c4eu
#define AF_CLIENT_CALL_MAGIC 0x41434c43u
#define CLIENT_TRAILERS_MAX  16
#define CLIENT_PREFIX_BYTES  5
#define CLIENT_QUIET_NS      (30 * AF_NS_PER_SEC)
#define CLIENT_ANSWER_NS     (60 * AF_NS_PER_SEC)

struct client_trailer {
    char *key, *value;
};

struct af_client_call {
    uint32_t magic;
    struct af_client *client;
    struct af_client_call *prev, *next;
    const ProtobufCMessageDescriptor *reply;
    int32_t stream_id;
    int64_t deadline_ns; // INT64_MAX: none
    struct af_bytes out; // one framed message on its way
    struct af_bytes in;  // framed replies, not yet read
    bool end_sent;       // half-closed, or about to be
    bool closed;         // the stream is gone
    bool has_status;
    bool grpc; // the reply's content-type is gRPC's
    int http_status;
    int status;          // grpc-status
    uint32_t reset_code; // of the stream, when closed without a status
    char text[AF_ERROR_TEXT_MAX];
    struct client_trailer trailers[CLIENT_TRAILERS_MAX];
    unsigned trailer_count;
};

struct af_client {
    uint32_t magic;
    int fd;
    nghttp2_session *session;
    struct af_bytes out;
    struct af_client_call *calls;
    bool settled;                // the server's SETTINGS came
    int64_t heard_ns, asked_ns;  // when it last said something; since when a PING waits, 0: none
    int64_t quiet_ns, answer_ns; // it is asked after so long, and dead when it does not answer
    bool dead;
    struct af_error why; // when dead
};

// client.c: what sending and receiving are made of, without waiting.
// Frames a message and hands it on as far as the windows allow; the call's former one must be sent.
int client_call_put(struct af_client_call *call, const ProtobufCMessage *message, bool last,
                    struct af_error *err);
// 1, 0 when no whole reply is there, -1.
int client_call_take_reply(struct af_client_call *call, ProtobufCMessage **ret_reply,
                           struct af_error *err);
// What the end of a call says: 0 for OK, else -1.
int client_call_end_of(const struct af_client_call *call, struct af_error *err);

// session.c
int client_session_new(struct af_client *client);
// Submits the request headers; sets call->stream_id. 0 or -1.
int client_session_request(struct af_client_call *call, const char *path, int64_t timeout_ns);
// One step: waits for the socket until deadline_ns, reads what came, writes what can be written.
// The caller has flushed before, or it would wait for an answer to what was never sent. 0; -1
// when the connection is dead (client->why) or the time is over (DEADLINE_EXCEEDED).
int client_session_step(struct af_client *client, int64_t deadline_ns, struct af_error *err);
// The same, waiting for other descriptors too: `polled` has room for `count` + 1, the last of which
// is the connection's.
int client_session_poll(struct af_client *client, struct pollfd *polled, size_t count,
                        int timeout_ms, struct af_error *err);
// Writes what can be written without waiting.
void client_session_flush(struct af_client *client);

// address.c: a connected socket, non-blocking, or -1.
int client_dial(const char *endpoint, int64_t deadline_ns, struct af_error *err);

// text.c: percent-decoding of status messages (out: len + 1 bytes), grpc-timeout values.
size_t client_percent_decode(const void *text, size_t len, char *out);
void client_timeout_format(int64_t timeout_ns, char out[16]);

#endif
