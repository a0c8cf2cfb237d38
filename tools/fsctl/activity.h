// What the running sandboxes ask of the daemon, and the rates between two looks. For top.
//
// Owns the list of one look. Thread: one. Failure: -1 and an af_error. Read next: top.c.
#ifndef AF_TOOLS_FSCTL_ACTIVITY_H
#define AF_TOOLS_FSCTL_ACTIVITY_H

#include "tools/fsctl/fsctl.h"

struct activity_counts {
    uint64_t requests, errors, busy_ns;
    uint64_t reads, writes, names; // READ, WRITE; names looked up, made, moved, removed
};

struct activity_view {
    char id[AF_ID_TEXT_MAX];
    uint32_t commands;
    uint64_t delta_bytes;
    struct activity_counts counts; // since the sandbox was started
};

struct activity {
    int64_t at_ns; // monotonic
    struct activity_view *views;
    size_t count, capacity;
};

// ret is zeroed, or one that was filled before, which is given up.
int activity_look(struct af_client *client, struct activity *ret, struct af_error *err);
void activity_fini(struct activity *activity);

// What a sandbox did between two looks, per second.
struct activity_rates {
    const struct activity_view *view; // of the later look
    double requests, errors, reads, writes, names;
    double busy;    // requests under way, on the average
    double mean_us; // from a request's arrival to its answer
};
// `ret`: an array of now->count. A view that was not there before, or was started anew, counts from
// 0.
void activity_compare(const struct activity *before, const struct activity *now,
                      struct activity_rates *ret);

#endif
