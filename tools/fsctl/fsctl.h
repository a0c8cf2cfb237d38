// What the commands of agentfense-fsctl share. Read next: main.c.
//
// A command gets its arguments checked in number and prints to stdout; it returns 0, or -1 with an
// error that main prints. Output for people is escaped (tools/common/escape.h); output for machines
// is tools/common/json.h.
#ifndef AF_TOOLS_FSCTL_FSCTL_H
#define AF_TOOLS_FSCTL_FSCTL_H

#include "tools/common/rpc.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct fsctl {
    struct af_client *client;
    FILE *out;
    bool json, colour, utf8;
    bool all;          // tree --all
    uint32_t depth;    // tree --depth; 0: no limit
    bool repair, deep; // fsck's
    const char *file;  // rules --file
    bool end_holders;  // rules --end-holders
    bool denied;       // trace --denied
    double interval_s; // requests, top --interval; 0: not given
    uint64_t count;    // trace, requests, top --count; 0: without end
    int exit_code;     // of fsck
    int argc;          // of the command's own arguments
    char **argv;
};

// Which of the options that are not for all commands.
#define FSCTL_TAKES_TREE     1u  // --all, --depth
#define FSCTL_TAKES_FSCK     2u  // --repair, --deep
#define FSCTL_TAKES_RULES    4u  // --file, --end-holders
#define FSCTL_TAKES_DENIED   8u  // --denied
#define FSCTL_TAKES_INTERVAL 16u // --interval
#define FSCTL_TAKES_COUNT    32u // --count

struct fsctl_command {
    const char *name, *arguments, *summary, *help;
    int min_args, max_args;
    unsigned takes; // FSCTL_TAKES_...
    int (*run)(struct fsctl *ctl, struct af_error *err);
};

int fsctl_views(struct fsctl *ctl, struct af_error *err);
int fsctl_tree(struct fsctl *ctl, struct af_error *err);
int fsctl_stat(struct fsctl *ctl, struct af_error *err);
int fsctl_explain(struct fsctl *ctl, struct af_error *err);
int fsctl_diff(struct fsctl *ctl, struct af_error *err);
#define FSCTL_FSCK_FAILED 8 // exit code: the check could not be done
int fsctl_fsck(struct fsctl *ctl, struct af_error *err);
int fsctl_rules(struct fsctl *ctl, struct af_error *err);
int fsctl_quota(struct fsctl *ctl, struct af_error *err);
int fsctl_access(struct fsctl *ctl, struct af_error *err);
int fsctl_requests(struct fsctl *ctl, struct af_error *err);
int fsctl_trace(struct fsctl *ctl, struct af_error *err);
int fsctl_top(struct fsctl *ctl, struct af_error *err);
int fsctl_handles(struct fsctl *ctl, struct af_error *err);
int fsctl_cache(struct fsctl *ctl, struct af_error *err);
int fsctl_layers(struct fsctl *ctl, struct af_error *err);
int fsctl_blobs(struct fsctl *ctl, struct af_error *err);
int fsctl_du(struct fsctl *ctl, struct af_error *err);
int fsctl_gc(struct fsctl *ctl, struct af_error *err);
int fsctl_drop_caches(struct fsctl *ctl, struct af_error *err);
int fsctl_stats(struct fsctl *ctl, struct af_error *err);

// The path argument in the daemon's form ("" is the root); `out` has AF_PATH_MAX + 1 bytes.
int fsctl_path(const char *text, char *out, ProtobufCBinaryData *ret, struct af_error *err);

// Colours, "" when there are none.
const char *fsctl_level_colour(const struct fsctl *ctl, Agentfense__V1__Level level);
const char *fsctl_change_colour(const struct fsctl *ctl, Agentfense__V1__DiffEntry__Change change);
const char *fsctl_bold(const struct fsctl *ctl);
const char *fsctl_plain(const struct fsctl *ctl);

#endif
