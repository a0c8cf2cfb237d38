// Looking into a view from outside, without the mount: for agentfense-fsctl and agentfense run.
//
// These are host-side calls: rules are reported, not enforced. Each works on one consistent state.
// Callbacks run outside of any transaction that could hold others up for long: they may block
// briefly (a bounded buffer), and return 0 to go on or another value to stop, which is returned.
// Errors: an af_error.
#ifndef AF_MUX_INSPECT_H
#define AF_MUX_INSPECT_H

#include "mux/codebase.h"
#include "mux/rules.h"
#include "mux/sandbox.h"

struct mux_view_info {
    struct af_id sandbox_id, codebase_id;
    enum store_sandbox_status status;
    uint32_t slot;  // 0: not attached
    uint32_t route; // of its nodeids; 0: not attached
    uid_t uid;
    size_t stack_depth, n_rules;
    uint64_t delta_bytes, delta_inodes;
    uint64_t quota_bytes, quota_inodes; // 0: none
    uint64_t iops, bandwidth;           // in force; 0: none
    enum store_sandbox_access access;
    int64_t created_ns;
};
int mux_inspect_views(struct mux *mux, int (*fn)(void *arg, const struct mux_view_info *info),
                      void *arg, struct af_error *err);

struct mux_tree_node {
    const char *path; // relative, NUL-terminated (names hold no NUL)
    mode_t mode;      // as stored
    enum rules_level level;
    bool traversable_only; // none, but an ancestor of something that may be visible
    uint64_t size;
    const char *symlink_target; // or NULL
    uint64_t fid;               // the same for all names of a file
    uint32_t nlink;
    int64_t mtime_ns;
};
// all: hidden entries too. depth 0: no limit. In path order.
int mux_inspect_tree(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                     uint32_t depth, bool all,
                     int (*fn)(void *arg, const struct mux_tree_node *node), void *arg,
                     struct af_error *err);

// The tree of a codebase's head, every entry at level write.
int mux_codebase_tree(struct mux *mux, const char *codebase_id, const void *path, size_t path_len,
                      uint32_t depth, int (*fn)(void *arg, const struct mux_tree_node *node),
                      void *arg, struct af_error *err);

struct mux_node_info {
    mode_t mode;
    enum rules_level level;
    bool traversable_only;
    uint64_t size, fid, nodeid, version;
    uint32_t nlink;
    int64_t mtime_ns, ctime_ns;
    bool in_delta;
    uint64_t layer, blob; // blob 0: none
    bool is_inline, shared;
    char symlink_target[AF_SYMLINK_MAX + 1]; // "" unless a symlink
};
int mux_inspect_stat(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                     struct mux_node_info *ret, struct af_error *err);

// Runs rules_explain (mux/rules.h) on the sandbox's rules; tells besides whether the path exists,
// and with it that a file leads nowhere.
int mux_inspect_explain(struct mux *mux, const char *sandbox_id, const void *path, size_t path_len,
                        struct rules_explanation *ret, bool *ret_exists, struct af_error *err);

// The rules that hold for the sandbox now, a reference. Equal lists are one object: as long as the
// same one comes back, what it said before is true.
int mux_inspect_rules(struct mux *mux, const char *sandbox_id, struct rules **ret,
                      struct af_error *err);

enum mux_change {
    MUX_ADDED = 1,
    MUX_MODIFIED = 2,
    MUX_DELETED = 3,
    MUX_METADATA = 4,
    MUX_RENAMED = 5,
};
struct mux_diff_entry {
    enum mux_change change;
    const char *path, *old_path; // old_path: MUX_RENAMED only, else NULL
    mode_t mode;
    uint64_t size, fid; // fid: the same for all names of a file
    int64_t mtime_ns;
    const char *symlink_target; // or NULL
};
// What the delta changes against its base, in path order: a deleted directory is one entry, an
// added one comes before what it holds. Costs O(delta). A file moved and changed is RENAMED
// followed by MODIFIED at the new path. `path` is one of the view, `old_path` one of the base.
// To apply it to a copy of the base: first set every RENAMED entry's old_path aside, deepest first,
// then go through the entries in order (docs/CODEBASES.md).
int mux_inspect_diff(struct mux *mux, const char *sandbox_id,
                     int (*fn)(void *arg, const struct mux_diff_entry *entry), void *arg,
                     struct af_error *err);

// A regular file of a view, whatever its level.
int mux_inspect_open_file(struct mux *mux, const char *sandbox_id, const void *path,
                          size_t path_len, struct mux_file **ret, struct af_error *err);

#endif
