// A connection and what this run made through it: a codebase, a sandbox.
//
// Owns the connection, the private daemon if there is one, and, unless told to keep them, the
// sandbox and the codebase. Thread: one. Failure: -1 and an af_error; what was made is removed by
// session_close in any case. Read next: run.c.
#ifndef AF_TOOLS_AGENTFENSE_SESSION_H
#define AF_TOOLS_AGENTFENSE_SESSION_H

#include "mux/base/id.h"
#include "tools/agentfense/keeper.h"
#include "tools/agentfense/manifest.h"
#include "tools/agentfense/options.h"
#include "tools/common/rpc.h"

struct session {
    const char *socket;
    struct keeper keeper; // pid 0: a daemon that was there already
    struct af_client *client;
    int fd;                               // the connection's second descriptor, for interrupts
    struct af_id codebase_id, sandbox_id; // "" until made
    bool codebase_is_given;               // it was there before and stays
    bool keep;
    size_t failed; // of the copies that were to be made
};

// Connects to `socket`, or starts a private daemon when it is NULL.
int session_open(struct session *session, const char *socket, struct af_error *err);

// Imports the directory and makes a running sandbox on it. `dir` is for names and messages. With a
// codebase in session->codebase_id already it is used, and root and manifest are not.
int session_create(struct session *session, int root, const char *dir,
                   const struct options *options, struct manifest *manifest, struct af_error *err);

// Starts the sandbox session->sandbox_id.
int session_start(struct session *session, struct af_error *err);

// Ends whatever still runs in the sandbox, so that its files stand still.
int session_stop(struct session *session, struct af_error *err);

// Destroys a sandbox and, when it was made for it, its codebase.
int session_destroy(struct af_client *client, const char *sandbox_id, struct af_error *err);

// After a sandbox has gone: deletes its codebase when that was made for it and nobody else uses it.
int session_delete_owned(struct af_client *client, const Sandbox__V1__Sandbox *sandbox,
                         struct af_error *err);

// Removes what was made and disconnects. False when something was left behind, which was said.
bool session_close(struct session *session);

#endif
