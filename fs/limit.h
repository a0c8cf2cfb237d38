// Limits of requests and bytes a second, by view: who waits, and for how long. Internal to fs.
//
//   fs_limit_holds    before a request runs: held back, or charged and on its way
//   fs_limit_settle   before it is answered: what it really read or wrote; a WRITE waits here
//   fs_limit_set      a limit comes, changes, goes: at once, for what is held as well
//   fs_limit_pass     nothing is held back on this nodeid for a while
//
// A view without a limit pays one load of a pointer. What is held is a copy of the call (limit.c),
// and one thread lets it go (held.c). docs/FUSE.md says what counts and what is never held.
// Threads: any. Nothing here waits, calls mux, or runs a call. Read next: limit.c, held.c.
#ifndef AF_FS_LIMIT_H
#define AF_FS_LIMIT_H

#include "fs/bucket.h"
#include "fs/call.h"

struct fs_limits;

// 0 or -ENOMEM. The thread is not started yet.
int fs_limits_new(struct fs_session *session);
int fs_limits_start(struct fs_session *session);
// Lets everything go, holds nothing from now on, and ends the thread. Idempotent. The pools must
// still take what goes.
void fs_limits_close(struct fs_session *session);
void fs_limits_free(struct fs_session *session);

// 0: no limit of that kind; both 0: none at all. Waits for nothing.
void fs_limit_set(struct fs_session *session, uint32_t slot, uint64_t iops, uint64_t bandwidth,
                  int64_t now_ns);
bool fs_limit_has(struct fs_session *session, uint32_t slot);

// Whether the call has been taken over: it will be run later, elsewhere.
bool fs_limit_holds(struct fs_call *call, fs_run_fn run);
// For a call with `limited`, before its answer: whether the answer has been taken over.
bool fs_limit_settle(struct fs_call *call, int rc, int64_t now_ns);

// Before the kernel is told something about this nodeid, which waits there until requests on it
// have been answered. On a file that views share, what is held goes in a moment by itself; nothing
// more is held there. True: fs_limit_pass_end must follow.
bool fs_limit_pass(struct fs_session *session, uint64_t nodeid);
void fs_limit_pass_end(struct fs_session *session, uint64_t nodeid);

// A process that waits for an answer got a signal: whether one was killed is looked at soon.
void fs_limit_interrupted(struct fs_session *session);

// Requests that are held now.
unsigned fs_limits_held(struct fs_session *session);

#endif
