// A process and the tool's own streams: stdin there, output here, sizes, the end.
//
// Output is written as it comes; while whoever reads it does not, the process waits (or, in the
// background, goes on without being seen). stdin is read only as fast as the process takes it.
// When the reader of stdout has gone, the process gets what a local program would: SIGPIPE.
// Failure: -1 and an af_error; an interrupt (interrupt.h) is one. Thread: one. Read next: stream.c.
#ifndef AF_TOOLS_AGENTFENSE_STREAM_H
#define AF_TOOLS_AGENTFENSE_STREAM_H

#include "tools/agentfense/options.h"
#include "tools/common/rpc.h"

#include "proto/agentfense_process.pb-c.h"

// How a command ended.
struct outcome {
    bool timed_out;
    int exit_code; // 0..255
    bool detached; // it goes on
};

// A ProcessSpec of the command line, for a sandbox; freed with stream_spec_fini.
struct stream_spec {
    Agentfense__V1__ProcessSpec spec;
    Agentfense__V1__Terminal terminal;
    Google__Protobuf__Duration timeout;
    ProtobufCBinaryData *argv;
    Agentfense__V1__ProcessSpec__EnvEntry *env, **env_pointers;
};
void stream_spec_init(struct stream_spec *spec, const struct options *options,
                      const char *sandbox_id);
void stream_spec_fini(struct stream_spec *spec);

// Runs a command in the foreground to its end.
int stream_run(struct af_client *client, const struct options *options, const char *sandbox_id,
               struct outcome *ret, struct af_error *err);

// Shows a background process from its kept output on; with `input` stdin goes to it, and Ctrl-P
// Ctrl-Q leaves it. `follow`: until its end. `json`: output as objects, one a line, and no
// terminal.
int stream_attach(struct af_client *client, const Agentfense__V1__Process *process, bool follow,
                  bool input, bool json, struct outcome *ret, struct af_error *err);

// What an end says on the command line; words about a timeout and the like go to stderr.
void stream_outcome(const Agentfense__V1__ProcessExit *exit, struct outcome *ret);

#endif
