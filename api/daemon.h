// The daemon's state: what every service handler finds behind grpc_call_context.
//
// Made and taken apart by daemon.c in this order: mux, fs, exec, boxes, runner, sessions,
// processes, server; everything here is set before the server starts and stays until it has
// stopped, so handlers read it without locks. Read next: daemon.c, then api/services/common.h.
#ifndef AF_API_DAEMON_H
#define AF_API_DAEMON_H

#include "api/boxes.h"
#include "api/config.h"
#include "api/jobs.h"
#include "api/net/server.h"
#include "api/processes.h"
#include "api/runner.h"
#include "api/sessions.h"
#include "fs/fs.h"
#include "mux/mux.h"

#define AF_VERSION "0.1.0"

struct daemon {
    struct af_config config;
    struct mux *mux;
    struct fs_session *fs;
    struct exec_engine *engine;
    struct boxes *boxes;
    struct turns *turns;
    struct runner *runner;
    struct sessions *sessions;
    struct jobs *jobs; // what waits for the kernel
    struct health *health;
    struct watches *watches;
    struct archives *archives;
    struct processes *processes;
    struct net_server *server;
    struct metrics_http *metrics; // NULL: no endpoint
    int mount_lock;               // see fs_lock_mountpoint
    char *run_dir;                // STATE/run: exec's lock and generated files
    int64_t started_ns;           // wall clock
};

// Brings everything up in order; when it returns 0 the daemon serves. On failure everything that
// was up is down again. `config` is taken over in either case.
int daemon_start(struct af_config *config, struct daemon **ret, struct af_error *err);

// Reads the files of listen_tls again; what went wrong is in the log.
void daemon_reload(struct daemon *daemon);

// Takes everything down: calls in flight get the grace period, commands end, the mount goes, the
// store is synced and closed.
void daemon_stop(struct daemon *daemon);

#endif
