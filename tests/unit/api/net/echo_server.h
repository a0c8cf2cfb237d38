// A small server over api/net for tests, on the methods of sandbox.v1 but with a behaviour of its
// own, and what a test needs to see of it.
//
//   Exec          unary: stdout is stdin. Commands: "fail" ends with NOT_FOUND "100% gone",
//                 "late" finishes from another thread, "trailer" adds agentfense-exit-code 7,
//                 "big" replies with workdir's number of bytes.
//   UploadFiles   client stream: counts bytes; a chunk that begins with "stop" ends the call with
//                 FAILED_PRECONDITION at once.
//   DownloadFile  server stream: as many bytes as the number in file_path, in 64 KiB chunks.
//   GetSandbox    unary: never finishes by itself; waits for the cancel.
//   ExecStream    bidi: every message comes back as output. After "hold" the rest waits until the
//                 test releases it.
#ifndef AF_TESTS_API_ECHO_SERVER_H
#define AF_TESTS_API_ECHO_SERVER_H

#include "api/net/server.h"

#include <pthread.h>

struct echo_server {
    struct net_server *server;
    char dir[64];
    char path[96]; // of its unix socket
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned messages, waiting, cancels, frees, ends; // under lock
    unsigned late_begun, late_over;                   // threads of "late"
    uint64_t sent_bytes;                              // by DownloadFile
    struct grpc_call *held; // a reference: the ExecStream that was told "hold"
    unsigned woken;         // on_writable of an ExecStream
};

// Starts one on a socket in a directory of its own. `limits` may be NULL. Aborts on failure.
struct echo_server *echo_server_start(const struct net_limits *limits);

// The same without listening or starting, for tests that go on by themselves.
struct echo_server *echo_server_new(const struct net_limits *limits);

void echo_server_stop(struct echo_server *echo);

// Blocks until *counter (one of the above) is at least `value`.
void echo_server_wait(struct echo_server *echo, const unsigned *counter, unsigned value);

// The held call, with its reference.
struct grpc_call *echo_server_take_held(struct echo_server *echo);

unsigned echo_server_count(struct echo_server *echo, const unsigned *counter);

#endif
