// Taps: the requests of one view as they are answered, for whoever watches (Watch, Trace).
//
//   fs_tap_open    from when it returns, what the view asks for is kept
//   fs_tap_next    takes the events, in the order of the answers
//   fs_tap_close
//
// A tap has room for AF_WATCH_EVENTS_MAX events in AF_WATCH_BYTES_MAX bytes. What comes while it is
// full is lost and counted; nobody ever waits for its reader. An event is put before its request
// is answered, so whoever made the request finds it in the tap afterwards. The paths are those of
// the moment. A tap follows its sandbox over stops and starts.
//
// What reaches the daemon can be seen, nothing else: docs/MONITORING.md says what the kernel
// answers by itself.
// Threads: any. fs_tap_next and fs_tap_close of one tap: one thread at a time. Errors: an af_error.
// Read next: taps.c.
#ifndef AF_FS_TAPS_H
#define AF_FS_TAPS_H

#include "fs/fs.h"

#include <sys/types.h>

enum fs_tap_wants {
    FS_TAP_CHANGES = 1 << 0, // done: names made, moved and removed; content and attributes changed
    FS_TAP_DENIED = 1 << 1,  // refused by a rule or by the view's access
    FS_TAP_ALL = 1 << 2,     // every request
};

struct fs_tap_options {
    const char *sandbox_id;
    unsigned wants;   // enum fs_tap_wants
    const char *path; // only this and what is below; "" is everything
    // There is something to take, or there was. Called on a thread of fs's own, never after
    // fs_tap_close has returned.
    void (*wake)(void *arg);
    void *arg;
};

struct fs_event {
    enum fs_op op;
    int error;          // errno, 0: done
    bool hidden;        // a lookup whose name a rule made absent
    bool is_change;     // FS_TAP_CHANGES
    bool is_denied;     // FS_TAP_DENIED
    bool is_cut;        // the path's beginning is missing: it is too long
    bool swaps;         // a rename that exchanges the two
    pid_t pid;          // 0: unknown (read-ahead, write-back)
    mode_t mode;        // of the file, 0: unknown
    int64_t at_ns;      // wall clock, of the answer
    int64_t took_ns;    // from the request's arrival
    const char *path;   // "" is the root, and for what has no name any more
    const char *target; // of a rename: the new path; else NULL
};

struct fs_tap;

// RESOURCE_EXHAUSTED beyond AF_WATCHERS_MAX.
int fs_tap_open(struct fs_session *session, const struct fs_tap_options *options,
                struct fs_tap **ret, struct af_error *err);

// The next event, to be freed with free(3), or NULL: nothing is there, and `wake` will be called
// when something is. *ret_lost is how many were lost since the last one.
struct fs_event *fs_tap_next(struct fs_tap *tap, uint64_t *ret_lost);

// NULL is ignored. Waits for answers and for a `wake` under way.
void fs_tap_close(struct fs_tap *tap);

#endif
