// mux: views over layered codebases, routed by nodeid. Start here.
//
// A codebase is a stack of layers. A sandbox is a view: the codebase's stack as it was when the
// sandbox was made, one live layer on top (its delta), and compiled permission rules. While a
// sandbox runs its view is attached: it has a slot, and with it a host uid and a directory
// <mount>/<sandbox id> in the one FUSE mount.
//
//   mux/codebase.h  codebases: create, upload, download, list, import a tree
//   mux/sandbox.h   sandboxes: create, list, attach and detach their views, destroy
//   mux/ops.h       file operations on nodeids, for fs
//   mux/inspect.h   looking into a view: tree, stat, explain, diff
//   mux/news.h      being told what changes in a codebase
//   mux/rules.h     permission rules; mux/presets.h the named sets
//   mux/nodeid.h    how a nodeid names a file; mux/view.h and mux/resolve.h are internal
//   mux/store/      the records; only mux calls it
//
// What happens on a lookup, in short: nodeid -> slot -> view; the parent's rule state steps by
// the name; a hidden name is -ENOENT; otherwise the entry is searched in the delta and down the
// stack, its inode likewise, and the answer's nodeid, mode and owner follow from the level.
//
// Errors: -errno from what fs calls, an af_error from what the api calls. Thread: everything may
// be called from any thread unless it says otherwise.
// Lock ranks, outermost first: view table (rwlock) > view (rwlock) > news (rwlock, mutex) > node
// cache shard (mutex) > LMDB writer. A lock is never held while waiting for a blob copy, a disk or
// the kernel.
#ifndef AF_MUX_H
#define AF_MUX_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct mux;

struct mux_options {
    const char *state_dir; // see mux/store/store.h
    uid_t uid_base;        // slot n runs as host uid and gid uid_base + n
    uint32_t uid_count;    // how many slots there may be (at most AF_SLOT_COUNT)
    bool no_sharing;       // no two views have one nodeid, hence no inode of the kernel (nodeid.h)
    bool no_compaction;    // layers are merged only when asked (tests, tools)
    uid_t reserved_uid;    // owner and group shown for what a sandbox may not change; outside
                           // uid_base .. uid_base + uid_count
    unsigned batch_after;  // see struct store_options; 0: the default
    uint32_t nodes_max;    // inodes cached over all views, about 250 bytes each; 0: the default
    // Of each view, whatever its own limit is (struct store_sandbox); 0: none.
    uint64_t iops_max, bandwidth_max;
};

// Opens the store and marks sandboxes that were running when the daemon ended as stopped, their
// deltas intact. Fails with a sentence. *ret is owned by the caller.
int mux_open(const struct mux_options *options, struct mux **ret, struct af_error *err);
// Detaches every view and closes the store. No call may be under way.
void mux_close(struct mux *mux);

// What the kernel may have cached and must drop, told to fs after the new state is published.
// Called on the thread that made the change, with no lock held; those that are not called _now
// must only queue.
struct mux_notifier {
    void (*inval_entry)(void *arg, uint64_t parent_nodeid, const char *name, size_t name_len);
    void (*expire_entry)(void *arg, uint64_t parent_nodeid, const char *name, size_t name_len);
    // A directory has another name now: the old one goes, and with it what nobody uses below it.
    // When somebody is in it, the kernel is to meet it by its new one.
    void (*moved_directory)(void *arg, uint64_t parent_nodeid, const char *name, size_t name_len,
                            uint64_t nodeid);
    void (*inval_inode)(void *arg, uint64_t nodeid, int64_t offset, int64_t len);
    // The kernel has forgotten this nodeid once: asks whether it has it again and, when it has
    // not, calls mux_forgotten.
    void (*confirm_forget)(void *arg, uint64_t nodeid);
    // Calls mux_settle once all that was queued before has been told and asked.
    void (*settle)(void *arg, uint64_t nodeid);
    // Waits until the kernel has been told and asked what was queued before, for a bounded time.
    // Not on a FUSE worker, nor under a lock.
    void (*wait_told)(void *arg);
    // The same, done when they return: 0, or -ENOENT when the kernel does not have it. They may
    // wait for requests that are under way: never on a FUSE worker, nor under a lock. `drop` also
    // takes what hangs below a directory's name; `expire` has the name looked up again and keeps
    // everything. Both wait until lookups and listings of that directory under way have ended.
    int (*drop_entry_now)(void *arg, uint64_t parent_nodeid, const char *name, size_t name_len);
    int (*expire_entry_now)(void *arg, uint64_t parent_nodeid, const char *name, size_t name_len);
    int (*drop_inode_now)(void *arg, uint64_t nodeid, int64_t offset, int64_t len);
    // A sandbox's view has got this slot, before its first request; or has given it back, after
    // its last one. With the table of views held: they must neither block nor ask mux.
    void (*attached)(void *arg, uint32_t slot, const char *sandbox_id);
    void (*detached)(void *arg, uint32_t slot);
    // What this slot's view may ask for in a second, requests and bytes; 0: any number. Told when a
    // view with a limit is attached, and at each change. As above, or with the view held.
    void (*limited)(void *arg, uint32_t slot, uint64_t iops, uint64_t bandwidth);
};
// Set once, before the first operation; NULL again after the last one, and then nothing of mux's
// own asks it any more. `notifier` must outlive mux.
void mux_set_notifier(struct mux *mux, const struct mux_notifier *notifier, void *arg);

// Before the first operation: the kernel may read whole files of content by itself (passthrough),
// so none that a record of another layer has may get longer. Appends after a commit copy (tail.c).
void mux_fix_content(struct mux *mux);

struct mux_stats {
    uint64_t views_attached;
    uint64_t nodes_cached, nodes_max;
    uint64_t node_hits, node_misses, node_evictions; // of the cache of nodes
    uint64_t copy_ups;
    uint64_t shared_write_alarms; // writes that reached a shared nodeid: must stay 0
    uint64_t lookups_hidden;      // lookups refused by a rule
    uint64_t merges;              // runs of layers that compaction made one
};
void mux_get_stats(struct mux *mux, struct mux_stats *ret);

struct store;
// The store below, for statistics and for the daemon's shutdown sync.
struct store *mux_store(struct mux *mux);

#endif
