// What a new sandbox gets besides its rules: limits, quota, runtime, network, policy, lifetime.
//
// The options are a table: their names, how a value is read and what --help says about them.
// Strings point into argv. Thread: one. Failure: -1 and INVALID_ARGUMENT with a sentence. Read
// next: creation.c, session.c (which sends it).
#ifndef AF_TOOLS_AGENTFENSE_CREATION_H
#define AF_TOOLS_AGENTFENSE_CREATION_H

#include "mux/base/error.h"
#include "proto/agentfense_sandbox.pb-c.h"

#include <stdint.h>
#include <stdio.h>

#define CREATION_OPTION_FIRST 512 // getopt_long's value of the first row

#define CREATION_NEVER (-1)
#define CREATION_NONE  (-1)

struct creation {
    Agentfense__V1__CommitPolicy commit_policy; // unspecified: manual
    Agentfense__V1__ConflictPolicy conflicts;
    Agentfense__V1__Network network;
    Sandbox__V1__RuntimeType runtime;
    const char *image, *owner;
    uint64_t quota_bytes, quota_inodes;
    int64_t iops, bandwidth; // a second; 0: not given, CREATION_NONE
    int64_t memory_bytes, cpu_quota_us, cpu_shares, pids;
    int64_t expires_in_ns; // 0: not given, CREATION_NEVER
};

struct creation_option {
    const char *name, *value, *help;
    unsigned takes; // the group of help.h that it belongs to
};
extern const struct creation_option creation_options[];
extern const size_t creation_option_count;

// Takes the value of row `index`.
int creation_take(struct creation *creation, size_t index, const char *text, struct af_error *err);

// The rows of the groups in `takes`, as --help shows them.
void creation_print_help(unsigned takes, FILE *out);

// Bytes with K, M, G or T (powers of 1024) behind; public for tests.
int creation_parse_size(const char *text, uint64_t max, uint64_t *ret);

#endif
