// Requests to the Docker Engine API over its unix socket: one request, one JSON reply, or a stream
// of them of which the last is kept.
//
// Threads: any that may block; nothing is shared between requests. Errors: UNAVAILABLE when the
// daemon does not answer (with what to check), DEADLINE_EXCEEDED when it takes too long,
// CANCELLED when it is unwanted, RESOURCE_EXHAUSTED when the answer is too long or memory is short.
// What the daemon refuses is no error here: the status says it. Read next: docker_api.c.
#ifndef AF_EXEC_DOCKER_API_H
#define AF_EXEC_DOCKER_API_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "mux/base/error.h"

struct docker_request {
    const char *method;
    const json_t *body; // may be NULL; stays the caller's
    long timeout_ms;    // 0: as long as something comes now and then
    // May be NULL: once it is set, the answer is waited for some seconds more, in which a daemon
    // that works answers, and then given up (CANCELLED).
    const atomic_bool *unwanted;
    bool streams; // the answer is a JSON value a line, of any length
    // May be NULL: called about once a second until the answer is complete.
    void (*waits)(void *arg);
    void *arg;
};

struct docker_reply {
    long status;    // HTTP's
    json_t *body;   // NULL: none, or not JSON; to be given back with docker_reply_fini
    char text[256]; // the daemon's message, when it refuses, or when a stream ends in an error
    bool unsent;    // there was nobody to ask: what was asked for has not been done
};

// `path` begins with a slash and is encoded already.
int docker_request(const char *socket_path, const char *path, const struct docker_request *request,
                   struct docker_reply *reply, struct af_error *err);
void docker_reply_fini(struct docker_reply *reply);

// Percent-encodes what goes into a path or query. To be freed; NULL when memory is out.
char *docker_encode(const char *text);

#endif
