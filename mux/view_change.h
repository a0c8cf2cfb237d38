// Changing a sandbox while it may be running: rules, quota, limits, access. For the api.
//
// The record changes first, in one transaction; then the view, between two of its operations. From
// then on every request that arrives is answered by the new state. What the kernel answers by
// itself (names, attributes and pages it has cached) is taken back by a revocation, which asks the
// kernel what it has and takes back only what is different now. docs/SECURITY.md says what holds
// when.
// Thread: any; mux_revoke_run may take long and waits for requests under way: never on a FUSE
// worker, nor with a lock held. Errors: an af_error; then nothing has changed.
// Read next: view_change.c, then revoke.c.
#ifndef AF_MUX_VIEW_CHANGE_H
#define AF_MUX_VIEW_CHANGE_H

#include "mux/sandbox.h"

#include <stdatomic.h>

// What the kernel has to forget after a change. NULL: nothing.
struct mux_revoke;

// Refused as a whole when any rule is malformed (INVALID_ARGUMENT names it).
int mux_view_set_rules(struct mux *mux, const char *id, const struct store_rule *rules,
                       size_t n_rules, struct mux_revoke **ret, struct af_error *err);
int mux_view_set_access(struct mux *mux, const char *id, enum store_sandbox_access access,
                        struct mux_revoke **ret, struct af_error *err);
// 0: none. Lower than what is used: the view cannot grow, nothing else happens.
int mux_view_set_quota(struct mux *mux, const char *id, uint64_t quota_bytes, uint64_t quota_inodes,
                       struct af_error *err);
// Requests and bytes a second; 0: no limit. What waits now goes by the new one.
int mux_view_set_limit(struct mux *mux, const char *id, uint64_t iops, uint64_t bandwidth,
                       struct af_error *err);

// Runs until the kernel has forgotten, and frees. NULL is ignored. *stop (may be NULL) ends it
// early: the mount is going away. -errno: the kernel may still answer from what it remembers.
int mux_revoke_run(struct mux_revoke *revoke, const atomic_bool *stop);
void mux_revoke_free(struct mux_revoke *revoke); // without running it

// Whether the present rules let the sandbox have this file open for reading, or be in this
// directory: by st_ino. What has no name any more is permitted, as is what is unknown: it is no
// file of the view. FAILED_PRECONDITION when the sandbox is not running.
int mux_view_permits(struct mux *mux, const char *id, uint64_t ino, bool *ret,
                     struct af_error *err);

#endif
